"""Calibration of a run's test predictions: reliability before and after temperature scaling, conformal coverage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Array, Floats, Ints
from bestiary.evaluation import intervals
from bestiary.evaluation.calibration import reliability
from bestiary.evaluation.metrics import MetricSums, sums_by_picture
from bestiary.evaluation.predictions import class_probabilities
from bestiary.inference.bundle import Bundle
from bestiary.inference.conformal import conformal_threshold, set_coverage
from bestiary.quick_metrics import softmax

BINS = 10  # of the reliability diagram
LEVELS = (0.8, 0.9, 0.95, 0.99)  # of prediction sets
RESAMPLES = 1000


def calibration_metrics(
    predictions: pl.DataFrame, groups: Array, bundle: Bundle, *, folds: int, seed: int
) -> dict[str, Any]:
    """Return `reliability` and `prediction_sets` of metrics.json.

    predictions: of the test pictures; groups: int (n,), equal for duplicates. In cross-validation each fold has its own
    temperature and its own conformal thresholds, so only `reliability.after` is returned.
    """
    y_true = table.label_indices(predictions["label"], bundle.classes)
    probabilities = class_probabilities(predictions, bundle.classes)
    after = {"bins": BINS, "after": reliability(probabilities, y_true, BINS)}
    if folds:
        return {"reliability": after}
    raw = undo_temperature(probabilities, bundle.temperature)
    before = {
        "before": reliability(raw, y_true, BINS),
        "ece_before": _ece(raw, y_true, groups, seed),
        "temperature": bundle.temperature,
    }
    sets = conformal_coverage(probabilities, y_true, groups, bundle.sets)
    return {"reliability": after | before, "prediction_sets": sets}


def undo_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Return the probabilities (n, classes) as they were before temperature scaling: p^T, normalised.

    >>> undo_temperature(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.941, 0.059]]
    """
    logs = temperature * np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float64).tiny))
    return softmax(logs)


def conformal_coverage(
    probabilities: Floats, y_true: Ints, groups: Array, bounds: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the coverage of prediction sets at each level, with Wilson's interval over groups, and the set sizes.

    bounds: of `fit_conformal`; without it the list is empty. Keys: `level, covered, labels` (mean number) and `single`,
    the fraction of sets with one label.
    """
    if not bounds:
        return []
    trials, rows = len(np.unique(groups)), []
    for level in LEVELS:
        covered, sizes = set_coverage(probabilities, y_true, conformal_threshold(bounds, level))
        rows.append(
            {
                "level": level,
                "covered": intervals.rate_metric(float(covered.mean()), trials),
                "labels": float(sizes.mean()),
                "single": float((sizes == 1).mean()),
            }
        )
    return rows


def _ece(probabilities: Floats, y_true: Ints, groups: Array, seed: int) -> dict[str, float]:
    """Return the expected calibration error with its 95 % interval, as `compute_metrics` does."""
    k, rows = probabilities.shape[1], sums_by_picture(y_true, probabilities.argmax(axis=1), probabilities)
    members = intervals.group_indices(groups)
    strata = np.zeros_like(y_true) if intervals.has_single_group(y_true, members) else y_true
    draws = MetricSums.resample(rows, strata, members, k, resamples=RESAMPLES, seed=seed)
    value, span = float(MetricSums.total(rows, k).metric("ece")[0]), intervals.single_group_span(members, 0.0, 1.0)
    return intervals.bootstrap_metric(value, draws.metric("ece"), span)
