"""Arrays kept on disk, one per picture, found by the picture's content: the pixel cache and the feature cache."""

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

SAVE_EVERY_SECONDS = 30.0  # a process that is killed loses no more than this
STALE_SECONDS = 86_400.0  # rows without an index after so long were left by a killed process


class ArrayCache:
    """Arrays of one shape and type, keyed by text (a picture's SHA-256), in `folder`.

    Each writing adds a segment: `<name>.rows` with the arrays one after another (it can be memory-mapped), and
    `<name>.json` with their keys and CRC-32 checksums. The index is written after its rows, now and then and at the
    end, so a row that it does not name does not exist. Rows are read, not mapped: mapped pages would count as memory of
    the process and grow with the collection.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Open the store; the folder need not exist yet."""
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self._row_bytes = int(np.prod(shape)) * self.dtype.itemsize
        self._locations: dict[str, tuple[str, int, int]] = {}  # key -> segment, row, checksum
        for index in sorted(folder.glob("*.json")):
            self._add_segment(index)

    def __contains__(self, key: object) -> bool:
        """Return whether there is an array for this key."""
        return key in self._locations

    def missing_keys(self, keys: Sequence[str]) -> list[int]:
        """Return the positions in `keys` of those not in the store; of equal keys only the first."""
        first = {key: position for position, key in reversed(list(enumerate(keys))) if key not in self._locations}
        return sorted(first.values())

    def read(self, keys: Sequence[str], dtype: npt.DTypeLike | None = None) -> Array:
        """Return the arrays as one, shape (len(keys), *shape), of the store's type or the one asked for.

        Raises IntegrityError for a damaged or removed row.
        """
        rows = np.empty((len(keys), *self.shape), dtype or self.dtype)
        by_segment: dict[str, list[int]] = defaultdict(list)
        for position, key in enumerate(keys):
            by_segment[self._locations[key][0]].append(position)
        for segment, positions in by_segment.items():
            with self._open_segment(segment) as file:  # open only while it is read: a cache may be deleted at any time
                for position in positions:
                    rows[position] = self._row(file, keys[position])
        return rows

    @contextlib.contextmanager
    def writer(self) -> Iterator[CacheSegment]:
        """Give a segment to append to. What was appended is kept also when the work is interrupted."""
        segment = CacheSegment(self.folder, self._row_bytes)
        self._sweep()
        try:
            yield segment
        except OSError:
            segment.discard()
            raise
        finally:
            if segment.commit():
                self._add_segment(segment.index_path)

    def _sweep(self) -> None:
        """Remove rows that a killed process left without an index, long ago: a younger one may still be written."""
        for rows in self.folder.glob("*.rows"):
            with contextlib.suppress(OSError):
                old = time.time() - rows.stat().st_mtime > STALE_SECONDS
                if old and not rows.with_suffix(".json").exists():
                    rows.unlink()

    def _add_segment(self, index: Path) -> None:
        try:
            entries = json.loads(index.read_text(encoding="utf-8"))
            whole = index.with_suffix(".rows").stat().st_size >= len(entries) * self._row_bytes
            found = {key: (index.stem, row, checksum) for row, (key, checksum) in enumerate(entries)}
        except (OSError, ValueError, TypeError):  # removed or damaged meanwhile: its arrays are computed again
            return
        if whole:
            self._locations |= found

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
        """Remove a damaged segment, so that nobody reads it again; return what is left to do, as a sentence."""
        try:
            rows.with_suffix(".json").unlink(missing_ok=True)
            rows.unlink(missing_ok=True)
        except OSError:
            return f"Delete {self.folder}, run again."
        return "It was removed: run again, and what it held is computed anew (a run that began: train --resume RUN)."


class CacheSegment:
    """A part of a store that is being written."""

    def __init__(self, folder: Path, row_bytes: int) -> None:
        """Nothing is created before the first row."""
        self.index_path = folder / f"{secrets.token_hex(8)}.json"
        self._rows_path = self.index_path.with_suffix(".rows")
        self._row_bytes, self._entries = row_bytes, list[tuple[str, int]]()
        self._file: BinaryIO | None = None
        self._saved_at = time.monotonic()

    def append(self, keys: Sequence[str], rows: Array) -> None:
        """Write the arrays `rows` (len(keys), *shape) under `keys`; raises MachineError when the disk is full."""
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
        """Make the segment valid; return whether there was anything to keep. Raises as `append` does."""
        if self._file is None:
            return False
        with self._disk_full_errors():
            self._file.truncate(len(self._entries) * self._row_bytes)  # drops a row that was interrupted halfway
            self._write_index(self._file)
            self._file.close()
        self._file = None
        return True

    def _write_index(self, file: BinaryIO) -> None:
        """Name the rows written so far; they are on the disk before their names are, whatever happens to the power."""
        file.flush()
        os.fsync(file.fileno())
        write_text(self.index_path, json.dumps(self._entries))

    def discard(self) -> None:
        """Remove what was written, but for rows that an index names already."""
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
