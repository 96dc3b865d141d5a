"""Comma-separated tables whose columns a format names: every cell is text, white space around it is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from bestiary.errors import SourceError
from bestiary.text import escape_control_chars, format_names

MAX_NAMES = 60


def read_text_columns(
    path: Path, required: Sequence[str], optional: Sequence[str] | None = (), *, separator: str = ","
) -> pl.DataFrame:
    """Return those columns of a CSV in UTF-8 as text, null where a cell is empty; optional columns are null if missing.

    optional: None keeps every column. Raises SourceError, naming the table and what it has, if it is missing, cannot be
    read or lacks a required column.
    """
    try:
        frame = pl.read_csv(path, infer_schema=False, separator=separator, glob=False)
    except pl.exceptions.NoDataError:
        raise SourceError(f"The table {path} is empty. Expected the columns {format_names(required)}.") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise SourceError(f"The table {path} cannot be read: {why}. Expected CSV in UTF-8.") from None
    if missing := [name for name in required if name not in frame.columns]:
        has = escape_control_chars(format_names(frame.columns, MAX_NAMES))
        raise SourceError(f"The table {path} has no column {format_names(missing)}; it has: {has}.")
    names = frame.columns if optional is None else [*required, *optional]
    columns = [pl.col(name) if name in frame.columns else pl.lit(None, pl.String).alias(name) for name in names]
    stripped = pl.all().str.strip_chars()
    return frame.select(columns).select(pl.when(stripped != "").then(stripped).name.keep())


def read_header(path: Path, separator: str = ",") -> list[str]:
    """Return the names in the first line of a table, empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            line = stream.readline(1 << 16).decode("utf-8-sig", errors="replace")
    except OSError:
        return []
    return [name.strip().strip('"') for name in line.strip().split(separator)]
