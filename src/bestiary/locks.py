"""Locks between processes: one at a time writes into a run folder, or into the file or folder of an `--out`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bestiary.errors import MachineError, UserError
from bestiary.files import cache_folder, require_local_path
from bestiary.text import truncate_name

HOLDER_SUFFIX = ".holder"
LOCK_NAME_BYTES = 200  # of the output's name in the lock's name: a file name has 255 bytes at most


@contextlib.contextmanager
def process_lock(lock: Path, holder: Path, in_use_error: Callable[[str], UserError]) -> Iterator[None]:
    """Lock a file. Raises `in_use_error(process)`, where `process` describes the holder, if it is locked already.

    holder: the file that describes the process, since the content of a lock file belongs to the library. The lock
    belongs to the operating system and ends with its process, however that ends: the lock file of a killed process, or
    of a machine that lost its power, blocks nobody.
    """
    file_lock = FileLock(lock, timeout=0)
    try:
        file_lock.acquire()
    except Timeout:
        raise in_use_error(_read_holder(holder)) from None
    except OSError as error:
        raise MachineError(f"Cannot write {lock}: {error.strerror or error}.") from None
    try:
        with contextlib.suppress(OSError):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%H:%M:%S')}")
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file: the lock file stays, and is free
            holder.unlink()
            lock.unlink()
        file_lock.release()


@contextlib.contextmanager
def output_lock(*outputs: Path | None) -> Iterator[None]:
    """Lock the files and folders that a command writes; None is passed over.

    The lock file `.NAME.lock` lies beside each, or in the cache folder if nothing can be written there. Raises
    UserError if one is a URL, if it is locked already, naming the process, or if no folder can be made for it.
    """
    with contextlib.ExitStack() as locks:
        for output in outputs:
            if output is not None:
                require_local_path(output)
        for path in dict.fromkeys(Path(os.path.realpath(output)) for output in outputs if output is not None):
            locks.enter_context(_lock_output(path))
        yield


def is_output_lock(path: Path) -> bool:
    """Return whether a file belongs to the lock of an output: it was put there by `output_lock`, not by the user."""
    name = path.name
    if not name.startswith("."):
        return False
    if name.endswith(f".lock{HOLDER_SUFFIX}"):
        return path.with_name(name.removesuffix(HOLDER_SUFFIX)).exists()
    return name.endswith(".lock") and path.with_name(name + HOLDER_SUFFIX).exists()


@contextlib.contextmanager
def _lock_output(path: Path) -> Iterator[None]:
    """Lock one output; folders created for the lock are removed at the end if they are empty."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        above = next(folder for folder in path.parents if folder.exists())
        reason = f"{above} is a file, not a folder" if above.is_file() else f"{above}: {error.strerror or error}"
        raise MachineError(f"Cannot write {path}: {reason}. Choose another place.") from None
    lock = path.with_name(f".{truncate_name(path.name, LOCK_NAME_BYTES)}.lock")
    if path.is_dir() and not os.access(path.parent, os.W_OK):  # a mounted folder, for example
        lock = cache_folder() / "locks" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)

    def in_use_error(process: str) -> UserError:
        return UserError(
            f"{path} is being written by {process}. Wait until it has finished, or stop it; or choose another name."
        )

    try:
        with process_lock(lock, lock.with_name(lock.name + HOLDER_SUFFIX), in_use_error):
            yield
    finally:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


def _read_holder(holder: Path) -> str:
    try:
        return holder.read_text(errors="replace").strip() or "another process"
    except OSError:
        return "another process"
