"""The lock of a run folder: one process at a time trains it, evaluates it or writes its report."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bestiary.errors import MachineError, RunError

LOCK = "run.lock"
HOLDER = "run.lock.holder"  # beside it, since the content of a lock file belongs to the library
LOCK_FILES = {LOCK, HOLDER}


@contextlib.contextmanager
def run_lock(run: Path, *, resume_command: str | None = None) -> Iterator[None]:
    """Lock a run folder. Raises RunError, naming the process that holds it, if it is locked already.

    resume_command: the command that the error suggests; by default the one that resumes a run.

    The lock belongs to the operating system and ends with its process, however that ends: the lock file of a killed
    process, or of a machine that lost its power, blocks nobody.
    """
    if not run.is_dir():  # the lock would create it
        raise RunError(f"{run} is not a run folder: it does not exist.")
    lock, holder = FileLock(run / LOCK, timeout=0), run / HOLDER
    try:
        lock.acquire()
    except Timeout:
        resume_command = resume_command or f"bestiary train --resume {shlex.quote(str(run))}"
        raise RunError(
            f"{run} is in use by {_read_holder(holder)}. Wait until it has ended, or stop it, and continue with:"
            f" {resume_command}"
        ) from None
    except OSError as error:
        raise MachineError(f"Cannot write {run / LOCK}: {error.strerror or error}.") from None
    try:
        with contextlib.suppress(OSError):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%H:%M:%S')}")
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file: the lock file stays, and is free
            holder.unlink()
            (run / LOCK).unlink()
        lock.release()


def _read_holder(holder: Path) -> str:
    try:
        return holder.read_text(errors="replace").strip() or "another process"
    except OSError:
        return "another process"
