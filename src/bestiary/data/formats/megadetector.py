"""MegaDetector results, format versions 1.2 to 1.6: the boxes of a detector, perhaps with classifications.

Format: megadetector-output-format.md of agentmorris/MegaDetector (https://lila.science/megadetector-output-format).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

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
from bestiary.special_labels import special_family

VERSIONS = ("1.2", "1.3", "1.4", "1.5", "1.6")
# What the format's authors name as typical for MegaDetector 5. Results files recommend one themselves, in
# info.detector_metadata.typical_detection_threshold: it differs between detectors (0.8 for version 4 and before).
DETECTION_THRESHOLD = 0.2
NOT_READ, IS_VIDEO = "picture that the detector could not read", "video"
BELOW_THRESHOLD, BAD_CONFIDENCE = "detection below the confidence threshold", "confidence is no number from 0 to 1"
CLASSIFIED_EMPTY = "detection classified as empty"
DETECTOR_FACTS = ("detector", "detector_metadata", "detection_completion_time")  # keys of info
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".wmv")
CATEGORY_MISSING, CLASS_MISSING = "detection of a category that is not listed", "classification that is not listed"
_DETECTION = {
    "file": pl.String,
    "category": pl.String,
    "class": pl.String,
    "confidence": pl.Float64,
    **dict.fromkeys(BOX_COLUMNS, pl.Float64),
    "reason": pl.String,
}
_PICTURE = {"file": pl.String, "is_read": pl.Boolean}


def is_megadetector(path: Path) -> bool:
    """Return whether a JSON file begins as results of MegaDetector do, of whatever version."""
    if path.suffix.lower() != ".json":
        return False
    keys = peek_json_keys(path)
    return "detection_categories" in keys or "detections" in keys.get("images", ())


def read_megadetector(path: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each detection with enough confidence, and one labelled empty for each picture without any.

    The label is the most probable classification, else the category (animal, person or vehicle).
    Left out by name: detections with less confidence, pictures that were not read, and videos. Raises SourceError for
    another version of the format, for a file that occurs twice, and for boxes that are all in pixels.
    """
    choose_columns("megadetector", options, {}, source=path)
    detections, pictures, keys = _read_results(path)
    info = keys.get("info")
    info = info if isinstance(info, dict) else {}
    _check_version(path, info)
    if not pictures.height:
        raise SourceError(f"{path} has no pictures in images. Expected MegaDetector results of at least one.")
    check_unique(path, "file", pictures["file"])
    threshold, origin = _choose_threshold(info)
    categories = _read_names(path, keys, "detection_categories")
    classes = _read_names(path, keys, "classification_categories")
    rows = detections.with_columns(
        box_confidence=pl.when(pl.col("box_left").is_not_null()).then("confidence"),
        label=pl.coalesce(_replace(pl.col("class"), classes), _replace(pl.col("category"), categories)),
        reason=pl.coalesce("reason", _find_reason(threshold, categories, classes)),
    )
    # A detection of a category that is not listed counts as none, says the format; a broken one does not.
    no_detection = [BELOW_THRESHOLD, CATEGORY_MISSING, CLASSIFIED_EMPTY]
    is_detection = pl.col("reason").is_null() | ~pl.col("reason").is_in(no_detection)
    with_detection = rows.filter(is_detection).select("file")
    empty = pictures.filter("is_read").join(with_detection, on="file", how="anti", maintain_order="left")
    rows = pl.concat([rows, empty.select("file", label=pl.lit("empty"))], how="diagonal")
    notes = [f"Detections count from a confidence of {threshold:g}, {origin}."]
    if classes:
        notes.append("Labels are the most probable classifications, else the categories of the detections.")
    detector = {key: info[key] for key in DETECTOR_FACTS if key in info}
    return replace(split_rows(path, rows, options, notes), detector=detector)


FORMAT = LabelFormat("megadetector", "MegaDetector results", is_megadetector, read_megadetector)


def _find_reason(threshold: float, categories: dict[str, str], classes: dict[str, str]) -> pl.Expr:
    """Return why a detection becomes no label, null if it does."""
    confidence, category, class_id = pl.col("confidence"), pl.col("category"), pl.col("class")
    is_empty = pl.coalesce(class_id.is_in(_empty_ids(classes)), category.is_in(_empty_ids(categories)))
    return (
        pl.when(~confidence.is_between(0, 1).fill_null(False))
        .then(pl.lit(BAD_CONFIDENCE))
        .when(confidence < threshold)
        .then(pl.lit(BELOW_THRESHOLD))
        .when(~category.is_in(list(categories)))
        .then(pl.lit(CATEGORY_MISSING))
        .when(~class_id.is_in(list(classes)))
        .then(pl.lit(CLASS_MISSING))
        .when(is_empty)
        .then(pl.lit(CLASSIFIED_EMPTY))
    )


def _empty_ids(names: dict[str, str]) -> list[str]:
    return [key for key, name in names.items() if special_family(name) == "empty"]


def _read_results(path: Path) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Return the detections with pictures that have none to read, the pictures, and the values of the other keys."""
    detections, pictures = RowChunks(_DETECTION), RowChunks(_PICTURE)
    values: dict[str, Any] = {}
    for item in iter_json_items(path, ("images",)):
        if item.key != "images":
            values[item.key] = item.value
            continue
        file, reason, rows = read_item(path, item, _read_image)
        pictures.append([file, reason is None])
        if reason is not None:
            detections.append([file, None, None, None, None, None, None, None, reason])
        for row in rows:
            detections.append(row)
    return detections.join(), pictures.join(), values


def _read_image(image: dict[str, Any]) -> tuple[str, str | None, list[list[Cell]]]:
    """Return the file, the reason if it has no detections to read, and its detections."""
    file = required_text(image["file"])
    detections = image.get("detections")
    if image.get("failure") is not None or detections is None:
        return file, NOT_READ, []
    if not isinstance(detections, list):
        raise TypeError(f"detections is {detections!r:.60}; expected an array, or null with a failure")
    if "frame_rate" in image or "frames_processed" in image or file.lower().endswith(VIDEO_SUFFIXES):
        return file, IS_VIDEO, []
    return file, None, [_read_detection(file, detection) for detection in detections]


def _read_detection(file: str, detection: dict[str, Any]) -> list[Cell]:
    if not isinstance(detection, dict):
        raise TypeError(f"the detection {detection!r:.60} is no object in braces")
    confidence = detection["conf"]
    classifications = detection.get("classifications")
    return [
        file,
        required_text(detection["category"]),
        _most_probable(classifications) if classifications else None,
        float(confidence) if type(confidence) is float or type(confidence) is int else None,
        *read_box(detection["bbox"]),
        None,
    ]


def _most_probable(classifications: object) -> str | None:
    """Return the id of the most probable class; the format has them in that order, but not all tools write it."""
    if not isinstance(classifications, list):
        raise TypeError(f"classifications is {classifications!r:.60}; expected pairs of a category and a confidence")
    best, best_confidence = None, -1.0
    for pair in classifications:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], int | float):
            raise TypeError(f"the classification {pair!r:.60} is no pair of a category and a confidence")
        if pair[1] > best_confidence:
            best, best_confidence = cell_text(pair[0]), float(pair[1])
    return best


def _check_version(path: Path, info: dict[str, Any]) -> None:
    version = info.get("format_version")
    if str(version) not in VERSIONS:  # 1.6 demands text; converters of older versions wrote numbers
        has = f"the format version {version!s:.40}" if version else "no info.format_version"
        advice = "convert the file with a current version of the tool that wrote it"
        if _is_newer(version):
            advice = f"export version {VERSIONS[-1]}, or update bestiary"
        versions = f"{VERSIONS[0]} to {VERSIONS[-1]}"
        raise SourceError(f"{path} has {has}. Expected MegaDetector results of the versions {versions}: {advice}.")


def _is_newer(version: object) -> bool:
    try:
        parts = [int(part) for part in str(version).split(".")]
    except ValueError:
        return False
    return parts > [int(part) for part in VERSIONS[-1].split(".")]


def _choose_threshold(info: dict[str, Any]) -> tuple[float, str]:
    metadata = info.get("detector_metadata")
    typical = metadata.get("typical_detection_threshold") if isinstance(metadata, dict) else None
    if isinstance(typical, int | float) and 0 < typical < 1:
        return float(typical), "which the file recommends (typical_detection_threshold)"
    return DETECTION_THRESHOLD, "typical of MegaDetector 5; the file recommends none (older detectors need more)"


def _read_names(path: Path, keys: dict[str, Any], key: str) -> dict[str, str]:
    names = keys.get(key)
    if names is None and key == "classification_categories":
        return {}
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise SourceError(f"{path}: {key} must be names by id, such as {{'1': 'animal'}}; it is {names!r:.60}.")
    return {required_text(key): required_text(name) for key, name in names.items()}


def _replace(ids: pl.Expr, names: dict[str, str]) -> pl.Expr:
    return ids.replace_strict(names, default=None, return_dtype=pl.String) if names else pl.lit(None, pl.String)
