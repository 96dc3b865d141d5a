"""`audit --cluster` on two nodes: one is lost, or the cluster is joined through its client port."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("sklearn")

from bestiary.cluster import chunks as cluster_chunks
from bestiary.cluster import ray_table_map
from bestiary.cluster.ray_table_map import open_table_map
from bestiary.demo.dataset import SyntheticDataset
from ray_cluster import TwoNodes, client_server, wait_for
from table_maps import SlowDown, files_of, measured, wrap_functions

pytestmark = pytest.mark.slow


def test_a_node_that_is_lost_loses_no_row(
    collection: SyntheticDataset, two_nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = files_of(collection.folder)
    expected = measured(files)
    monkeypatch.setattr(ray_table_map, "ROW_MULTIPLE", 4)
    monkeypatch.setattr(cluster_chunks, "MAX_ROWS", 4)
    counts = wrap_functions(monkeypatch, lambda function: SlowDown(function, tmp_path))

    def lose_second() -> None:
        wait_for(tmp_path / two_nodes.second.node_id)
        two_nodes.remove_second()

    with open_table_map(two_nodes.address) as cluster:
        loser = threading.Thread(target=lose_second, daemon=True)
        loser.start()
        there = measured(files, cluster)
        loser.join(timeout=60)
        assert not loser.is_alive()
    assert sum(counts) == files.height
    assert there.equals(expected)


def test_a_cluster_that_is_joined_through_its_client_port(
    collection: SyntheticDataset, two_nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Data itself fails through ray:// (Ray 2.60): a process of the cluster runs it."""
    files = files_of(collection.folder)
    monkeypatch.setattr(cluster_chunks, "MAX_ROWS", 32)
    counts = wrap_functions(monkeypatch, lambda function: function)
    with client_server(two_nodes.address) as address, open_table_map(address) as cluster:
        assert measured(files, cluster).equals(measured(files))
    assert len(counts) >= 3
    assert sum(counts) == files.height
