"""A connection that does not wait for ever, and keeps no more than a request may have before its body.

uvicorn limits neither the head of a request (a hundred megabytes of headers are kept) nor the time it takes to arrive,
and reads to its end what is sent behind a refusal. These are limits for what `guard` cannot see.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536


class TimeoutProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests must have arrived within `head_seconds`, and `body_seconds` for their bodies.

    The guard answers 408 to a body that is late; this only hangs up on those that send on, or nothing, regardless.
    """

    head_seconds, body_seconds = 30.0, 35.0
    _head_bytes: int | None = 0  # of the request that arrives; None within its body
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._expect(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, unless its head is too long."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._hang_up()

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head; what came before it is not of this request."""
        super().on_message_begin()
        self._head_bytes = 0
        self._expect(self.head_seconds)

    def on_headers_complete(self) -> None:
        """Begin to wait for the body."""
        super().on_headers_complete()
        self._head_bytes = None
        self._expect(self.body_seconds)

    def on_message_complete(self) -> None:
        """The request is whole; the next one may take its time, which is uvicorn's to limit."""
        super().on_message_complete()
        self._head_bytes = 0
        self._expect(None)

    def _expect(self, seconds: float | None) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = None if seconds is None else self.loop.call_later(seconds, self._hang_up)

    def _hang_up(self) -> None:
        self.transport.abort()


def make_protocol(seconds: float) -> type[TimeoutProtocol]:
    """Return the protocol for requests that may take so long to arrive; the guard, which tells why, comes first."""

    class Timed(TimeoutProtocol):
        head_seconds, body_seconds = seconds, seconds + 5

    return Timed
