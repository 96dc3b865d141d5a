"""Timelapse: its exported CSV, or its database TimelapseData.ddb (SQLite).

Each project has its own columns, from its template: which of them is the label must be named.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl

from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_frame import choose_columns, split_rows
from bestiary.data.formats.text_columns import read_header, read_text_columns
from bestiary.errors import SourceError
from bestiary.text import format_names

OWN_COLUMNS = (
    "Id",
    "File",
    "RootFolder",
    "Folder",
    "RelativePath",
    "DateTime",
    "UtcOffset",
    "Date",
    "Time",
    "ImageQuality",
    "DeleteFlag",
)
MARKED = {"File", "RelativePath", "DeleteFlag"}
ROLES = ("label", "group", "site", "split")
DELETED = "marked for deletion"
_SQLITE = b"SQLite format 3\x00"


def is_timelapse(path: Path) -> bool:
    """Return whether a file is a CSV with Timelapse's own columns, or its database."""
    if path.suffix.lower() == ".ddb" and path.is_file():
        with path.open("rb") as stream:
            return stream.read(len(_SQLITE)) == _SQLITE
    return path.suffix.lower() == ".csv" and set(read_header(path)) >= MARKED


def read_timelapse(path: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each file, with the label, group, site and split from the columns that `columns` names.

    Files that are marked for deletion, and those without a label, are left out by name. Raises SourceError, with the
    columns of the template, if the column of the label is not named or does not exist.
    """
    table = _read_database(path) if path.suffix.lower() == ".ddb" else read_text_columns(path, ("File",), None)
    template = [name for name in table.columns if name not in OWN_COLUMNS]
    columns = _choose_columns(path, template, options)
    cells = {name: pl.col(name) if name in table.columns else pl.lit(None, pl.String) for name in OWN_COLUMNS}
    folder = cells["RelativePath"].str.replace_all("\\", "/", literal=True).str.strip_chars_end("/")
    is_deleted = cells["DeleteFlag"].str.to_lowercase().is_in(["true", "1"]).fill_null(False)
    time = pl.coalesce(cells["DateTime"], cells["Date"] + " " + cells["Time"])
    rows = table.select(
        file=pl.concat_str(folder, "File", separator="/", ignore_nulls=True),
        time=time,
        reason=pl.when(is_deleted).then(pl.lit(DELETED)),
        **{role: pl.col(name) for role, name in columns.items()},
    )
    return split_rows(path, rows, options, [f"Labels are of the column {columns['label']}."])


FORMAT = LabelFormat("timelapse", "Timelapse", is_timelapse, read_timelapse)


def _choose_columns(path: Path, template: list[str], options: ReadOptions) -> dict[str, str]:
    names = format_names(template, 60) or "none"
    if "label" not in options.columns:
        raise SourceError(
            f"{path} is a table of Timelapse, whose template has the columns: {names}. Name the one with the label,"
            f" such as --columns label={template[0] if template else 'Species'}."
        )
    choices = [*template, *OWN_COLUMNS[1:]]
    return dict(choose_columns("timelapse", options, dict.fromkeys(ROLES, choices), source=path))


def _read_database(path: Path) -> pl.DataFrame:
    """Return the table of files in a database, which is opened for reading only."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            cursor = connection.execute("SELECT * FROM DataTable ORDER BY Id")
            names = [column[0] for column in cursor.description]
            cells = list(zip(*cursor, strict=True)) or [()] * len(names)
    except sqlite3.Error as error:
        raise SourceError(
            f"{path} cannot be read: {error}. Expected TimelapseData.ddb, with a table DataTable."
        ) from None
    columns = [
        pl.Series(name, [None if c is None else str(c) for c in column], pl.String)
        for name, column in zip(names, cells, strict=True)
    ]
    stripped = pl.all().str.strip_chars()
    return pl.DataFrame(columns).select(pl.when(stripped != "").then(stripped).name.keep())
