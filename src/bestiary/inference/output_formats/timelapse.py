"""Timelapse CSV: `File` and `RelativePath` as Timelapse writes them, then fields of the prediction.

Timelapse imports the fields whose data labels its template has: Label, Probability, Unknown and Error. To keep the
fields of a table that Timelapse has exported, predict with `--table` instead.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from bestiary.files import atomic_path
from bestiary.inference import writers
from bestiary.inference.output_formats.conversion import Conversion, decimal, relative_name
from bestiary.inference.predictor import Prediction

COLUMNS = ("File", "RelativePath", "Label", "Probability", "Unknown", "Error")


def write_timelapse(predictions: Iterable[Prediction], path: Path, conversion: Conversion) -> list[str]:
    """Write one row a picture, each as it comes. Returns no notices.

    RelativePath is the folder of the picture below the input folder, with backslashes; it and File are as Timelapse
    needs them, also where a spreadsheet would run them as a formula. The label of an unknown picture is empty, unless
    unknown pictures have a label of their own.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out,
    ):
        rows = csv.writer(out, lineterminator="\r\n")
        rows.writerow(COLUMNS)
        for prediction in predictions:
            file, folder, *cells = _cells(prediction, conversion)
            rows.writerow([file, folder, *(writers.escape_formula(cell, "'") for cell in cells)])
    return []


def _cells(prediction: Prediction, conversion: Conversion) -> list[Any]:
    name = PurePosixPath(relative_name(prediction.path, conversion.folder))
    folder = "" if name.parent == PurePosixPath() else str(name.parent).replace("/", "\\")
    if prediction.error is not None:
        return [name.name, folder, "", "", "false", prediction.error]
    is_named = not prediction.unknown or conversion.unknown_label is not None
    label = prediction.label if is_named else ""
    return [name.name, folder, label, decimal(prediction.probability), str(prediction.unknown).lower(), ""]
