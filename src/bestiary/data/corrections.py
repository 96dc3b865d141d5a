"""A corrections file: what somebody decided about pictures, by their content. No picture is ever touched.

`corrections.csv` has the columns `sha256, action, label, note, when`, one decision a row; who writes it by hand may
leave out the last two. A later row about the same picture replaces an earlier one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from bestiary.errors import SourceError, did_you_mean
from bestiary.files import write_text

Action = Literal["keep", "drop", "relabel"]
ACTIONS: tuple[str, ...] = get_args(Action)
NEEDED = ("sha256", "action", "label")
COLUMNS = (*NEEDED, "note", "when")
SHA256 = re.compile("[0-9a-f]{64}")
MAX_HASHES = 3
_writing = threading.Lock()


@dataclass(frozen=True)
class Correction:
    """One decision about the picture with this content.

    keep: it is right as it is, and what the audit doubts about it is settled. drop: leave it out. relabel: it shows
    `label`. when: ISO time in UTC, empty where it is not known.
    """

    sha256: str
    action: str
    label: str = ""
    note: str = ""
    when: str = ""

    def same_decision(self, other: Correction) -> bool:
        """Tell whether both ask for the same."""
        return (self.action, self.label) == (other.action, other.label)


@dataclass(frozen=True)
class Corrections:
    """Decisions in the order in which they were made; of several about one picture the last one holds."""

    rows: tuple[Correction, ...] = ()

    @cached_property
    def by_content(self) -> Mapping[str, Correction]:
        """The decision that holds for each SHA-256."""
        return {row.sha256: row for row in self.rows}

    @cached_property
    def superseded(self) -> tuple[Correction, ...]:
        """Earlier decisions that a later one about the same picture contradicts."""
        return tuple(row for row in self.rows if not row.same_decision(self.by_content[row.sha256]))

    @cached_property
    def digest(self) -> str:
        """A short digest of the decisions that hold; notes, times and the order of rows do not matter."""
        lines = sorted(f"{row.sha256} {row.action} {row.label}" for row in self.by_content.values())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Conflict:
    """One picture about which files disagree: the decision that holds, the others, and the files they are in."""

    holds: Correction
    others: tuple[Correction, ...]
    files: tuple[Path, ...]


def make_correction(
    sha256: str, action: str, label: str = "", note: str = "", when: str | None = None, *, where: str = "A correction"
) -> Correction:
    """Return a decision that was checked; `when` is now if it is None.

    Raises SourceError, beginning with `where`, for a malformed hash or time, an unknown action, a relabel without a
    label, and a label where none belongs.
    """
    sha256, action, label = sha256.strip().lower(), action.strip().lower(), _text(label)
    if not SHA256.fullmatch(sha256):
        raise SourceError(f'{where}: sha256 is 64 hexadecimal digits; got "{sha256}".')
    if action not in ACTIONS:
        raise SourceError(f'{where}: unknown action "{action}". {did_you_mean(action, ACTIONS)}')
    if action == "relabel" and not label:
        raise SourceError(f"{where}: relabel needs a label. Name it, or use keep or drop.")
    if action != "relabel" and label:
        raise SourceError(f'{where}: {action} takes no label; got "{label}". Did you mean relabel?')
    made = datetime.now(UTC).isoformat(timespec="seconds") if when is None else _time(when.strip(), where)
    return Correction(sha256, action, label, _text(note), made)


def read_corrections(path: Path) -> Corrections:
    """Return the decisions in a file; raises SourceError, naming file and line, for what cannot be understood."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"There is no corrections file at {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"The corrections {path} cannot be read: {error}.") from None
    return Corrections(tuple(_rows(text, path)))


def append(path: Path, new: Iterable[Correction]) -> Corrections:
    """Add decisions to a file, made where there is none, and return all that it holds then.

    A reader finds the old file or the whole new one. One process may write at a time, with any number of threads.
    Raises SourceError if the file that is there cannot be understood: nothing is written then.
    """
    with _writing:
        before = read_corrections(path).rows if path.exists() else ()
        return write(path, Corrections((*before, *new)))


def write(path: Path, corrections: Corrections) -> Corrections:
    """Write all decisions into a file, in place of what it held; return them."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in corrections.rows)
    write_text(path, lines.getvalue())
    return corrections


def merge(paths: Sequence[Path]) -> tuple[Corrections, list[Conflict]]:
    """Return the decisions of several reviewers as one, ordered by time, and what they disagree about.

    Each file counts with the decision that holds in it. Where files disagree about a picture the later `when` holds
    (rows without a time come first, and equal times in the order of the files); every such picture is reported.
    """
    made = [(path, row) for path in paths for row in read_corrections(path).by_content.values()]
    made.sort(key=lambda one: _instant(one[1].when))  # stable: equal times stay in the order of the files
    merged = Corrections(tuple(row for _, row in made))
    conflicts = []
    for sha256 in sorted({row.sha256 for row in merged.superseded}):
        about = [(path, row) for path, row in made if row.sha256 == sha256]
        *others, holds = (row for _, row in about)
        conflicts.append(Conflict(holds, tuple(others), tuple(path for path, _ in about)))
    return merged, conflicts


def format_hashes(hashes: Iterable[str]) -> str:
    """Return the first few hashes, each by its first twelve digits, for a message."""
    listed = list(hashes)
    more = f" and {len(listed) - MAX_HASHES:,} more" if len(listed) > MAX_HASHES else ""
    return ", ".join(f"{sha256[:12]}…" for sha256 in listed[:MAX_HASHES]) + more


def _rows(text: str, path: Path) -> Iterable[Correction]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        for column in NEEDED:
            if column not in header:
                has = ", ".join(header) if any(header) else "nothing"
                raise SourceError(
                    f'The corrections {path} have no column "{column}"; the first line has: {has}. Expected:'
                    f" {','.join(COLUMNS)}."
                )
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise SourceError(f"{where}: {len(cells)} cells; expected {len(header)}, as in the first line.")
            row = dict(zip(header, cells, strict=True))
            yield make_correction(*(row.get(column, "") for column in COLUMNS), where=where)
    except csv.Error as error:
        raise SourceError(f"The corrections {path} cannot be read, line {reader.line_num}: {error}.") from None


def _text(text: str) -> str:
    """Return text as labels are written everywhere: accents in one way, no space around."""
    return unicodedata.normalize("NFC", text.strip())


def _time(when: str, where: str) -> str:
    try:
        _instant(when)
    except ValueError:
        raise SourceError(
            f'{where}: when is an ISO time in UTC, for example 2026-01-31T12:00:00+00:00, or empty; got "{when}".'
        ) from None
    return when


def _instant(when: str) -> datetime:
    """Return the moment; a time without a zone is UTC, none at all comes before every other."""
    if not when:
        return datetime.min.replace(tzinfo=UTC)
    moment = datetime.fromisoformat(when)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
