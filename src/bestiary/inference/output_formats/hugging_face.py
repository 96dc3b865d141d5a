"""Hugging Face metadata: `metadata.csv` or `metadata.jsonl` beside the pictures, which `imagefolder` reads."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bestiary.errors import UserError
from bestiary.files import atomic_path
from bestiary.inference import writers
from bestiary.inference.output_formats.conversion import Conversion, decimal, dump_json
from bestiary.inference.predictor import Prediction
from bestiary.text import format_count, printable

FILE_NAMES = ("metadata.jsonl", "metadata.csv")  # that `imagefolder` looks for
COLUMNS = ("file_name", "label", "probability", "unknown", "familiarity", "error")


def check_file_name(path: Path) -> None:
    """Raise UserError unless the file has a name that Hugging Face's imagefolder looks for."""
    if path.name not in FILE_NAMES:
        raise UserError(f"{path}: imagefolder reads {' or '.join(FILE_NAMES)} only. Give --out such a name.")


def write_hugging_face(predictions: Iterable[Prediction], path: Path, conversion: Conversion) -> list[str]:
    """Write the predictions, each as it comes; `file_name` is relative to the file. Returns notices.

    The label of an unknown picture is missing, unless unknown pictures have a label of their own: whoever loads the
    folder would take the nearest class for the truth.
    """
    folder, outside = Path(os.path.abspath(path)).parent, 0  # noqa: PTH100 - links are not followed
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        if path.suffix == ".csv":
            rows.writerow(COLUMNS)
        for prediction in predictions:
            values = _values(prediction, folder, conversion)
            outside += values["file_name"].startswith("../")
            if path.suffix == ".csv":
                first, *cells = values.values()
                rows.writerow([writers.escape_formula(first, "./"), *(writers.escape_formula(c, "'") for c in cells)])
            else:
                out.write(dump_json(values) + "\n")
    if not outside:
        return []
    subject = format_count(outside, "picture lies", "pictures lie")
    return [f"{subject} outside {path.parent}: imagefolder cannot load them. Write {path.name} there."]


def _values(prediction: Prediction, folder: Path, conversion: Conversion) -> dict[str, Any]:
    name = Path(os.path.relpath(str(prediction.path), folder)).as_posix()
    is_read = prediction.error is None
    is_named = is_read and not (prediction.unknown and conversion.unknown_label is None)
    values = (
        printable(name),
        prediction.label if is_named else None,
        decimal(prediction.probability) if is_read else None,
        prediction.unknown if is_read else None,
        decimal(prediction.familiarity) if is_read else None,
        prediction.error,
    )
    return dict(zip(COLUMNS, values, strict=True))
