"""Servers on a free port: `bestiary serve` in a process of its own, as users start it; an application in this one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from bestiary.web import running
from bestiary.web.connection import make_protocol
from bestiary.web.settings import ServerSettings


@contextlib.contextmanager
def served(run: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the address and the process; terminate the process at the end."""
    line = [sys.executable, "-m", "bestiary", "serve", str(run), "--port", "0", *options]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.terminate()


@contextlib.contextmanager
def served_here(app: FastAPI, settings: ServerSettings) -> Iterator[str]:
    """Serve an application from a thread of this process, as `run_server` does; yield the address for a browser."""
    config = uvicorn.Config(
        app, http=make_protocol(settings.seconds), ws="none", access_log=False, log_level="warning", server_header=False
    )
    server = uvicorn.Server(config)
    with running.bind_socket(settings) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="server")
        thread.start()
        try:
            yield running.browser_url(bound, settings)
        finally:
            server.should_exit = True
            thread.join(timeout=60)
    assert not thread.is_alive()
