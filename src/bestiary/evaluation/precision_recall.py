"""Precision-recall curves and average precision of the classes on the test pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from bestiary.array_types import Floats


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """A class, its average precision in [0, 1], its number of pictures, and its precision at every recall.

    precision, recall: float (thresholds + 1,), from scikit-learn's `precision_recall_curve`, recall falling from 1 to
    0. operating_point: precision and recall of the predicted labels, None if the class is never predicted.
    """

    label: str
    average: float
    pictures: int
    precision: Floats
    recall: Floats
    operating_point: tuple[float, float] | None


def lowest_average_precision(test: pl.DataFrame, labels: Sequence[str], max_curves: int) -> list[PrecisionRecallCurve]:
    """Return the `max_curves` classes with the lowest average precision, the lowest first.

    test: `label`, `predicted` and `p_<label>`; a class without pictures or without its column is left out.
    """
    present = [label for label in labels if f"p_{label}" in test.columns and (test["label"] == label).any()]
    averages = sorted((average_precision(test, label), label) for label in present)
    return [_precision_recall_curve(test, label, average) for average, label in averages[:max_curves]]


def average_precision(test: pl.DataFrame, label: str) -> float:
    """Return the average precision of a class that has pictures: the area under the steps of its curve."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score((test["label"] == label).to_numpy(), test[f"p_{label}"].to_numpy()))


def _precision_recall_curve(test: pl.DataFrame, label: str, average: float) -> PrecisionRecallCurve:
    from sklearn.metrics import precision_recall_curve

    y_true, y_pred = ((test[column] == label).to_numpy() for column in ("label", "predicted"))
    precision, recall, _ = precision_recall_curve(y_true, test[f"p_{label}"].to_numpy())
    point = (float(y_true[y_pred].mean()), float(y_pred[y_true].mean())) if y_pred.any() else None
    return PrecisionRecallCurve(label, average, int(y_true.sum()), precision, recall, point)
