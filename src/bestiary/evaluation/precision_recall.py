"""How well the probability of a class ranks the test pictures: average precision, precision against recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from bestiary.array_types import Floats


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """A class, its average precision in [0, 1], how many pictures it has, and its precision at every recall.

    precision, recall: float (thresholds + 1,), as scikit-learn's `precision_recall_curve` gives them, recall falling
    from 1 to 0; shipped: precision and recall of the labels that were predicted, None if the class never was.
    """

    label: str
    average: float
    pictures: int
    precision: Floats
    recall: Floats
    operating_point: tuple[float, float] | None


def lowest_average_precision(test: pl.DataFrame, labels: Sequence[str], max_curves: int) -> list[PrecisionRecallCurve]:
    """Return the classes with the lowest average precision, at most so many, the lowest first.

    test: `label`, `predicted` and `p_<label>`; a class without pictures or without a column of its own is left out.
    """
    asked = [label for label in labels if f"p_{label}" in test.columns and (test["label"] == label).any()]
    averages = sorted((average_precision(test, label), label) for label in asked)
    return [_precision_recall_curve(test, label, average) for average, label in averages[:max_curves]]


def average_precision(test: pl.DataFrame, label: str) -> float:
    """Return the average precision of a class that has pictures: the area of the steps under its curve."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score((test["label"] == label).to_numpy(), test[f"p_{label}"].to_numpy()))


def _precision_recall_curve(test: pl.DataFrame, label: str, average: float) -> PrecisionRecallCurve:
    from sklearn.metrics import precision_recall_curve

    truth, said = ((test[column] == label).to_numpy() for column in ("label", "predicted"))
    precision, recall, _ = precision_recall_curve(truth, test[f"p_{label}"].to_numpy())
    shipped = (float(truth[said].mean()), float(said[truth].mean())) if said.any() else None
    return PrecisionRecallCurve(label, average, int(truth.sum()), precision, recall, shipped)
