"""From the cells of a format to its `LabelTable`: the same checks of labels, times and boxes for all formats.

Each row has a column `reason`: null, or why it becomes no label. No reader drops a row; `split_rows` divides them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from bestiary.box import PIXELS_FROM, TOLERANCE
from bestiary.data.formats.label_table import LEFT_OUT, ROWS, LabelTable, ReadOptions
from bestiary.data.formats.special_labels import map_special_labels
from bestiary.data.formats.times import format_times
from bestiary.errors import SourceError, did_you_mean
from bestiary.text import format_names

CHUNK_ROWS = 50_000
BOX_COLUMNS = ("box_left", "box_top", "box_width", "box_height")
NO_LABEL, NO_FILE = "no label", "no file name"
BOX_BROKEN, BOX_WITHOUT_AREA, BOX_OUTSIDE = "box is not four numbers", "box without area", "box outside the picture"
BOX_IN_PIXELS = "box in pixels where fractions are expected"
_NUMBERS = {int, float}

Cell = str | float | bool | None


class RowChunks:
    """Rows that are appended one by one and kept as columns of polars, so that a million take little memory."""

    def __init__(self, schema: Mapping[str, type[pl.DataType]]) -> None:
        """Keep the names and types of the columns."""
        self._schema = dict(schema)
        self._rows: list[Sequence[Cell]] = []
        self._frames = [pl.DataFrame(schema=self._schema)]

    def append(self, row: Sequence[Cell]) -> None:
        """Append a row: a cell for each column, in their order."""
        self._rows.append(row)
        if len(self._rows) == CHUNK_ROWS:
            self._flush()

    def join(self) -> pl.DataFrame:
        """Return all rows."""
        self._flush()
        return pl.concat(self._frames)

    def _flush(self) -> None:
        if self._rows:
            columns = zip(self._schema.items(), zip(*self._rows, strict=True), strict=True)
            self._frames.append(pl.DataFrame([pl.Series(name, cells, dtype) for (name, dtype), cells in columns]))
            self._rows = []


def read_box(value: object) -> tuple[float, float, float, float]:
    """Return left, top, width and height of a JSON array; not-a-number if it is something else."""
    if isinstance(value, list) and len(value) == 4 and {*map(type, value)} <= _NUMBERS:
        left, top, width, height = value
        return float(left), float(top), float(width), float(height)
    return (float("nan"),) * 4


def escape_surrogates(text: str) -> str:
    """Return text that a table can hold: a lone surrogate, which JSON can spell, is written as `\\udXXX`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def cell_text(value: object) -> str | None:
    """Return a JSON value that is an id or a name as text, or None for null; raises TypeError for anything else."""
    if type(value) is str:
        return escape_surrogates(value)
    if value is None:
        return None
    if type(value) is int:
        return str(value)
    raise TypeError(f"{value!r:.60} is neither text nor a whole number")


def required_text(value: object) -> str:
    """Return a JSON value that is an id or a name as text; raises TypeError for null and anything else."""
    text = cell_text(value)
    if text is None:
        raise TypeError("null where text is expected")
    return text


def choose_columns(
    title: str, options: ReadOptions, choices: Mapping[str, Sequence[str]], *, source: Path
) -> Mapping[str, str]:
    """Return the columns that the user named, by role; raises SourceError for a role or name not in `choices`."""
    for role, name in options.columns.items():
        if role not in choices:
            roles = format_names(list(choices)) or "none"
            raise SourceError(
                f'{source} is of the format {title}, for which the column of "{role}" cannot be named. Roles that can: '
                f"{roles}."
            )
        if name not in choices[role]:
            raise SourceError(f'{source} has no column "{name}" for {role}. {did_you_mean(name, choices[role])}')
    return options.columns


def check_unique(source: Path, name: str, ids: pl.Series) -> None:
    """Raise SourceError, naming the first ones, if ids occur more than once."""
    repeated = ids.filter(ids.is_duplicated()).drop_nulls().unique(maintain_order=True).cast(pl.String)
    if len(repeated):
        raise SourceError(
            f"{source}: {name} occurs more than once: {format_names(repeated.to_list())}. Expected each once. If"
            " several files or projects were joined, read them one by one."
        )


def split_rows(
    source: Path, rows: pl.DataFrame, options: ReadOptions, notes: Sequence[str] = (), *, unit: str = "fraction"
) -> LabelTable:
    """Return the label table of a format's rows: special labels are mapped, times written as ISO 8601, boxes checked.

    rows: columns of `ROWS` (a missing one is null everywhere) and reason; picture_width and picture_height, in pixels,
    if they are known and the unit of the boxes is pixels.
    Raises SourceError if all boxes of the file are in another unit than the format has.
    """
    times, time_notes = format_times(rows["time"]) if "time" in rows.columns else (None, [])
    if times is not None:
        rows = rows.with_columns(times.alias("time"))
    missing = {name: pl.lit(None, dtype) for name, dtype in ROWS.items() if name not in rows.columns}
    rows = check_boxes(source, rows.with_columns(**missing), unit)
    stripped = pl.col("label").str.strip_chars()
    rows = rows.with_columns(label=pl.when(stripped != "").then(stripped)).with_columns(
        reason=pl.coalesce(
            "reason",
            pl.when(pl.col("file").is_null() | (pl.col("file") == "")).then(pl.lit(NO_FILE)),
            pl.when(pl.col("label").is_null()).then(pl.lit(NO_LABEL)),
        ),
    )
    rows = map_special_labels(rows, options.left_out)
    used, left_out = rows.filter(pl.col("reason").is_null()), rows.filter(pl.col("reason").is_not_null())
    return LabelTable(
        used.select(pl.col(name).cast(dtype) for name, dtype in ROWS.items()),
        left_out.select(pl.col("file").fill_null(""), "reason").cast(dict(LEFT_OUT)),  # type: ignore[arg-type]
        (*notes, *time_notes),
    )


def check_boxes(source: Path, rows: pl.DataFrame, unit: str) -> pl.DataFrame:
    """Return the rows with a reason for impossible boxes, and `box_unit` beside the others."""
    left, _, width, height = (pl.col(name) for name in BOX_COLUMNS)
    boxes = rows.filter(left.is_not_null())
    if not boxes.height:
        return rows
    in_pixels = pl.max_horizontal(BOX_COLUMNS) > PIXELS_FROM
    if unit == "fraction" and boxes.filter(left.is_finite()).height and boxes.filter(~in_pixels).height == 0:
        example = boxes.select(BOX_COLUMNS).row(0)
        raise SourceError(
            f"{source}: the boxes are in pixels, such as {list(example)}. Expected fractions of the width and height of"
            " the picture, from 0 to 1: left, top, width, height."
        )
    if unit == "pixels" and boxes.select(pl.max_horizontal(BOX_COLUMNS).max()).item() <= 1:
        raise SourceError(
            f"{source}: all boxes lie within one pixel, such as {list(boxes.select(BOX_COLUMNS).row(0))}. Expected"
            ' pixels in "bbox"; boxes in fractions of the picture belong into "bbox_relative".'
        )
    is_outside = _is_outside(unit)
    reason = (
        pl.when(~pl.all_horizontal(pl.col(name).is_finite().fill_null(False) for name in BOX_COLUMNS))
        .then(pl.lit(BOX_BROKEN))
        .when((width <= 0) | (height <= 0))
        .then(pl.lit(BOX_WITHOUT_AREA))
        .when(in_pixels if unit == "fraction" else pl.lit(False))
        .then(pl.lit(BOX_IN_PIXELS))
        .when(is_outside)
        .then(pl.lit(BOX_OUTSIDE))
    )
    has_box = left.is_not_null()
    return rows.with_columns(
        reason=pl.coalesce("reason", pl.when(has_box).then(reason)),
        box_unit=pl.when(has_box).then(pl.lit(unit)),
    )


def _is_outside(unit: str) -> pl.Expr:
    left, top, width, height = (pl.col(name) for name in BOX_COLUMNS)
    across, down = pl.lit(1.0), pl.lit(1.0)
    if unit == "pixels":
        across, down = pl.col("picture_width"), pl.col("picture_height")
    beyond = [-left / across, (left + width) / across - 1, -top / down, (top + height) / down - 1]
    is_away = (left + width <= 0) | (top + height <= 0)  # known without the size of the picture too
    return is_away | (pl.max_horizontal(beyond) > TOLERANCE).fill_null(False)
