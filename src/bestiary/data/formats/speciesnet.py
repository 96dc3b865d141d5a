"""SpeciesNet's predictions.json: before version 5 a prediction for each picture, since then one for each detection.

Format: README.md of google/cameratrapai and of the package speciesnet; the new one has info.format_version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.data.formats.json_items import iter_json_items, peek_json_keys, read_item
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.megadetector import BAD_CONFIDENCE, BELOW_THRESHOLD, CLASSIFIED_EMPTY, NOT_READ
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
BLANK = ";;;;;;blank"
WHOLE_PICTURE = "0"  # category of a detection that is none
CATEGORIES = {"1": "animal", "2": "human", "3": "vehicle"}
WITHOUT_PREDICTION, WITHOUT_LABEL = "picture without a prediction", "detection without a label of its own"
_ROW = {
    "file": pl.String,
    "site": pl.String,
    "taxon": pl.String,
    "category": pl.String,
    **dict.fromkeys((*BOX_COLUMNS, "box_confidence"), pl.Float64),
    "reason": pl.String,
}
_NO_BOX = (None, None, None, None)


@dataclass(frozen=True)
class _Detection:
    """A box with its category, its confidence and the taxon it was classified as; reason: why it cannot be used."""

    category: str | None = None
    confidence: float = 0.0
    box: tuple[float | None, ...] = _NO_BOX
    taxon: str | None = None
    reason: str | None = None


def is_speciesnet(path: Path) -> bool:
    """Return whether a JSON file begins as predictions of SpeciesNet do, old or new."""
    if path.suffix.lower() != ".json":
        return False
    return "filepath" in peek_json_keys(path).get("predictions", ())


def read_speciesnet(path: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each picture (before SpeciesNet 5) or each classified detection (since then).

    The label is the scientific name; `columns` may name label=common_name instead. Where the label is of the picture,
    its row has the box of the most confident detection, and the other detections are left out by name. A picture
    without detections, or with none but blank ones, is empty. Raises SourceError for an unknown version and repeated
    files.
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
        f"Detections without a classification count from a confidence of {DETECTION_THRESHOLD:g}, typical of"
        " MegaDetector 5.",
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
            " older SpeciesNet, which has no info. If the file is newer, update bestiary."
        )
    return True


def _read_old(picture: dict[str, Any]) -> list[list[Cell]]:
    """Return the row of a picture, with the box of its best detection, and those of its other detections."""
    taxon = cell_text(picture.get("prediction")) or _first_class(picture.get("classifications"))
    detections = [_read_detection(detection) for detection in _detections(picture)]
    if taxon is None:
        reason = NOT_READ if picture.get("failures") else WITHOUT_PREDICTION
        return [_row(picture, None, reason), *_leave_out(picture, detections)]
    return _label_picture(picture, taxon, detections)


def _read_new(picture: dict[str, Any]) -> list[list[Cell]]:
    """Return the row of each detection, and one labelled empty if none shows anything.

    A classifier of whole pictures adds a detection of its own, first; then the file is as the old ones are.
    """
    if picture.get("detections") is None:
        return [_row(picture, None, NOT_READ)]
    detections = [_read_detection(detection) for detection in _detections(picture)]
    whole = next((detection for detection in detections if detection.category == WHOLE_PICTURE), None)
    if whole is not None and whole.taxon is not None:
        return _label_picture(picture, whole.taxon, [detection for detection in detections if detection is not whole])
    is_classified = any(detection.taxon is not None for detection in detections)
    reasons = [detection.reason or _find_reason(detection, is_classified) for detection in detections]
    rows = [_row(picture, *pair) for pair in zip(detections, reasons, strict=True)]
    if set(reasons) <= {BELOW_THRESHOLD, CLASSIFIED_EMPTY}:
        rows.append(_row(picture, _Detection(taxon=BLANK), None))
    return rows


def _label_picture(picture: dict[str, Any], taxon: str, detections: list[_Detection]) -> list[list[Cell]]:
    usable = [d for d in detections if d.reason is None and d.confidence >= DETECTION_THRESHOLD and d.box != _NO_BOX]
    best = max(usable, key=lambda detection: detection.confidence, default=None)
    if best is None or _is_blank(taxon):
        return [_row(picture, _Detection(taxon=taxon), None), *_leave_out(picture, detections)]
    rest = [detection for detection in detections if detection is not best]
    return [_row(picture, replace(best, taxon=taxon), None), *_leave_out(picture, rest)]


def _leave_out(picture: dict[str, Any], detections: list[_Detection]) -> list[list[Cell]]:
    low = [BELOW_THRESHOLD if detection.confidence < DETECTION_THRESHOLD else WITHOUT_LABEL for detection in detections]
    return [_row(picture, d, d.reason or reason) for d, reason in zip(detections, low, strict=True)]


def _find_reason(detection: _Detection, is_classified: bool) -> str | None:
    """Return why a detection becomes no label.

    is_classified: whether the picture has classified detections. SpeciesNet classifies those from a confidence of 0.1,
    and what it answers decides; those beyond a maximum that the user set are only an animal, a human or a vehicle.
    """
    if detection.taxon is not None:
        return CLASSIFIED_EMPTY if _is_blank(detection.taxon) else None
    if detection.confidence < DETECTION_THRESHOLD:
        return BELOW_THRESHOLD
    is_species_missing = is_classified and detection.category == "1"
    return WITHOUT_LABEL if is_species_missing or detection.category not in CATEGORIES else None


def _row(picture: dict[str, Any], detection: _Detection | None, reason: str | None) -> list[Cell]:
    detection = detection or _Detection()
    file, site = required_text(picture["filepath"]), _read_site(picture)
    confidence = None if detection.box == _NO_BOX else detection.confidence
    return [file, site, detection.taxon, detection.category, *detection.box, confidence, reason]


def _detections(picture: dict[str, Any]) -> list[dict[str, Any]]:
    detections = picture.get("detections") or []
    if not isinstance(detections, list) or not all(isinstance(detection, dict) for detection in detections):
        raise TypeError(f"detections is {detections!r:.60}; expected an array of objects")
    return detections


def _read_detection(detection: dict[str, Any]) -> _Detection:
    confidence, category = detection["conf"], required_text(detection["category"])
    is_number = (type(confidence) is float or type(confidence) is int) and 0 <= confidence <= 1
    result = detection.get("processed_classification")
    return _Detection(
        category=category,
        confidence=float(confidence) if is_number else 0.0,
        box=_NO_BOX if category == WHOLE_PICTURE else read_box(detection["bbox"]),
        taxon=cell_text(result["class"]) if result else _first_class(detection.get("raw_classifications")),
        reason=None if is_number else BAD_CONFIDENCE,
    )


def _read_site(picture: dict[str, Any]) -> str | None:
    latitude, longitude = picture.get("latitude"), picture.get("longitude")
    has_coordinates = isinstance(latitude, int | float) and isinstance(longitude, int | float)
    return f"{latitude},{longitude}" if has_coordinates else None


def _first_class(classifications: Any) -> str | None:
    classes = classifications.get("classes") if isinstance(classifications, dict) else None
    return cell_text(classes[0]) if classes else None


def _is_blank(taxon: str) -> bool:
    return taxon.rpartition(";")[2].strip().lower() == "blank"
