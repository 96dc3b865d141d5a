"""What thresholds by class do on test pictures: precision and recall of the answers, and what is left unanswered."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from bestiary.array_types import Array
from bestiary.class_thresholds import warn_unmet
from bestiary.evaluation import intervals
from bestiary.inference.bundle import Bundle


def threshold_metrics(
    predictions: pl.DataFrame, groups: Array, bundle: Bundle, *, folds: int = 0
) -> dict[str, dict[str, Any]]:
    """Return `{"class_thresholds": …}` of metrics.json for a model with thresholds by class, else nothing.

    predictions: with `label`, `predicted`, `unknown`; groups: equal for duplicates. `classes`: by class with a
    threshold, its `threshold` and the stated `precision`, whether it `is_met` on validation, and over these pictures
    `predicted` as the class, of which `unanswered`; `precision_answered` and `recall_answered` with Wilson's intervals,
    null without pictures. `unmet`: warnings. folds: of cross-validation, whose models have thresholds of their own.
    """
    if not bundle.class_thresholds:
        return {}
    answered = ~predictions["unknown"].to_numpy().astype(bool)
    label, predicted = (predictions[column].to_numpy() for column in ("label", "predicted"))
    classes: dict[str, dict[str, Any]] = {}
    for name, chosen in bundle.class_thresholds.items():
        is_predicted, is_true = predicted == name, label == name
        hits = answered & is_predicted & is_true
        classes[name] = {
            **{key: chosen[key] for key in ("precision", "threshold", "is_met")},
            "validation": {key: chosen[key] for key in ("predicted", "answered", "correct", "low", "high")},
            "predicted": int(is_predicted.sum()),
            "unanswered": int((is_predicted & ~answered).sum()),
            "precision_answered": _rate(hits, answered & is_predicted, groups),
            "recall_answered": _rate(hits, is_true, groups),
        }
    metrics = {"classes": classes, "unmet": warn_unmet(bundle.class_thresholds)}
    return {"class_thresholds": metrics | {"sentence": describe_thresholds(classes, answered, folds=folds)}}


def describe_thresholds(classes: dict[str, dict[str, Any]], answered: Array, *, folds: int) -> str:
    """Return how many classes have a threshold, and how many pictures are left unanswered, in words."""
    n, unanswered = len(classes), sum(values["unanswered"] for values in classes.values())
    total = sum(values["predicted"] for values in classes.values())
    subject = "One class is" if n == 1 else f"{n:,} classes are"
    text = (
        f"{subject} answered only from a threshold of probability on, chosen on validation for a stated precision."
        f" Of {total:,} pictures predicted as {'it' if n == 1 else 'one of them'}, {unanswered:,} are left unanswered"
        f" (unknown); of all {len(answered):,} pictures, {int((~answered).sum()):,}."
    )
    own = " Each fold has thresholds of its own; those of the final model are shown." if folds else ""
    return text + own


def _rate(hits: Array, among: Array, groups: Array) -> dict[str, float] | None:
    """Return the fraction of pictures that are hits, with Wilson's interval over groups; None without pictures."""
    if not among.any():
        return None
    return intervals.rate_metric(float(hits.sum() / among.sum()), len(np.unique(np.asarray(groups)[among])))
