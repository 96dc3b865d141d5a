"""Hugging Face image folders: metadata.csv, .jsonl or .parquet with a column `file_name` beside the pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl

from bestiary.data.folder_walk import is_skipped_folder, list_entries
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.table_file import DAMAGE, TableFile, open_table, read_header
from bestiary.data.formats.tables import convert_rows
from bestiary.data.split import parse_split_name
from bestiary.errors import SourceError
from bestiary.table_columns import choose_columns, find_label_columns

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def is_huggingface(source: Path) -> bool:
    """Return whether a source is such a file, or a folder with some that name the labels, or that has no folders."""
    if source.is_file():
        return source.name in NAMES and _file_column(read_header(source)) is not None
    headers = [read_header(path) for path in _metadata_files(source)]
    if not headers or any(_file_column(header) is None for header in headers):
        return False
    has_labels = all(find_label_columns(header) for header in headers)
    return has_labels or not any(_class_folders(source))


def read_huggingface(source: Path, options: ReadOptions) -> LabelTable:
    """Return the rows of all metadata files, each with paths relative to itself, with the names of class indices.

    A file in a folder named like a split is of that split, unless it has a column for it. Raises SourceError if there
    is no such file, or its columns cannot be decided.
    """
    paths = [source] if source.is_file() else _metadata_files(source)
    if not paths:
        raise SourceError(f"There is no {', '.join(NAMES)} in {source}, nor in a folder directly below it.")
    parts = [_read_metadata(path, source, options) for path in paths]
    notes = [note for part in parts for note in part.notes]
    if source.is_dir() and _class_folders(source):
        notes.append(f"The names of the folders of {source} are no labels: the metadata files have them.")
    rows, left_out = pl.concat([part.rows for part in parts]), pl.concat([part.left_out for part in parts])
    return LabelTable(rows, left_out, tuple(dict.fromkeys(notes)))


def _read_metadata(path: Path, source: Path, options: ReadOptions) -> LabelTable:
    table = open_table(path)
    column = options.columns.get("path") or _file_column(table.columns)
    if column is None:
        raise SourceError(f"{path} has no column file_name; it has: {', '.join(table.columns)}.")
    columns = choose_columns(table, {"path": column, **options.columns})
    frame, name = table.read(columns.list_names(), numbers=columns.list_numbers()), columns.names["label"]
    notes = [f"The table {path} ({table.describe()}): {columns.describe()}."]
    if classes := _class_names(table, name):
        frame = frame.with_columns(_name_indices(frame[name], classes, path))
        notes.append(f"The numbers of the column {name} of {path} are the classes {', '.join(classes[:10])}.")
    result = convert_rows(frame, columns, table)
    below = "" if source.is_file() or path.parent == source else f"{path.parent.relative_to(source).as_posix()}/"
    split = parse_split_name(path.parent.name) if below else None
    rows = result.rows.with_columns(file=pl.lit(below) + pl.col("file"))
    if "split" not in columns.names:
        rows = rows.with_columns(split=_split_of_names(rows["file"]) if split is None else pl.lit(split, pl.String))
    return replace(result, rows=rows, notes=(*notes, *result.notes))


def _split_of_names(files: pl.Series) -> pl.Series:
    """Return the split that the first folder of each path is named after, null for another."""
    first = files.str.extract(r"^([^/\\]+)[/\\]", 1)
    names = {name: parse_split_name(name) for name in first.unique().drop_nulls().to_list()}
    return first.replace_strict(names, default=None, return_dtype=pl.String)


def _metadata_files(folder: Path) -> list[Path]:
    folders = [folder, *(path for path in list_entries(folder) if path.is_dir() and not is_skipped_folder(path.name))]
    return [inner / name for inner in folders for name in NAMES if (inner / name).is_file()]


def _class_folders(folder: Path) -> list[Path]:
    """Return the folders directly below one that are no parts of a split."""
    return [
        path
        for path in list_entries(folder)
        if path.is_dir() and not is_skipped_folder(path.name) and parse_split_name(path.name) is None
    ]


def _file_column(columns: tuple[str, ...]) -> str | None:
    """Return `file_name`, or the only column whose name ends so."""
    ending = [name for name in columns if name.endswith("_file_name")]
    return "file_name" if "file_name" in columns else ending[0] if len(ending) == 1 else None


def _class_names(table: TableFile, column: str) -> list[str]:
    """Return the names of the classes that the library writes into a parquet file, empty if there are none."""
    if table.kind != "parquet":
        return []
    try:
        info = json.loads(pl.read_parquet_metadata(table.path).get("huggingface", "{}"))
        names = info["info"]["features"][column]["names"]
    except (ValueError, RecursionError, KeyError, TypeError, *DAMAGE):
        return []
    return [str(name) for name in names]


def _name_indices(labels: pl.Series, classes: list[str], path: Path) -> pl.Series:
    """Return the class names of indices, null for -1, which stands for no label."""
    names = {str(index): name for index, name in enumerate(classes)}
    unknown = sorted(set(labels.unique().drop_nulls()) - names.keys() - {"-1"})
    if unknown:
        raise SourceError(f"{path}: the label {unknown[0]} is no index of its {len(classes)} classes.")
    return labels.replace_strict(names, default=None, return_dtype=pl.String).alias(labels.name)


FORMAT = LabelFormat("huggingface", "a Hugging Face image folder", is_huggingface, read_huggingface)
