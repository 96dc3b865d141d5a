"""The plots of a study, as SVG: scores by recipe and seed, differences with intervals, scores against seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from bestiary.evaluation.comparison import NO_DIFFERENCE
from bestiary.report.format import format_short_percent, format_signed_points
from bestiary.report.plots import Dot, ForestRow, forest_plot
from bestiary.report.svg import WIDTH, PlotArea, axes, draw_circle, nice_ticks, svg_document, text

COLORS = {"better": "right", "worse": "wrong", NO_DIFFERENCE: "muted"}
SPANS = {1.0: "1 s", 3.0: "3 s", 10.0: "10 s", 30.0: "30 s", 60.0: "1 min", 180.0: "3 min", 600.0: "10 min",
         1800.0: "30 min", 3600.0: "1 h", 10800.0: "3 h", 36000.0: "10 h"}  # fmt: skip
LETTER, LINE = 6.7, 14  # of a label, in SVG units

Box = tuple[float, float, float, float]  # left, upper, right, lower


def scores_plot(recipes: Sequence[Mapping[str, Any]], metric: str, title: str) -> Markup:
    """Return a row for each recipe: a small dot for each seed, their mean as a large one, and its interval."""
    rows = []
    for recipe in recipes:
        scores = recipe[metric]
        dots = [
            Dot(value, f"seed {seed}: {format_short_percent(value)}", "other", 3)
            for seed, value in zip(recipe["seeds"], scores["values"], strict=True)
        ]
        dots.append(Dot(scores["mean"], f"mean: {format_short_percent(scores['mean'])}"))
        rows.append(ForestRow(recipe["recipe"], (scores["low"], scores["high"]), dots))
    return forest_plot(title, rows, format_short_percent).inline


def differences_plot(differences: Sequence[Mapping[str, Any]], metric: str, title: str) -> Markup:
    """Return a row for each difference: its value, its interval, and small dots for the seeds; a line at zero."""
    rows = []
    for difference in differences:
        estimate, color = difference[metric], COLORS[difference[metric]["verdict"]]
        dots = [
            Dot(seed["value"], f"seed {seed['seed']}: {format_signed_points(seed['value'])}", "other", 2.5)
            for seed in estimate["by_seed"]
        ]
        dots.append(Dot(estimate["value"], format_signed_points(estimate["value"]), color))
        name = f"{difference['recipe']} against {difference['against']}: {estimate['verdict']}"
        rows.append(ForestRow(name, (estimate["low"], estimate["high"]), dots, color))
    return forest_plot(title, rows, lambda tick: f"{100 * tick:+g}" if tick else "0", signed=True).inline


def seconds_plot(recipes: Sequence[Mapping[str, Any]], metric: str, y_label: str) -> Markup:
    """Return the mean score of each recipe over the seconds of its training, each with its name."""
    seconds = [max(0.1, recipe["train_seconds"]) for recipe in recipes]
    scores = [recipe[metric]["mean"] for recipe in recipes]
    pad = max(0.08 * (max(scores) - min(scores)), 0.01)
    low, high = max(0.0, min(scores) - pad), min(1.0, max(scores) + pad)
    frame = PlotArea(min(seconds) / 1.6, max(seconds) * 1.6, low, high, x_log=True, height=340)
    spans = {tick: label for tick, label in SPANS.items() if frame.x_low <= tick <= frame.x_high}
    ticks = spans or {seconds[0]: f"{seconds[0]:.2g} s"}
    x_label, y_ticks = "Seconds of training, mean over seeds", nice_ticks(low, high)
    parts = axes(frame, list(ticks), y_ticks, ticks.__getitem__, format_short_percent, x_label, y_label)
    points = [(frame.x(second), frame.y(score)) for second, score in zip(seconds, scores, strict=True)]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    described = []
    for recipe, second, score, (x, y) in zip(recipes, seconds, scores, points, strict=True):
        name, percent = recipe["recipe"], format_short_percent(score)
        parts += [draw_circle(x, y, 5, "fill-right", f"{name}: {percent}"), _label(name, x, y, taken)]
        described.append(f"{name}: {second:.0f} s, {percent}")
    return svg_document(y_label, "; ".join(described), parts, frame.height)


def _label(words: str, x: float, y: float, taken: list[Box]) -> str:
    """Return the name of a point at the first free position beside it, and add its box to `taken`."""
    width = LETTER * len(words)
    positions = [(x + 9, y + 4), (x - 9 - width, y + 4), (x - width / 2, y - 10), (x - width / 2, y + 20)]
    positions += [(x + 9, y + 4 + LINE * step) for step in (1, -1, 2, -2, 3, -3)]
    inside = [at for at in positions if at[0] >= 46 and at[0] + width <= WIDTH + 6] or positions
    left, base = min(inside, key=lambda at: (_overlap_area(_box(at, width), taken), inside.index(at)))
    taken.append(_box((left, base), width))
    return text(left, base, words, "start small")


def _box(position: tuple[float, float], width: float) -> Box:
    return position[0], position[1] - LINE + 3, position[0] + width, position[1] + 3


def _overlap_area(box: Box, taken: Sequence[Box]) -> float:
    """Return the area of a box that others cover."""
    return math.fsum(
        max(0.0, min(box[2], cover[2]) - max(box[0], cover[0]))
        * max(0.0, min(box[3], cover[3]) - max(box[1], cover[1]))
        for cover in taken
    )
