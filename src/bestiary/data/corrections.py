"""Corrections files: decisions about pictures, identified by the SHA-256 of their content.

`corrections.csv` has the columns `sha256, action, label, note, when, path`, one decision per row; the last three are
optional. The hash identifies the picture; the path, where it was when it was decided about, is for readers.
A later row about the same picture replaces an earlier one.
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

Action = Literal["keep", "drop", "relabel", "both"]
ACTIONS: tuple[str, ...] = get_args(Action)
NEEDED = ("sha256", "action", "label")
COLUMNS = (*NEEDED, "note", "when", "path")
SHA256 = re.compile("[0-9a-f]{64}")
_writing = threading.Lock()


@dataclass(frozen=True)
class Correction:
    """A decision about the picture with this content.

    keep: it is correct as it is, which resolves the doubts of the audit. drop: leave it out. relabel: it shows `label`.
    both: it shows two classes, that of its folder and `label`, which may be empty; it is left out, since a picture has
    one label. when: ISO time in UTC, empty if unknown. path: empty in older files.
    """

    sha256: str
    action: str
    label: str = ""
    note: str = ""
    when: str = ""
    path: str = ""


@dataclass(frozen=True)
class Corrections:
    """Decisions in the order in which they were made; of several about one picture, the last one applies."""

    rows: tuple[Correction, ...] = ()

    @cached_property
    def by_content(self) -> Mapping[str, Correction]:
        """The decision that applies to each SHA-256."""
        return {row.sha256: row for row in self.rows}

    @cached_property
    def superseded_rows(self) -> tuple[Correction, ...]:
        """Earlier decisions that a later one about the same picture contradicts."""
        decisions = {sha256: (row.action, row.label) for sha256, row in self.by_content.items()}
        return tuple(row for row in self.rows if (row.action, row.label) != decisions[row.sha256])

    @cached_property
    def digest(self) -> str:
        """A short digest of the decisions that apply; notes, times and the order of rows do not matter."""
        lines = sorted(f"{row.sha256} {row.action} {row.label}" for row in self.by_content.values())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Conflict:
    """A picture about which files disagree: the decision that applies, the others, and the files they are in."""

    decision: Correction
    others: tuple[Correction, ...]
    files: tuple[Path, ...]


def make_correction(
    sha256: str,
    action: str,
    label: str = "",
    note: str = "",
    when: str | None = None,
    path: str = "",
    *,
    where: str = "A correction",
) -> Correction:
    """Return a validated decision; `when` is now if it is None.

    Raises SourceError, beginning with `where`, for a malformed hash or time, an unknown action, a relabel without a
    label, and a label with another action.
    """
    sha256, action, label = sha256.strip().lower(), action.strip().lower(), _text(label)
    if not SHA256.fullmatch(sha256):
        raise SourceError(f'{where}: sha256 is 64 hexadecimal digits; got "{sha256}".')
    if action not in ACTIONS:
        raise SourceError(f'{where}: unknown action "{action}". {did_you_mean(action, ACTIONS)}')
    if action == "relabel" and not label:
        raise SourceError(f"{where}: relabel needs a label. Name it, or use keep or drop.")
    if action in ("keep", "drop") and label:
        raise SourceError(f'{where}: {action} takes no label; got "{label}". Did you mean relabel?')
    when = datetime.now(UTC).isoformat(timespec="seconds") if when is None else when.strip()
    try:
        _instant(when)
    except ValueError:
        raise SourceError(
            f'{where}: when is an ISO time in UTC, for example 2026-01-31T12:00:00+00:00, or empty; got "{when}".'
        ) from None
    return Correction(sha256, action, label, _text(note), when, path)


def read_corrections(path: Path) -> Corrections:
    """Return the decisions in a file; raises SourceError, naming file and line, for invalid content."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"There is no corrections file at {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"The corrections {path} cannot be read: {error}.") from None
    return Corrections(tuple(_rows(text, path)))


def append(path: Path, new: Iterable[Correction]) -> Corrections:
    """Append decisions to a file, which is created if it is missing, and return all its decisions.

    The file is replaced atomically. One process may write at a time, with any number of threads. Raises SourceError,
    and writes nothing, if the existing file is invalid.
    """
    with _writing:
        before = read_corrections(path).rows if path.exists() else ()
        return write(path, Corrections((*before, *new)))


def write(path: Path, corrections: Corrections) -> Corrections:
    """Write all decisions into a file, replacing its content; return them."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in corrections.rows)
    write_text(path, lines.getvalue())
    return corrections


def merge(paths: Sequence[Path]) -> tuple[Corrections, list[Conflict]]:
    """Return the decisions of several reviewers merged by time, and their conflicts.

    Each file counts with the decision that applies in it. If files disagree about a picture, the latest `when` applies
    (rows without a time come first, equal times in the order of the files); every such picture is a conflict.
    """
    rows = [(path, row) for path in paths for row in read_corrections(path).by_content.values()]
    rows.sort(key=lambda pair: _instant(pair[1].when))  # stable: equal times stay in the order of the files
    merged = Corrections(tuple(row for _, row in rows))
    conflicts = []
    for sha256 in sorted({row.sha256 for row in merged.superseded_rows}):
        files, decisions = zip(*(pair for pair in rows if pair[1].sha256 == sha256), strict=True)
        conflicts.append(Conflict(decisions[-1], decisions[:-1], files))
    return merged, conflicts


def _rows(text: str, path: Path) -> Iterable[Correction]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        for column in NEEDED:
            if column not in header:
                has = ", ".join(header) if any(header) else "nothing"
                raise SourceError(
                    f'The corrections {path} have no column "{column}"; the header has: {has}. Expected:'
                    f" {','.join(COLUMNS)}."
                )
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise SourceError(f"{where}: {len(cells)} cells; expected {len(header)}, as in the header.")
            row = dict(zip(header, cells, strict=True))
            yield make_correction(*(row.get(column, "") for column in COLUMNS), where=where)
    except csv.Error as error:
        raise SourceError(f"The corrections {path} cannot be read, line {reader.line_num}: {error}.") from None


def _text(text: str) -> str:
    """Return text as labels are normalised everywhere: Unicode form NFC, stripped."""
    return unicodedata.normalize("NFC", text.strip())


def _instant(when: str) -> datetime:
    """Return the time, UTC if it has no time zone; an empty time comes before every other."""
    if not when:
        return datetime.min.replace(tzinfo=UTC)
    moment = datetime.fromisoformat(when)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
