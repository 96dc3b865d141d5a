"""Precision against recall, a small plot for each class: what a threshold on its own probability would buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from markupsafe import Markup

from bestiary.array_types import Floats
from bestiary.evaluation.precision_recall import PrecisionRecallCurve, lowest_average_precision
from bestiary.report.svg import draw_line, escape_label, format_short_percent, text

MAX_CLASSES = 12  # classes, the weakest first
SIDE, LEFT, TOP, BOTTOM, RIGHT = 150.0, 30.0, 6.0, 20.0, 6.0
MAX_POINTS = 120


@dataclass(frozen=True)
class ClassCurve:
    """A class, its average precision, how many pictures it has, and its drawing."""

    label: str
    average: float
    pictures: int
    plot: Markup


def class_curves(test: pl.DataFrame, labels: Sequence[str]) -> list[ClassCurve]:
    """Return the curves of the classes with the lowest average precision; of classes that have test pictures."""
    return [
        ClassCurve(one.label, one.average, one.pictures, _draw_curve(one))
        for one in lowest_average_precision(test, labels, MAX_CLASSES)
    ]


def _draw_curve(ranked: PrecisionRecallCurve) -> Markup:
    """Return the plot: precision (upwards) against recall, both from 0 to 100 %, and a dot where the labels stand."""
    width, height = SIDE + LEFT + RIGHT, SIDE + TOP + BOTTOM
    parts = [draw_line(LEFT, TOP + y * SIDE, LEFT + SIDE, TOP + y * SIDE, "ink-grid") for y in (0, 0.5)]
    parts += [draw_line(LEFT + x * SIDE, TOP, LEFT + x * SIDE, TOP + SIDE, "ink-grid") for x in (0.5, 1)]
    parts.append(draw_line(LEFT, TOP + SIDE, LEFT + SIDE, TOP + SIDE, "ink-muted"))
    parts.append(draw_line(LEFT, TOP, LEFT, TOP + SIDE, "ink-muted"))
    parts += [text(LEFT - 5, TOP + (1 - y) * SIDE + 4, f"{100 * y:.0f}", "end small") for y in (0, 0.5, 1)]
    parts += [text(LEFT + x * SIDE, TOP + SIDE + 15, f"{100 * x:.0f}", "middle small") for x in (0, 0.5, 1)]
    parts.append(f'<polyline class="ink-right" points="{_step_points(ranked.precision, ranked.recall)}"/>')
    if ranked.operating_point is not None:
        x, y = LEFT + ranked.operating_point[1] * SIDE, TOP + (1 - ranked.operating_point[0]) * SIDE
        parts.append(f'<circle class="fill-wrong" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    spoken = f"{ranked.label}: precision against recall, average precision {format_short_percent(ranked.average)}"
    head = f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape_label(spoken)}">'
    return Markup(head) + Markup("".join(parts)) + Markup("</svg>")


def _step_points(precision: Floats, recall: Floats) -> str:
    """Return the points of the line from the surest answer on, as steps whose area is the average precision.

    Only where a picture of the class is found does a step end; of more than a plot can show, every few are kept.
    """
    across, up = recall[::-1], precision[::-1]
    ends = np.flatnonzero(np.diff(across)) + 1
    if len(ends) > MAX_POINTS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, MAX_POINTS).round().astype(int))]
    before, points = 0.0, list[tuple[float, float]]()
    for at, height in zip(across[ends].tolist(), up[ends].tolist(), strict=True):
        points += [(before, height), (at, height)]
        before = at
    return " ".join(f"{LEFT + x * SIDE:.1f},{TOP + (1 - y) * SIDE:.1f}" for x, y in points)
