"""What probabilities are worth: reliability before and after calibration, and what prediction sets cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from bestiary.array_types import Array, Floats, Ints
from bestiary.evaluation import intervals
from bestiary.evaluation.calibration import reliability
from bestiary.evaluation.metrics import MetricSums, sums_by_picture
from bestiary.evaluation.predictions import label_indices
from bestiary.inference.bundle import Bundle
from bestiary.inference.conformal import conformal_threshold, covered

BINS = 10  # of the reliability diagram
LEVELS = (0.8, 0.9, 0.95, 0.99)  # of prediction sets
RESAMPLES = 1000


def calibration_metrics(
    predictions: pl.DataFrame, groups: Array, bundle: Bundle, *, folds: int, seed: int
) -> dict[str, Any]:
    """Return the keys of metrics.json about probabilities: `reliability` and `prediction_sets`.

    predictions: of the tested pictures; groups: int (n,), equal for duplicates. With folds neither is known as
    needed, since each fold has a temperature and bounds of its own: then nothing but `reliability.after`.
    """
    truth = label_indices(predictions, bundle.classes)
    shares = predictions.select([f"p_{name}" for name in bundle.classes]).to_numpy()
    found: dict[str, Any] = {"reliability": {"bins": BINS, "after": list(reliability(shares, truth, BINS))}}
    if folds:
        return found
    raw = undo_temperature(shares, bundle.temperature)
    found["reliability"] |= {
        "before": list(reliability(raw, truth, BINS)),
        "ece_before": _ece(raw, truth, groups, seed),
        "temperature": bundle.temperature,
    }
    return found | {"prediction_sets": conformal_coverage(shares, truth, groups, bundle.sets)}


def undo_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Return the probabilities (n, classes) as they were before they were divided by a temperature: p^T, normalised.

    >>> undo_temperature(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.941, 0.059]]
    """
    logs = temperature * np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float64).tiny))
    raised = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def conformal_coverage(
    probabilities: Floats, y_true: Ints, groups: Array, table: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return for each level how often the true label is in the set, with Wilson's interval over groups, and set sizes.

    `level, covered, labels` (on average), `single` and `empty`: the share of sets with one label and with none.
    Nothing for a model without sets.
    """
    if not table:
        return []
    trials, rows = len(np.unique(groups)), list[dict[str, Any]]()
    for level in LEVELS:
        inside, sizes = covered(probabilities, y_true, conformal_threshold(table, level))
        value = float(inside.mean())
        low, high = intervals.wilson_interval(np.array(value), np.array(trials))
        rows.append(
            {
                "level": level,
                "covered": intervals.metric_value(value, float(low), float(high)),
                "labels": float(sizes.mean()),
                "single": float((sizes == 1).mean()),
                "empty": float((sizes == 0).mean()),
            }
        )
    return rows


def _ece(probabilities: Floats, y_true: Ints, groups: Array, seed: int) -> dict[str, float]:
    """Return the calibration error with its 95 % interval, as `metrics.score` gives it."""
    k, member = probabilities.shape[1], np.unique(groups, return_inverse=True)[1].astype(np.int64)
    rows = sums_by_picture(y_true, probabilities.argmax(axis=1), probabilities)
    value = float(MetricSums(np.asarray(rows.sum(axis=0), np.float64).reshape(1, -1), k).metric("ece")[0])
    draws = MetricSums(intervals.resampled_sums(rows, y_true, member, resamples=RESAMPLES, seed=seed), k)
    return intervals.metric_value(value, *intervals.percentile_interval(draws.metric("ece"), value))
