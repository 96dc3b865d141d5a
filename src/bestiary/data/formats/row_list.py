"""Rows of a `LabelTable` that a reader adds one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from bestiary.box import Box
from bestiary.data.formats.label_table import LEFT_OUT, ROWS, LabelTable

NO_LABEL = "without a label"


class RowList:
    """Collects the rows and those left out, column by column: a million rows as dictionaries would take gigabytes."""

    def __init__(self) -> None:
        """Begin without rows."""
        self._columns: dict[str, list[Any]] = {name: [] for name in ROWS}
        self._left_out: dict[str, list[str]] = {name: [] for name in LEFT_OUT}

    def add(self, file: str, label: str, *, box: Box | None = None, **values: str | None) -> None:
        """Add a label of a picture or box; values: of split, group, site and time."""
        cells: dict[str, Any] = {"file": file, "label": label, **values}
        if box is not None:
            cells |= {"box_left": box.left, "box_top": box.top, "box_width": box.width, "box_height": box.height}
            cells["box_unit"] = box.unit
        for name, column in self._columns.items():
            column.append(cells.get(name))

    def leave_out(self, file: str, reason: str) -> None:
        """Add a row that is left out."""
        self._left_out["file"].append(file)
        self._left_out["reason"].append(reason)

    def make_table(self, notes: Sequence[str] = ()) -> LabelTable:
        """Return the table of all rows."""
        return LabelTable(
            pl.DataFrame(self._columns, schema=ROWS), pl.DataFrame(self._left_out, schema=LEFT_OUT), tuple(notes)
        )
