"""Manifest tables of pictures and labels: CSV or parquet, with columns path, label and optionally split."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from bestiary.data.split import SPLIT_NAMES, parse_split_name
from bestiary.errors import SourceError
from bestiary.text import escape_control_chars

if TYPE_CHECKING:
    import polars as pl

COLUMNS = ("path", "label", "split")
MAX_EXACT = 2**53  # whole floating-point numbers below are exact
ZERO_FRACTION = r"\.0+$"
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
_DECIMALS = re.compile(r"\s*[+-]?\d+\.\d+\s*")

Row = tuple[Path, str, str | None]
Cells = list[tuple[str | None, str | None, str | None]]


def read_manifest(source: Path) -> tuple[list[Row], list[str]]:
    """Return the path, label and split (or None) of each row, paths relative to the table, and the unused columns.

    Raises SourceError, naming the row, for an empty path or label, an invalid path, and an unknown split.
    """
    cells, unused = _read_cells(source)
    return list(_iter_rows(source, cells)), unused


def _iter_rows(source: Path, cells: Cells) -> Iterator[Row]:
    for number, (path, label, split) in enumerate(cells, start=1):
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
        yield _resolve_path(source, path), label.strip(), split_name


def _resolve_path(source: Path, path: str) -> Path:
    """Return the path of a picture relative to its table, which may have been written on Windows."""
    resolved, posix = source.parent / path, source.parent / path.replace("\\", "/")
    is_windows_path = os.sep == "/" and "\\" in path and not resolved.exists() and posix.exists()
    return posix if is_windows_path else resolved


def _read_cells(source: Path) -> tuple[Cells, list[str]]:
    """Return path, label and split of each row as text, and the names of the other columns."""
    import polars as pl

    try:
        is_csv = source.suffix.lower() == ".csv"
        frame = pl.read_csv(source, infer_schema=False, glob=False) if is_csv else pl.read_parquet(source, glob=False)
        for column in ("path", "label"):
            if column not in frame.columns:
                hint = " Its columns must be separated by commas." if set(";\t") & set(frame.columns[0]) else ""
                names = escape_control_chars(", ".join(frame.columns))
                raise SourceError(f'The table {source} has no column "{column}"; it has: {names}.{hint}')
        split = frame["split"] if "split" in frame.columns else pl.Series("split", [None] * frame.height)
        columns = [frame["path"].cast(pl.String), _format_labels(frame["label"]), split.cast(pl.String)]
        unused = [escape_control_chars(name) or '""' for name in frame.columns if name not in COLUMNS]
        return list(zip(*(column.to_list() for column in columns), strict=True)), unused
    except (pl.exceptions.PolarsError, OSError) as error:
        why = str(error).partition("\n")[0].rstrip(".")  # the following lines are advice to users of polars
        raise SourceError(f"The table {source} cannot be read: {why}. Expected UTF-8, with path,label.") from None


def _format_labels(labels: pl.Series) -> pl.Series:
    """Return labels as text: a number has the same label in whatever type of column it is stored.

    Whole numbers have no decimals: a column of whole numbers with a gap becomes floating-point, and a CSV of it has
    1.0 in every row. A CSV that has 1.0 and 1.00 keeps all its labels as they are: they are two, as 1.1 and 1.10 are.
    Truth values are true and false: a CSV has True or TRUE, depending on what wrote it. A date with the time 00:00:00
    is that date. NaN becomes null.
    """
    import polars as pl

    kind = labels.dtype
    if kind.is_float():
        numbers = labels.fill_nan(None)
        is_whole = (numbers.abs() < MAX_EXACT) & (numbers == numbers.round())
        whole = numbers.set(~is_whole.fill_null(False), 0.0).cast(pl.Int64).cast(pl.String)
        return whole.zip_with(is_whole.fill_null(False), numbers.cast(pl.String))
    if kind.is_decimal():
        return pl.Series(labels.name, [_format_decimal(value) for value in labels], pl.String)
    if isinstance(kind, pl.Datetime) and labels.dt.time().drop_nulls().cast(pl.Int64).sum() == 0:
        return labels.dt.date().cast(pl.String)
    texts = labels.cast(pl.String)
    if kind == pl.String and set(texts.str.strip_chars().str.to_lowercase().drop_nulls()) <= {"true", "false", ""}:
        return texts.str.to_lowercase()
    if kind == pl.String and all(_DECIMALS.fullmatch(text) for text in texts.drop_nulls() if text):
        stripped = texts.str.strip_chars()
        whole = stripped.str.replace(ZERO_FRACTION, "")
        return whole if whole.n_unique() == stripped.n_unique() else stripped
    return texts


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


def _format_decimal(value: Decimal | None) -> str | None:
    return None if value is None else f"{value.normalize() + 0:f}"
