"""Roboflow exports: `_classes.csv` with 0 and 1 for each class, or boxes as COCO; names end in `.rf.` and a hash.

The boxes are in `_annotations.coco.json`, a file for each of train, valid and test. A version with augmentations has
the same source picture several times: `fox_jpg.rf.1a2b….jpg`. They are one group. Exports as class folders are read as
such; only their groups come from here.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import polars as pl

from bestiary.data.formats.coco import read_coco
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_list import NO_LABEL, RowList
from bestiary.data.formats.table_file import open_table, read_header
from bestiary.data.split import parse_split_name
from bestiary.errors import SourceError

CLASSES_FILE, BOXES_FILE = "_classes.csv", "_annotations.coco.json"
PART_FOLDERS = ("train", "valid", "test")
_HASH = re.compile(r"^(.+)\.rf\.[0-9A-Za-z]{16,40}(?:\.|$)")


def find_group(name: str) -> str | None:
    """Return what the copies of one source picture have in common, None for a name of another kind.

    >>> find_group("fox_1_jpg.rf.0123456789abcdef0123456789abcdef.jpg"), find_group("fox.rf.jpg")
    ('fox_1_jpg', None)
    """
    match = _HASH.match(name) if ".rf." in name else None
    return match[1] if match else None


def is_roboflow(source: Path) -> bool:
    """Return whether a source is a table of classes, or a folder, or folder of parts, with one or with boxes."""
    return bool(_box_files(source)) or any(
        next(iter(read_header(path)), "").strip().lower() == "filename" and len(read_header(path)) > 1
        for path in _class_tables(source)
    )


def read_roboflow(source: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each 1 of the tables, or for each box.

    Raises SourceError if there is neither, or both, and if a cell of a table is neither 0 nor 1.
    """
    tables, box_files = _class_tables(source), _box_files(source)
    if tables and box_files:
        raise SourceError(
            f"{source} is two exports of Roboflow: {tables[0]} and {box_files[0]} may have other labels. Pass one of"
            " these files, or move one of the kinds elsewhere."
        )
    if box_files:
        return _read_boxes(source, box_files, options)
    if not tables:
        raise SourceError(
            f"There is no {CLASSES_FILE} or {BOXES_FILE} in {source}, nor in its folders {', '.join(PART_FOLDERS)}."
        )
    return _read_classes(source, tables)


def _read_classes(source: Path, tables: list[Path]) -> LabelTable:
    rows, notes = RowList(), []
    for path in tables:
        table = open_table(path)
        classes = table.columns[1:]
        if twice := [name for name, count in Counter(table.columns).items() if count > 1]:
            raise SourceError(
                f"{path} has {table.columns.count(twice[0])} columns “{twice[0]}”. Expected one for each class."
            )
        frame = table.read(table.columns)
        below, split = _find_part(source, path)
        notes.append(f"{path}: {len(classes)} classes{f', split {split}' if split else ''}.")
        for name, *cells in frame.iter_rows():
            if not name:
                continue
            cells = [(cell or "").strip() or "0" for cell in cells]
            wrong = next((cell for cell in cells if cell not in ("0", "1")), None)
            if wrong is not None:
                raise SourceError(f'{path}: "{wrong}" in the row of {name}: expected 0 or 1 for each class.')
            labels = [label for label, cell in zip(classes, cells, strict=True) if cell == "1"]
            for label in labels:
                rows.add(f"{below}{name}", label, split=split, group=find_group(name))
            if not labels:
                rows.leave_out(f"{below}{name}", NO_LABEL)
    return rows.make_table(notes)


def _read_boxes(source: Path, files: list[Path], options: ReadOptions) -> LabelTable:
    rows, left_out, notes = [], [], []
    for path in files:
        table = read_coco(path, options)
        below, split = _find_part(source, path)
        groups = [find_group(Path(name).name) for name in table.rows["file"]]
        file = (pl.lit(below) + pl.col("file")).alias("file")
        rows.append(
            table.rows.with_columns(
                file, pl.lit(split, pl.String).alias("split"), pl.Series("group", groups, pl.String)
            )
        )
        left_out.append(table.left_out.with_columns(file))
        classes = table.rows["label"].n_unique()
        notes += [
            f"{path}: {classes:,} class{'es' * (classes != 1)}, by boxes{f', split {split}' if split else ''}.",
            *table.notes,
        ]
    return LabelTable(pl.concat(rows), pl.concat(left_out), tuple(dict.fromkeys(notes)))


def _find_part(source: Path, path: Path) -> tuple[str, str | None]:
    """Return the folder of the pictures of a file, with a slash, below the source, and their split."""
    is_beside = source.is_file() or path.parent == source
    return "" if is_beside else f"{path.parent.name}/", parse_split_name(path.parent.name)


def _class_tables(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.name == CLASSES_FILE else []
    return _list_files(source, CLASSES_FILE)


def _box_files(source: Path) -> list[Path]:
    return [] if source.is_file() else _list_files(source, BOXES_FILE)  # such a file alone is COCO


def _list_files(folder: Path, name: str) -> list[Path]:
    paths = [folder / name, *(folder / part / name for part in PART_FOLDERS)]
    return [path for path in paths if path.is_file()]


FORMAT = LabelFormat("roboflow", "a Roboflow export", is_roboflow, read_roboflow)
