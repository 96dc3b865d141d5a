"""Manifest tables: CSV or parquet, with columns path, label and optionally split, group, site, time."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bestiary.data.formats.table_file import read_header
from bestiary.data.formats.times import format_times
from bestiary.data.label_text import ZERO_FRACTION, format_labels
from bestiary.data.split import SPLIT_NAMES, parse_split_name
from bestiary.errors import SourceError
from bestiary.text import escape_control_chars
from bestiary.text_table import is_utf8, sample_text

COLUMNS = ("path", "label", "split", "group", "site", "time")
SUFFIXES = {".csv", ".parquet"}
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")

Row = tuple[Path, str, str | None, str | None, str | None, str | None]  # of COLUMNS


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest, the names of its other columns, and sentences about how it was read."""

    rows: list[Row]
    unused: list[str]
    notes: list[str]


def is_manifest(source: Path) -> bool:
    """Return whether a file is a parquet, or a CSV in UTF-8 with commas, that has the columns path and label."""
    if source.suffix.lower() not in SUFFIXES or not source.is_file():
        return False
    if source.suffix.lower() == ".csv" and not (_begins_as_utf8(source) and is_utf8(source)):
        return False
    return {"path", "label"} <= set(read_header(source, delimiter=","))


def _begins_as_utf8(source: Path) -> bool:
    """Return whether a file does not begin as UTF-16, of which most bytes are UTF-8 too."""
    try:
        return sample_text(source)[0].startswith("utf-8")
    except OSError:
        return False


def read_manifest(source: Path) -> Manifest:
    """Return the rows of a manifest, paths relative to it; a column that is missing is None in each row.

    Raises SourceError, naming the row, for an empty path or label, an invalid path, and an unknown split.
    """
    frame = _read_frame(source)
    _check_names(source)
    unused = [escape_control_chars(name) or '""' for name in frame.columns if name not in COLUMNS]
    try:
        texts = [_read_texts(frame, name) for name in COLUMNS]
    except pl.exceptions.PolarsError as error:
        raise _unreadable_error(source, error) from None
    times, notes = format_times(texts[-1])
    notes = [*notes, *_describe_empty(source, frame, texts)]
    cells = zip(*(column.to_list() for column in (*texts[:-1], times)), strict=True)
    return Manifest(list(_iter_rows(source, cells)), unused, notes)


def _describe_empty(source: Path, frame: pl.DataFrame, texts: Sequence[pl.Series]) -> list[str]:
    """Return a sentence for each column of groups, sites or times that has no value."""
    by_name = dict(zip(COLUMNS, texts, strict=True))
    empty = [name for name in ("group", "site", "time") if name in frame.columns and not (by_name[name] != "").any()]
    return [f'The column "{name}" of the table {source} is empty.' for name in empty]


def _check_names(source: Path) -> None:
    """Raise SourceError if a column that is used is there twice: one of them would be taken."""
    names = read_header(source, delimiter=",") if source.suffix.lower() == ".csv" else ()
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise SourceError(
            f'The table {source} has {names.count(twice[0])} columns "{twice[0]}". Rename all but one of them.'
        )


def _iter_rows(source: Path, cells: Iterable[tuple[str | None, ...]]) -> Iterator[Row]:
    for number, (path, label, split, group, site, time) in enumerate(cells, start=1):
        if path is label is split is None:  # an empty line
            continue
        if not path or not label or not label.strip():
            raise SourceError(f"{source}, row {number}: path and label must not be empty.")
        if "\0" in path:
            raise SourceError(f"{source}, row {number}: the path {path!r} is not a valid file name.")
        split_name = parse_split_name(split or "")
        if split and split.strip() and split_name is None:
            expected = ", ".join(sorted(SPLIT_NAMES))
            raise SourceError(f'{source}, row {number}: unknown split "{split}". Expected one of: {expected}.')
        yield _resolve_path(source, path), label.strip(), split_name, group or None, site or None, time


def _resolve_path(source: Path, path: str) -> Path:
    """Return the path of a picture relative to its table, which may have been written on Windows."""
    resolved, posix = source.parent / path, source.parent / path.replace("\\", "/")
    is_windows_path = os.sep == "/" and "\\" in path and not resolved.exists() and posix.exists()
    return posix if is_windows_path else resolved


def _read_frame(source: Path) -> pl.DataFrame:
    try:
        is_csv = source.suffix.lower() == ".csv"
        return pl.read_csv(source, infer_schema=False, glob=False) if is_csv else pl.read_parquet(source, glob=False)
    except pl.exceptions.PanicException:
        raise SourceError(f"The table {source} cannot be read: it is damaged. Write it again.") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable_error(source, error) from None


def _unreadable_error(source: Path, error: Exception) -> SourceError:
    why = str(error).partition("\n")[0].rstrip(".")  # the following lines are advice to users of polars
    return SourceError(f"The table {source} cannot be read: {why}. Expected UTF-8, with path,label.")


def _read_texts(frame: pl.DataFrame, name: str) -> pl.Series:
    """Return a column as text, null in each row if there is none; a number has the same text in any type of column."""
    if name not in frame.columns:
        return pl.Series(name, [None] * frame.height, pl.String)
    return format_labels(frame[name]) if name in ("label", "group", "site") else frame[name].cast(pl.String)


def match_number_label(label: str, classes: Collection[str]) -> str | None:
    """Return the class that is the same whole number as a label in another spelling (1, 1.0, 1.00), None without one.

    >>> match_number_label("1", ["1.00", "2.0"]), match_number_label("1", ["1.0", "1.00"])
    ('1.00', '1.0')
    """
    if not _WHOLE.fullmatch(label):
        return None
    number = re.sub(ZERO_FRACTION, "", label)
    same = [name for name in classes if _WHOLE.fullmatch(name) and re.sub(ZERO_FRACTION, "", name) == number]
    by_preference = [name for name in (number, f"{number}.0") if name in same]
    return same[0] if len(same) == 1 else next(iter(by_preference), None)
