"""Label Studio pre-annotations: tasks to import, each with the prediction of a picture.

The labelling interface needs `<Image name="image" value="$image"/>` and `<Choices name="choice" toName="image">`, as in
Label Studio's template for the classification of pictures. For boxes it needs `<RectangleLabels name="label"
toName="image">`, as in the template for bounding boxes; each box is a task.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bestiary.files import atomic_path
from bestiary.inference.output_formats.conversion import Conversion, decimal, dump_json, fraction_box, relative_name
from bestiary.inference.predictor import Prediction

LOCAL_FILES = "/data/local-files/?d="  # Label Studio's address of a file in its document root
FROM_NAME, BOX_NAME, TO_NAME = "choice", "label", "image"


def write_label_studio(predictions: Iterable[Prediction], path: Path, conversion: Conversion) -> list[str]:
    """Write a list of tasks, each as it comes, in constant memory. Returns what to know about the addresses.

    An unknown picture has a prediction only if unknown pictures have a label of their own, and an unreadable one has
    none; both are tasks, and their `data` says why.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as out:
        out.write("[")
        for row, prediction in enumerate(predictions):
            out.write(("," if row else "") + "\n" + dump_json(_task(prediction, conversion)))
        out.write("\n]\n")
    root = "the folder of the pictures" if conversion.folder is None else str(conversion.folder)
    return [f"Addresses begin with {LOCAL_FILES}: {root} is the document root of Label Studio's local files."]


def _task(prediction: Prediction, conversion: Conversion) -> dict[str, Any]:
    name = relative_name(prediction.path, conversion.folder)
    facts: dict[str, Any] = {"image": LOCAL_FILES + quote(name), "file": name, "unknown": prediction.unknown}
    if prediction.error is not None:
        return {"data": facts | {"error": prediction.error}}
    facts["familiarity"] = decimal(prediction.familiarity)
    if prediction.unknown and conversion.unknown_label is None:
        return {"data": facts | {"nearest": prediction.label}}
    result: dict[str, Any] = {
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "type": "choices",
        "value": {"choices": [prediction.label]},
    }
    if prediction.box is not None:
        sides = zip(("x", "y", "width", "height"), fraction_box(prediction), strict=True)
        value = {name: decimal(100 * side) for name, side in sides} | {"rotation": 0}
        result |= {"from_name": BOX_NAME, "type": "rectanglelabels"}
        result["value"] = value | {"rectanglelabels": [prediction.label]}
    score = 1 - prediction.familiarity if prediction.unknown else prediction.probability
    answer = {"model_version": conversion.classifier, "score": decimal(score), "result": [result]}
    return {"data": facts, "predictions": [answer]}
