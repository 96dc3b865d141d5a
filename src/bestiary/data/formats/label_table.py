"""What a reader of a labelling format returns: a row for each label of a picture or box, and what was left out.

A reader only reads: it opens no picture, looks for no file, and drops no row without naming it. That a picture has
several labels, and where its file lies, is decided for all formats in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

ROWS: dict[str, type[pl.DataType]] = {
    "file": pl.String,  # as it is written: a relative, absolute or Windows path, or an address
    "label": pl.String,
    "split": pl.String,  # train, val or test; null: the format has none
    "group": pl.String,  # sequence, burst or event of the format; null: none
    "site": pl.String,  # camera location; null: none
    "time": pl.String,  # ISO 8601, with the offset if the format has one; null: none
    "box_left": pl.Float64,  # corner and size of the box; null: the label is of the whole picture
    "box_top": pl.Float64,
    "box_width": pl.Float64,
    "box_height": pl.Float64,
    "box_unit": pl.String,  # one of `box.BOX_UNITS`; null without a box
    "box_confidence": pl.Float64,  # of the detector that drew the box; null: none did
    "picture_width": pl.Int64,  # of the picture that a box in pixels is of; null: the format does not name it
    "picture_height": pl.Int64,
}
LEFT_OUT: dict[str, type[pl.DataType]] = {
    "file": pl.String,  # empty: a row without a picture
    "reason": pl.String,  # a few words, the same for all rows of one kind: "camera set-up", "marked as corrupt"
}
SPECIAL_FAMILIES = ("empty", "human", "vehicle", "unknown")  # labels that are no species
DEFAULT_LEFT_OUT = ("unknown",)


@dataclass(frozen=True)
class LabelTable:
    """The rows of a labelled collection, with the columns of `ROWS`, and those left out, with those of `LEFT_OUT`.

    notes: sentences about what was taken for what, such as the column that the label is from. detector: what results of
    a detector say of it, by the names of MegaDetector's format; empty: they are of none.
    """

    rows: pl.DataFrame
    left_out: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LEFT_OUT))
    notes: tuple[str, ...] = ()
    detector: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadOptions:
    """How a labelled collection is to be read.

    format: the name of a format; None: it is recognised. columns: column names of the file by their role, one of
    `ROWS` or "path" and "box". pictures: the folder of the pictures; None: that of the file. left_out: of
    `SPECIAL_FAMILIES`, those that become no label; has_chosen_families: whether they were chosen, so that they apply to
    every format, not only to those of camera traps. boxes: each box is a picture of its own, instead of the whole
    picture; box_file: the file that has them, None: the one with the labels. unpack: returns the folder of an archive's
    pictures, for the formats that are archives.
    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    pictures: Path | None = None
    left_out: tuple[str, ...] = DEFAULT_LEFT_OUT
    has_chosen_families: bool = False
    boxes: bool = False
    box_file: Path | None = None
    unpack: Callable[[Path], Path] | None = None

    def facts(self) -> dict[str, Any]:
        """Return what a run records of these options: those that were chosen."""
        values = {
            "format": self.format,
            "columns": dict(self.columns) or None,
            "pictures": self.pictures and str(self.pictures.absolute()),
            "leave out": list(self.left_out) if self.has_chosen_families else None,
            "boxes": self.box_file and str(self.box_file.absolute()),
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class LabelFormat:
    """A format: its name on the command line, its title in messages, and its reader.

    is_format: whether a file or folder is of this format, from its name and beginning; read: returns its rows, and
    raises SourceError if they cannot be read.
    """

    name: str
    title: str
    is_format: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], LabelTable]
