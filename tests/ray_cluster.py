"""Ray clusters for tests: one node in this computer, or two nodes on loopback, of which one can be lost.

The fixtures `local_ray` and `two_nodes` in conftest.py give them; `SharedRay` keeps one for the tests that follow one
another, since a start takes some 15 s of a processor. Ports are chosen by Ray, so that several can run
beside one another; the object stores are small. Nothing is stopped by name: each ends with its own processes. Workers
can import the modules of this folder. Ray notes the last cluster of a user in /tmp/ray, whose address is `auto`: tests
that run beside one another do not use `auto`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

STORE_BYTES = 150_000_000
DEADLINE_SECONDS = 300.0
FREE_SECONDS = 60.0  # for what a test has begun to end
ATTEMPTS = 5  # Ray gives a node 30 s to start, which is too little on a busy machine


@dataclass
class TwoNodes:
    """A cluster of a head, which runs the driver too, and a second node."""

    address: str
    cluster: Any
    second: Any

    def remove_second(self) -> None:
        """Kill the second node with all its workers, as when its power is cut."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def restore_second(self) -> None:
        """Add a new second node if the last one was removed."""
        self.second = self.second or _add_node(self.cluster)
        self.cluster.wait_for_nodes()  # until a lost one is noticed too


class SharedRay:
    """The cluster that the tests of this process share while they follow one another: one at a time."""

    def __init__(self) -> None:
        self._fixture, self._stack = "", contextlib.ExitStack()
        self._cluster: Any = None

    def local(self) -> Any:
        """Return the module `ray`, connected to a cluster on this computer whose processors are free."""
        if self._fixture == "local_ray" and not wait_for_processors(self._cluster):
            self.stop()  # a test has left something that works, or has ended the connection
        return self._get("local_ray", start_local)

    def two_nodes(self) -> TwoNodes:
        """Return a cluster of two nodes that this process is not connected to."""
        nodes: TwoNodes = self._get("two_nodes", start_two_nodes)
        nodes.restore_second()
        return nodes

    def stop(self) -> None:
        """Stop the cluster."""
        self._fixture, self._cluster = "", None
        self._stack.close()

    def stop_before(self, fixtures: Collection[str]) -> None:
        """Stop the cluster before a test with these fixtures if it does not use it."""
        if self._fixture not in fixtures:
            self.stop()

    def _get(self, fixture: str, start: Callable[[], Any]) -> Any:
        if self._fixture != fixture:
            self.stop()
            self._cluster = self._stack.enter_context(start())
            self._fixture = fixture
        return self._cluster


@contextmanager
def start_local(cpus: int = 2) -> Iterator[Any]:
    """Start Ray on this computer and give the module `ray`, connected; stopped at the end."""
    from bestiary.cluster.connection import import_ray

    ray = import_ray()
    with _surroundings_of_workers():
        _try_often(lambda: _init(ray, cpus))
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def start_two_nodes() -> Iterator[TwoNodes]:
    """Start a cluster of two nodes with one processor each; the test connects to its address.

    A node that answers no more is given up after two seconds, and not after fifteen.
    """
    from bestiary.cluster.connection import import_ray

    ray = import_ray()
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 1,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,  # it adds nodes of a cloud
        "_system_config": {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 400},
    }
    with _surroundings_of_workers():
        cluster = _try_often(lambda: Cluster(initialize_head=True, head_node_args=head))
        try:
            yield TwoNodes(cluster.address, cluster, _add_node(cluster))
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def client_server(address: str) -> Iterator[str]:
    """Start a server for Ray's clients on a free port, and give its address."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    options = ["--address", address, "--host", "127.0.0.1", "--port", str(port), "--mode", "proxy"]
    line = [sys.executable, "-m", "ray.util.client.server", *options]
    server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"ray://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_for(path: Path) -> None:
    """Wait until a file is there; AssertionError after five minutes."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def wait_for_processors(ray: Any) -> bool:
    """Return whether all processors of the cluster of this process become free in time."""
    end = time.monotonic() + FREE_SECONDS
    while ray.is_initialized() and time.monotonic() < end:
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def _surroundings_of_workers() -> Iterator[None]:
    """Let the workers that are started import the modules of this folder, and Ray Train look at its workers often."""
    with pytest.MonkeyPatch.context() as patch:
        folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # instead of 2 s: it notes an end or a death sooner
        yield


def _init(ray: Any, cpus: int) -> None:
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=STORE_BYTES,
    )


def _add_node(cluster: Any) -> Any:
    return _try_often(lambda: cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))


def _try_often(start: Callable[[], Any]) -> Any:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with contextlib.chdir(Path(__file__).parent):  # the workers' folder, which outlasts that of a test
                return start()
        except Exception as error:
            if attempt == ATTEMPTS or "timed out during startup" not in str(error):
                raise
    return None
