"""The connection to a Ray cluster that a process has already: whether an address names the same cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from bestiary.errors import InputError

LOCAL, AUTO = "local", "auto"
_opened: list[str] = []  # addresses that this process has connected to by `opened_connection`


@contextmanager
def opened_connection(address: str) -> Iterator[None]:
    """Note, for the length of a `with` block, that the connection was opened for an address."""
    _opened.append(address)
    try:
        yield
    finally:
        _opened.remove(address)


def check_connection(ray: Any, address: str) -> None:
    """Raise InputError if the connection that Ray has is not to the cluster that an address names.

    "auto" names any, unless RAY_ADDRESS says which one. "local" names one that this process has started.
    """
    wanted = (os.environ.get("RAY_ADDRESS") or AUTO) if address == AUTO else address
    if wanted == AUTO or address in _opened or wanted in _opened:
        return
    actual = find_address(ray)
    names = (LOCAL, _cluster_address(ray)) if actual == LOCAL else (actual,)
    if not any(wanted == name or _is_same_address(wanted, name) for name in names):
        connected = "a cluster that it has started itself (local)" if actual == LOCAL else f"the cluster at {actual}"
        raise InputError(
            f'This process is connected to {connected} already; the address is "{wanted}". Use "{actual}", or call'
            " ray.shutdown() first."
        )


def find_address(ray: Any) -> str:
    """Return the address of the cluster that Ray is connected to, "local" for one that this process has started."""
    if ray.util.client.ray.is_connected():
        return f"ray://{ray.util.client.ray.get_context().client_worker._conn_str}"
    node = ray._private.worker._global_node
    return LOCAL if node is not None and node.head else _cluster_address(ray)


def _cluster_address(ray: Any) -> str:
    """Return HOST:PORT of the head, which knows all nodes."""
    return str(ray.get_runtime_context().gcs_address)


def _is_same_address(first: str, second: str) -> bool:
    """Return whether two addresses have the same scheme and port, and hosts of the same computer."""
    parts = [urlsplit(address if "://" in address else f"//{address}") for address in (first, second)]
    if parts[0].scheme != parts[1].scheme or parts[0].port != parts[1].port:
        return False
    if parts[0].hostname == parts[1].hostname:
        return True
    return bool(_find_numbers(str(parts[0].hostname)) & _find_numbers(str(parts[1].hostname)))


def _find_numbers(host: str) -> set[str]:
    """Return the numeric addresses of a host; of this computer all that are found."""
    numbers, name = _resolve(host), socket.gethostname()
    own = _resolve(name) | {"127.0.0.1", "::1"}
    return numbers | own if numbers & own or host == name.lower() else numbers  # `urlsplit` gives lower case


def _resolve(host: str) -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return set()
