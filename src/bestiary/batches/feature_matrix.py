"""Feature matrices: an array in memory or, for large collections, rows on disk that are read in chunks."""

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

MAX_MEMORY_BYTES = 32 * 2**20  # of float32 features in memory: 6,500 pictures with lite0
CHUNK_ROWS = 1_024

IndexArray = Ints | Bools


class FeatureMatrix(Protocol):
    """The common interface of an array (n, channels) and rows on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows and of channels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, indices: slice | IndexArray, /) -> Array:
        """Return the selected rows as an array."""


HALF_SIGN_BITS, HALF_SHIFT, HALF_SCALE = np.int32(-0x70002000), 13, np.float32(2.0**112)  # the mask is 0x8FFFE000
CONVERTED_ROWS = 128  # that fit in the processor's cache


def copy_as_float32(rows: Array, out: Float32s) -> None:
    """Copy finite rows (n, channels) of any float type to `out`, float32, exactly.

    numpy converts float16 number by number, which took most of the time of a fit. Shifting the bits into the position
    that float32 has them in, and correcting the exponent's offset by a product, is seven times as fast.
    """
    if rows.dtype != np.float16:
        out[:] = rows
        return
    for start in range(0, len(rows), CONVERTED_ROWS):
        part = out[start : start + CONVERTED_ROWS]
        bits = part.view(np.int32)
        bits[:] = rows[start : start + CONVERTED_ROWS].view(np.int16)
        bits <<= HALF_SHIFT
        bits &= HALF_SIGN_BITS  # the shift has copied the sign into the exponent
        part *= HALF_SCALE


def as_float32(rows: Array) -> Float32s:
    """Return finite rows as float32: themselves, or converted by `copy_as_float32`."""
    if rows.dtype == np.float32:
        return rows
    out = np.empty(rows.shape, np.float32)
    copy_as_float32(rows, out)
    return out


def iter_chunks(rows: FeatureMatrix) -> Iterator[Array]:
    """Yield all rows, CHUNK_ROWS at a time."""
    return (rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS))


def load_features(wanted: Sequence[tuple[ArrayCache, str]]) -> FeatureMatrix:
    """Return the vectors of (cache, key) pairs in this order: float32 in memory, or in the caches' dtype on disk.

    All caches have vectors of one length; of several dtypes the most precise counts. Raises IntegrityError for a
    damaged or removed row, MachineError if the disk is full.
    """
    cache = wanted[0][0]
    (channels,) = cache.shape
    dtype = np.result_type(*{cache.dtype for cache, _ in wanted})
    chunks = (_read_chunk(wanted[start : start + CHUNK_ROWS], dtype) for start in range(0, len(wanted), CHUNK_ROWS))
    if 4 * len(wanted) * channels <= MAX_MEMORY_BYTES:
        rows = np.empty((len(wanted), channels), np.float32)
        for start, chunk in zip(range(0, len(wanted), CHUNK_ROWS), chunks, strict=True):
            rows[start : start + CHUNK_ROWS] = chunk
        return rows
    matrix = DiskMatrix(cache.folder, channels, dtype)
    for chunk in chunks:
        matrix.append(chunk)
    return matrix


def _read_chunk(wanted: Sequence[tuple[ArrayCache, str]], dtype: np.dtype[Any]) -> Array:
    by_cache = defaultdict[int, list[int]](list)
    for index, (cache, _) in enumerate(wanted):
        by_cache[id(cache)].append(index)
    rows = np.empty((len(wanted), *wanted[0][0].shape), dtype)
    for indices in by_cache.values():
        rows[indices] = wanted[indices[0]][0].read([wanted[index][1] for index in indices])
    return rows


class DiskMatrix:
    """Rows in an unnamed temporary file, which is deleted with this object.

    They are read, not memory-mapped: mapped pages would count as memory of the process and grow with the collection.
    The system's page cache serves repeated reads, and shrinks when memory is short.
    """

    def __init__(self, folder: Path, channels: int, dtype: npt.DTypeLike) -> None:
        """Start without rows; the file is in `folder`, or in the temporary folder if `folder` is not writable."""
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._channels, self._count = channels, 0
        self._row_bytes = channels * self.dtype.itemsize
        self._lock = threading.Lock()  # a file has one offset
        folder = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by the finalizer
        except OSError as error:
            raise MachineError(f"Cannot write to {folder}: {error.strerror}.") from error
        weakref.finalize(self, self._file.close)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows and of channels."""
        return self._count, self._channels

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def append(self, rows: Array) -> None:
        """Append rows (n, channels); raises MachineError if the disk is full."""
        content = _bytes(np.ascontiguousarray(rows, self.dtype))
        with self._lock:
            self._file.seek(self._count * self._row_bytes)
            try:
                while content:
                    content = content[self._file.write(content) :]
            except OSError as error:
                raise MachineError(
                    f"Cannot write the features to the disk: {error.strerror}. Free some space, or set BESTIARY_CACHE"
                    " to a folder on another disk."
                ) from error
            self._count += len(rows)

    def __getitem__(self, indices: slice | IndexArray, /) -> Array:
        """Return the selected rows, read from the file; contiguous rows are read at once."""
        if isinstance(indices, slice):
            start, stop, step = indices.indices(self._count)
            indices = np.arange(start, stop, step)
        wanted = np.flatnonzero(indices) if indices.dtype == np.bool_ else indices
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1)
        rows = np.empty((len(wanted), self._channels), self.dtype)
        for first, end in pairwise([*starts, len(wanted)]):
            self._read_into(rows[first:end], int(wanted[first]))
        return rows

    def _read_into(self, rows: Array, start: int) -> None:
        buffer = _bytes(rows)
        with self._lock:
            self._file.seek(start * self._row_bytes)
            while buffer:
                if not (count := self._file.readinto(buffer)):
                    raise IndexError(f"Cannot read rows from {start}: there are {self._count}.")
                buffer = buffer[count:]


class SelectedRows:
    """Some rows of a matrix on disk, read when they are needed."""

    def __init__(self, matrix: FeatureMatrix, rows: Ints) -> None:
        """Store the indices of the rows."""
        self.dtype, self._matrix, self._rows = matrix.dtype, matrix, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows and of channels."""
        return len(self._rows), self._matrix.shape[1]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, indices: slice | IndexArray, /) -> Array:
        """Return the selected rows as an array."""
        return self._matrix[self._rows[indices]]


def select_rows(features: FeatureMatrix, mask: Bools) -> FeatureMatrix:
    """Return the rows where mask, bool (n,), is true: copied in memory; rows on disk stay there."""
    return features[mask] if isinstance(features, np.ndarray) else SelectedRows(features, np.flatnonzero(mask))


def _bytes(rows: Array) -> memoryview:
    return rows.view(np.uint8).reshape(-1).data


MIN_SCALE = 1e-6  # added to the standard deviation, against division by 0 for a constant channel
# The standard deviation of rounding to float16, relative to the value: half a step either way, uniformly.
FLOAT16_ROUNDING = float(np.finfo(np.float16).eps) / 12**0.5


def fit_scaler(features: FeatureMatrix) -> tuple[Float32s, Float32s]:
    """Return each channel's mean and scale, float32 (channels,), of features (n, channels).

    The scale is the standard deviation, but not less than the rounding error of the mean in float16, in which features
    are cached. A channel that varies less contains no information: standardised by its standard deviation, the rounding
    of the features, and of the exported graph, would become as large as real differences.

    >>> mean, scale = fit_scaler(np.array([[1, 5], [3, 5]], np.float32))
    >>> mean.tolist(), [f"{value:.4f}" for value in scale.tolist()]
    ([2.0, 5.0], ['1.0000', '0.0014'])
    """
    mean = sum(rows.sum(axis=0, dtype=np.float64) for rows in iter_chunks(features)) / len(features)
    variance = sum(np.square(rows - mean).sum(axis=0) for rows in iter_chunks(features)) / len(features)
    scale = np.maximum(np.sqrt(variance), FLOAT16_ROUNDING * np.abs(mean)) + MIN_SCALE
    return np.asarray(mean, np.float32), np.asarray(scale, np.float32)
