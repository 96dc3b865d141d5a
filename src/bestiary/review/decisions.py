"""What reviewers decide, in a corrections file that several of them may write to at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from bestiary.data.corrections import Correction, Corrections, append, make_correction, read_corrections, write
from bestiary.errors import MachineError

WAIT_SECONDS = 10.0


@dataclass
class DecisionLog:
    """A corrections file and one reviewer who adds to it. Any thread and any number of processes may write.

    The reviewer's name goes before the note: `anna: blurred`, or only `anna`. It knows which rows it wrote, and for
    which tab of the browser, so that each tab can take back its own, the last one first.
    """

    path: Path
    reviewer: str
    _mine: list[tuple[str, Correction]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def all(self) -> Corrections:
        """Return every decision in the file; raises SourceError if it cannot be understood."""
        return read_corrections(self.path) if self.path.exists() else Corrections()

    def add(self, sha256: str, action: str, label: str = "", note: str = "", tab: str = "") -> Corrections:
        """Add a decision and return all there are; raises SourceError for one that cannot be."""
        words = " ".join(note.split())  # one line: what is read back must be what was written
        made = make_correction(sha256, action, label, f"{self.reviewer}: {words}" if words else self.reviewer)
        with self._lock, self._locked():
            every = append(self.path, [made])
            self._mine.append((tab, made))
        return every

    def undo(self, tab: str = "") -> Correction | None:
        """Take back the last decision made in this tab, and return it; None if there is none. Those of others stay."""
        with self._lock:
            own = [at for at, (made_in, _) in enumerate(self._mine) if made_in == tab]
            if not own:
                return None
            with self._locked():
                _, last = self._mine[own[-1]]
                rows = list(self.all().rows)
                if last in rows:  # somebody may have edited the file meanwhile
                    del rows[len(rows) - 1 - rows[::-1].index(last)]
                    write(self.path, Corrections(tuple(rows)))
                del self._mine[own[-1]]
                return last

    def mine(self) -> tuple[Correction, ...]:
        """Return what was decided here and not taken back."""
        with self._lock:
            return tuple(made for _, made in self._mine)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from the file; raises MachineError if one holds it for too long."""
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=WAIT_SECONDS)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise MachineError(
                f"Another process has held {self.path} for more than {WAIT_SECONDS:g} s. Try again."
            ) from None
        except OSError as error:
            raise MachineError(f"Cannot write beside {self.path}: {error.strerror or error}.") from None
        try:
            yield
        finally:
            lock.release()


def reviewer_name(row: Correction) -> str:
    """Return who made a decision: what stands before the first colon of its note."""
    return row.note.partition(":")[0].strip()
