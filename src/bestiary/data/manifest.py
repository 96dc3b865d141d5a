"""A table that names pictures and their labels: CSV or parquet, with columns path, label and perhaps split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bestiary.data.split import SPLIT_NAMES, parse_split_name
from bestiary.errors import SourceError
from bestiary.text import escape_control_chars

Row = tuple[str | None, str | None, str | None]


def read_manifest(source: Path) -> Iterator[tuple[Path, str, str | None]]:
    """Yield the path, label and part of the split (or None) of each row; paths are relative to the table.

    Raises SourceError, naming the row, for what cannot be a picture with a label.
    """
    for number, (path, label, split) in enumerate(_cells(source), start=1):
        if path is label is split is None:  # an empty line
            continue
        if not path or not label or not label.strip():
            raise SourceError(f"{source}, row {number}: path and label must not be empty.")
        if "\0" in path:
            raise SourceError(f"{source}, row {number}: the path {path!r} cannot be the name of a file.")
        yield _resolve_path(source, path), label.strip(), _split_name(split, source, number)


def _resolve_path(source: Path, path: str) -> Path:
    """Return the path of a picture, relative to its table, which may have been written on Windows."""
    found = source.parent / path
    if os.sep == "/" and "\\" in path and not found.exists():
        on_windows = source.parent / path.replace("\\", "/")
        return on_windows if on_windows.exists() else found
    return found


def _cells(source: Path) -> list[Row]:
    """Return path, label and split of each row, as text."""
    import polars as pl

    try:
        is_csv = source.suffix.lower() == ".csv"
        frame = pl.read_csv(source, infer_schema=False) if is_csv else pl.read_parquet(source)
        for column in ("path", "label"):
            if column not in frame.columns:
                hint = " Its columns must be separated by commas." if set(";\t") & set(frame.columns[0]) else ""
                names = escape_control_chars(", ".join(frame.columns))
                raise SourceError(f'The table {source} has no column "{column}"; it has: {names}.{hint}')
        split = "split" if "split" in frame.columns else pl.lit(None).alias("split")
        given = frame.select("path", "label", split).with_columns(pl.selectors.float().fill_nan(None))
        return given.cast(pl.String).rows()
    except (pl.exceptions.PolarsError, OSError) as error:
        why = str(error).partition("\n")[0].rstrip(".")  # what follows is advice to those who call polars
        raise SourceError(f"The table {source} cannot be read: {why}. Expected UTF-8, with path,label.") from None


def _split_name(split: str | None, source: Path, number: int) -> str | None:
    if not split or not split.strip():
        return None
    if (name := parse_split_name(split)) is None:
        raise SourceError(f'{source}, row {number}: split "{split}" is none of {", ".join(sorted(SPLIT_NAMES))}.')
    return name
