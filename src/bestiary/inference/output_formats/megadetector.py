"""MegaDetector results, format 1.6: what Timelapse, AddaxAI and MegaDetector's own tools read.

The format keeps classes with detections, and every detection has a box. Here the box is the whole picture, with a
detection for each kind of thing that the model knows: animal, person, vehicle. Its confidence is the calibrated
probability that the picture shows that kind. A picture that is like none of the classes has the category "unknown",
without classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bestiary.files import atomic_path
from bestiary.inference.output_formats.conversion import (
    Conversion,
    decimal,
    dump_json,
    ranked_classes,
    relative_name,
    utc_now,
)
from bestiary.inference.predictor import Prediction
from bestiary.special_labels import special_family

FORMAT_VERSION = "1.6"  # as text, which 1.6 asks for
CATEGORIES = {"animal": "1", "human": "2", "vehicle": "3", "unknown": "4"}
CATEGORY_NAMES = {"1": "animal", "2": "person", "3": "vehicle", "4": "unknown"}
WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)
LEAST_CONFIDENCE = 0.005  # of a detection that is written, as of MegaDetector itself
BOXES = "None was detected: the box of each detection is the whole picture."


def write_megadetector(predictions: Iterable[Prediction], path: Path, conversion: Conversion) -> list[str]:
    """Write the predictions, each as it comes, in constant memory. Returns no notices."""
    head = {
        "info": {
            "format_version": FORMAT_VERSION,
            "detector": "none",
            "classifier": conversion.classifier,
            "classification_completion_time": utc_now().strftime("%Y-%m-%d %H:%M:%S"),
            "classifier_metadata": {"boxes": BOXES},
        },
        "detection_categories": CATEGORY_NAMES,
        "classification_categories": {str(index): name for index, name in enumerate(conversion.classes)},
    }
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(dump_json(head)[:-1] + ', "images": [')
        for row, prediction in enumerate(predictions):
            out.write(("," if row else "") + "\n" + dump_json(_image(prediction, conversion)))
        out.write("\n]}\n")
    return []


def _image(prediction: Prediction, conversion: Conversion) -> dict[str, Any]:
    file = relative_name(prediction.path, conversion.folder)
    if prediction.error is not None:
        return {"file": file, "failure": prediction.error, "detections": None}
    return {"file": file, "detections": list(_detections(prediction, conversion.classes))}


def _detections(prediction: Prediction, classes: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    """Yield the detections of a picture, the most confident first; none of a blank one."""
    if prediction.unknown:
        yield _detection("unknown", 1 - prediction.familiarity)
        return
    ids = {name: str(index) for index, name in enumerate(classes)}
    families = {
        family: [name for name in classes if (special_family(name) or "animal") == family] for family in CATEGORIES
    }
    confidences = {family: sum(prediction.probabilities[name] for name in families[family]) for family in CATEGORIES}
    for family, confidence in sorted(confidences.items(), key=lambda pair: -pair[1]):
        if families[family] and confidence >= LEAST_CONFIDENCE:
            ranked = ranked_classes(prediction, families[family])
            names = [[ids[name], decimal(probability)] for name, probability in ranked]
            yield _detection(family, min(1.0, confidence)) | {"classifications": names}


def _detection(family: str, confidence: float) -> dict[str, Any]:
    return {"category": CATEGORIES[family], "conf": decimal(confidence), "bbox": list(WHOLE_PICTURE)}
