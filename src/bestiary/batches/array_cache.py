"""Disk cache of arrays, one per picture, keyed by the picture's content: for pixels, features and activations."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from bestiary.array_types import Array
from bestiary.errors import IntegrityError, MachineError
from bestiary.files import write_text

SAVE_EVERY_SECONDS = 30.0  # a killed process loses no more than this
STALE_SECONDS = 86_400.0  # older rows without an index are left over from a killed process


class ArrayCache:
    """Arrays of one shape and type in `folder`, keyed by a string (a picture's SHA-256).

    Each writer adds a segment: `<name>.rows` with the concatenated arrays, and the index `<name>.json` with their keys
    and CRC-32 checksums. The index is written after its rows, periodically and at the end; rows missing from it do not
    count. Rows are read, not memory-mapped: mapped pages would count as memory of the process and grow with the
    collection.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Open the cache; the folder need not exist yet."""
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self._row_bytes = int(np.prod(shape)) * self.dtype.itemsize
        self._locations: dict[str, tuple[str, int, int]] = {}  # key -> segment, row, checksum
        for index in sorted(folder.glob("*.json")):
            self._add_segment(index)

    def __contains__(self, key: object) -> bool:
        """Return whether the cache has an array for this key."""
        return key in self._locations

    def missing_keys(self, keys: Sequence[str]) -> list[int]:
        """Return the positions of the keys that are not in the cache; of equal keys only the first."""
        first = {key: position for position, key in reversed(list(enumerate(keys))) if key not in self._locations}
        return sorted(first.values())

    def read(self, keys: Sequence[str], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the arrays stacked, shape (len(keys), *shape), in the cache's dtype or in `dtype`.

        Raises IntegrityError for a damaged or removed row.
        """
        rows = np.empty((len(keys), *self.shape), dtype or self.dtype)
        by_segment: dict[str, list[int]] = defaultdict(list)
        for position, key in enumerate(keys):
            by_segment[self._locations[key][0]].append(position)
        for segment, positions in by_segment.items():
            with self._open_segment(segment) as file:  # closed after reading: the cache may be deleted at any time
                for position in positions:
                    rows[position] = self._row(file, keys[position])
        return rows

    @contextlib.contextmanager
    def writer(self) -> Iterator[CacheSegment]:
        """Give a segment to append to; an interruption keeps what was appended."""
        segment = CacheSegment(self.folder, self._row_bytes)
        self._remove_stale_rows()
        try:
            yield segment
        except OSError:
            segment.discard()
            raise
        finally:
            if segment.commit():
                self._add_segment(segment.index_path)

    def _remove_stale_rows(self) -> None:
        """Remove old rows without an index, left by a killed process; recent ones may still be being written."""
        for rows in self.folder.glob("*.rows"):
            with contextlib.suppress(OSError):
                old = time.time() - rows.stat().st_mtime > STALE_SECONDS
                if old and not rows.with_suffix(".json").exists():
                    rows.unlink()

    def _add_segment(self, index: Path) -> None:
        with contextlib.suppress(OSError, ValueError, TypeError):  # removed or damaged: its arrays are computed again
            entries = json.loads(index.read_text(encoding="utf-8"))
            if index.with_suffix(".rows").stat().st_size >= len(entries) * self._row_bytes:
                self._locations |= {key: (index.stem, row, crc) for row, (key, crc) in enumerate(entries)}

    @contextlib.contextmanager
    def _open_segment(self, segment: str) -> Iterator[BinaryIO]:
        path = self.folder / f"{segment}.rows"
        try:
            with path.open("rb", buffering=0) as file:
                yield file
        except OSError as error:
            raise IntegrityError(f"The cache {path} cannot be read: {error.strerror or error}. Run again.") from None

    def _row(self, file: BinaryIO, key: str) -> Array:
        _, row, checksum = self._locations[key]
        file.seek(row * self._row_bytes)
        content = file.read(self._row_bytes)
        if zlib.crc32(content) != checksum:
            raise IntegrityError(f"The cache {file.name} is damaged. {self._remove_damaged(Path(file.name))}")
        return np.frombuffer(content, self.dtype).reshape(self.shape)

    def _remove_damaged(self, rows: Path) -> str:
        """Remove a damaged segment; return a sentence that tells the user what to do next."""
        try:
            rows.with_suffix(".json").unlink(missing_ok=True)
            rows.unlink(missing_ok=True)
        except OSError:
            return f"Delete {self.folder}, run again."
        return "It was removed: run again to recompute its content (to resume a run: train --resume RUN)."


class CacheSegment:
    """A part of a cache that is being written."""

    def __init__(self, folder: Path, row_bytes: int) -> None:
        """Set the file names; the files are created with the first row."""
        self.index_path = folder / f"{secrets.token_hex(8)}.json"
        self._rows_path = self.index_path.with_suffix(".rows")
        self._row_bytes, self._entries = row_bytes, list[tuple[str, int]]()
        self._file: BinaryIO | None = None
        self._saved_at = time.monotonic()

    def append(self, keys: Sequence[str], rows: Array) -> None:
        """Append the arrays `rows` (len(keys), *shape) under `keys`; raises MachineError if the disk is full."""
        with self._disk_full_errors():
            if self._file is None:
                self._rows_path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._rows_path.open("wb")
            for key, row in zip(keys, rows, strict=True):
                content = row.tobytes()
                self._file.write(content)
                self._entries.append((key, zlib.crc32(content)))
            if time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
                self._write_index(self._file)
                self._saved_at = time.monotonic()

    def commit(self) -> bool:
        """Complete the segment; return whether it has rows. Raises as `append` does."""
        if self._file is None:
            return False
        with self._disk_full_errors():
            self._file.truncate(len(self._entries) * self._row_bytes)  # drops an interrupted row
            self._write_index(self._file)
            self._file.close()
        self._file = None
        return True

    def _write_index(self, file: BinaryIO) -> None:
        """Write the index of the rows so far; fsync first, so that a power loss never leaves an index without rows."""
        file.flush()
        os.fsync(file.fileno())
        write_text(self.index_path, json.dumps(self._entries))

    def discard(self) -> None:
        """Remove the rows, unless an index lists some of them already."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            if not self.index_path.exists():
                self._rows_path.unlink(missing_ok=True)
        self._file, self._entries = None, []

    @contextlib.contextmanager
    def _disk_full_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, MachineError) as error:
            self.discard()
            reason = error.strerror if isinstance(error, OSError) else error
            raise MachineError(
                f"Cannot write the cache {self._rows_path.parent}: {reason}. Free some space, or set BESTIARY_CACHE to"
                " a folder on another disk."
            ) from error
