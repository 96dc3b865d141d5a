"""Reads predictions back from a file that `PredictionFile` writes, for what is computed of all of them at the end."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bestiary.box import pop_box
from bestiary.inference.predictor import Prediction
from bestiary.inference.writers import parse_csv_path


def iter_jsonl(path: Path, classes: Sequence[str]) -> Iterator[Prediction]:
    """Yield the predictions of a file of JSON lines, as written or as collected for parquet."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            values = json.loads(line)
            if "probabilities" in values:
                box = pop_box(values)
                yield Prediction(**{"labels": None, **values, "box": box})
            else:
                yield flat_prediction(values, classes)


def iter_csv(path: Path, classes: Sequence[str]) -> Iterator[Prediction]:
    """Yield the predictions of a CSV."""
    with path.open(encoding="utf-8", errors="replace", newline="") as lines:
        for row in csv.DictReader(lines):
            values: dict[str, Any] = {name: cell or None for name, cell in row.items()}
            is_unknown = str(values["unknown"]).lower() == "true"
            yield flat_prediction({**values, "path": parse_csv_path(row["path"]), "unknown": is_unknown}, classes)


def iter_rows(rows: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> Iterator[Prediction]:
    """Yield the predictions of the rows of a table."""
    return (flat_prediction(row, classes) for row in rows)


def flat_prediction(values: Mapping[str, Any], classes: Sequence[str]) -> Prediction:
    """Return the prediction of a row with the columns `writers.prediction_columns`, without its prediction set."""
    error = values["error"]
    probabilities = {} if error is not None else {name: float(values[f"p_{name}"]) for name in classes}
    return Prediction(
        path=values["path"],
        label=values["label"],
        probability=float(values["probability"]),
        unknown=bool(values["unknown"]),
        familiarity=float(values["familiarity"]),
        probabilities=probabilities,
        error=error,
    )
