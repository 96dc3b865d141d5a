"""ASGI middleware in front of every route: authentication, size limits and timeouts.

It reads the whole request body within the limits before a route runs. A body that is too large by its Content-Length
is rejected before any of it is read.
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

PUBLIC_PATHS = {"/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"}  # no token: no user data
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
    """A request that is rejected: the HTTP status, the message and extra headers of the response."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        """Keep all three; characters of `message` that are not valid text (it may repeat input) are escaped."""
        super().__init__(printable(message))
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


class RequestGuard:
    """The middleware: wraps an application, enforces `settings` and counts requests."""

    def __init__(self, app: App, settings: ServerSettings, metrics: ServerMetrics) -> None:
        """Wrap `app`."""
        self._app, self._settings, self._metrics, self._held_bytes = app, settings, metrics, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or reject it; add security headers to the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, headers = time.perf_counter(), 500, Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message["headers"]).update(HEADERS)
            await send(message)

        try:
            self._authenticate(scope, headers)
            await self._call_with_limits(scope, headers, receive, send_with_headers)
        except RequestRejectedError as error:
            response = JSONResponse({"error": str(error)}, error.status, error.headers)
            await response(scope, receive, send_with_headers)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _authenticate(self, scope: Scope, headers: Headers) -> None:
        """Raise RequestRejectedError for an unknown Host (DNS rebinding), a cross-site request or a wrong token."""
        settings, host, path = self._settings, headers.get("host", ""), scope["path"]
        if settings.is_local and _host_name(host) not in LOCAL_NAMES.union(settings.allowed_names):
            raise RequestRejectedError(
                421, f'Host "{host}" is not allowed. Use localhost, or start bestiary serve with --allow-name.'
            )
        if scope["method"] not in SAFE_METHODS and _is_cross_site(headers, host):
            raise RequestRejectedError(403, "Cross-site request: pages of other sites may not use this server.")
        if settings.token is None or path in PUBLIC_PATHS or path.startswith(PAGE_FILES):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), settings.token.encode()):
            message = "The token is missing or wrong. Send the header Authorization: Bearer TOKEN."
            raise RequestRejectedError(401, message, WWW_Authenticate="Bearer")

    async def _call_with_limits(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Read the body, then call the application with it."""
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self._settings.seconds):
                    await self._read_body(body, headers, receive)
            except TimeoutError:
                message = f"Request timeout: it took more than {self._settings.seconds:g} s to arrive."
                raise RequestRejectedError(408, message) from None
            messages = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

            async def replay() -> Message:
                return next(messages, None) or await receive()

            await self._app(scope, replay, send)
        finally:
            self._held_bytes -= len(body)

    async def _read_body(self, body: bytearray, headers: Headers, receive: Receive) -> None:
        """Fill `body`. Raises RequestRejectedError for a body that is too large or compressed."""
        limit, claimed = self._settings.max_bytes, headers.get("content-length", "")
        if claimed.isascii() and claimed.isdecimal() and int(claimed[:18]) > limit:
            raise _too_large_error(int(claimed[:18]), limit)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestRejectedError(415, "The body must not be compressed: pictures are compressed already.")
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestRejectedError(400, "The client disconnected before the body was complete.")
            chunk: bytes = message.get("body", b"")
            if len(body) + len(chunk) > limit:
                raise _too_large_error(len(body) + len(chunk), limit)
            if self._held_bytes + len(chunk) > self._settings.max_held_bytes:
                raise RequestRejectedError(503, "The server is receiving too much data. Retry.", Retry_After="1")
            self._held_bytes += len(chunk)
            body += chunk
            more = message.get("more_body", False)


def _too_large_error(size: int, limit: int) -> RequestRejectedError:
    return RequestRejectedError(413, f"The request has {size:,} bytes or more; the limit is {limit:,}.")


def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without its port: "[::1]:80" is "::1"."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_cross_site(headers: Headers, host: str) -> bool:
    """Return whether another site's page sent this. Only browsers send these headers, and only they need the check."""
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != host
