"""Table files: CSV with any delimiter and encoding, JSON lines and parquet, read as columns of text."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.data.label_text import format_labels
from bestiary.errors import SourceError
from bestiary.text_table import (
    DELIMITERS,
    ENCODING_TITLES,
    SAMPLE_BYTES,
    SAMPLE_LINES,
    read_layout,
    sample_text,
    split_header,
    unreadable_error,
)

TEXT_SUFFIXES = {".csv", ".tsv", ".txt"}
JSON_LINES_SUFFIXES = {".jsonl", ".ndjson"}
DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)  # some damage of a parquet makes polars panic
TABLE_SUFFIXES = TEXT_SUFFIXES | JSON_LINES_SUFFIXES | {".parquet"}


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
        except (*DAMAGE, OSError, UnicodeError) as error:
            raise _table_error(self.path, error) from None

    def read_sample(self, n_rows: int) -> dict[str, list[str | None]]:
        """Return the first rows by column, of columns that have a name."""
        return self.read([name for name in self.columns if name]).head(n_rows).to_dict(as_series=False)

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
        if _has_old_line_ends(source):
            source = (source if isinstance(source, bytes) else source.read_bytes()).replace(b"\r", b"\n")
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


def _has_old_line_ends(source: Path | bytes) -> bool:
    """Return whether the lines of a text end in carriage returns alone, as Excel for Mac writes them if asked to."""
    if isinstance(source, bytes):
        start = source[:SAMPLE_BYTES]
    else:
        with source.open("rb") as file:
            start = file.read(SAMPLE_BYTES)
    return b"\r" in start and b"\n" not in start


def _table_error(path: Path, error: BaseException) -> SourceError:
    """Return the error for a table that cannot be read; with the first line of the reason."""
    if isinstance(error, pl.exceptions.PanicException):
        return unreadable_error(path, "it is damaged. Write it again")
    why = str(error).partition("\n")[0].rstrip(".")  # the words of polars speak of a schema
    if "more fields" in why:
        why = (
            "a row has more fields than the first line. Put texts that have the delimiter in them into quotation marks"
        )
    return unreadable_error(path, why)


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
        layout = read_layout(path)
        return TableFile(path, layout.columns, "text", layout.delimiter, layout.encoding)
    except (*DAMAGE, OSError, UnicodeError) as error:
        raise _table_error(path, error) from None


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
        _, sample = sample_text(path)
        if delimiter is not None:
            lines = csv.reader([sample.removeprefix("\ufeff").partition("\n")[0].rstrip("\r")], delimiter=delimiter)
            return tuple(next(lines, ()))
        return split_header(sample, path)[0]
    except (*DAMAGE, OSError, ValueError, RecursionError, csv.Error, SourceError):
        return ()


# ---- JSON lines -----------------------------------------------------------------------------------------------------


def iter_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; raises SourceError, naming the line, for what is none."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SourceError(f"{path}, line {number}: no JSON: {error}. Mend the line, or export again.") from None
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
