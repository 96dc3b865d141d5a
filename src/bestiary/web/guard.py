"""What stands before every route: who may ask, how much may be sent, how long it may take.

A request's body is read here, whole and within the limits, before any route sees it; what is too large is refused by
its Content-Length, before a byte of it is read.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from bestiary.text import printable
from bestiary.web.metrics import ServerMetrics
from bestiary.web.settings import LOCAL_NAMES, ServerSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_TO_ALL = {
    "/",
    "/docs",
    "/openapi.json",
    "/v2/health/live",
    "/v2/health/ready",
}  # these tell nothing about pictures
PAGE_FILES = "/page/"
SAFE_METHODS = {"GET", "HEAD"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RequestRejectedError(Exception):
    """A request that is not served: `status`, what is told, and headers."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        """Keep all three; what is no text in a message (it may repeat what was sent) is written out."""
        super().__init__(printable(message))
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


class RequestGuard:
    """The application within its limits."""

    def __init__(self, app: App, settings: ServerSettings, metrics: ServerMetrics) -> None:
        """Stand before `app`."""
        self._app, self._settings, self._metrics, self._held_bytes = app, settings, metrics, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, headers = time.perf_counter(), 500, Headers(scope=scope)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message["headers"]).update(HEADERS)
            await send(message)

        try:
            self._authenticate(scope, headers)
            await self._call_with_limits(scope, headers, receive, sending)
        except RequestRejectedError as refused:
            answer = JSONResponse({"error": str(refused)}, refused.status, refused.headers)
            await answer(scope, receive, sending)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _authenticate(self, scope: Scope, headers: Headers) -> None:
        """Raise RefusedError for another site's page, a name that is not ours (DNS rebinding), or a wrong token."""
        host = headers.get("host", "")
        if self._settings.is_local and _host_name(host) not in LOCAL_NAMES.union(self._settings.allowed_names):
            raise RequestRejectedError(
                421, f'This server is not called "{host}". Ask for localhost, or allow the name.'
            )
        if scope["method"] not in SAFE_METHODS and _is_cross_site(headers, host):
            raise RequestRejectedError(403, "A page of another site may not ask this server.")
        path = scope["path"]
        if self._settings.token is None or path in OPEN_TO_ALL or path.startswith(PAGE_FILES):
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._settings.token.encode()):
            raise RequestRejectedError(
                401, "This server needs its token: Authorization: Bearer TOKEN.", WWW_Authenticate="Bearer"
            )

    async def _call_with_limits(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Read the body, hand it on, and wait for the answer no longer than is allowed."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.seconds):
                await self._read_body(body, headers, receive)
        except TimeoutError:
            self._held_bytes -= len(body)
            raise RequestRejectedError(
                408, f"The request took more than {self._settings.seconds:g} s to arrive."
            ) from None
        except BaseException:
            self._held_bytes -= len(body)
            raise
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        try:
            await self._app(scope, replay, send)
        finally:
            self._held_bytes -= len(body)

    async def _read_body(self, body: bytearray, headers: Headers, receive: Receive) -> None:
        """Fill `body`. Raises RefusedError for one that is too large or is not allowed to be packed."""
        limit, claimed = self._settings.max_bytes, headers.get("content-length", "")
        if claimed.isascii() and claimed.isdecimal() and int(claimed[:18]) > limit:
            raise _too_large_error(int(claimed[:18]), limit)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestRejectedError(415, "The body must not be compressed: pictures are compressed already.")
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestRejectedError(400, "The request ended before its body was whole.")
            part: bytes = message.get("body", b"")
            if len(body) + len(part) > limit:
                raise _too_large_error(len(body) + len(part), limit)
            if self._held_bytes + len(part) > self._settings.max_held_bytes:
                raise RequestRejectedError(503, "Too much is being sent at once. Try again.", Retry_After="1")
            self._held_bytes += len(part)
            body += part
            more = message.get("more_body", False)


def _too_large_error(size: int, limit: int) -> RequestRejectedError:
    return RequestRejectedError(413, f"The request has {size:,} bytes or more; at most {limit:,} are taken.")


def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without its port: "[::1]:80" is "::1"."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_cross_site(headers: Headers, host: str) -> bool:
    """Browsers say where a request comes from; other programs say nothing, and have no user's rights to abuse."""
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != host
