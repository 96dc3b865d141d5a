"""The lock of a run folder: one process at a time trains it, evaluates it or writes its report."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from bestiary.errors import RunError
from bestiary.locks import process_lock

LOCK = "run.lock"
HOLDER = "run.lock.holder"
LOCK_FILES = {LOCK, HOLDER}


@contextlib.contextmanager
def run_lock(run: Path, *, resume_command: str | None = None) -> Iterator[None]:
    """Lock a run folder. Raises RunError, naming the process that holds it, if it is locked already.

    resume_command: the command that the error suggests; by default the one that resumes a run.
    """
    if not run.is_dir():  # the lock would create it
        raise RunError(f"{run} is not a run folder: it does not exist.")
    command = resume_command or f"bestiary train --resume {shlex.quote(str(run))}"

    def in_use_error(process: str) -> RunError:
        return RunError(
            f"{run} is in use by {process}. Wait until it has finished, or stop it, and continue with: {command}"
        )

    with process_lock(run / LOCK, run / HOLDER, in_use_error):
        yield
