"""COCO and COCO Camera Traps: one JSON file with the arrays images, annotations and categories.

Format: megadetector/data_management/README.md of agentmorris/MegaDetector; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from bestiary.box import MAX_SIDE
from bestiary.data.formats.json_items import iter_json_items, peek_json_keys, read_item
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_frame import (
    BOX_COLUMNS,
    Cell,
    RowChunks,
    cell_text,
    check_unique,
    choose_columns,
    read_box,
    required_text,
    split_rows,
)
from bestiary.errors import SourceError
from bestiary.text import format_count, format_names

ARRAYS = ("images", "annotations", "categories")
CORRUPT, WITHOUT_ANNOTATION = "marked as corrupt", "picture without an annotation"
PICTURE_MISSING, CATEGORY_MISSING = "annotation of a missing picture", "annotation of a missing category"
_IMAGE = {
    "image": pl.String,
    "file": pl.String,
    "site": pl.String,
    "group": pl.String,
    "time": pl.String,
    "picture_width": pl.Float64,
    "picture_height": pl.Float64,
    "is_corrupt": pl.Boolean,
}
_ANNOTATION = {
    "image": pl.String,
    "category": pl.String,
    **dict.fromkeys(BOX_COLUMNS, pl.Float64),
    "is_relative": pl.Boolean,
    "of_sequence": pl.Boolean,
}
_CATEGORY = {"category": pl.String, "label": pl.String}


def is_coco(path: Path) -> bool:
    """Return whether a JSON file begins as COCO does: with annotations, or pictures that have a file_name."""
    if path.suffix.lower() != ".json":
        return False
    keys = peek_json_keys(path)
    return "annotations" in keys or "file_name" in keys.get("images", ()) or {"images", "categories"} <= keys.keys()


def read_coco(path: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each annotation, with the name of its category.

    Left out by name: pictures that are marked as corrupt or have no annotation, annotations of a picture or category
    that the file does not have, and impossible boxes. Raises SourceError if ids repeat or an array is missing.
    """
    choose_columns("coco", options, {}, source=path)
    images, annotations, categories = _read_arrays(path)
    check_unique(path, "the image id", images["image"])
    check_unique(path, "the category id", categories["category"])
    rows = (
        annotations.join(categories, on="category", how="left", maintain_order="left")
        .with_columns(is_annotated=True)
        .join(images, on="image", how="left", maintain_order="left")
    )
    unused = images.join(annotations.select("image"), on="image", how="anti", maintain_order="left")
    rows = pl.concat([rows, unused], how="diagonal").with_columns(reason=_reason())
    pixels, fractions = rows.filter(~pl.col("is_relative").fill_null(False)), rows.filter(pl.col("is_relative"))
    notes = _describe_rows(rows)
    table = split_rows(path, pixels, options, notes, unit="pixels")
    if not fractions.height:
        return table
    relative = split_rows(path, fractions, options)
    return LabelTable(
        pl.concat([table.rows, relative.rows]),
        pl.concat([table.left_out, relative.left_out]),
        tuple(dict.fromkeys(table.notes + relative.notes)),
    )


FORMAT = LabelFormat("coco", "COCO and COCO Camera Traps", is_coco, read_coco)


def _read_arrays(path: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    readers = {"images": _read_image, "annotations": _read_annotation, "categories": _read_category}
    chunks = {"images": RowChunks(_IMAGE), "annotations": RowChunks(_ANNOTATION), "categories": RowChunks(_CATEGORY)}
    keys = set[str]()
    for item in iter_json_items(path, ARRAYS):
        keys.add(item.key)
        if item.key in readers:
            chunks[item.key].append(read_item(path, item, readers[item.key]))
    frames = {key: chunk.join() for key, chunk in chunks.items()}
    if missing := [key for key in ARRAYS if not frames[key].height]:
        raise SourceError(
            f"{path} has no {format_names(missing)}; its keys are: {format_names(sorted(keys))}. Expected COCO, with"
            " the arrays images, annotations and categories."
        )
    return frames["images"], frames["annotations"], frames["categories"]


def _read_image(image: dict[str, object]) -> list[Cell]:
    width, height = image.get("width"), image.get("height")  # of the picture that pixels are of
    return [
        required_text(image["id"]),
        required_text(image["file_name"]),
        cell_text(image.get("location")),
        cell_text(image.get("seq_id")),
        cell_text(image.get("datetime")),  # not date_captured: exports write the time of the export there
        float(width) if isinstance(width, int | float) and 1 <= width <= MAX_SIDE else None,
        float(height) if isinstance(height, int | float) and 1 <= height <= MAX_SIDE else None,
        image.get("corrupt") is True,
    ]


def _read_annotation(annotation: dict[str, object]) -> list[Cell]:
    box, relative = annotation.get("bbox"), annotation.get("bbox_relative")
    is_relative = not box and bool(relative)
    value = relative if is_relative else box
    return [
        required_text(annotation["image_id"]),
        required_text(annotation["category_id"]),
        *(read_box(value) if value else (None,) * 4),
        is_relative,
        annotation.get("sequence_level_annotation") is True,
    ]


def _read_category(category: dict[str, object]) -> list[Cell]:
    return [required_text(category["id"]), required_text(category["name"])]


def _reason() -> pl.Expr:
    return (
        pl.when(pl.col("is_corrupt"))
        .then(pl.lit(CORRUPT))
        .when(pl.col("file").is_null())
        .then(pl.lit(PICTURE_MISSING))
        .when(pl.col("is_annotated").is_null())
        .then(pl.lit(WITHOUT_ANNOTATION))
        .when(pl.col("label").is_null())
        .then(pl.lit(CATEGORY_MISSING))
    )


def _describe_rows(rows: pl.DataFrame) -> list[str]:
    notes = []
    of_sequence = rows.filter(pl.col("of_sequence"))
    if of_sequence.height:
        notes.append(
            f"{format_count(of_sequence.height, 'label is', 'labels are')} of a whole sequence"
            " (sequence_level_annotation): single pictures of it may be empty."
        )
    for reason, column in ((PICTURE_MISSING, "image"), (CATEGORY_MISSING, "category")):
        missing = rows.filter(pl.col("reason") == reason)[column].unique(maintain_order=True).drop_nulls().to_list()
        if missing:
            notes.append(
                f"Annotations name {len(missing):,} {column} ids that the file does not have: {format_names(missing)}."
            )
    return notes
