"""Connections that never end, say nothing, or say too much: on sockets, against the server as it is started."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("onnx")

import socket

import uvicorn

from bestiary.web.connection import MAX_HEAD_BYTES, make_protocol


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once, whatever is still to come, as a refusal does."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextlib.contextmanager
def listening(seconds: float) -> Iterator[int]:
    """Give the port of a server to which a request must have come within so many seconds."""
    protocol = make_protocol(seconds)
    protocol.body_seconds = seconds
    server = uvicorn.Server(uvicorn.Config(hello, http=protocol, ws="none", lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
        thread.start()
        yield bound.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(0.5) as port:
        yield port


@pytest.fixture(scope="module")
def patient() -> Iterator[int]:
    with listening(600) as port:
        yield port


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def everything(connection: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    found = b""
    try:
        while part := connection.recv(4096):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: local"])
def test_who_sends_no_whole_head_is_hung_up_on(port: int, sent: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(sent)
        assert everything(connection) == b""


def test_who_sends_on_behind_a_refusal_is_hung_up_on(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2147483648\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                connection.sendall(bytes(1000))


def test_who_sends_a_head_without_end_is_hung_up_on(patient: int) -> None:
    with connected(patient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                connection.sendall(b"X-A: " + b"a" * MAX_HEAD_BYTES + b"\r\n")


def test_requests_on_one_connection_are_each_answered(patient: int) -> None:
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    with connected(patient) as connection:
        for _ in range(3):
            connection.sendall(request)
            found = b""
            while not found.endswith(b"hello"):
                found += connection.recv(4096)
            assert found.startswith(b"HTTP/1.1 200 ")
