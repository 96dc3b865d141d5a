"""The plots of the pages, as SVG: lines, points with intervals, histograms, reliability, confusion matrix.

Every plot names its lines directly and has a description for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from bestiary.array_types import Bools, Floats, Ints
from bestiary.evaluation.calibration import bin_index
from bestiary.report.format import format_short_percent
from bestiary.report.svg import (
    Drawing,
    PlotArea,
    axes,
    draw_circle,
    draw_line,
    format_axis_number,
    nice_ticks,
    svg_document,
    text,
)
from bestiary.stats import wilson_interval

BINS = 10
ROW_HEIGHT, FOREST_TOP, FOREST_BOTTOM = 38, 34, 40


@dataclass(frozen=True)
class Series:
    """A line: its name, the class that gives its colour, and one value (or None) for each x."""

    name: str
    color_class: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Dot:
    """A point in a row of a forest plot; `note` is its tooltip."""

    value: float
    note: str
    color: str = "right"
    radius: float = 5


@dataclass(frozen=True)
class ForestRow:
    """A row of a forest plot: its name, its 95 % interval (None for a row without) and its dots, the main one last."""

    name: str
    interval: tuple[float, float] | None
    dots: Sequence[Dot]
    color: str = "right"


@dataclass(frozen=True)
class ReliabilityPoint:
    """A bin of confidence: its mean, how many predictions of how many were correct, and the 95 % interval of that."""

    confidence: float
    n_correct: int
    n: int
    low: float
    high: float


def line_plot(
    x: Sequence[float],
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_log: bool = False,
    x_ticks: Sequence[float] = (),
    as_percent: bool = False,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Return lines over epochs or over a setting, each with its name at its end; empty without any value.

    x_ticks: round numbers when not given. mark: a value of x for a vertical line, and the text at its top. Missing
    values (None, NaN) are left out.
    """
    values = [value for line in series for value in _finite(line.values)]
    if not x or not values:
        return Markup("")
    frame = _line_area(x, values, x_log, as_percent)
    y_text = format_short_percent if as_percent else format_axis_number
    y_ticks = nice_ticks(frame.y_low, frame.y_high)
    parts = axes(frame, x_ticks or _x_ticks(frame), y_ticks, format_axis_number, y_text, x_label, y_label)
    parts += _vertical_mark(frame, *mark) if mark else []
    lasts = [next(iter(_finite(line.values)[::-1]), None) for line in series]
    heights = _spread_labels([None if last is None else frame.y(last) for last in lasts])
    for line, height in zip(series, heights, strict=True):
        parts += draw_series(frame, x, line)
        if height is not None:
            color = line.color_class.replace("ink", "fill")
            parts.append(text(frame.end + 8, height + 4, line.name, f"start {color}"))
    described = zip(series, lasts, strict=True)
    ends = "; ".join(f"{line.name} ends at {y_text(last)}" for line, last in described if last is not None)
    return svg_document(f"{y_label} by {x_label}", ends, parts, frame.height)


def forest_plot(
    title: str,
    rows: Sequence[ForestRow],
    format_tick: Callable[[float], str],
    *,
    signed: bool = False,
    limits: tuple[float, float] | None = None,
) -> Drawing:
    """Return a row of dots with an interval for each item.

    signed: differences, with a line at zero; else values from 0 to 1. limits: of the axis, from the values when not
    given.
    """
    low, high = limits or _forest_limits(rows, signed)
    height = FOREST_TOP + ROW_HEIGHT * len(rows) + FOREST_BOTTOM
    frame = PlotArea(
        low, high, 0, 1, start_margin=12, top_margin=FOREST_TOP, bottom_margin=FOREST_BOTTOM, height=height
    )
    base = height - FOREST_BOTTOM
    parts = [text(frame.start_margin, 14, title, "start small")]
    for tick in nice_ticks(low, high, 6):
        x = frame.x(tick)
        parts.append(draw_line(x, FOREST_TOP - 8, x, base, "ink-muted dashed" if signed and not tick else "ink-grid"))
        parts.append(text(x, base + 17, format_tick(tick), "middle small"))
    for index, row in enumerate(rows):
        y = FOREST_TOP + ROW_HEIGHT * index + 26
        parts.append(text(frame.start_margin, y - 11, row.name, "start small strong"))
        if row.interval:
            parts.append(draw_line(frame.x(row.interval[0]), y, frame.x(row.interval[1]), y, f"ink-{row.color}"))
        parts += [draw_circle(frame.x(dot.value), y, dot.radius, f"fill-{dot.color}", dot.note) for dot in row.dots]
    described = "; ".join(f"{row.name}: {', '.join(d.note for d in row.dots if d.radius > 3)}" for row in rows)
    return Drawing(f"{title}. {described}.", parts, height)


def _forest_limits(rows: Sequence[ForestRow], signed: bool) -> tuple[float, float]:
    values = [value for row in rows for value in (*(row.interval or ()), *(dot.value for dot in row.dots))]
    if signed:
        values += [-0.005, 0.005]
    low, high = min(values), max(values)
    pad = 0.06 * max(high - low, 0.02)
    return (low - pad, high + pad) if signed else (max(0.0, low - pad), min(1.0, high + pad))


def reliability(bins: Sequence[ReliabilityPoint], before: Sequence[ReliabilityPoint] = ()) -> Markup:
    """Return the reliability diagram: accuracy with its 95 % interval against confidence.

    Points grow with their number of pictures. before: the same before calibration, drawn as rings.
    """
    frame = PlotArea(0, 1, 0, 1, height=340)
    ticks, n = nice_ticks(0, 1), sum(point.n for point in bins)
    parts = axes(frame, ticks, ticks, format_short_percent, format_short_percent, "Confidence", "Accuracy")
    parts.append(draw_line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "ink-muted dashed"))
    for point in bins:
        x = frame.x(point.confidence)
        parts.append(draw_line(x, frame.y(point.low), x, frame.y(point.high), "ink-right"))
    for points, smallest, color, name in (
        (before, 5.5, "ring-other", "before calibration"),
        (bins, 3, "fill-right", "calibrated"),
    ):
        for point in points:
            x, y = frame.x(point.confidence), frame.y(point.n_correct / point.n)
            radius = round(smallest + 6 * math.sqrt(point.n / n), 1)
            parts.append(draw_circle(x, y, radius, color, f"{point.n} pictures, {name}"))
    if before:  # the legend is above the plot: inside it, its dots could be taken for values
        for x, color, name in ((190, "fill-right", "calibrated"), (296, "ring-other", "before calibration")):
            parts += [draw_circle(x, 10, 5, color), text(x + 10, 14, name, "start small")]
    parts.append(text(frame.x(0.98), frame.y(0.07), "overconfident", "end small"))
    described = "; ".join(
        f"confidence {format_short_percent(p.confidence)}, accuracy {format_short_percent(p.n_correct / p.n)} of {p.n}"
        for p in bins
    )
    return svg_document("Reliability diagram", described, parts, frame.height)


def reliability_points(confidence: Floats, correct: Bools) -> list[ReliabilityPoint]:
    """Return a point for each of ten equal bins of confidence that hold pictures; arrays of shape (n,)."""
    indices, points = bin_index(confidence, BINS), []
    for rows in (indices == b for b in range(BINS) if (indices == b).any()):
        n_correct, n = int(correct[rows].sum()), int(rows.sum())
        low, high = wilson_interval(np.array(n_correct / n), np.array(n))
        points.append(ReliabilityPoint(float(confidence[rows].mean()), n_correct, n, float(low), float(high)))
    return points


def confidence_histogram(confidence: Floats, correct: Bools) -> Markup:
    """Return two histograms of the confidence over the same axis, of correct and of wrong predictions.

    Each has its own height, since the wrong ones are few; the highest bar of each is labelled.
    """
    edges, parts = np.linspace(0, 1, 21), list[str]()
    for name, color, rows, top in (("Correct", "fill-right", correct, 0), ("Wrong", "fill-wrong", ~correct, 150)):
        counts = np.histogram(confidence[rows], edges)[0]
        high = max(1, int(counts.max()))
        frame = PlotArea(0, 1, 0, high, start_margin=16, top_margin=top + 40, bottom_margin=190 - top, height=340)
        parts += _bars(frame, edges, counts, color)
        n = int(rows.sum())
        parts.append(text(16, top + 22, f"{name}: {n:,} prediction{'s' * (n != 1)}", f"start strong {color}"))
    parts += [
        text(frame.x(tick), frame.y(0) + 17, format_short_percent(tick), "middle small") for tick in nice_ticks(0, 1)
    ]
    parts.append(text(frame.width / 2, 334, "Confidence", "middle small"))
    described = f"{int(correct.sum())} correct predictions and {int((~correct).sum())} wrong ones, in bins of 5 %"
    return svg_document("Confidence of correct and of wrong predictions", described, parts, 340)


def confusion_heatmap(labels: Sequence[str], counts: Ints) -> Markup:
    """Return the confusion matrix as a heatmap, for more classes than a table can show.

    `counts` (k, k): rows are true classes, columns predicted ones. Empty cells are not drawn.
    """
    k, side = len(labels), 420.0
    cell = side / k
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = [f'<rect class="frame" x="36" y="24" width="{side}" height="{side}"/>']
    for row, column in np.argwhere(counts > 0).tolist():
        color = "fill-right" if row == column else "fill-wrong"
        note = f"{labels[row]} predicted as {labels[column]}: {counts[row, column]}"
        x, y, opacity = 36 + column * cell, 24 + row * cell, 0.25 + 0.75 * math.sqrt(rates[row, column])
        parts.append(
            f'<rect class="{color}" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
            f'fill-opacity="{opacity:.2f}"><title>{escape(note)}</title></rect>'
        )
    parts.append(text(36, 16, f"Predicted: the {k} classes in the order of the list below", "start small"))
    parts.append(f'<text class="middle small" transform="translate(22 {24 + side / 2}) rotate(-90)">True</text>')
    described = f"{int(np.trace(counts))} of {int(counts.sum())} pictures are on the diagonal: predicted correctly"
    return svg_document(f"Confusion matrix of {k} classes", described, parts, side + 30)


def _line_area(x: Sequence[float], values: list[float], x_log: bool, as_percent: bool) -> PlotArea:
    low, high = min(values), max(values)
    pad = max((high - low) * 0.08, 0.005 if as_percent else abs(high) * 0.05, 1e-6)
    y_low = max(0.0, low - pad) if low >= 0 else low - pad
    y_high = min(1.0, high + pad) if as_percent and high <= 1 else high + pad
    x_low, x_high = min(x), max(x)
    if x_low == x_high:
        x_low, x_high = (x_low / 3, x_high * 3) if x_log else (x_low - 1, x_high + 1)
    return PlotArea(x_low, x_high, y_low, y_high, x_log=x_log, end_margin=84)


def _x_ticks(frame: PlotArea) -> list[float]:
    if not frame.x_log:
        return [tick for tick in nice_ticks(frame.x_low, frame.x_high, 8) if tick == round(tick)]
    powers = range(math.floor(math.log10(frame.x_low)), math.ceil(math.log10(frame.x_high)) + 1)
    candidates = [round(factor * 10.0**power, 12) for power in powers for factor in (1, 3)]
    inside = [tick for tick in candidates if frame.x_low * 0.999 <= tick <= frame.x_high * 1.001]
    tens = [tick for tick in inside if f"{tick:e}".startswith("1")]
    return tens if len(tens) >= 3 else inside


def draw_series(frame: PlotArea, x: Sequence[float], line: Series, *, dots: bool = True) -> list[str]:
    """Return a line of a plot, with its dots if there are few."""
    points = [
        (frame.x(at), frame.y(float(value)))
        for at, value in zip(x, line.values, strict=True)
        if value is not None and math.isfinite(value)
    ]
    path = " ".join(f"{px},{py}" for px, py in points)
    parts = [f'<polyline class="{line.color_class}" points="{path}"/>']
    if dots and len(points) <= 30:
        parts += [draw_circle(px, py, 2.6, line.color_class.replace("ink", "fill")) for px, py in points]
    return parts


def _vertical_mark(frame: PlotArea, value: float, words: str) -> list[str]:
    x = frame.x(value)
    anchor, shift = ("end", -6) if x > frame.width / 2 else ("start", 6)
    return [
        draw_line(x, frame.top_margin - 4, x, frame.y(frame.y_low), "ink-muted dashed"),
        text(x + shift, frame.top_margin + 4, words, f"{anchor} small"),
    ]


def _bars(frame: PlotArea, edges: Floats, counts: Ints, color: str) -> list[str]:
    base, parts = frame.y(0), []
    for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        if count:
            x, width, y = frame.x(low) + 1, frame.x(high) - frame.x(low) - 2, min(frame.y(count), base - 1.5)
            note = f"<title>{count} between {format_short_percent(low)} and {format_short_percent(high)}</title>"
            shape = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{base - y:.1f}"'
            parts.append(f'<rect class="{color}" {shape}>{note}</rect>')
    highest = int(counts.argmax())
    if counts[highest]:
        middle = frame.x((edges[highest] + edges[highest + 1]) / 2)
        parts.append(text(middle, frame.top_margin - 4, f"{counts[highest]:,}", "middle small"))
    return [*parts, draw_line(frame.start_margin, base, frame.end, base, "ink-muted")]


def _spread_labels(heights: Sequence[float | None], gap: float = 16) -> list[float | None]:
    """Return the heights of the labels, pushed apart so that they do not touch."""
    placed: dict[int, float] = {}
    for height, index in sorted((height, index) for index, height in enumerate(heights) if height is not None):
        placed[index] = max(height, max(placed.values(), default=-math.inf) + gap)
    return [placed.get(index) for index in range(len(heights))]


def _finite(values: Sequence[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]
