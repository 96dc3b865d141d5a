"""The decision log: one reviewer's decisions, in a corrections file that several reviewers may write to at once."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from bestiary.data.corrections import Correction, Corrections, append, make_correction, read_corrections, write
from bestiary.errors import MachineError

LOCK_TIMEOUT_SECONDS = 10.0


@dataclass
class DecisionLog:
    """A corrections file and one reviewer who adds to it. Any thread and any number of processes may write.

    The reviewer's name precedes the note: `anna: blurred`, or only `anna`. The log keeps its own decisions with the
    browser tab of each, so that every tab can undo its own, the last one first.
    """

    path: Path
    reviewer: str
    _mine: list[tuple[str, tuple[Correction, ...]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def all(self) -> Corrections:
        """Return every decision in the file; raises SourceError if it cannot be parsed."""
        return read_corrections(self.path) if self.path.exists() else Corrections()

    def add(
        self, sha256: str, action: str, label: str = "", note: str = "", tab: str = "", path: str = ""
    ) -> Corrections:
        """Add a decision and return all decisions of the file; raises SourceError for an invalid one."""
        return self.add_batch([(sha256, path)], action, label, note, tab)

    def add_batch(
        self, pictures: Sequence[tuple[str, str]], action: str, label: str = "", note: str = "", tab: str = ""
    ) -> Corrections:
        """Add the same decision about several pictures (hash, path), which `undo` removes at once."""
        words = " ".join(note.split())  # on one line, so that it is read back as it was written
        note = f"{self.reviewer}: {words}" if words else self.reviewer
        batch = tuple(make_correction(sha256, action, label, note, path=path) for sha256, path in pictures)
        with self._lock, self._file_lock():
            decisions = append(self.path, batch)
            self._mine.append((tab, batch))
        return decisions

    def undo(self, tab: str = "") -> Correction | None:
        """Remove the last decision of this tab and return it, of a batch the first; None if there is none.

        Other reviewers' rows stay.
        """
        with self._lock:
            indices = [index for index, (decision_tab, _) in enumerate(self._mine) if decision_tab == tab]
            if not indices:
                return None
            _, batch = self._mine[indices[-1]]
            with self._file_lock():
                rows = self.all().rows
                rest = _without_last(rows, batch)
                if len(rest) < len(rows):  # somebody may have edited the file since
                    write(self.path, Corrections(rest))
                del self._mine[indices[-1]]
                return batch[0]

    def mine(self) -> tuple[Correction, ...]:
        """Return this log's own decisions that were not undone."""
        with self._lock:
            return tuple(decision for _, batch in self._mine for decision in batch)

    @contextlib.contextmanager
    def _file_lock(self) -> Iterator[None]:
        """Lock the file against other processes; raises MachineError if one holds the lock for too long."""
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=LOCK_TIMEOUT_SECONDS)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            message = f"Another process has locked {self.path} for more than {LOCK_TIMEOUT_SECONDS:g} s. Try again."
            raise MachineError(message) from None
        except OSError as error:
            raise MachineError(f"Cannot write beside {self.path}: {error.strerror or error}.") from None
        try:
            yield
        finally:
            lock.release()


def _without_last(rows: Sequence[Correction], batch: Sequence[Correction]) -> tuple[Correction, ...]:
    """Return the rows without the last occurrence of each decision of the batch."""
    left, rest = Counter(batch), []
    for row in reversed(rows):
        if left[row]:
            left[row] -= 1
        else:
            rest.append(row)
    return tuple(reversed(rest))


def reviewer_name(row: Correction) -> str:
    """Return who made a decision: the text before the first colon of its note."""
    return row.note.partition(":")[0].strip()
