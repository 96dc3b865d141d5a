"""Report section on coverage: accuracy against coverage as a plot, and for many thresholds, from which a reader picks.

Both are over the test pictures: a picture is answered if its confidence or familiarity is at or above the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from bestiary.array_types import Bools, Floats
from bestiary.evaluation.calibration import coverage_curve
from bestiary.report.format import format_short_percent
from bestiary.report.plots import Series, draw_series
from bestiary.report.svg import PlotArea, axes, draw_circle, draw_line, nice_ticks, svg_document, text

MIN_ANSWERS = 20  # the accuracy of fewer answers says nothing
MAX_THRESHOLDS = 200
DECIMALS = 4  # of a threshold


@dataclass(frozen=True)
class ThresholdTable:
    """Thresholds on a measure, ascending, with the number of answers and of correct ones at each.

    own: the position of the model's own threshold, None if it has none on this measure.
    """

    measure: str
    own: int | None
    points: Sequence[tuple[float, int, int]]


def coverage_values(metrics: Mapping[str, Any], test: pl.DataFrame) -> dict[str, Any]:
    """Return the plot, the limits of its axes, and the thresholds to choose from; empty without test pictures."""
    confidence = test["probability"].cast(pl.Float64).to_numpy()
    correct = (test["label"] == test["predicted"]).to_numpy().astype(bool)
    unknown = test["unknown"].to_numpy().astype(bool)
    frame = _plot_area(confidence, correct, unknown)
    if frame is None:
        return {"coverage_plot": "", "coverage_axes": [], "thresholds": []}
    ends = [frame.x(0), frame.x(1), frame.y(frame.y_low), frame.y(1), frame.y_low]
    plot = _draw_coverage(frame, confidence, correct, unknown)
    return {"coverage_plot": plot, "coverage_axes": ends, "thresholds": threshold_tables(metrics, test)}


def threshold_tables(metrics: Mapping[str, Any], test: pl.DataFrame) -> list[ThresholdTable]:
    """Return the thresholds on familiarity, which makes pictures "unknown", and on confidence.

    Familiarity is left out where a run has none. The model's own threshold is marked if it gives the recorded answers,
    which it does not in cross-validation, where every fold has its own.
    """
    correct = (test["label"] == test["predicted"]).to_numpy().astype(bool)
    tables = list[ThresholdTable]()
    if not test["familiarity"].null_count():
        familiarity = test["familiarity"].cast(pl.Float64).to_numpy()
        own = (metrics.get("unknown") or {}).get("threshold")
        if own is not None and not np.array_equal(familiarity < own, test["unknown"].to_numpy().astype(bool)):
            own = None
        tables.append(_threshold_table("familiarity", familiarity, correct, own))
    confidence = test["probability"].cast(pl.Float64).to_numpy()
    return [*tables, _threshold_table("confidence", confidence, correct, None)]


def _threshold_table(measure: str, values: Floats, correct: Bools, own: float | None) -> ThresholdTable:
    """Return the table of a measure: thresholds at its quantiles, round ones and the model's own."""
    scale = 10.0**DECIMALS
    round_ones = [step / 20 for step in range(21)]
    candidates = [*np.quantile(values, np.linspace(0, 1, MAX_THRESHOLDS - len(round_ones))).tolist(), *round_ones]
    thresholds = {float(np.floor(value * scale) / scale) for value in candidates}
    ordered = sorted(thresholds | ({own} if own is not None else set()))
    ranked, hits = np.sort(values), np.sort(values[correct])
    points = [
        (at, len(ranked) - int(np.searchsorted(ranked, at)), len(hits) - int(np.searchsorted(hits, at)))
        for at in ordered
    ]
    points = [point for point in points if point[1]]  # nothing can be said of no answers
    return ThresholdTable(measure, next((i for i, point in enumerate(points) if point[0] == own), None), points)


def _plot_area(confidence: Floats, correct: Bools, unknown: Bools) -> PlotArea | None:
    """Return the area of the plot, whose lower end depends on the lowest accuracy; None with too few pictures."""
    accuracy = [point["accuracy"] for point in _coverage_points(confidence, correct)]
    if not accuracy:
        return None
    point = _operating_point(correct, unknown)
    lowest = min(*accuracy, point[1] if point else 1.0)
    # Room below the line for the text of the pointer; never a scale finer than 2 points from top to bottom.
    return PlotArea(0, 1, max(0.0, 1 - max(0.02, 1.6 * (1 - lowest))), 1, height=340)


def _coverage_points(confidence: Floats, correct: Bools) -> list[dict[str, float]]:
    return [
        {"coverage": point["coverage"], "accuracy": point["accuracy"]}
        for point in coverage_curve(confidence, correct)
        if point["coverage"] * len(correct) >= MIN_ANSWERS
    ]


def _operating_point(correct: Bools, unknown: Bools) -> tuple[float, float] | None:
    """Return coverage and accuracy with the model's own threshold, unless all or none are answered."""
    answered = ~unknown
    if not answered.any() or answered.all():
        return None
    return float(answered.mean()), float(correct[answered].mean())


def _draw_coverage(frame: PlotArea, confidence: Floats, correct: Bools, unknown: Bools) -> Markup:
    """Return accuracy against coverage (the fraction of pictures that gets an answer), and the operating point."""
    points = _coverage_points(confidence, correct)
    coverage, accuracy = [point["coverage"] for point in points], [point["accuracy"] for point in points]
    labels = ("Coverage: fraction of the pictures that gets an answer", "Accuracy of the answers")
    y_ticks = nice_ticks(frame.y_low, 1)
    parts = axes(frame, nice_ticks(0, 1), y_ticks, format_short_percent, format_short_percent, *labels)
    parts += draw_series(frame, coverage, Series("", "ink-right", accuracy), dots=False)
    described = f"At full coverage, the accuracy is {format_short_percent(accuracy[-1])}"
    if point := _operating_point(correct, unknown):
        parts += _pointer(frame, *point)
        percent = map(format_short_percent, point)
        described += "; with the model's threshold, {} get an answer, with an accuracy of {}".format(*percent)
    return svg_document("Coverage and accuracy", described, parts, frame.height)


def _pointer(frame: PlotArea, coverage: float, accuracy: float) -> list[str]:
    x, y = frame.x(coverage), frame.y(accuracy)
    words = f"this model: coverage {format_short_percent(coverage)}, accuracy {format_short_percent(accuracy)}"
    return [
        draw_line(x, y + 6, x, y + 33, "ink-muted"),
        draw_circle(x, y, 5, "fill-wrong"),
        text(min(x + 8, frame.end), y + 46, words, "end small"),
    ]
