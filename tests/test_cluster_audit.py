"""`audit --cluster`: pictures are measured by Ray Data, and everything is as one process finds it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("ray")
pytest.importorskip("sklearn")

import bestiary as public
from bestiary.cluster import chunks as cluster_chunks
from bestiary.cluster import ray_table_map
from bestiary.cluster.ray_table_map import RayTableMap, iter_table_chunks, open_table_map
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import InputError, MachineError
from commands import Call
from table_maps import KillOnce, LocalMap, files_of, measured, wrap_functions

NO_MODEL = ("--set", "data.suspects=false")


@pytest.fixture
def table_map(local_ray: Any) -> Iterator[RayTableMap]:
    with open_table_map("local") as opened:
        assert opened is not None
        yield opened


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_an_audit_on_a_cluster_writes_the_files_of_one_process(
    bestiary: Call, faulty: SyntheticDataset, local_ray: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = []
    for name, options in {"here": [], "there": ["--cluster", "local"]}.items():
        monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / name))
        done.append(bestiary("audit", faulty.folder, "--out", "audit", *NO_MODEL, "--json", *options))
        (tmp_path / "audit").rename(tmp_path / f"audit-{name}")
    here, there = done
    assert (there.code, there.out) == (here.code, here.out)
    written = contents(tmp_path / "audit-there")
    assert sorted(written) == ["audit.html", "findings.parquet", "pictures.parquet"]
    assert written == contents(tmp_path / "audit-here")
    assert pl.read_parquet(tmp_path / "audit-there" / "findings.parquet").height > 15


@pytest.mark.slow
def test_the_count_of_attempts_may_be_lost_with_its_process(
    collection: SyntheticDataset, table_map: RayTableMap, local_ray: Any
) -> None:
    """A task that asks in the meantime waits for the next process; an error would end the job."""
    measured(files_of(collection.folder), table_map)
    local_ray.kill(table_map._attempts, no_restart=False)
    assert local_ray.get(table_map._attempts.count_attempt.remote(("a", 0))) == 1


@pytest.mark.skipif(not hasattr(__import__("signal"), "SIGKILL"), reason="Windows kills in another way")
def test_a_worker_that_dies_loses_no_row_and_repeats_none(
    faulty: SyntheticDataset,
    table_map: RayTableMap,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    files, marker = files_of(faulty.folder, with_boxes=True), tmp_path / "killed"
    expected = measured(files)
    monkeypatch.setattr(cluster_chunks, "MAX_ROWS", 32)
    counts = wrap_functions(monkeypatch, lambda function: KillOnce(function, files["path"][100], marker))
    capfd.readouterr()
    there = measured(files, table_map)
    assert marker.exists()
    assert len(counts) > 5
    assert sum(counts) == files.height == there.height
    assert there.equals(expected)
    assert there.filter(pl.col("box") != "")["error"].is_null().to_list() == [True, True, False]
    out, err = capfd.readouterr()
    assert out == ""  # Ray's note about the worker is no result
    assert err == ""


def test_a_picture_that_kills_every_worker_ends_the_job_with_its_name(
    collection: SyntheticDataset, table_map: RayTableMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(collection.folder).head(64)
    monkeypatch.setattr(ray_table_map, "MAX_ATTEMPTS", 2)
    wrap_functions(monkeypatch, lambda function: KillOnce(function, files["path"][40], None))
    with pytest.raises(MachineError, match="2 workers of the cluster have died over the same 32 files") as error:
        measured(files, table_map)
    assert f"from {files['path'][32]} to {files['path'][63]}" in str(error.value)


def test_a_second_call_measures_only_what_is_missing(collection: SyntheticDataset, tmp_path: Path) -> None:
    files, memory, cluster = files_of(collection.folder), tmp_path / "memory", LocalMap()
    measured(files.head(50), cluster, memory)
    again = measured(files, cluster, memory)
    assert [rows.height for rows in cluster.seen] == [50, files.height - 50]
    assert again.equals(measured(files))
    measured(files, cluster, memory)
    assert len(cluster.seen) == 2


@pytest.mark.parametrize("error", [MachineError("A node is lost."), KeyboardInterrupt()])
def test_what_was_measured_before_an_error_is_cached(
    collection: SyntheticDataset, tmp_path: Path, error: BaseException
) -> None:
    files, memory = files_of(collection.folder), tmp_path / "cache"

    class FailingMap(LocalMap):
        def iter_mapped(self, function: Any, rows: pl.DataFrame, **options: Any) -> Iterator[pl.DataFrame]:
            yield from super().iter_mapped(function, rows[:30], **options)
            raise error

    with pytest.raises(type(error)):
        measured(files, FailingMap(), memory)
    cluster = LocalMap()
    assert measured(files, cluster, memory).equals(measured(files))
    assert [rows.height for rows in cluster.seen] == [files.height - 30]


def test_a_node_that_does_not_share_the_pictures_is_named_with_the_path(
    faulty: SyntheticDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(faulty.folder)
    gone = pl.col("path").str.replace("/faulty/", "/elsewhere/")
    back = pl.col("path").str.replace("/elsewhere/", "/faulty/")
    cluster = LocalMap(lambda rows: rows.with_columns(gone), lambda rows: rows.with_columns(back))
    with pytest.raises(MachineError, match='The node "n1" does not see .* as this computer does: .*cannot be read'):
        measured(files, cluster)
    monkeypatch.setenv("BESTIARY_CACHE", str(faulty.folder))
    with pytest.raises(MachineError, match="set BESTIARY_CACHE to a shared folder"):
        measured(files, cluster)


def test_files_that_nobody_can_read_are_findings_as_in_one_process(faulty: SyntheticDataset, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nothing.jpg")
    extra = pl.DataFrame({"path": [str(tmp_path / name) for name in ("empty.jpg", "gone.jpg", "link.jpg")], "box": ""})
    files = pl.concat([extra, files_of(faulty.folder)])
    there = measured(files, LocalMap())
    assert there.equals(measured(files))
    assert there.filter(pl.col("path").is_in(extra["path"].implode()))["error"].count() == 3


def test_the_python_interface_takes_an_address(
    collection: SyntheticDataset, local_ray: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = {"data": {"suspects": False, "classes": ["bird", "fish"]}}
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "there"))
    there = public.audit(collection.folder, recipe=quick, cluster="local")
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "here"))
    assert there.pictures.equals(public.audit(collection.folder, recipe=quick).pictures)
    with pytest.raises(InputError, match="is no address of a cluster"):
        public.audit(collection.folder, recipe=quick, cluster="nowhere")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_parts_keep_rows_of_one_file_together(size: int) -> None:
    rows = pl.DataFrame({"path": list("aabcccdaef")}).with_row_index("at")
    chunks = list(iter_table_chunks(rows, size, whole_files=True))
    assert pl.concat(chunks).equals(rows)
    for chunk, following in itertools.pairwise(chunks):
        assert chunk["path"][-1] != following["path"][0]
        assert chunk.height >= size
    assert [chunk["at"][0] for chunk in iter_table_chunks(rows, size, whole_files=False)] == list(range(0, 10, size))
    assert not list(iter_table_chunks(rows.clear(), size, whole_files=True))
