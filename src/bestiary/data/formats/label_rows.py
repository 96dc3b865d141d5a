"""From a labelled collection to one row for each picture, or for each of its boxes: located, with a single label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.box import BOX_FIELDS, PIXELS_FROM, TOLERANCE, Box
from bestiary.data.formats.label_table import ROWS, LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.locate_pictures import LocatedPictures, locate_pictures
from bestiary.data.formats.megadetector import IS_VIDEO, VIDEO_SUFFIXES
from bestiary.data.formats.special_labels import left_out_reason, special_family
from bestiary.data.notices import LEFT_OUT_ROWS, SOURCE_FORMAT, SourceNotice
from bestiary.errors import SourceError
from bestiary.text import format_count, format_names

SEVERAL_LABELS, NOT_THERE, LISTED_TWICE = "with several labels", "not in the folder", "listed twice"
NO_AREA, OUTSIDE, BROKEN = "box without area", "box outside the picture", "box is not four numbers"
IN_PIXELS = "box in pixels where fractions are expected"
IN_FRACTIONS = "box in fractions where pixels are expected"
BOX = ("box_left", "box_top", "box_width", "box_height")
MAX_NAMES = 3


@dataclass(frozen=True)
class LabelRows:
    """The rows of `ROWS` with the column `path`, of pictures that are there; the others are counted and named.

    skipped: the number of rows that were left out, by reason. detector: of `LabelTable`.
    """

    rows: pl.DataFrame
    skipped: Counter[str] = field(default_factory=Counter)
    notices: list[SourceNotice] = field(default_factory=list)
    detector: Mapping[str, Any] = field(default_factory=dict)


def read_label_rows(source: Path, form: LabelFormat, options: ReadOptions, *, ignore_labels: bool = False) -> LabelRows:
    """Return the pictures and labels of a collection in a format; see `ReadOptions`.

    ignore_labels: each row has the label "", so that boxes with several labels are kept.
    Left out, counted and named are what the reader leaves out, pictures that are not there, boxes without area, and
    pictures with several labels. Raises SourceError if nothing is left.
    """
    table = form.read(source, options)
    if ignore_labels:
        rows = table.rows.with_columns(label=pl.lit(""), split=pl.lit(None, pl.String))
        table = replace(table, rows=rows)
    table = _leave_out_videos(table)
    if options.has_chosen_families:
        table = _leave_out_families(table, options.left_out)
    notices = [SourceNotice(SOURCE_FORMAT, note, is_issue=False) for note in _format_notes(source, form, table)]
    base = options.pictures or (source if source.is_dir() else source.parent)
    if not base.is_dir():
        raise SourceError(f"--pictures: there is no folder {base}.")
    names = table.rows["file"].unique(maintain_order=True).to_list()
    located = locate_pictures(names, base, source) if names else LocatedPictures({})
    notices += [SourceNotice(SOURCE_FORMAT, note, is_issue=False) for note in _location_notes(located, base)]
    paths = [located.paths.get(name) for name in table.rows["file"].to_list()]
    rows = table.rows.with_columns(pl.Series("path", paths, pl.String))
    left_out = [table.left_out, _leave_out(rows.filter(pl.col("path").is_null()), NOT_THERE)]
    rows = rows.filter(pl.col("path").is_not_null())
    if options.boxes:
        rows, without = _check_boxes(rows)
        left_out += without
    rows, doubtful, twice = choose_single_labels(rows, boxes=options.boxes)
    excluded = pl.concat([*left_out, doubtful])
    skipped = Counter(dict(excluded["reason"].value_counts(sort=True).iter_rows()))
    skipped[LISTED_TWICE] += twice
    notices += _left_out_notices(source, excluded)
    if not rows.height:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items() if count)
        raise SourceError(
            f"{source} ({form.title}) has no picture with a label that can be used: {reasons or 'no rows'}."
        )
    return LabelRows(rows, +skipped, notices, table.detector)


def _leave_out_videos(table: LabelTable) -> LabelTable:
    """Return the table without the rows of videos, by the suffix of their files."""
    suffixes = "|".join(VIDEO_SUFFIXES).replace(".", r"\.")
    is_video = table.rows["file"].str.to_lowercase().str.contains(f"({suffixes})$")
    if not is_video.any():
        return table
    left_out = pl.concat([table.left_out, _leave_out(table.rows.filter(is_video), IS_VIDEO)])
    return replace(table, rows=table.rows.filter(~is_video), left_out=left_out)


def iter_boxes(rows: pl.DataFrame) -> Iterator[Box | None]:
    """Yield the box of each row of `ROWS`, None for one of the whole picture."""
    columns = rows.select(*BOX_FIELDS, "picture_width", "picture_height")
    for left, top, width, height, unit, confidence, across, down in columns.iter_rows():
        size = None if across is None or down is None else (across, down)
        yield None if left is None else Box(left, top, width, height, unit, size, confidence)


def _leave_out_families(table: LabelTable, families: Collection[str]) -> LabelTable:
    """Return the table without the labels of these families; the reader of a camera-trap format has done it already."""
    reasons = {label: special_family(label) for label in table.rows["label"].unique()}
    names = {label: left_out_reason(family) for label, family in reasons.items() if family in families and family}
    reason = pl.col("label").replace_strict(names, default=None, return_dtype=pl.String)
    rows = table.rows.with_columns(reason=reason)
    excluded = rows.filter(pl.col("reason").is_not_null()).select("file", "reason")
    rows = rows.filter(pl.col("reason").is_null()).drop("reason")
    return replace(table, rows=rows, left_out=pl.concat([table.left_out, excluded]))


def choose_single_labels(rows: pl.DataFrame, *, boxes: bool) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Return the rows with one label for each picture, or each box; those left out; how many were listed twice.

    Without `boxes`, boxes count only for a picture without a label of its own; those that all have one label are
    one row of the whole picture. A picture, or box, with different labels is left out. Of equal rows the first stays.
    """
    key = ["path", *BOX] if boxes else ["path"]
    whole = pl.col("box_left").is_null()
    if boxes:  # a label of the whole picture says what its boxes say already
        rows = rows.filter(~(whole & whole.not_().any().over("path")))
    elif rows["box_left"].null_count() < rows.height:
        rows = rows.filter(whole | ~whole.any().over("path"))
        rows = rows.with_columns([pl.lit(None, ROWS[name]).alias(name) for name in BOX_FIELDS])
    if rows.select(key).is_duplicated().any():
        rows = rows.with_columns(labels=pl.col("label").n_unique().over(key))
        doubtful = rows.filter(pl.col("labels") > 1)
        rows = rows.filter(pl.col("labels") == 1).drop("labels")
    else:
        doubtful = rows.clear()
    single = rows.unique([*key, "label", "split"], keep="first", maintain_order=True)
    named = doubtful.group_by("path", maintain_order=True).agg(pl.first("file"), labels=pl.col("label").unique().sort())
    text = pl.format("{} ({})", "file", pl.col("labels").list.join(", "))
    return (
        single,
        _leave_out(named.with_columns(file=text) if named.height else named, SEVERAL_LABELS),
        (rows.height - single.height),
    )


def _check_boxes(rows: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the rows whose box has an area inside the picture, as far as it can be said without the picture."""
    left, top, width, height = (pl.col(name) for name in BOX)
    is_fraction = pl.col("box_unit") == "fraction"
    no_area = (width <= 0) | (height <= 0)
    beyond = (left < -TOLERANCE) | (top < -TOLERANCE) | (left + width > 1 + TOLERANCE) | (top + height > 1 + TOLERANCE)
    outside = pl.when(is_fraction).then(beyond).otherwise((left + width <= 0) | (top + height <= 0))
    is_boxed, is_finite = (
        left.is_not_null(),
        pl.all_horizontal(pl.col(name).is_finite().fill_null(False) for name in BOX),
    )
    reason = (
        pl.when(is_boxed & ~is_finite)
        .then(pl.lit(BROKEN))
        .when(no_area)
        .then(pl.lit(NO_AREA))
        .when(is_fraction & (pl.max_horizontal(BOX) > PIXELS_FROM))
        .then(pl.lit(IN_PIXELS))
        .when(~is_fraction & (pl.max_horizontal(BOX) <= 1))
        .then(pl.lit(IN_FRACTIONS))
        .when(outside)
        .then(pl.lit(OUTSIDE))
    )
    rows = rows.with_columns(reason=reason)
    without = rows.filter(pl.col("reason").is_not_null())
    text = pl.format("{} ({}, {}, {}, {})", "file", *BOX)
    return rows.filter(pl.col("reason").is_null()).drop("reason"), [
        without.select(file=text, reason="reason").cast(pl.String)
    ]


def _leave_out(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    return rows.select("file", reason=pl.lit(reason)).cast(pl.String)


def _format_notes(source: Path, form: LabelFormat, table: LabelTable) -> list[str]:
    return [f"{source} is read as {form.title} (--format {form.name}).", *table.notes]


def _location_notes(located: LocatedPictures, base: Path) -> list[str]:
    notes = []
    if located.dropped:
        notes.append(
            f"{format_count(located.dropped, 'picture is', 'pictures are')} in {base.absolute()} without the leading"
            " folders that their paths have."
        )
    if located.elsewhere:
        notes.append(
            f"{format_count(located.elsewhere, 'picture is', 'pictures are')} not where their paths say; they were"
            f" found in {base.absolute()} by the end of their paths: {located.example}. --pictures names the folder of"
            " the pictures."
        )
    return notes


def _left_out_notices(source: Path, excluded: pl.DataFrame) -> list[SourceNotice]:
    """Return a notice for each reason that rows were left out for, with the first of their names."""
    notices = []
    for reason, count in Counter(dict(excluded["reason"].value_counts(sort=True).iter_rows())).most_common():
        files = excluded.filter(reason=reason)["file"].unique(maintain_order=True)
        names = [name for name in files.head(MAX_NAMES + 1).to_list() if name]
        listed = f": {format_names(names + [''] * (len(files) - len(names)), MAX_NAMES)}" if names else ""
        notices.append(SourceNotice(LEFT_OUT_ROWS, f"{source}: {count:,} left out ({reason}){listed}."))
    return notices
