"""Precision-recall curves, one small plot for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from markupsafe import Markup

from bestiary.array_types import Floats
from bestiary.evaluation.precision_recall import PrecisionRecallCurve, lowest_average_precision
from bestiary.report.format import format_short_percent
from bestiary.report.svg import Drawing, PlotArea, draw_circle, draw_line, text

MAX_CLASSES = 12  # those with the lowest average precision
MAX_POINTS = 120
AREA = PlotArea(0, 1, 0, 1, start_margin=30, end_margin=6, top_margin=6, bottom_margin=20, height=176, width=186)


@dataclass(frozen=True)
class ClassCurve:
    """A class, its average precision, its number of test pictures, and its plot."""

    label: str
    average: float
    pictures: int
    plot: Markup


def class_curves(test: pl.DataFrame, labels: Sequence[str]) -> list[ClassCurve]:
    """Return the curves of the classes with the lowest average precision, among those with test pictures."""
    curves = lowest_average_precision(test, labels, MAX_CLASSES)
    return [ClassCurve(curve.label, curve.average, curve.pictures, _draw_curve(curve)) for curve in curves]


def _draw_curve(curve: PrecisionRecallCurve) -> Markup:
    """Return precision (upwards) against recall, both in per cent, with a dot at the operating point."""
    x, y = AREA.x, AREA.y
    parts = [draw_line(x(0), y(level), x(1), y(level), "ink-grid") for level in (0.5, 1)]
    parts += [draw_line(x(level), y(1), x(level), y(0), "ink-grid") for level in (0.5, 1)]
    parts += [draw_line(x(0), y(0), x(1), y(0), "ink-muted"), draw_line(x(0), y(1), x(0), y(0), "ink-muted")]
    for level in (0, 0.5, 1):
        parts.append(text(x(0) - 5, y(level) + 4, f"{100 * level:.0f}", "end small"))
        parts.append(text(x(level), y(0) + 15, f"{100 * level:.0f}", "middle small"))
    parts.append(f'<polyline class="ink-right" points="{_step_points(curve.precision, curve.recall)}"/>')
    if curve.operating_point is not None:
        precision, recall = curve.operating_point
        parts.append(draw_circle(x(recall), y(precision), 4, "fill-wrong"))
    label = f"{curve.label}: precision-recall curve, average precision {format_short_percent(curve.average)}"
    return Drawing(label, parts, AREA.height, AREA.width).inline


def _step_points(precision: Floats, recall: Floats) -> str:
    """Return the line, from the most confident prediction on, as steps whose area is the average precision.

    A step ends only where a picture of the class is found; of more than MAX_POINTS steps, evenly spaced ones are kept.
    """
    across, up = recall[::-1], precision[::-1]
    ends = np.flatnonzero(np.diff(across)) + 1
    if len(ends) > MAX_POINTS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, MAX_POINTS).round().astype(int))]
    before, points = 0.0, list[tuple[float, float]]()
    for at, height in zip(across[ends].tolist(), up[ends].tolist(), strict=True):
        points += [(before, height), (at, height)]
        before = at
    return " ".join(f"{AREA.x(at):.1f},{AREA.y(height):.1f}" for at, height in points)
