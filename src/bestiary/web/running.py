"""Starting a server, and stopping it gracefully: requests in progress are finished first."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI

from bestiary.errors import MachineError
from bestiary.progress import Reporter
from bestiary.web.connection import make_protocol
from bestiary.web.settings import ServerSettings


def bind_socket(settings: ServerSettings) -> socket.socket:
    """Return a bound socket; port 0 picks any free one. Raises MachineError if the address is in use or not local."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MachineError(
            f"Cannot listen on {settings.host}, port {settings.port}: {reason}. Choose another port with --port."
        ) from None


def browser_url(server_socket: socket.socket, settings: ServerSettings) -> str:
    """Return the URL to open in a browser; the token is in the fragment (#), which browsers neither send nor log."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    token = f"#token={quote(settings.token, safe='')}" if settings.token else ""
    return f"http://{host}:{server_socket.getsockname()[1]}/{token}"


def run_server(app: FastAPI, server_socket: socket.socket, settings: ServerSettings, reporter: Reporter) -> None:
    """Serve an application until Ctrl-C or SIGTERM, then finish the requests in progress."""
    config = uvicorn.Config(
        app,
        http=make_protocol(settings.seconds),
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(2 * settings.seconds),
    )
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # malformed forms are the client's fault
    reporter.info("Open the address in a browser. Stop with Ctrl-C.")
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again after the shutdown: exit with code 0
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[server_socket])
