"""The connection to a Ray cluster: addresses, and one message for each reason why it cannot be used."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from bestiary.cluster import connection
from bestiary.cluster.connection import Cluster, ClusterNode, check_address, connect, describe_ray_error, require_shared
from bestiary.cluster.existing_connection import check_connection, opened_connection
from bestiary.errors import InputError, MachineError
from ray_cluster import TwoNodes

GIGABYTE = 1 << 30
SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # the first frame of an HTTP/2 server


@pytest.mark.parametrize(
    "address", ["local", "auto", "10.0.0.1:6379", "head.example:6379", "ray://head:10001", "[::1]:1"]
)
def test_addresses(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "locals",
        "head",
        "head:",
        "head:many",
        "head:70000",
        "http://head:1",
        "ray://head",
        "ray://head:1/path",
        ":6379",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a cluster; expected local, auto, HOST:PORT or ray://"):
        check_address(address)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nothing_answers(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    with (
        pytest.raises(MachineError, match=f"Nothing answers at {address}: .*refused.*ray start --head"),
        connect(address),
    ):
        pass


def serve_once(listener: socket.socket, answer: bytes) -> None:
    """Answer one connection and leave it open until the other end closes it."""
    stream, _ = listener.accept()
    with stream:
        stream.recv(1024)
        stream.sendall(answer)
        while stream.recv(1024):
            pass


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Give HOST:PORT of a server that says one thing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_once, args=(listener, answer), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR"])
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_answers_is_not_ray(monkeypatch: pytest.MonkeyPatch, scheme: str, answer: bytes) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    with (
        server(answer) as address,
        pytest.raises(MachineError, match=f"What answers at {scheme}{address} is not Ray, or hangs.*8265"),
        connect(scheme + address),
    ):
        pass


def test_auto_is_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(MachineError, match=f"Nothing answers at {address}"), connect("auto"):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "head")
    with pytest.raises(InputError, match='"head" is no address of a cluster'), connect("auto"):
        pass


class FailingRay:
    """Stands in for Ray, and fails to connect."""

    __version__ = "2.60.0"

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.options: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.options = options
        raise self._error

    def shutdown(self) -> None:
        pass


def failure(monkeypatch: pytest.MonkeyPatch, address: str, error: Exception) -> str:
    """The message for an error of `ray.init` at an address where something answers."""
    monkeypatch.setattr(connection, "import_ray", lambda: FailingRay(error))
    with server(SETTINGS) as here:
        address = address.replace("127.0.0.1:PORT", here)
        if here not in address:  # "local": nobody connects to the server
            socket.create_connection(("127.0.0.1", int(here.split(":")[1]))).close()
        with pytest.raises(MachineError) as raised, connect(address):
            pass
    return str(raised.value)


def test_other_versions_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # The text of ray._private.utils.check_version_info, Ray 2.60.
    error = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.49.0\n    Python: 3.12.1\n"
        "This process on Ray client was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    for address in ("127.0.0.1:PORT", "ray://127.0.0.1:PORT"):
        text = failure(monkeypatch, address, error)
        assert "has another version of Ray or Python than this computer (Ray 2.60.0, Python" in text
        assert "Install the same ones here and there" in text
        assert "Ray: 2.49.0" in text


def test_no_cluster_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    services = connection.import_ray()._private.services
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", list)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    with pytest.raises(MachineError) as raised, connect("auto"):
        pass
    assert str(raised.value) == "No Ray cluster runs here. Start one with `ray start --head`, or use --cluster local."


def test_a_computer_that_is_too_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    # The class and the text of ray._private.node.Node, Ray 2.60.
    error = Exception("The current node timed out during startup. This could happen because some of the raylet")
    assert failure(monkeypatch, "local", error).startswith(
        "Ray did not start within its 30 s: the computer is too busy"
    )


def test_something_else_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    text = failure(monkeypatch, "127.0.0.1:PORT", ConnectionError("Ray is at 127.0.0.1?\nmore"))
    assert text.endswith("failed: Ray is at 127.0.0.1?.")


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    text = failure(monkeypatch, "ray://127.0.0.1:PORT", ImportError("pip install ray[client]"))
    assert "needs Ray's client" in text
    assert "[cluster]" in text


def test_another_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import AuthenticationError

    text = failure(monkeypatch, "127.0.0.1:PORT", AuthenticationError("Invalid or missing token"))
    assert "asks for another token than this computer has" in text
    assert "RAY_AUTH_TOKEN" in text


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        (ClusterNode("n1", "", (), GIGABYTE), "n1 has no bestiary"),
        (ClusterNode("n2", "0.0.9", (), GIGABYTE), "n2 has bestiary 0.0.9, this computer"),
        (ClusterNode("n3", connection.__version__, ("polars", "onnx"), GIGABYTE), "n3 lacks polars, onnx"),
        (ClusterNode("n4", connection.__version__, (), 5_000_000), "n4 has 0.0 GB free in its temporary folder"),
    ],
)
def test_a_node_that_cannot_take_part(node: ClusterNode, fault: str) -> None:
    sound = ClusterNode("n0", connection.__version__, (), GIGABYTE)
    connection._check_nodes((sound,))
    with pytest.raises(MachineError) as raised:
        connection._check_nodes((sound, node))
    assert fault in str(raised.value)
    assert "n0" not in str(raised.value)
    assert "[cluster]" in str(raised.value)


def connected_ray(cluster: str, *, is_head: bool = False, client: str = "") -> Any:
    """Stands in for a Ray that is connected to a cluster, whose head listens at an address."""
    node = None if client else SimpleNamespace(head=is_head)
    context = SimpleNamespace(client_worker=SimpleNamespace(_conn_str=client))
    stub = SimpleNamespace(is_connected=lambda: bool(client), get_context=lambda: context)
    return SimpleNamespace(
        get_runtime_context=lambda: SimpleNamespace(gcs_address=cluster),
        util=SimpleNamespace(client=SimpleNamespace(ray=stub)),
        _private=SimpleNamespace(worker=SimpleNamespace(_global_node=node)),
    )


@pytest.mark.parametrize(
    ("address", "ray"),
    [
        ("local", connected_ray("127.0.0.1:6379", is_head=True)),
        ("auto", connected_ray("127.0.0.1:6379")),
        ("127.0.0.1:6379", connected_ray("127.0.0.1:6379")),
        ("localhost:6379", connected_ray("127.0.0.1:6379")),
        (f"{socket.gethostname()}:6379", connected_ray("127.0.0.1:6379")),
        ("127.0.0.1:6379", connected_ray("127.0.0.1:6379", is_head=True)),
        ("ray://head:10001", connected_ray("192.0.2.7:6379", client="head:10001")),
    ],
)
def test_an_existing_connection_to_the_same_cluster(monkeypatch: pytest.MonkeyPatch, address: str, ray: Any) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_connection(ray, address)


@pytest.mark.parametrize(
    ("address", "ray", "other"),
    [
        ("local", connected_ray("192.0.2.7:6379"), "the cluster at 192.0.2.7:6379 already"),
        ("127.0.0.1:6380", connected_ray("127.0.0.1:6379"), "the cluster at 127.0.0.1:6379 already"),
        ("192.0.2.8:6379", connected_ray("127.0.0.1:6379", is_head=True), "started itself (local) already"),
        ("ray://head:10002", connected_ray("192.0.2.7:6379", client="head:10001"), "at ray://head:10001 already"),
        ("ray://192.0.2.7:6379", connected_ray("192.0.2.7:6379"), "the cluster at 192.0.2.7:6379 already"),
        ("local", connected_ray("192.0.2.7:6379", client="head:10001"), "at ray://head:10001 already"),
    ],
)
def test_an_existing_connection_to_another_cluster(address: str, ray: Any, other: str) -> None:
    with pytest.raises(InputError) as raised:
        check_connection(ray, address)
    assert other in str(raised.value)
    assert f'the address is "{address}"' in str(raised.value)
    assert "ray.shutdown()" in str(raised.value)


def test_auto_is_the_cluster_of_the_environment_also_where_another_is_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.8:6379")
    with pytest.raises(InputError, match=r'the address is "192\.0\.2\.8:6379"'):
        check_connection(connected_ray("192.0.2.7:6379"), "auto")
    with opened_connection("auto"):  # as it was when it was opened
        check_connection(connected_ray("192.0.2.7:6379"), "auto")


def test_the_reason_of_an_error_is_one_line() -> None:
    died = Exception(
        "The actor died because of an error raised in its creation task, ray::W.__init__()\n  File\nE: no x"
    )
    assert describe_ray_error(died) == "E: no x"
    assert describe_ray_error(Exception("\nThe node died.\nmore")) == "The node died"
    assert describe_ray_error(ValueError()) == "ValueError"
    refused = ConnectionAbortedError("Initialization failure from server:\nTraceback\nRuntimeError: the head is busy.")
    assert describe_ray_error(refused) == "RuntimeError: the head is busy"


@pytest.mark.parametrize("failures", [1, 2])
def test_a_client_whose_process_did_not_start_tries_once_more(failures: int) -> None:
    calls: list[str] = []

    def init(**options: Any) -> None:
        calls.append(options["address"])
        if calls.count("ray://head:10001") <= failures:
            raise ConnectionAbortedError("Initialization failure from server:\n")

    ray = SimpleNamespace(init=init, shutdown=lambda: calls.append("shutdown"))
    if failures == 1:
        connection._init_ray(ray, {"address": "ray://head:10001"})
    else:
        with pytest.raises(ConnectionAbortedError):
            connection._init_ray(ray, {"address": "ray://head:10001"})
    assert calls == ["ray://head:10001", "shutdown", "ray://head:10001"]


def test_this_computer_lacks_a_module(local_ray: Any) -> None:
    with pytest.raises(MachineError, match="lacks no_such_module"), connect("local", modules=("no_such_module",)):
        pass
    with connect("local", modules=("onnxruntime",)) as cluster:
        assert cluster.is_local
        assert cluster.cpus == 2
        assert str(cluster) == "Ray " + local_ray.__version__ + " on this computer with 2 processors"
    with pytest.raises(InputError, match=r"a cluster that it has started itself"), connect("127.0.0.1:1"):
        pass
    check_connection(local_ray, local_ray.get_runtime_context().gcs_address)
    assert local_ray.is_initialized()  # a connection that was there stays


def test_workers_of_a_cluster_started_here_have_the_priority_of_this_process(local_ray: Any) -> None:
    assert local_ray.get(local_ray.remote(read_niceness).remote()) == read_niceness()


def read_niceness() -> int:
    """The niceness of the process that calls: a larger one gets less of the processors."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def inspect_without_decoder(modules: tuple[str, ...]) -> tuple[str, tuple[str, ...], int]:
    """What a node without the decoder reports."""
    return connection.__version__, tuple(module for module in modules if module == "colorsys"), 4 * GIGABYTE


@pytest.mark.slow
def test_two_nodes(two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    seen.touch()
    with connect(two_nodes.address, modules=("onnxruntime",)) as cluster:
        assert [node.missing for node in cluster.nodes] == [(), ()]
        assert cluster.cpus == 2
        require_shared(cluster, [seen])
        monkeypatch.setattr(connection, "DECODERS", ("colorsys",))
        with monkeypatch.context() as patch:
            patch.setattr(connection, "_inspect_node", inspect_without_decoder)
            with pytest.raises(MachineError, match="lacks colorsys"):
                connection._describe_cluster(connection.import_ray(), two_nodes.address, ())
        with pytest.raises(MachineError, match=f"2 of 2 nodes do not see {tmp_path / 'unseen'} of this computer"):
            require_shared(cluster, [seen, tmp_path / "unseen"])
        with (
            pytest.raises(MachineError, match=r"lacks no_such_module; .* lacks no_such_module"),
            connect(two_nodes.address, modules=("no_such_module",)),
        ):
            pass
        monkeypatch.setattr(connection, "MIN_FREE_BYTES", 1 << 60)
        with pytest.raises(MachineError, match="free in its temporary folder"), connect(two_nodes.address):
            pass
    require_shared(Cluster("local", 2, ()), [tmp_path / "unseen"])  # nothing is asked
