"""HTTP/1.1 protocol for uvicorn with timeouts for the head and the body of a request, and a limit on the head's size.

uvicorn limits neither the size of a head (it keeps a hundred megabytes of headers) nor its arrival time, and it reads
the rest of a body after an error response. `guard` cannot see either.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536


class TimeoutProtocol(HttpToolsProtocol):
    """Closes a connection whose head does not arrive within `head_seconds`, or its body within `body_seconds`.

    The guard answers a late body with 408 first; this closes connections that keep sending, or stay silent, after that.
    """

    head_seconds, body_seconds = 30.0, 35.0
    _head_bytes: int | None = 0  # received so far of this request's head; None while its body arrives
    _timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timeout for the first request."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._set_timeout(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        self._set_timeout(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes; close the connection if the head is too large."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Start the timeout for the head; bytes before it belong to the previous request."""
        super().on_message_begin()
        self._head_bytes = 0
        self._set_timeout(self.head_seconds)

    def on_headers_complete(self) -> None:
        """Start the timeout for the body."""
        super().on_headers_complete()
        self._head_bytes = None
        self._set_timeout(self.body_seconds)

    def on_message_complete(self) -> None:
        """Cancel the timeout: uvicorn's keep-alive timeout applies until the next request."""
        super().on_message_complete()
        self._head_bytes = 0
        self._set_timeout(None)

    def _set_timeout(self, seconds: float | None) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
        self._timeout = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def make_protocol(seconds: float) -> type[TimeoutProtocol]:
    """Return the protocol class for this request timeout; bodies get 5 s more, so that the guard's 408 comes first."""

    class ConfiguredProtocol(TimeoutProtocol):
        head_seconds, body_seconds = seconds, seconds + 5

    return ConfiguredProtocol
