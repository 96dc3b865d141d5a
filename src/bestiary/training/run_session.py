"""One process at a time on a run, and the time that all its sessions took, those that were killed included."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bestiary.errors import MachineError, RunError
from bestiary.files import read_json, write_json
from bestiary.profiling import PeakMemory, StageTimer

LOCK, SESSIONS = "run.lock", "sessions.json"
RECORD_EVERY_SECONDS = 5.0


@contextlib.contextmanager
def run_lock(run: Path, *, resume_command: str | None = None) -> Iterator[None]:
    """Keep every other process away from a run. Raises RunError, naming the process that has it, if one does.

    go_on: the command that goes on with it; that of a run when not given.

    The lock is the operating system's and dies with its process, however that ends: a lock file left behind by a
    killed process, or by a machine that lost its power, holds nobody up.
    """
    path = run / LOCK
    file = _open_lock_file(path)
    try:
        if not (_try_lock(file) and _is_same_file(file, path)):
            raise RunError(
                f"{run} is in use by {_read_holder(file)}. Wait until that has ended, or stop it, and go on with:"
                f" {resume_command or f'bestiary train --resume {shlex.quote(str(run))}'}"
            )
        _write_holder(file)
        yield
        with contextlib.suppress(OSError):  # Windows does not remove an open file: the empty lock stays, and is free
            path.unlink()
    finally:
        file.close()


class RunSession:
    """The time and memory that a run has taken so far, over all its sessions."""

    def __init__(self, run: Path, clock: StageTimer, memory: PeakMemory) -> None:
        """Read what earlier sessions took."""
        path = run / SESSIONS
        self._path, self._clock, self._memory = path, clock, memory
        self.earlier: list[dict[str, Any]] = read_json(path)["sessions"] if path.exists() else []

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage and in total, added up over all sessions."""
        return sum_stage_seconds([*(one["seconds"] for one in self.earlier), self._clock.totals()])

    @property
    def peak_megabytes(self) -> int:
        """The most memory that any session took."""
        return max(round(self._memory.megabytes), *(int(one["peak_rss_mb"]) for one in self.earlier), 0)

    def record(self) -> None:
        """Write the time taken so far into the run folder."""
        mine = {"seconds": self._clock.totals(), "peak_rss_mb": round(self._memory.megabytes)}
        write_json(self._path, {"sessions": [*self.earlier, mine]})


@contextlib.contextmanager
def open_session(run: Path, clock: StageTimer, memory: PeakMemory) -> Iterator[RunSession]:
    """Hold the run and keep account of its time: every few seconds, so that a killed session counts as well."""
    with run_lock(run):
        account, ended = RunSession(run, clock, memory), threading.Event()
        watcher = threading.Thread(
            target=_record_periodically, args=(account, ended), daemon=True, name="bestiary-session"
        )
        account.record()
        watcher.start()
        try:
            yield account
        finally:
            ended.set()
            watcher.join()
            with contextlib.suppress(MachineError):  # a full disk is told where something of value was to be written
                account.record()


def sum_stage_seconds(sessions: list[dict[str, float]]) -> dict[str, float]:
    """Return the sum of seconds of each stage.

    >>> sum_stage_seconds([{"audit": 1.0, "total": 2.0}, {"train": 3.0, "total": 4.0}])
    {'audit': 1.0, 'train': 3.0, 'total': 6.0}
    """
    names = [name for one in sessions for name in one if name != "total"]
    return {name: round(sum(one.get(name, 0.0) for one in sessions), 2) for name in dict.fromkeys([*names, "total"])}


def _record_periodically(account: RunSession, ended: threading.Event) -> None:
    while not ended.wait(RECORD_EVERY_SECONDS):
        with contextlib.suppress(MachineError):
            account.record()


def _open_lock_file(path: Path) -> BinaryIO:
    """Return the lock file, open for reading and writing, made if it is not there."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
    except OSError as error:
        raise MachineError(f"Cannot write {path}: {error.strerror or error}.") from None


def _write_holder(file: BinaryIO) -> None:
    """Say in the lock file who has it, for those who are turned away."""
    file.truncate(0)
    file.write(f" process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%H:%M:%S')}".encode())


def _read_holder(file: BinaryIO) -> str:
    with contextlib.suppress(OSError):
        file.seek(1)  # on Windows the first byte is locked
        if words := file.read(200).decode(errors="replace").strip("\0 "):
            return words
    return "another process"


def _is_same_file(file: BinaryIO, path: Path) -> bool:
    """Return whether the file is the one of this name: the process that had it before may just have removed it."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> bool:
        """Return whether this process has the lock now."""
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: BinaryIO) -> bool:
        """Return whether this process has the lock now."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
