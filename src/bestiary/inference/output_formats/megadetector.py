"""MegaDetector results, format 1.6: what Timelapse, AddaxAI and MegaDetector's own tools read.

The format keeps classes with detections, and every detection has a box. A box of a detector keeps its confidence, and
all classes of the model are its classifications. A box without a confidence, or the whole picture, has a detection for
each kind of thing that the model knows: animal, person, vehicle. Its confidence is then the calibrated probability of
that kind. What is like none of the classes has the category "unknown", without classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bestiary.files import atomic_path
from bestiary.inference.output_formats.conversion import (
    WHOLE_PICTURE,
    Conversion,
    decimal,
    dump_json,
    fraction_box,
    ranked_classes,
    relative_name,
    utc_now,
)
from bestiary.inference.predictor import Prediction
from bestiary.special_labels import special_family

FORMAT_VERSION = "1.6"  # as text, which 1.6 asks for
CATEGORIES = {"animal": "1", "human": "2", "vehicle": "3", "unknown": "4"}
CATEGORY_NAMES = {"1": "animal", "2": "person", "3": "vehicle", "4": "unknown"}
LEAST_CONFIDENCE = 0.005  # of a detection that is written, as of MegaDetector itself
BOXES = "None was detected: the box of each detection is the whole picture."
CLASSIFIED_BOXES = "Those that were classified, of another detector; without one, the box is the whole picture."


def write_megadetector(predictions: Iterable[Prediction], path: Path, conversion: Conversion) -> list[str]:
    """Write the predictions, each as it comes, in constant memory. Returns no notices.

    predictions: those of a picture together, since a file may occur once in this format.
    """
    head = {
        "info": {
            "format_version": FORMAT_VERSION,
            "detector": "unknown" if conversion.boxes else "none",
            "classifier": conversion.classifier,
            "classification_completion_time": utc_now().strftime("%Y-%m-%d %H:%M:%S"),
            "classifier_metadata": {"boxes": CLASSIFIED_BOXES if conversion.boxes else BOXES},
            **conversion.detector,
        },
        "detection_categories": CATEGORY_NAMES,
        "classification_categories": {str(index): name for index, name in enumerate(conversion.classes)},
    }
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(dump_json(head)[:-1] + ', "images": [')
        for row, entries in enumerate(_group_boxes(predictions, conversion)):
            out.write(("," if row else "") + "\n" + dump_json(_image(entries, conversion)))
        out.write("\n]}\n")
    return []


def _group_boxes(predictions: Iterable[Prediction], conversion: Conversion) -> Iterator[list[Prediction]]:
    """Yield the predictions of each picture: one, or those of its boxes, which follow one another."""
    if not conversion.boxes:
        yield from ([prediction] for prediction in predictions)
        return
    for _, boxes in itertools.groupby(predictions, lambda prediction: prediction.path):
        yield list(boxes)


def _image(boxes: list[Prediction], conversion: Conversion) -> dict[str, Any]:
    """Return the entry of a picture; a box that cannot be looked at fails the picture only if no other can."""
    file = relative_name(boxes[0].path, conversion.folder)
    read = [prediction for prediction in boxes if prediction.error is None]
    if not read:
        return {"file": file, "failure": boxes[0].error, "detections": None}
    detections = [
        detection | {"bbox": list(fraction_box(prediction))}
        for prediction in read
        for detection in _detections(prediction, conversion.classes)
    ]
    return {"file": file, "detections": detections}


def _detections(prediction: Prediction, classes: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    """Yield the detections of a picture or box, the most confident first; none of a blank picture."""
    detected = None if prediction.box is None else prediction.box.confidence
    if prediction.unknown:
        yield _detection("unknown", 1 - prediction.familiarity if detected is None else detected)
        return
    ids = {name: str(index) for index, name in enumerate(classes)}
    families = {
        family: [name for name in classes if (special_family(name) or "animal") == family] for family in CATEGORIES
    }
    confidences = {family: sum(prediction.probabilities[name] for name in families[family]) for family in CATEGORIES}
    if detected is not None:
        family = max(confidences, key=lambda name: (confidences[name], name == "animal"))
        names = [[ids[name], decimal(probability)] for name, probability in ranked_classes(prediction, classes)]
        yield _detection(family, detected) | {"classifications": names}
        return
    for family, confidence in sorted(confidences.items(), key=lambda pair: -pair[1]):
        if families[family] and confidence >= LEAST_CONFIDENCE:
            ranked = ranked_classes(prediction, families[family])
            names = [[ids[name], decimal(probability)] for name, probability in ranked]
            yield _detection(family, min(1.0, confidence)) | {"classifications": names}


def _detection(family: str, confidence: float) -> dict[str, Any]:
    return {"category": CATEGORIES[family], "conf": decimal(confidence), "bbox": list(WHOLE_PICTURE)}
