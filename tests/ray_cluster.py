"""Ray clusters for tests: one node in this computer, or two nodes on loopback, of which one can be lost.

The fixtures `local_ray` and `two_nodes` in conftest.py start them. Ports are chosen by Ray, so that several can run
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

STORE_BYTES = 150_000_000
DEADLINE_SECONDS = 300.0
ATTEMPTS = 5  # Ray gives a node 30 s to start, which is too little on a busy machine


@dataclass(frozen=True)
class TwoNodes:
    """A cluster of a head, which runs the driver too, and a second node."""

    address: str
    cluster: Any
    second: Any

    def remove_second(self) -> None:
        """Kill the second node with all its workers, as when its power is cut."""
        self.cluster.remove_node(self.second, allow_graceful=False)

    def add_second(self) -> TwoNodes:
        """Return the cluster with a new second node."""
        return TwoNodes(self.address, self.cluster, _add_node(self.cluster))


@contextmanager
def start_local(cpus: int = 2) -> Iterator[Any]:
    """Start Ray on this computer and give the module `ray`, connected; stopped at the end."""
    from bestiary.cluster.connection import import_ray

    ray = import_ray()
    with _modules_of_tests():
        _try_often(lambda: _init(ray, cpus))
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def start_two_nodes() -> Iterator[TwoNodes]:
    """Start a cluster of two nodes with one processor each; the test connects to its address.

    Ends a connection that there is, such as that of `local_ray`: take `two_nodes` in the last tests of a file.
    """
    from bestiary.cluster.connection import import_ray

    ray = import_ray()
    ray.shutdown()  # or a command would use that connection
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    with _modules_of_tests():
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


@contextmanager
def _modules_of_tests() -> Iterator[None]:
    """Let the workers that are started import the modules of this folder."""
    with pytest.MonkeyPatch.context() as patch:
        folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
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
            return start()
        except Exception as error:
            if attempt == ATTEMPTS or "timed out during startup" not in str(error):
                raise
    return None
