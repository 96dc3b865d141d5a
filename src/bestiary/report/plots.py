"""The plots of a report, as SVG: curves, reliability, confidence, coverage, a large confusion matrix.

Every plot has its names at its lines, and says what it shows in words for those who listen to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from bestiary.array_types import Bools, Floats, Ints
from bestiary.evaluation.calibration import bin_index, coverage_curve
from bestiary.evaluation.intervals import wilson_interval
from bestiary.report.svg import (
    WIDTH,
    PlotArea,
    axes,
    draw_circle,
    draw_line,
    format_axis_number,
    format_short_percent,
    nice_ticks,
    svg_document,
    text,
)

BINS = 10
FEWEST_ANSWERS = 20  # a share of fewer answers than this says nothing


@dataclass(frozen=True)
class Series:
    """A line: its name, the class that gives its colour, and one value (or None) for each x."""

    name: str
    color_class: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class ReliabilityPoint:
    """A range of confidence: its mean, how many were right of how many, and the 95 % interval of that share."""

    confidence: float
    n_correct: int
    n: int
    low: float
    high: float


def line_plot(
    title: str,
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
    """Return lines over epochs or over a setting, each with its name at its end.

    x_ticks: the numbers along the bottom; round ones when not given. `mark` draws a vertical line at a value of x with
    a few words at its top. Missing values (None, NaN) are left out.
    """
    known = [float(value) for line in series for value in _finite_values(line.values)]
    if not x or not known:
        return Markup("")
    frame = _curve_frame(x, known, x_log, as_percent)
    y_text = format_short_percent if as_percent else format_axis_number
    parts = axes(
        frame,
        x_ticks or _x_ticks(frame),
        nice_ticks(frame.y_low, frame.y_high),
        format_axis_number,
        y_text,
        x_label,
        y_label,
    )
    if mark is not None:
        parts += _marker(frame, *mark)
    ends = _spread_labels([_label_height(frame, line, x) for line in series])
    for line, end in zip(series, ends, strict=True):
        parts += _series_line(frame, x, line)
        if end is not None:
            parts.append(
                text(WIDTH - frame.right + 8, end + 4, line.name, f"start {line.color_class.replace('ink', 'fill')}")
            )
    lasts = [(line.name, _last_value(line.values)) for line in series]
    spoken = "; ".join(f"{name} ends at {y_text(last)}" for name, last in lasts if last is not None)
    return svg_document(title, spoken, parts, frame.height)


def reliability(bins: Sequence[ReliabilityPoint], before: Sequence[ReliabilityPoint] = ()) -> Markup:
    """Return how often the answers were right (with its 95 % interval) against how sure the model was.

    Points grow with their number of pictures. `before`: the same before calibration, drawn as rings.
    """
    frame = PlotArea(0, 1, 0, 1, height=340)
    grid, n = nice_ticks(0, 1), sum(point.n for point in bins)
    labels = ("How sure the model was", "How often it was right")
    parts = axes(frame, grid, grid, format_short_percent, format_short_percent, *labels)
    parts.append(draw_line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "ink-muted dashed"))
    for point in bins:
        parts.append(
            draw_line(
                frame.x(point.confidence),
                frame.y(point.low),
                frame.x(point.confidence),
                frame.y(point.high),
                "ink-right",
            )
        )
    parts += _reliability_dots(frame, before, n, 5.5, "ring-other", "before calibration")
    parts += _reliability_dots(frame, bins, n, 3, "fill-right", "as shipped")
    parts += _reliability_legend() if before else []
    parts.append(text(frame.x(0.98), frame.y(0.07), "less often right than it claims", "end small"))
    spoken = "; ".join(
        f"sure {format_short_percent(p.confidence)}, right {format_short_percent(p.n_correct / p.n)} of {p.n}"
        for p in bins
    )
    return svg_document("Reliability diagram", spoken, parts, frame.height)


def _reliability_dots(
    frame: PlotArea, points: Sequence[ReliabilityPoint], n: int, smallest: float, ink: str, when: str
) -> list[str]:
    return [
        draw_circle(
            frame.x(point.confidence),
            frame.y(point.n_correct / point.n),
            round(smallest + 6 * math.sqrt(point.n / n), 1),
            ink,
            f"{point.n} pictures, {when}",
        )
        for point in points
    ]


def _reliability_legend() -> list[str]:
    """Return the legend, above the plot: inside it its dots could be taken for figures."""
    rows = ((190, "fill-right", "as shipped"), (296, "ring-other", "before calibration"))
    return [
        part for x, ink, words in rows for part in (draw_circle(x, 10, 5, ink), text(x + 10, 14, words, "start small"))
    ]


def reliability_points(confidence: Floats, correct: Bools) -> list[ReliabilityPoint]:
    """Return a point for each of ten equal ranges of confidence in which there are pictures; arrays of shape (n,)."""
    which, points = bin_index(confidence, BINS), []
    for rows in (which == b for b in range(BINS) if (which == b).any()):
        hits, n = int(correct[rows].sum()), int(rows.sum())
        low, high = wilson_interval(np.array(hits / n), np.array(n))
        points.append(ReliabilityPoint(float(confidence[rows].mean()), hits, n, float(low), float(high)))
    return points


def confidence_histogram(confidence: Floats, correct: Bools) -> Markup:
    """Return two histograms over the same axis, one of the right answers, one of the wrong ones.

    Each has its own height, since the wrong ones are few and would not be seen; the highest bar of each is labelled.
    """
    edges = np.linspace(0, 1, 21)
    parts: list[str] = []
    for name, ink, rows, top in (("Right", "fill-right", correct, 0), ("Wrong", "fill-wrong", ~correct, 150)):
        counts = np.histogram(confidence[rows], edges)[0]
        frame = PlotArea(0, 1, 0, max(1, int(counts.max())), left=16, top=top + 40, bottom=190 - top, height=340)
        parts += _bars(frame, edges, counts, ink)
        n = int(rows.sum())
        parts.append(text(16, top + 22, f"{name}: {n:,} answer{'s' * (n != 1)}", f"start strong {ink}"))
    parts += [
        text(frame.x(tick), frame.y(0) + 17, format_short_percent(tick), "middle small") for tick in nice_ticks(0, 1)
    ]
    parts.append(text(WIDTH / 2, 334, "How sure the model was", "middle small"))
    spoken = f"{int(correct.sum())} right answers and {int((~correct).sum())} wrong ones, in steps of 5 % of confidence"
    return svg_document("How sure the model was when it was right, and when it was wrong", spoken, parts, 340)


def coverage_plot(confidence: Floats, correct: Bools, unknown: Bools) -> Markup:
    """Return the accuracy when only the surest share is answered, and where the model as shipped stands."""
    points = [p for p in coverage_curve(confidence, correct) if p["coverage"] * len(correct) >= FEWEST_ANSWERS]
    if not points:
        return Markup("")
    shares, accuracy = [point["coverage"] for point in points], [point["accuracy"] for point in points]
    shipped = _operating_point(correct, unknown)
    floor = min(*accuracy, shipped[1] if shipped else 1.0)
    # Room below the line for the words of the pointer; never a scale finer than 2 points from top to bottom.
    frame = PlotArea(0, 1, max(0.0, 1 - max(0.02, 1.6 * (1 - floor))), 1, height=340)
    labels = ("Share of the pictures that get an answer", "How often those answers are right")
    parts = axes(
        frame, nice_ticks(0, 1), nice_ticks(frame.y_low, 1), format_short_percent, format_short_percent, *labels
    )
    parts += _series_line(frame, shares, Series("", "ink-right", accuracy), dots=False)
    if shipped:
        parts += _pointer(frame, *shipped)
    return svg_document("Coverage and accuracy", _describe_coverage(accuracy[-1], shipped), parts, frame.height)


def confusion_heatmap(labels: Sequence[str], counts: Ints) -> Markup:
    """Return the confusion matrix as a plain picture, for more classes than a table can show.

    `counts` (k, k): rows are what the pictures are, columns what was predicted. Empty cells are not drawn.
    """
    k, side = len(labels), 420.0
    cell = side / k
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = [f'<rect class="frame" x="36" y="24" width="{side}" height="{side}"/>']
    for row, column in np.argwhere(counts > 0).tolist():
        ink = "fill-right" if row == column else "fill-wrong"
        note = f"{labels[row]} taken for {labels[column]}: {counts[row, column]}"
        x, y, shade = 36 + column * cell, 24 + row * cell, 0.25 + 0.75 * math.sqrt(rates[row, column])
        parts.append(
            f'<rect class="{ink}" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
            f'fill-opacity="{shade:.2f}"><title>{escape(note)}</title></rect>'
        )
    parts.append(text(36, 16, f"Predicted: the {k} classes in the order of the list below", "start small"))
    parts.append(f'<text class="middle small" transform="translate(22 {24 + side / 2}) rotate(-90)">Is</text>')
    spoken = f"{int(np.trace(counts))} of {int(counts.sum())} pictures lie on the diagonal: predicted what they are"
    return svg_document(f"Confusion matrix of {k} classes", spoken, parts, side + 30)


def _curve_frame(x: Sequence[float], values: list[float], x_log: bool, as_percent: bool) -> PlotArea:
    low, high = min(values), max(values)
    pad = max((high - low) * 0.08, 0.005 if as_percent else abs(high) * 0.05, 1e-6)
    y_low = max(0.0, low - pad) if low >= 0 else low - pad
    y_high = min(1.0, high + pad) if as_percent and high <= 1 else high + pad
    x_low, x_high = min(x), max(x)
    if x_low == x_high:
        x_low, x_high = (x_low / 3, x_high * 3) if x_log else (x_low - 1, x_high + 1)
    return PlotArea(x_low, x_high, y_low, y_high, x_log=x_log, right=84)


def _x_ticks(frame: PlotArea) -> list[float]:
    if not frame.x_log:
        return [tick for tick in nice_ticks(frame.x_low, frame.x_high, 8) if tick == round(tick)]
    powers = range(math.floor(math.log10(frame.x_low)), math.ceil(math.log10(frame.x_high)) + 1)
    candidates = [round(factor * 10.0**power, 12) for power in powers for factor in (1, 3)]
    inside = [tick for tick in candidates if frame.x_low * 0.999 <= tick <= frame.x_high * 1.001]
    tens = [tick for tick in inside if f"{tick:e}".startswith("1")]
    return tens if len(tens) >= 3 else inside


def _series_line(frame: PlotArea, x: Sequence[float], line: Series, *, dots: bool = True) -> list[str]:
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


def _marker(frame: PlotArea, value: float, words: str) -> list[str]:
    x = frame.x(value)
    to_left = x > WIDTH / 2
    anchor, shift = ("end", -6) if to_left else ("start", 6)
    return [
        draw_line(x, frame.top - 4, x, frame.y(frame.y_low), "ink-muted dashed"),
        text(x + shift, frame.top + 4, words, f"{anchor} small"),
    ]


def _pointer(frame: PlotArea, fraction: float, accuracy: float) -> list[str]:
    x, y = frame.x(fraction), frame.y(accuracy)
    words = f"as shipped: answers {format_short_percent(fraction)}, right {format_short_percent(accuracy)}"
    below = y + 46
    return [
        draw_line(x, y + 6, x, below - 13, "ink-muted"),
        draw_circle(x, y, 5, "fill-wrong"),
        text(min(x + 8, WIDTH - frame.right), below, words, "end small"),
    ]


def _bars(frame: PlotArea, edges: Floats, counts: Ints, ink: str) -> list[str]:
    base, parts = frame.y(0), []
    for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
        if count:
            x, width, y = frame.x(low) + 1, frame.x(high) - frame.x(low) - 2, min(frame.y(count), base - 1.5)
            note = f"<title>{count} between {format_short_percent(low)} and {format_short_percent(high)}</title>"
            shape = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{base - y:.1f}"'
            parts.append(f'<rect class="{ink}" {shape}>{note}</rect>')
    highest = int(counts.argmax())
    if counts[highest]:
        middle = frame.x((edges[highest] + edges[highest + 1]) / 2)
        parts.append(text(middle, frame.top - 4, f"{counts[highest]:,}", "middle small"))
    return [*parts, draw_line(frame.left, base, WIDTH - frame.right, base, "ink-muted")]


def _operating_point(correct: Bools, unknown: Bools) -> tuple[float, float] | None:
    """Return (share answered, accuracy of the answers) as shipped; None if all or none is answered."""
    answered = ~unknown
    if answered.all() or not answered.any():
        return None
    return float(answered.mean()), float(correct[answered].mean())


def _describe_coverage(overall: float, shipped: tuple[float, float] | None) -> str:
    words = f"Answering every picture, {format_short_percent(overall)} are right"
    if shipped is None:
        return words
    answered, right = map(format_short_percent, shipped)
    return f"{words}; as shipped, {answered} are answered and {right} of those are right"


def _label_height(frame: PlotArea, line: Series, x: Sequence[float]) -> float | None:
    last = _last_value(line.values[: len(x)])
    return None if last is None else frame.y(last)


def _spread_labels(heights: list[float | None], gap: float = 16) -> list[float | None]:
    """Return the heights of the names, pushed apart so that they do not touch."""
    placed: dict[int, float] = {}
    for index in sorted((i for i, height in enumerate(heights) if height is not None), key=lambda i: heights[i] or 0.0):
        floor = max(placed.values(), default=-math.inf) + gap
        placed[index] = max(heights[index] or 0.0, floor)
    return [placed.get(index) for index in range(len(heights))]


def _last_value(values: Sequence[float | None]) -> float | None:
    return next(iter(_finite_values(values)[::-1]), None)


def _finite_values(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
