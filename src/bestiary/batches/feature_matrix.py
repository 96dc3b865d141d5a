"""Features of a collection: an array, or of a large one rows that stay on disk and are read a piece at a time."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bestiary.array_types import Array, Bools, Float32s, Ints
from bestiary.batches.array_cache import ArrayCache
from bestiary.errors import MachineError

MAX_MEMORY_BYTES = 32 * 2**20  # bytes of float32 that are held in memory: 6,500 pictures with lite0
CHUNK_ROWS = 1_024  # rows

IndexArray = Ints | Bools


class FeatureMatrix(Protocol):
    """What an array (n, channels) and rows on disk have in common: enough to go through them in pieces."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows and of channels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, indices: slice | IndexArray, /) -> Array:
        """Return some of the rows as an array."""


def iter_chunks(rows: FeatureMatrix) -> Iterator[Array]:
    """Give all the rows, PIECE at a time."""
    return (rows[at : at + CHUNK_ROWS] for at in range(0, len(rows), CHUNK_ROWS))


def load_features(wanted: Sequence[tuple[ArrayCache, str]]) -> FeatureMatrix:
    """Return the vectors of one key in each store, in this order: float32, or in the stores' type on disk.

    All stores hold vectors of one length and type. Raises IntegrityError for a damaged or removed row, MachineError if
    the disk is full.
    """
    store = wanted[0][0]
    (channels,) = store.shape
    if 4 * len(wanted) * channels <= MAX_MEMORY_BYTES:
        rows = np.empty((len(wanted), channels), np.float32)
        for start, piece in _iter_wanted_chunks(wanted):
            rows[start : start + len(piece)] = piece
        return rows
    kept = DiskMatrix(store.folder, channels, store.dtype)
    for _, piece in _iter_wanted_chunks(wanted):
        kept.append(piece)
    return kept


def _iter_wanted_chunks(wanted: Sequence[tuple[ArrayCache, str]]) -> Iterator[tuple[int, Array]]:
    for start in range(0, len(wanted), CHUNK_ROWS):
        by_store = defaultdict[int, list[int]](list)
        some = wanted[start : start + CHUNK_ROWS]
        piece = np.empty((len(some), *some[0][0].shape), some[0][0].dtype)
        for place, (store, _) in enumerate(some):
            by_store[id(store)].append(place)
        for places in by_store.values():
            piece[places] = some[places[0]][0].read([some[place][1] for place in places])
        yield start, piece


class DiskMatrix:
    """Rows in a file without a name, which is gone when nobody holds them any more.

    They are read, not mapped: mapped pages would count as memory of the process and grow with the collection. What is
    read again and again comes from the system's cache of files, which gives way where memory is short.
    """

    def __init__(self, folder: Path, channels: int, dtype: npt.DTypeLike) -> None:
        """Begin without rows; the file lies in `folder`, or with the temporary ones if that cannot be written."""
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._channels, self._count = channels, 0
        self._row_bytes = channels * self.dtype.itemsize
        self._lock = threading.Lock()  # a file has one position
        place = folder if os.access(folder, os.W_OK) else None
        try:
            self._file = tempfile.TemporaryFile(dir=place, buffering=0)  # noqa: SIM115 - open as long as this
        except OSError as error:
            raise MachineError(f"Cannot write to {place or tempfile.gettempdir()}: {error.strerror}.") from error
        weakref.finalize(self, self._file.close)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows and of channels."""
        return self._count, self._channels

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def append(self, rows: Array) -> None:
        """Add rows (n, channels) at the end. Raises MachineError if the disk is full."""
        content = _bytes(np.ascontiguousarray(rows, self.dtype))
        with self._lock:
            self._file.seek(self._count * self._row_bytes)
            try:
                while content:
                    content = content[self._file.write(content) :]
            except OSError as error:
                raise MachineError(
                    f"Cannot keep the features of so many pictures on the disk: {error.strerror}. Free some space, or"
                    " set BESTIARY_CACHE to a folder on another disk."
                ) from error
            self._count += len(rows)

    def __getitem__(self, indices: slice | IndexArray, /) -> Array:
        """Return some of the rows, read from the file: at once where they lie beside each other."""
        if isinstance(indices, slice):
            start, stop, step = indices.indices(self._count)
            if step == 1:
                return self._read_range(start, max(0, stop - start))
            indices = np.arange(start, stop, step)
        wanted = np.flatnonzero(indices) if indices.dtype == np.bool_ else indices
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1)
        found = np.empty((len(wanted), self._channels), self.dtype)
        for first, end in pairwise([*starts, len(wanted)]):
            self._read_into(found[first:end], int(wanted[first]))
        return found

    def _read_range(self, start: int, count: int) -> Array:
        found = np.empty((count, self._channels), self.dtype)
        self._read_into(found, start)
        return found

    def _read_into(self, rows: Array, start: int) -> None:
        room = _bytes(rows)
        with self._lock:
            self._file.seek(start * self._row_bytes)
            while room:
                if not (count := self._file.readinto(room)):
                    raise IndexError(f"Rows from {start} on: there are {self._count}.")
                room = room[count:]


def _bytes(rows: Array) -> memoryview:
    return rows.view(np.uint8).reshape(-1).data


ROWS_AT_ONCE = 2_048
MIN_SCALE = 1e-6  # added to the spread: a channel that never varies is not divided by 0


def fit_scaler(features: FeatureMatrix) -> tuple[Float32s, Float32s]:
    """Return each channel's mean and standard deviation, float32 (channels,), of features (n, channels).

    >>> fit_scaler(np.array([[1, 5], [3, 5]], np.float32))[0].tolist()
    [2.0, 5.0]
    """
    pieces = range(0, len(features), ROWS_AT_ONCE)
    mean = sum(features[at : at + ROWS_AT_ONCE].sum(axis=0, dtype=np.float64) for at in pieces) / len(features)
    squares = sum(np.square(features[at : at + ROWS_AT_ONCE] - mean).sum(axis=0) for at in pieces) / len(features)
    return np.asarray(mean, np.float32), np.asarray(np.sqrt(squares) + MIN_SCALE, np.float32)
