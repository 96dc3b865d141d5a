"""Starting a server and stopping it: what it took is finished first."""

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
    """Return a bound socket; port 0 takes any free one. Raises MachineError if the address is taken or not ours."""
    try:
        return socket.create_server((settings.host, settings.port), family=_family(settings.host), backlog=1024)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise MachineError(
            f"The server cannot listen on {settings.host}, port {settings.port}: {why}. Choose another with --port."
        ) from None


def browser_url(server_socket: socket.socket, settings: ServerSettings) -> str:
    """Return the address to open in a browser; a token goes behind the #, which browsers do not send or log."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    token = f"#token={quote(settings.token, safe='')}" if settings.token else ""
    return f"http://{host}:{server_socket.getsockname()[1]}/{token}"


def run_server(app: FastAPI, server_socket: socket.socket, settings: ServerSettings, reporter: Reporter) -> None:
    """Serve an application until the process is told to stop (Ctrl-C or SIGTERM); requests taken are finished."""
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
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # broken forms are the sender's affair, not the log's
    reporter.info("Stop with Ctrl-C.")
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again once all is finished: the end is no fault
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[server_socket])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
