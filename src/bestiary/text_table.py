"""Text tables: how a CSV or a table with another delimiter is written, from its beginning. Without polars."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bestiary.errors import SourceError
from bestiary.text import escape_control_chars, format_names

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE_BYTES, CHUNK_BYTES = 2**16, 2**22
SAMPLE_LINES = 20
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
ENCODING_TITLES = {"cp1252": "Windows-1252", "latin-1": "Latin-1", "utf-16": "UTF-16"}
ENCODING_TITLES |= {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}


@dataclass(frozen=True)
class TextLayout:
    """The column names of a text table, and how it is written."""

    columns: tuple[str, ...]
    delimiter: str
    encoding: str


def is_utf8(path: Path) -> bool:
    """Return whether a whole file is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def read_layout(path: Path) -> TextLayout:
    """Return how a text table is written. Raises SourceError if it is empty, OSError and UnicodeError.

    A text that is no UTF-8 or UTF-16 is read as Windows-1252, or Latin-1 where it cannot be that.
    """
    encoding, sample = sample_text(path)
    if encoding == "utf-8" and not is_utf8(path):
        encoding = _eight_bit_encoding(path)
        with path.open("rb") as file:
            sample = file.read(SAMPLE_BYTES).decode(encoding)
    columns, delimiter = split_header(sample, path)
    return TextLayout(columns, delimiter, encoding)


def unreadable_error(path: Path, why: str) -> SourceError:
    """Return the error for a table that cannot be read."""
    return SourceError(f"The table {path} cannot be read: {why}.")


def sample_text(path: Path) -> tuple[str, str]:
    """Return the encoding that the beginning of a file shows, UTF-8 if it shows none, and that beginning as text."""
    with path.open("rb") as file:
        start = file.read(SAMPLE_BYTES)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    if encoding is None and len(start) > 3 and start[1::2].count(0) > 0.4 * len(start[1::2]):
        encoding = "utf-16-le"
    elif encoding is None and len(start) > 3 and start[::2].count(0) > 0.4 * len(start[::2]):
        encoding = "utf-16-be"
    return encoding or "utf-8", start.decode(encoding or "utf-8", errors="replace" if encoding is None else "ignore")


def _eight_bit_encoding(path: Path) -> str:
    try:
        path.read_bytes().decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def split_header(sample: str, path: Path) -> tuple[tuple[str, ...], str]:
    """Return the column names and the delimiter: the one that gives most columns, as many in the first rows."""
    lines = [line for line in sample.splitlines() if line.strip()][: SAMPLE_LINES + 1]
    if not lines:
        raise SourceError(f"The table {path} cannot be read: it is empty. Expected column names in the first line.")
    candidates = []
    for delimiter in DELIMITERS:
        rows = list(csv.reader(lines, delimiter=delimiter))
        same = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        rank = (len(rows[0]) > 1 and same > 0.5, len(rows[0]), same)
        candidates.append((rank, rows[0], delimiter))
    _, header, delimiter = max(candidates, key=lambda candidate: candidate[0])
    return tuple(clean_name(name) for name in header), delimiter


def clean_name(name: str) -> str:
    """Return the name of a column without a byte order mark and spaces around it."""
    return name.removeprefix("\ufeff").strip()


def list_columns(columns: Sequence[str]) -> str:
    """Return column names for a message."""
    return escape_control_chars(format_names([name or '""' for name in columns], 40))
