"""Manifest tables of pictures and labels: CSV or parquet, with columns path, label and optionally split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bestiary.data.split import SPLIT_NAMES, parse_split_name
from bestiary.errors import SourceError
from bestiary.text import escape_control_chars


def read_manifest(source: Path) -> Iterator[tuple[Path, str, str | None]]:
    """Yield the path, label and split (or None) of each row; paths are relative to the table.

    Raises SourceError, naming the row, for an empty path or label, an invalid path, and an unknown split.
    """
    for number, (path, label, split) in enumerate(_cells(source), start=1):
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


def _cells(source: Path) -> list[tuple[str | None, str | None, str | None]]:
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
        cells = frame.select("path", "label", split).with_columns(pl.selectors.float().fill_nan(None))
        return cells.cast(pl.String).rows()
    except (pl.exceptions.PolarsError, OSError) as error:
        why = str(error).partition("\n")[0].rstrip(".")  # the following lines are advice to users of polars
        raise SourceError(f"The table {source} cannot be read: {why}. Expected UTF-8, with path,label.") from None
