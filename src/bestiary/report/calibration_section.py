"""Report section on the probabilities: reliability, coverage, precision-recall curves, prediction sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from bestiary.report import plots
from bestiary.report.coverage_section import coverage_values
from bestiary.report.format import format_interval, format_metric
from bestiary.report.plots import ReliabilityPoint
from bestiary.report.precision_recall_plot import class_curves
from bestiary.stats import wilson_interval
from bestiary.text import format_percent

LEVEL = 0.95  # of the prediction sets that the text describes
NARROW = 0.05  # an interval of the coverage that reaches lower does not show that the level is met
EVEN = 0.05  # a temperature this close to 1 changes almost nothing
ALL_LABELS = " Every set contains all labels, as is always the case with fewer than 19 validation pictures."


def calibration_values(metrics: Mapping[str, Any], test: pl.DataFrame, proof: str = "") -> dict[str, Any]:
    """Return the plots and sentences about probabilities; the plots are empty without test pictures."""
    confidence = test["probability"].cast(pl.Float64).to_numpy()
    correct = (test["label"] == test["predicted"]).to_numpy().astype(bool)
    stored = metrics.get("reliability", {})
    before, bins = _reliability_points(stored.get("before", ())), _reliability_points(stored.get("after", ()))
    has_test = len(correct) > 0
    if not bins and has_test:
        bins = plots.reliability_points(confidence, correct)
    return {
        "reliability_plot": plots.reliability(bins, before) if bins else "",
        "confidence_plot": plots.confidence_histogram(confidence, correct) if has_test else "",
        **coverage_values(metrics, test),
        "bins": bins,
        "bins_before": before,
        "calibration_words": describe_calibration(metrics),
        "proof_words": proof,
        "class_curves": class_curves(test, metrics["confusion"]["labels"]),
        "set_rows": metrics.get("prediction_sets") or [],
        "set_words": describe_prediction_sets(metrics),
    }


def describe_calibration(metrics: Mapping[str, Any]) -> str:
    """Return the effect of calibration in two sentences; empty for a run without these figures."""
    stored = metrics.get("reliability", {})
    before, after, temperature = stored.get("ece_before"), metrics.get("ece"), stored.get("temperature")
    if not before or not after:
        return ""
    state = "well calibrated"
    if abs(temperature - 1) > EVEN:
        state = "overconfident" if temperature > 1 else "underconfident"
    return (
        f"Before calibration the model was {state} (temperature {temperature:.2f}, fitted on the validation split). Its"
        f" calibration error on the test pictures was {format_metric(before)} before calibration and is"
        f" {format_metric(after)} now."
    )


def describe_prediction_sets(metrics: Mapping[str, Any]) -> str:
    """Return the coverage and size of the prediction sets at the 95 % level; empty for a run without them."""
    row = next((row for row in metrics.get("prediction_sets") or () if row["level"] == LEVEL), None)
    if row is None:
        return ""
    covered = row["covered"]
    held = "above the nominal level" if covered["low"] > LEVEL else "as specified"
    held = "below the nominal level" if covered["high"] < LEVEL else held
    if covered["low"] < LEVEL - NARROW and covered["high"] >= LEVEL:
        held = "there are too few test pictures to tell whether it is below the nominal level"
    return (
        f"At the 95 % level, the prediction sets contain the true label of {100 * covered['value']:.1f} % of the test"
        f" pictures ({format_interval(covered)}): {held}. A set has {row['labels']:.2f} labels on average,"
        f" {format_percent(row['single'])} have exactly one."
        + (ALL_LABELS if row["labels"] == len(metrics["per_class"]) else "")
    )


def _reliability_points(bins: Sequence[Mapping[str, Any]]) -> list[ReliabilityPoint]:
    """Return the non-empty bins of metrics.json, with the 95 % interval of their accuracy."""
    points = []
    for row in bins:
        if n := row["count"]:
            low, high = wilson_interval(np.array(row["accuracy"]), np.array(n))
            points.append(ReliabilityPoint(row["confidence"], round(row["accuracy"] * n), n, float(low), float(high)))
    return points
