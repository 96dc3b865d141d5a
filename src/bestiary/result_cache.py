"""Arrays that take seconds to compute, remembered on disk by a digest of everything that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from bestiary.array_types import Array
from bestiary.errors import MachineError
from bestiary.files import atomic_path
from bestiary.version import __version__

DIGEST_BYTES, SUFFIX = 32, ".result"  # a file is the SHA-256 of the rest, which is an array in numpy's format
MAX_FILES, MAX_BYTES = 32, 2**30  # in a folder; the ones that were used longest ago are removed


def digest_parts(parts: Iterable[str | bytes | Array]) -> str:
    """Return the SHA-256 of texts, bytes and arrays in their order, and of the versions of bestiary and numpy."""
    digest = hashlib.sha256()
    for part in (__version__, np.__version__, *parts):
        if isinstance(part, np.ndarray):
            content = np.ascontiguousarray(part)
            digest.update(f"array {content.dtype} {content.shape}\0".encode())
            digest.update(content.data.cast("B") if content.size else b"")
        else:
            text = part.encode() if isinstance(part, str) else part
            digest.update(f"bytes {len(text)}\0".encode() + text)
    return digest.hexdigest()


def compute_once(folder: Path | None, digest: str, compute: Callable[[], Array], *, width: int) -> Array:
    """Return the array that `compute` gives, of two dimensions and `width` columns: from the folder if it has it.

    folder: None remembers nothing. A file that is damaged is computed again; a folder that cannot be written to is no
    error, since only time is lost.
    """
    if folder is None:
        return compute()
    path = folder / f"{digest}{SUFFIX}"
    if (remembered := _read(path, width)) is not None:
        return remembered
    result = compute()
    with contextlib.suppress(OSError, MachineError):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            _write(temporary, result)
        _remove_oldest(folder)
    return result


def _write(path: Path, array: Array) -> None:
    """Write an array without a copy of it in memory: the probabilities of many pictures and classes are large."""
    with path.open("w+b") as file:
        file.write(bytes(DIGEST_BYTES))
        np.save(file, array, allow_pickle=False)
        file.seek(DIGEST_BYTES)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
        file.write(digest)


def _read(path: Path, width: int) -> Array | None:
    """Return the array of a file, None if there is none, or if it is damaged."""
    try:
        with path.open("rb") as file:
            expected = file.read(DIGEST_BYTES)
            if hashlib.file_digest(file, "sha256").digest() != expected:
                return None
            file.seek(DIGEST_BYTES)
            result: Array = np.load(file, allow_pickle=False)
        os.utime(path)
    except (OSError, ValueError, EOFError):
        return None
    return result if result.ndim == 2 and result.shape[1] == width else None


def _remove_oldest(folder: Path) -> None:
    """Remove the files that were used longest ago, so that no more than MAX_FILES and MAX_BYTES stay, and one."""
    stated = [(path, path.stat()) for path in folder.glob(f"*{SUFFIX}")]
    newest_first = sorted(stated, key=lambda entry: entry[1].st_mtime_ns, reverse=True)
    total = 0
    for number, (path, status) in enumerate(newest_first):
        total += status.st_size
        if number and (number >= MAX_FILES or total > MAX_BYTES):
            path.unlink(missing_ok=True)
