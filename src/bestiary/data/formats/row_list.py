"""Rows of a `LabelTable` that a reader adds one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bestiary.box import Box
from bestiary.data.formats.label_table import LEFT_OUT, ROWS, LabelTable
from bestiary.data.formats.row_frame import RowChunks, escape_surrogates

NO_LABEL = "without a label"


class RowList:
    """Collects the rows and those left out, in `RowChunks`: a million rows as dictionaries would take gigabytes."""

    def __init__(self) -> None:
        """Begin without rows."""
        self._rows, self._left_out = RowChunks(ROWS), RowChunks(LEFT_OUT)

    def add(self, file: str, label: str, *, box: Box | None = None, **values: str | None) -> None:
        """Add a label of a picture or box; values: of split, group, site and time. A blank label is left out."""
        if not label.strip():
            self.leave_out(file, NO_LABEL)
            return
        texts = {"file": file, "label": label.strip(), **values}
        cells: dict[str, Any] = {name: text and escape_surrogates(text) for name, text in texts.items()}
        if box is not None:
            cells |= {"box_left": box.left, "box_top": box.top, "box_width": box.width, "box_height": box.height}
            cells["box_unit"] = box.unit
            cells |= dict(zip(("picture_width", "picture_height"), box.picture_size or (), strict=False))
        self._rows.append([cells.get(name) for name in ROWS])

    def leave_out(self, file: str, reason: str) -> None:
        """Add a row that is left out."""
        self._left_out.append((escape_surrogates(file), reason))

    def make_table(self, notes: Sequence[str] = ()) -> LabelTable:
        """Return the table of all rows."""
        return LabelTable(self._rows.join(), self._left_out.join(), tuple(notes))
