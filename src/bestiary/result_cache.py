"""Arrays that take seconds to compute, remembered on disk by a digest of everything that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from bestiary.array_types import Array
from bestiary.errors import MachineError
from bestiary.files import atomic_path
from bestiary.version import __version__

DIGEST_BYTES, SUFFIX = 32, ".result"  # a file is the SHA-256 of its content, then the content in numpy's format
MAX_FILES = 32  # in a folder; the ones that were used longest ago are removed


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
            temporary.write_bytes(_pack(result))
        _remove_oldest(folder)
    return result


def _pack(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    content = stream.getvalue()
    return hashlib.sha256(content).digest() + content


def _read(path: Path, width: int) -> Array | None:
    """Return the array of a file, None if there is none, or if it is damaged."""
    try:
        packed = path.read_bytes()
        content = packed[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != packed[:DIGEST_BYTES]:
            return None
        result: Array = np.load(io.BytesIO(content), allow_pickle=False)
        os.utime(path)
    except (OSError, ValueError, EOFError):
        return None
    return result if result.ndim == 2 and result.shape[1] == width else None


def _remove_oldest(folder: Path) -> None:
    files = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
    for path in files[:-MAX_FILES]:
        path.unlink(missing_ok=True)
