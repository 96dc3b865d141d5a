"""Table files: CSV with any delimiter and encoding, JSON lines and parquet, read as columns of text."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.data.label_text import format_labels
from bestiary.errors import SourceError
from bestiary.text import escape_control_chars, format_names

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
TEXT_SUFFIXES = {".csv", ".tsv", ".txt"}
JSON_LINES_SUFFIXES = {".jsonl", ".ndjson"}
TABLE_SUFFIXES = TEXT_SUFFIXES | JSON_LINES_SUFFIXES | {".parquet"}
SAMPLE_BYTES, CHUNK_BYTES = 2**16, 2**22
SAMPLE_LINES = 20
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
ENCODING_TITLES = {"cp1252": "Windows-1252", "latin-1": "Latin-1", "utf-16": "UTF-16"}
ENCODING_TITLES |= {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}


@dataclass(frozen=True)
class TableFile:
    """A table file, its column names, and how it is written.

    kind: text, json-lines or parquet; delimiter, encoding: of a text.
    """

    path: Path
    columns: tuple[str, ...]
    kind: str
    delimiter: str = ","
    encoding: str = "utf-8"

    def read(self, columns: Sequence[str], *, numbers: Collection[str] = ()) -> pl.DataFrame:
        """Return these columns as text; numbers, dates and truth values as `label_text.format_labels` writes them.

        numbers: columns of box values and times, which are written as they are.

        Raises SourceError if the file cannot be read, or a column has nested values.
        """
        names = list(dict.fromkeys(columns))
        try:
            frame = self._read(names)
            cast = [frame[name].cast(pl.String) if name in numbers else format_labels(frame[name]) for name in names]
            return frame.with_columns(cast)
        except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
            raise unreadable_error(self.path, error) from None

    def describe(self) -> str:
        """Return how the file is written, as a phrase."""
        if self.kind != "text":
            return {"json-lines": "JSON lines", "parquet": "parquet"}[self.kind]
        title = ENCODING_TITLES.get(self.encoding)
        return f"columns separated by {DELIMITERS[self.delimiter]}{f', {title}' if title else ''}"

    def _read(self, names: list[str]) -> pl.DataFrame:
        if self.kind == "parquet":
            return pl.read_parquet(self.path, columns=names, glob=False)
        if self.kind == "json-lines":
            return _read_json_lines(self.path, names)
        source: Path | bytes = self.path
        if self.encoding not in ("utf-8", "utf-8-sig"):
            source = self.path.read_bytes().decode(self.encoding).encode()
        positions = [self.columns.index(name) for name in names]
        frame = pl.read_csv(
            source,
            separator=self.delimiter,
            infer_schema=False,
            glob=False,
            has_header=False,
            columns=sorted(set(positions)),
        )
        header = next((number for number, row in enumerate(frame.head(SAMPLE_LINES).iter_rows()) if any(row)), 0)
        order = {position: number for number, position in enumerate(sorted(set(positions)))}
        body = frame.slice(header + 1)
        return pl.DataFrame(
            [body.to_series(order[position]).alias(name) for position, name in zip(positions, names, strict=True)]
        )


def unreadable_error(path: Path, error: Exception) -> SourceError:
    """Return the error for a table that cannot be read; with the first line of the reason."""
    why = str(error).partition("\n")[0].rstrip(".")
    if "more fields" in why:  # the words of polars speak of a schema
        why = (
            "a row has more fields than the first line. Put texts that have the delimiter in them into quotation marks"
        )
    return SourceError(f"The table {path} cannot be read: {why}.")


def open_table(path: Path) -> TableFile:
    """Return a table file with its columns, delimiter and encoding.

    A text that is no UTF-8 is read as Windows-1252, or Latin-1 where it cannot be that. Raises SourceError if it cannot
    be read, is empty, or if its columns cannot be told apart.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return TableFile(path, tuple(pl.read_parquet_schema(path)), "parquet")
        if suffix in JSON_LINES_SUFFIXES:
            return TableFile(path, _json_columns(path), "json-lines")
        return _open_text(path)
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        raise unreadable_error(path, error) from None


def read_header(path: Path, *, delimiter: str | None = None) -> tuple[str, ...]:
    """Return the column names of a table from its beginning, of a text by this delimiter; none if it is no table."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return tuple(pl.read_parquet_schema(path))
        if suffix in JSON_LINES_SUFFIXES:
            with path.open("rb") as file:
                first = json.loads(file.readline(SAMPLE_BYTES))
            return tuple(first) if isinstance(first, dict) else ()
        _, sample = _sample_text(path)
        if delimiter is not None:
            lines = csv.reader([sample.removeprefix("\ufeff").partition("\n")[0].rstrip("\r")], delimiter=delimiter)
            return tuple(next(lines, ()))
        return _split_header(sample, path)[0]
    except (pl.exceptions.PolarsError, OSError, UnicodeError, ValueError, SourceError):
        return ()


# ---- Text -----------------------------------------------------------------------------------------------------------


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


def _open_text(path: Path) -> TableFile:
    encoding, sample = _sample_text(path)
    if encoding == "utf-8" and not is_utf8(path):
        encoding = _eight_bit_encoding(path)
        with path.open("rb") as file:
            sample = file.read(SAMPLE_BYTES).decode(encoding)
    header, delimiter = _split_header(sample, path)
    return TableFile(path, header, "text", delimiter, encoding)


def _sample_text(path: Path) -> tuple[str, str]:
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


def _split_header(sample: str, path: Path) -> tuple[tuple[str, ...], str]:
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
    return tuple(_clean_name(name) for name in header), delimiter


def _clean_name(name: str) -> str:
    return name.removeprefix("\ufeff").strip()


# ---- JSON lines -----------------------------------------------------------------------------------------------------


def iter_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; raises SourceError, naming the line, for what is none."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SourceError(f"{path}, line {number}: no JSON: {error}.") from None
            if not isinstance(row, dict):
                raise SourceError(f'{path}, line {number}: expected an object, as in {{"file": …, "label": …}}.')
            yield row


def _json_columns(path: Path) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for number, row in enumerate(iter_json_lines(path)):
        names.update(dict.fromkeys(row))
        if number >= 1000:
            break
    if not names:
        raise SourceError(f"The table {path} is empty. Expected one JSON object a line.")
    return tuple(names)


def _read_json_lines(path: Path, names: list[str]) -> pl.DataFrame:
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    for row in iter_json_lines(path):
        for name, cells in columns.items():
            cells.append(format_json_value(row.get(name)))
    return pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))


def format_json_value(value: Any) -> str | None:
    """Return a value of JSON as text: texts as they are, whole numbers without decimals, lists as JSON.

    >>> format_json_value("007"), format_json_value(1.0), format_json_value(True), format_json_value(None)
    ('007', '1', 'true', None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def list_columns(columns: Sequence[str]) -> str:
    """Return column names for a message."""
    return escape_control_chars(format_names([name or '""' for name in columns], 40))
