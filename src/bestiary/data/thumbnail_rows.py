"""Thumbnails and colours of a table in rows: in memory, or of many pictures on disk."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.array_types import Ints, Pixels
from bestiary.data.measure import COLOUR_SIDE, THUMBNAIL_SIDE
from bestiary.errors import MachineError

MAX_MEMORY_BYTES = 64 * 2**20  # of thumbnails in memory: 65,536 pictures
ROWS_AT_ONCE = 4096

PIXELS = THUMBNAIL_SIDE**2


class ThumbnailFile:
    """Thumbnails in an unnamed temporary file, which is deleted with this object; indexed as an array of them is.

    They are read, not memory-mapped: mapped pages would count as memory of the process.
    """

    def __init__(self) -> None:
        """Start without thumbnails; raises MachineError if the temporary folder cannot be written to."""
        self._count, self._lock = 0, threading.Lock()
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by the finalizer
        except OSError as error:
            raise MachineError(f"Cannot write to {tempfile.gettempdir()}: {error.strerror}.") from error
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        """Return the number of thumbnails."""
        return self._count

    def append(self, thumbnails: Pixels) -> None:
        """Append thumbnails, uint8 (n, 32, 32); raises MachineError if the disk is full."""
        content = thumbnails.tobytes()
        try:
            self._file.seek(0, os.SEEK_END)
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            raise MachineError(
                f"Cannot write thumbnails to {tempfile.gettempdir()}: {error.strerror}. Free some space, or set TMPDIR"
                " to a folder on another disk."
            ) from error
        self._count += len(thumbnails)

    def __getitem__(self, indices: slice | Ints, /) -> Pixels:
        """Return the selected thumbnails, uint8 (n, 32, 32); contiguous ones are read at once."""
        wanted = np.arange(self._count)[indices]
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1).tolist()
        parts = [
            self._read((end - first) * PIXELS, int(wanted[first]) * PIXELS)
            for first, end in pairwise([*starts, len(wanted)])
        ]
        return unpack_thumbnails(parts)

    def _read(self, size: int, offset: int) -> bytes:
        """Return some bytes of the file; several threads read at once."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, offset)
        with self._lock:  # Windows has no pread
            self._file.seek(offset)
            return self._file.read(size)


Thumbnails = Pixels | ThumbnailFile  # uint8 (n, 32, 32)


def unpack_thumbnails(packed: Sequence[bytes]) -> Pixels:
    """Return thumbnails as `ImageMeasurements` stores them as uint8 (n, 32, 32)."""
    return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def unpack_colours(packed: Sequence[bytes]) -> Pixels:
    """Return the colours of pictures as `ImageMeasurements` stores them, Cb and Cr, as uint8 (n, 8, 8, 2)."""
    return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 2)


def gather_thumbnails(column: pl.Series, rows: npt.NDArray[np.integer]) -> Thumbnails:
    """Return the thumbnails of these rows, some at a time: a list of all takes as much memory as they do.

    Many are copied to a temporary file, since the table has them in memory already.
    """
    chunks = (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
    if len(rows) * PIXELS <= MAX_MEMORY_BYTES:
        thumbnails = np.empty((len(rows), THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
        for number, chunk in enumerate(chunks):
            start = number * ROWS_AT_ONCE
            thumbnails[start : start + len(chunk)] = unpack_thumbnails(column.gather(chunk).to_list())
        return thumbnails
    file = ThumbnailFile()
    for chunk in chunks:
        file.append(unpack_thumbnails(column.gather(chunk).to_list()))
    return file


def gather_colours(column: pl.Series, rows: npt.NDArray[np.integer]) -> Pixels:
    """Return the colours of these rows, uint8 (n, 8, 8, 2), some at a time."""
    colours = np.empty((len(rows), COLOUR_SIDE, COLOUR_SIDE, 2), np.uint8)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chunk = slice(start, start + ROWS_AT_ONCE)
        colours[chunk] = unpack_colours(column.gather(rows[chunk]).to_list())
    return colours
