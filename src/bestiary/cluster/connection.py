"""Connection to a Ray cluster: one started on this computer, or one that runs already.

Ray is asked to connect only where something answers as gRPC does: where nothing does, it waits nearly five minutes and
then ends the process, and is deaf to SIGTERM meanwhile (Ray 2.60). Every node has to
have the same bestiary with the extras that the work needs.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bestiary.cluster.existing_connection import AUTO, LOCAL, check_connection, opened_connection
from bestiary.cluster.quiet import print_node_messages, quiet_core
from bestiary.errors import EXTRAS, InputError, MachineError, import_optional
from bestiary.install_command import install_command
from bestiary.progress import Reporter
from bestiary.text import format_count, format_names
from bestiary.version import __version__

ADDRESSES = "local, auto, HOST:PORT or ray://HOST:PORT"
START_FAILURE = "creation task"  # in Ray's error about a worker whose constructor fails (2.60)
CLIENT_FAILURE = "Initialization failure from server"  # in that about a `ray://` connection whose process fails
# Environment variables of Ray (2.60), where the user has not set them; the last two are for clusters started here.
RAY_ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # or its core writes on the driver's stderr
    "RAY_worker_niceness": "0",  # and not 15: beside other programs, workers get what `predict` without a cluster gets
    # And not 1,000: where workers take all processors, the process that writes chunks would be ended after each, and
    # the start of the next takes a processor for one or two seconds.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
ANSWER_SECONDS = 5.0
# HTTP/2's connection preface with empty settings, and what the answer's first frame has after its length (RFC 9113,
# sections 3.4 and 6.5): gRPC, and so Ray, speaks HTTP/2.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HTTP2_SETTINGS = 4
CHECK_SECONDS = 120.0  # for a worker to start on a node and to import what it checks
DECODERS = ("pillow_heif",)  # a node without one would call pictures unreadable that this computer reads
MIN_FREE_BYTES = 1 << 30  # on a node: Ray writes objects that do not fit in memory to its disk


@dataclass(frozen=True)
class ClusterNode:
    """A node of a cluster, as a worker on it reports. missing: modules that are not installed there."""

    name: str
    bestiary: str
    missing: tuple[str, ...]
    free_bytes: int


@dataclass(frozen=True)
class Cluster:
    """A connected cluster. address: as given, without credentials; cpus: of all nodes together."""

    address: str
    cpus: int
    nodes: tuple[ClusterNode, ...]

    @property
    def is_local(self) -> bool:
        """Whether the cluster was started by this process and ends with it."""
        return self.address == LOCAL

    def __str__(self) -> str:
        """Return a part of a sentence, such as "Ray 2.60.0 on 3 nodes with 24 processors"."""
        nodes = "this computer" if self.is_local else format_count(len(self.nodes), "node")
        return f"Ray {import_ray().__version__} on {nodes} with {format_count(self.cpus, 'processor')}"


def import_ray() -> Any:
    """Return the module `ray`; MissingExtraError with the command that installs it if it is missing."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return import_optional("ray", extra="cluster")


def check_address(address: str) -> None:
    """Raise InputError for a text that is no address of a cluster."""
    if address in (LOCAL, AUTO):
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        is_valid = bool(parts.hostname and parts.port) and parts.scheme in ("", "ray") and not parts.path.strip("/")
    except ValueError:  # a port that is no number
        is_valid = False
    if not is_valid:
        raise InputError(f'"{address}" is no address of a cluster; expected {ADDRESSES}.')


@contextmanager
def connect(
    address: str,
    *,
    modules: Sequence[str] = EXTRAS["train"],
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> Iterator[Cluster]:
    """Connect to a cluster for the length of a `with` block; one of "local" is started and stopped again.

    modules: import names that every node has to have. threads: processors that "local" may use, None for all.
    An existing connection is used if it is to that cluster. Raises InputError for an invalid address and if it is to
    another one, MissingExtraError without Ray here, MachineError if nothing answers, if other versions run there, or if
    a node lacks modules or room on its disk.
    """
    check_address(address)
    ray = import_ray()
    if ray.is_initialized():
        check_connection(ray, address)
        print_node_messages(False)
        yield _describe_cluster(ray, address, modules)
        return
    where = _find_cluster(ray) if address == AUTO else address
    _require_answer(where)
    try:
        _init_ray(ray, _init_options(where, threads))
        print_node_messages(False)
    except Exception as error:  # Ray's errors have no common class: a node that starts too slowly is an Exception
        ray.shutdown()
        raise MachineError(_explain_failure(where, error)) from None
    try:
        cluster = _describe_cluster(ray, address, modules)
        if reporter is not None:
            reporter.info(f"The cluster is {cluster}.")
        with opened_connection(address):
            yield cluster
    finally:
        ray.shutdown()
        print_node_messages(True)


def _init_options(address: str, threads: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"include_dashboard": False}
        options |= {} if threads is None else {"num_cpus": threads}
    return options


def _find_cluster(ray: Any) -> str:
    """Return the address that "auto" stands for: RAY_ADDRESS, or the cluster that has a process on this computer.

    Ray's own search, so that it is the cluster that Ray would take: of a cluster whose head has died it
    returns what is left. MachineError if there is none.
    """
    try:
        address = str(ray._private.services.get_ray_address_from_environment(AUTO, None))
    except ConnectionError:
        raise MachineError(
            "No Ray cluster runs here. Start one with `ray start --head`, or use --cluster local."
        ) from None
    check_address(address)
    return address


def _require_answer(address: str) -> None:
    """Raise MachineError if nothing answers at the host and port of an address, or something that is not Ray."""
    if address == LOCAL:
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=ANSWER_SECONDS) as stream:
            speaks_ray = os.environ.get("RAY_USE_TLS", "0") != "0" or _has_http2(stream)
    except OSError as error:
        raise MachineError(
            f"Nothing answers at {address}: {error.strerror or error}. Start a cluster there with `ray start --head`,"
            " or use --cluster local."
        ) from None
    if not speaks_ray:
        raise MachineError(
            f"What answers at {address} is not Ray, or hangs. Give the port of the head as `ray start --head` prints it"
            " (6379 if it was not chosen; 8265 is the dashboard), or ray:// and that of the client (10001)."
        )


def _has_http2(stream: socket.socket) -> bool:
    """Return whether the other end of a connection answers as HTTP/2 does, in time."""
    stream.sendall(HTTP2_PREFACE)
    answer = b""
    try:
        while len(answer) < 4 and (received := stream.recv(64)):
            answer += received
    except (TimeoutError, ConnectionError):
        return False
    return len(answer) >= 4 and answer[3] == HTTP2_SETTINGS


def _init_ray(ray: Any, options: dict[str, Any]) -> None:
    """Connect, again if the process on the head fails that each `ray://` connection gets: the head may be busy."""
    try:
        with quiet_core():
            ray.init(**options)
    except ConnectionAbortedError:
        ray.shutdown()
        with quiet_core():
            ray.init(**options)


def _explain_failure(address: str, error: Exception) -> str:
    text = str(error).strip()
    if "timed out during startup" in text:
        return "Ray did not start within its 30 s: the computer is too busy, or short of memory. Try again later."
    if "ersion mismatch" in text:
        return (
            f"The cluster at {address} has another version of Ray or Python than this computer (Ray"
            f" {import_ray().__version__}, Python {platform.python_version()}). Install the same ones here and there."
            f" Ray says: {text}"
        )
    if type(error).__name__ == "AuthenticationError":
        return (
            f"The cluster at {address} asks for another token than this computer has. Copy ~/.ray/auth_token from the"
            " computer that started it, or set RAY_AUTH_TOKEN."
        )
    if "ray[client]" in text:
        return f"The address {address} needs Ray's client. Add it with: {install_command('cluster')}"
    return f"Connecting to {address} failed: {describe_ray_error(error)}."


def _describe_cluster(ray: Any, address: str, modules: Sequence[str]) -> Cluster:
    """Return the cluster; MachineError if a node cannot take part."""
    working = list_working_nodes(ray)
    cpus = int(sum(node["Resources"]["CPU"] for node in working))
    if not working:
        raise MachineError(f"The cluster at {address} has no processors. Add a node with `ray start --address …`.")
    if address == LOCAL:
        return Cluster(LOCAL, cpus, (_inspect_this_computer(tuple(modules)),))
    decoders = [module for module in DECODERS if importlib.util.find_spec(module) is not None]
    nodes = _inspect_nodes(ray, (*modules, *decoders))
    _check_nodes(nodes)
    return Cluster(address, cpus, nodes)


def require_shared(cluster: Cluster, paths: Sequence[Path]) -> None:
    """Raise MachineError, naming them, if nodes do not see paths of this computer."""
    if cluster.is_local:
        return
    missing = _ask_nodes(import_ray(), _list_missing, tuple(map(str, paths)))
    if blind := [(name, unseen) for name, unseen in missing if unseen]:
        name, unseen = blind[0]
        raise MachineError(
            f"{len(blind)} of {format_count(len(missing), 'node')} {'do' if len(blind) > 1 else 'does'} not see"
            f" {unseen[0]} of this computer (for example {name}). Put pictures and output where all nodes see them"
            " under the same path, such as a network folder, or use --cluster local."
        )


def _list_missing(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in paths if not os.path.exists(path))  # noqa: PTH110 - names that are too long


def _inspect_nodes(ray: Any, modules: tuple[str, ...]) -> tuple[ClusterNode, ...]:
    return tuple(ClusterNode(name, *report) for name, report in _ask_nodes(ray, _inspect_node, modules))


def _ask_nodes(
    ray: Any, function: Callable[[tuple[str, ...]], Any], argument: tuple[str, ...]
) -> list[tuple[str, Any]]:
    """Return the name of each node with processors, and what a worker on it returns.

    MachineError if one does not answer in time.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=2)(function)
    references = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            argument
        ): str(node.get("NodeManagerHostname") or node["NodeManagerAddress"])
        for node in list_working_nodes(ray)
    }
    _, late = ray.wait(list(references), num_returns=len(references), timeout=CHECK_SECONDS)
    if late:
        names = format_names([references[reference] for reference in late])
        raise MachineError(f"No worker answered within {CHECK_SECONDS:.0f} s on {names}.")
    return [(name, ray.get(reference)) for reference, name in references.items()]


def describe_ray_error(error: BaseException) -> str:
    """Return the reason of an error of Ray in one line, without a full stop.

    Where a worker or a client's process could not be started that is the last line, of what it raised; else the first.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if START_FAILURE in lines[0] or CLIENT_FAILURE in lines[0] else 0].rstrip(".")


def list_working_nodes(ray: Any) -> list[dict[str, Any]]:
    """Return the nodes that have processors."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _inspect_node(modules: tuple[str, ...]) -> tuple[str, tuple[str, ...], int]:
    """Return version, missing modules and free bytes of the temporary folder, on a node that may lack bestiary."""
    try:
        from bestiary.version import __version__ as version
    except ImportError:
        version = ""
    missing = tuple(module for module in modules if importlib.util.find_spec(module) is None)
    return version, missing, shutil.disk_usage(tempfile.gettempdir()).free


def _inspect_this_computer(modules: tuple[str, ...]) -> ClusterNode:
    node = ClusterNode(platform.node(), *_inspect_node(modules))
    _check_nodes((node,))
    return node


def _check_nodes(nodes: Sequence[ClusterNode]) -> None:
    """Raise MachineError with every node that cannot take part."""
    faults = []
    for node in nodes:
        if not node.bestiary:
            faults.append(f"{node.name} has no bestiary")
        elif node.bestiary != __version__:
            faults.append(f"{node.name} has bestiary {node.bestiary}, this computer {__version__}")
        elif node.missing:
            faults.append(f"{node.name} lacks {format_names(node.missing)}")
        elif node.free_bytes < MIN_FREE_BYTES:
            faults.append(f"{node.name} has {node.free_bytes / 1e9:.1f} GB free in its temporary folder, needed 1.1")
    if faults:
        raise MachineError(
            f"Not every node can take part: {'; '.join(faults)}. Install bestiary there as here, with its extra"
            f" (here: {install_command('cluster')}), or make room."
        )
