"""Roboflow exports: `_classes.csv` with a column of 0 and 1 for each class, and names that end in `.rf.` and a hash.

A version with augmentations has the same source picture several times: `fox_jpg.rf.1a2b….jpg`. They are one group.
Exports as class folders are read as such; only their groups come from here.
"""

from __future__ import annotations

import re
from pathlib import Path

from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_list import NO_LABEL, RowList
from bestiary.data.formats.table_file import open_table, read_header
from bestiary.data.split import parse_split_name
from bestiary.errors import SourceError

CLASSES_FILE = "_classes.csv"
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
    """Return whether a source is such a table, or a folder or the folder of parts with one."""
    return any(
        next(iter(read_header(path)), "").strip().lower() == "filename" and len(read_header(path)) > 1
        for path in _class_tables(source)
    )


def read_roboflow(source: Path, _options: ReadOptions) -> LabelTable:
    """Return a row for each 1 of the tables. Raises SourceError if there is none, or a cell is neither 0 nor 1."""
    tables = _class_tables(source)
    if not tables:
        raise SourceError(f"There is no {CLASSES_FILE} in {source}, nor in its folders {', '.join(PART_FOLDERS)}.")
    rows, notes = RowList(), []
    for path in tables:
        table = open_table(path)
        classes = table.columns[1:]
        frame = table.read(table.columns)
        below = "" if source.is_file() or path.parent == source else f"{path.parent.name}/"
        split = parse_split_name(path.parent.name)
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


def _class_tables(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.name == CLASSES_FILE else []
    paths = [source / CLASSES_FILE, *(source / part / CLASSES_FILE for part in PART_FOLDERS)]
    return [path for path in paths if path.is_file()]


FORMAT = LabelFormat("roboflow", "a Roboflow export", is_roboflow, read_roboflow)
