"""Connections that are slow, silent or send too much: with sockets, against a running server."""

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
    """Respond before the body has arrived, as an error response does."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@contextlib.contextmanager
def listening(seconds: float) -> Iterator[int]:
    """Yield the port of a server whose requests must arrive within `seconds`."""
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
    """Return all bytes until the server closes the connection."""
    received = b""
    try:
        while part := connection.recv(4096):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: local"])
def test_an_incomplete_head_times_out(port: int, sent: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(sent)
        assert everything(connection) == b""


def test_a_connection_that_sends_on_after_an_error_is_closed(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2147483648\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                connection.sendall(bytes(1000))


def test_an_endless_head_is_closed(patient: int) -> None:
    with connected(patient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                connection.sendall(b"X-A: " + b"a" * MAX_HEAD_BYTES + b"\r\n")


def test_keep_alive_requests_are_each_answered(patient: int) -> None:
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    with connected(patient) as connection:
        for _ in range(3):
            connection.sendall(request)
            response = b""
            while not response.endswith(b"hello"):
                response += connection.recv(4096)
            assert response.startswith(b"HTTP/1.1 200 ")
