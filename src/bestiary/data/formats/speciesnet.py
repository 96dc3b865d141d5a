"""SpeciesNet's predictions.json: before version 5 a prediction for each picture, since then one for each detection.

Format: README.md and speciesnet/ of google/cameratrapai; the new one has info.format_version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from bestiary.data.formats.json_items import iter_json_items, peek_json_keys, read_item
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.megadetector import BAD_CONFIDENCE, BELOW_THRESHOLD, NOT_READ
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
from bestiary.data.formats.taxonomy import COMMON_NAME, scientific_name, split_taxon
from bestiary.errors import SourceError

NEW_VERSION = "20261015"
# The detector is MegaDetector 5, whose authors name 0.2 as typical.
DETECTION_THRESHOLD = 0.2
WHOLE_PICTURE = "0"  # category of a detection that is none
CATEGORIES = {"1": "animal", "2": "human", "3": "vehicle"}
WITHOUT_PREDICTION, WITHOUT_LABEL = "picture without a prediction", "detection without a label of its own"
_ROW = {
    "file": pl.String,
    "site": pl.String,
    "taxon": pl.String,
    "category": pl.String,
    "confidence": pl.Float64,
    **dict.fromkeys(BOX_COLUMNS, pl.Float64),
    "reason": pl.String,
}
_NO_BOX = (None, None, None, None)


def is_speciesnet(path: Path) -> bool:
    """Return whether a JSON file begins as predictions of SpeciesNet do, old or new."""
    if path.suffix.lower() != ".json":
        return False
    return "filepath" in peek_json_keys(path).get("predictions", ())


def read_speciesnet(path: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each picture (before SpeciesNet 5) or each detection with enough confidence (since then).

    The label is the scientific name; `columns` may name label=common_name instead. In an old file the row of a picture
    has the box of its most confident detection, which is what SpeciesNet classifies; its other detections are left out
    by name. A picture without detections is empty. Raises SourceError for an unknown version and repeated files.
    """
    columns = choose_columns("speciesnet", options, {"label": ("scientific_name", COMMON_NAME)}, source=path)
    is_common = columns.get("label") == COMMON_NAME
    old, new, pictures = RowChunks(_ROW), RowChunks(_ROW), RowChunks({"file": pl.String})
    info: Any = None
    for item in iter_json_items(path, ("predictions",)):
        if item.key == "info":
            info = item.value
        elif item.key == "predictions":
            pictures.append([read_item(path, item, lambda picture: required_text(picture["filepath"]))])
            # `info` may follow, and tells which of the two it is; a picture is read as both only if it could be either.
            for row in read_item(path, item, _read_old):
                old.append(row)
            for row in read_item(path, item, _read_new):
                new.append(row)
    is_new = _is_new(path, info)
    files = pictures.join()["file"]
    if not len(files):
        raise SourceError(f"{path} has no predictions. Expected predictions.json of SpeciesNet, with at least one.")
    check_unique(path, "filepath", files)
    rows = (new if is_new else old).join()
    names = rows.select("taxon").with_columns(split_taxon(pl.col("taxon")))
    label = names.select(pl.coalesce(COMMON_NAME, scientific_name()) if is_common else scientific_name()).to_series()
    rows = rows.with_columns(label=pl.coalesce(label, pl.col("category").replace(CATEGORIES)))
    version = f"SpeciesNet {'5' if is_new else 'before 5'}"
    notes = [
        f"Predictions of {version}; labels are the {'common' if is_common else 'scientific'} names of a model, not of"
        " people.",
        f"Detections count from a confidence of {DETECTION_THRESHOLD:g}, typical of MegaDetector 5.",
    ]
    return split_rows(path, rows, options, notes)


FORMAT = LabelFormat("speciesnet", "SpeciesNet predictions", is_speciesnet, read_speciesnet)


def _is_new(path: Path, info: Any) -> bool:
    if info is None:
        return False
    version = info.get("format_version") if isinstance(info, dict) else None
    if str(version) != NEW_VERSION:
        raise SourceError(
            f"{path} has the format version {version!r:.40}. Expected {NEW_VERSION}, of SpeciesNet 5, or a file of an"
            " older SpeciesNet, which has no info."
        )
    return True


def _read_old(picture: dict[str, Any]) -> list[list[Cell]]:
    """Return the row of a picture, with the box of its best detection, and those of its other detections."""
    file, site = required_text(picture["filepath"]), _read_site(picture)
    if picture.get("failures") and "prediction" not in picture:
        return [[file, site, None, None, None, *_NO_BOX, NOT_READ]]
    taxon = cell_text(picture.get("prediction")) or _first_class(picture.get("classifications"))
    rows = [_read_detection(file, site, detection) for detection in _detections(picture)]
    usable = [row for row in rows if row[-1] is None]
    best = max(usable, key=lambda row: float(row[4] or 0), default=None) if taxon and not _is_blank(taxon) else None
    rows = [[*row[:-1], row[-1] or WITHOUT_LABEL] for row in rows if row is not best]
    if taxon is None:
        return [[file, site, None, None, None, *_NO_BOX, WITHOUT_PREDICTION], *rows]
    return [[file, site, taxon, None, None, *(best[5:9] if best else _NO_BOX), None], *rows]


def _read_new(picture: dict[str, Any]) -> list[list[Cell]]:
    """Return the row of each detection, and one labelled empty if none has enough confidence."""
    file, site = required_text(picture["filepath"]), _read_site(picture)
    if picture.get("failures") or picture.get("detections") is None:
        return [[file, site, None, None, None, *_NO_BOX, NOT_READ]]
    rows = []
    for detection in _detections(picture):
        row = _read_detection(file, site, detection)
        if row[3] == WHOLE_PICTURE:
            row[5:9] = _NO_BOX
        result = detection.get("processed_classification")
        row[2] = cell_text(result["class"]) if isinstance(result, dict) else None
        if row[2] is None and row[3] not in CATEGORIES and row[-1] is None:
            row[-1] = WITHOUT_LABEL
        rows.append(row)
    if all(row[-1] == BELOW_THRESHOLD for row in rows):
        rows.append([file, site, ";;;;;;blank", None, None, *_NO_BOX, None])
    return rows


def _detections(picture: dict[str, Any]) -> list[dict[str, Any]]:
    detections = picture.get("detections") or []
    if not isinstance(detections, list) or not all(isinstance(detection, dict) for detection in detections):
        raise TypeError(f"detections is {detections!r:.60}; expected an array of objects")
    return detections


def _read_detection(file: str, site: str | None, detection: dict[str, Any]) -> list[Cell]:
    confidence = detection["conf"]
    is_number = (type(confidence) is float or type(confidence) is int) and 0 <= confidence <= 1
    reason = None if is_number else BAD_CONFIDENCE
    if is_number and confidence < DETECTION_THRESHOLD:
        reason = BELOW_THRESHOLD
    category = required_text(detection["category"])
    box = _NO_BOX if category == WHOLE_PICTURE else read_box(detection["bbox"])
    return [file, site, None, category, float(confidence) if is_number else None, *box, reason]


def _read_site(picture: dict[str, Any]) -> str | None:
    latitude, longitude = picture.get("latitude"), picture.get("longitude")
    return None if latitude is None or longitude is None else f"{latitude},{longitude}"


def _first_class(classifications: Any) -> str | None:
    classes = classifications.get("classes") if isinstance(classifications, dict) else None
    return cell_text(classes[0]) if classes else None


def _is_blank(taxon: str) -> bool:
    return taxon.rpartition(";")[2].strip().lower() in ("blank", "")
