"""The report's section on probabilities: reliability, coverage, precision against recall, prediction sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from bestiary.evaluation.intervals import wilson_interval
from bestiary.report import format, plots
from bestiary.report.plots import ReliabilityPoint
from bestiary.report.precision_recall_plot import class_curves
from bestiary.text import format_percent

IN_WORDS = 0.95  # the level of prediction sets that a sentence speaks of
EVEN = 0.05  # a temperature this close to 1 changes next to nothing
# Sets of the level that is told in words, where they leave nothing out.
ALL_LABELS = " Each names all labels, as they all do where the validation pictures are fewer than 19."


def calibration_values(metrics: Mapping[str, Any], test: pl.DataFrame) -> dict[str, Any]:
    """Return the plots and sentences about probabilities; none without test pictures."""
    confidence = test["probability"].cast(pl.Float64).to_numpy()
    right = (test["label"] == test["predicted"]).to_numpy().astype(bool)
    unknown = test["unknown"].to_numpy().astype(bool)
    stored = metrics.get("reliability", {})
    bins = _reliability_points(stored.get("after", ())) or (
        plots.reliability_points(confidence, right) if len(right) else []
    )
    before = _reliability_points(stored.get("before", ()))
    drawn = len(right) > 0
    return {
        "reliability_plot": plots.reliability(bins, before) if bins else "",
        "confidence_plot": plots.confidence_histogram(confidence, right) if drawn else "",
        "coverage_plot": plots.coverage_plot(confidence, right, unknown) if drawn else "",
        "bins": bins,
        "bins_before": before,
        "calibration_words": describe_calibration(metrics),
        "class_curves": class_curves(test, metrics["confusion"]["labels"]),
        "set_rows": metrics.get("prediction_sets") or [],
        "set_words": describe_prediction_sets(metrics),
    }


def describe_calibration(metrics: Mapping[str, Any]) -> str:
    """Return what calibration did, in a sentence or two; empty where that is not known."""
    stored = metrics.get("reliability", {})
    before, after, temperature = stored.get("ece_before"), metrics.get("ece"), stored.get("temperature")
    if not before or not after:
        return ""
    was = "neither too sure nor too unsure of itself"
    if abs(temperature - 1) > EVEN:
        was = "too sure of itself" if temperature > 1 else "less sure of itself than it could be"
    ends = [f"{format.format_rate(one)} ({format.format_interval(one)})" for one in (before, after)]
    return (
        f"Before calibration the model was {was} (temperature {temperature:.2f}, fitted on validation pictures). Its"
        f" calibration error on the test pictures was {ends[0]} before and is {ends[1]} as shipped."
    )


def describe_prediction_sets(metrics: Mapping[str, Any]) -> str:
    """Return what prediction sets held of what they promise, in words; empty for a run without them."""
    row = next((row for row in metrics.get("prediction_sets") or () if row["level"] == IN_WORDS), None)
    if row is None:
        return ""
    share, level = row["covered"], row["level"]
    kept = "as promised" if share["low"] <= level <= share["high"] else "more than promised"
    kept = "less than promised" if share["high"] < level else kept
    empty = f", and {format_percent(row['empty'])} are empty: nothing is likely enough" if row["empty"] else ""
    return (
        f"Asked for as few labels as hold the true one 95 times in 100, its sets held it"
        f" {100 * share['value']:.1f} times in 100 ({format.format_interval(share)}): {kept}. A set names"
        f" {row['labels']:.2f} labels on average, {format_percent(row['single'])} name exactly one{empty}."
        + (ALL_LABELS if row["labels"] == len(metrics["per_class"]) else "")
    )


def _reliability_points(bins: Sequence[Mapping[str, Any]]) -> list[ReliabilityPoint]:
    """Return the bins of metrics.json that hold pictures, with the 95 % interval of the share that is right."""
    points = []
    for one in bins:
        if n := one["count"]:
            low, high = wilson_interval(np.array(one["accuracy"]), np.array(n))
            points.append(ReliabilityPoint(one["confidence"], round(one["accuracy"] * n), n, float(low), float(high)))
    return points
