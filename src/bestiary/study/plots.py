"""The plots of a study, as SVG: scores by recipe and seed, differences with intervals, scores against seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from bestiary.report.svg import (
    WIDTH,
    PlotArea,
    axes,
    draw_circle,
    draw_line,
    format_short_percent,
    nice_ticks,
    svg_document,
    text,
)

ROW, TOP, BOTTOM = 38, 34, 40
INKS = {"better": "right", "worse": "wrong", "not told apart": "muted"}
SPANS = {1.0: "1 s", 3.0: "3 s", 10.0: "10 s", 30.0: "30 s", 60.0: "1 min", 180.0: "3 min", 600.0: "10 min",
         1800.0: "30 min", 3600.0: "1 h", 10800.0: "3 h", 36000.0: "10 h"}  # fmt: skip
LETTER, LINE = 6.7, 14  # of a label, in SVG units

Box = tuple[float, float, float, float]  # left, upper, right, lower


def scores_plot(recipes: Sequence[Mapping[str, Any]], metric: str, title: str) -> Markup:
    """Return a row for each recipe: a small dot for each seed, their mean as a large one, and its interval."""
    ends = [end for one in recipes for end in (one[metric]["low"], one[metric]["high"], *one[metric]["values"])]
    pad = 0.06 * max(max(ends) - min(ends), 0.02)
    frame = _row_area(len(recipes), max(0.0, min(ends) - pad), min(1.0, max(ends) + pad))
    parts = _scale(frame, title, signed=False)
    for at, one in enumerate(recipes):
        y, scores = TOP + ROW * at + 26, one[metric]
        parts.append(text(frame.left, y - 11, one["recipe"], "start small strong"))
        parts.append(draw_line(frame.x(scores["low"]), y, frame.x(scores["high"]), y, "ink-right"))
        for seed, value in zip(one["seeds"], scores["values"], strict=True):
            parts.append(draw_circle(frame.x(value), y, 3, "fill-other", f"seed {seed}: {format_short_percent(value)}"))
        parts.append(
            draw_circle(frame.x(scores["mean"]), y, 5, "fill-right", f"mean: {format_short_percent(scores['mean'])}")
        )
    spoken = "; ".join(f"{one['recipe']}: {format_short_percent(one[metric]['mean'])}" for one in recipes)
    return svg_document(title, spoken, parts, frame.height)


def differences_plot(differences: Sequence[Mapping[str, Any]], metric: str, title: str) -> Markup:
    """Return a row for each difference: its value, its interval, and small dots for the seeds; a line at zero."""
    ends = [end for one in differences for end in (one[metric]["low"], one[metric]["high"])]
    seeds = [told["value"] for one in differences for told in one[metric]["by_seed"]]
    low, high = min([*ends, *seeds, -0.005]), max([*ends, *seeds, 0.005])
    pad = 0.05 * (high - low)
    frame = _row_area(len(differences), low - pad, high + pad)
    parts = _scale(frame, title, signed=True)
    parts.append(draw_line(frame.x(0), TOP, frame.x(0), frame.height - BOTTOM, "ink-muted dashed"))
    for at, one in enumerate(differences):
        y, ink = TOP + ROW * at + 26, INKS[one[metric]["verdict"]]
        words = f"{one['recipe']} against {one['against']}: {one[metric]['verdict']}"
        parts.append(text(frame.left, y - 11, words, "start small"))
        parts.append(draw_line(frame.x(one[metric]["low"]), y, frame.x(one[metric]["high"]), y, f"ink-{ink}"))
        parts += [
            draw_circle(
                frame.x(told["value"]), y, 2.5, "fill-other", f"seed {told['seed']}: {100 * told['value']:+.1f} points"
            )
            for told in one[metric]["by_seed"]
        ]
        parts.append(
            draw_circle(frame.x(one[metric]["value"]), y, 5, f"fill-{ink}", f"{100 * one[metric]['value']:+.1f} points")
        )
    spoken = "; ".join(
        f"{one['recipe']} against {one['against']}: {100 * one[metric]['value']:+.1f} points, {one[metric]['verdict']}"
        for one in differences
    )
    return svg_document(title, spoken, parts, frame.height)


def seconds_plot(recipes: Sequence[Mapping[str, Any]], metric: str, y_label: str) -> Markup:
    """Return the mean score of each recipe over the seconds that its training takes, each with its name."""
    seconds = [max(0.1, one["train_seconds"]) for one in recipes]
    scores = [one[metric]["mean"] for one in recipes]
    pad = max(0.08 * (max(scores) - min(scores)), 0.01)
    frame = PlotArea(min(seconds) / 1.6, max(seconds) * 1.6, max(0.0, min(scores) - pad), min(1.0, max(scores) + pad),
                  x_log=True, height=340)  # fmt: skip
    spans = {mark: words for mark, words in SPANS.items() if frame.x_low <= mark <= frame.x_high}
    marks = spans or {seconds[0]: f"{seconds[0]:.2g} s"}
    parts = axes(
        frame, list(marks), nice_ticks(frame.y_low, frame.y_high), lambda mark: marks[mark], format_short_percent,
        "Seconds of training, mean over seeds", y_label,
    )  # fmt: skip
    points = [(frame.x(second), frame.y(score)) for second, score in zip(seconds, scores, strict=True)]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    for one, (x, y) in zip(recipes, points, strict=True):
        parts.append(
            draw_circle(x, y, 5, "fill-right", f"{one['recipe']}: {format_short_percent(one[metric]['mean'])}")
        )
        parts.append(_label(one["recipe"], x, y, taken))
    spoken = "; ".join(
        f"{one['recipe']}: {second:.0f} s, {format_short_percent(one[metric]['mean'])}"
        for one, second in zip(recipes, seconds, strict=True)
    )
    return svg_document(y_label, spoken, parts, frame.height)


def _row_area(count: int, low: float, high: float) -> PlotArea:
    return PlotArea(low, high, 0, 1, left=12, right=24, top=TOP, bottom=BOTTOM, height=TOP + ROW * count + BOTTOM)


def _scale(frame: PlotArea, title: str, *, signed: bool) -> list[str]:
    """Return the title, thin upright lines at round values, and the values below them."""
    base = frame.height - BOTTOM
    parts = [text(frame.left, 14, title, "start small")]
    for mark in nice_ticks(frame.x_low, frame.x_high):
        words = f"{100 * mark:+g}" if signed and mark else "0" if signed else format_short_percent(mark)
        parts.append(draw_line(frame.x(mark), TOP - 8, frame.x(mark), base, "ink-grid"))
        parts.append(text(frame.x(mark), base + 17, words, "middle small"))
    return parts


def _label(words: str, x: float, y: float, taken: list[Box]) -> str:
    """Return the name of a point at the first place beside it that is free, and note the place as taken."""
    width = LETTER * len(words)
    places = [(x + 9, y + 4), (x - 9 - width, y + 4), (x - width / 2, y - 10), (x - width / 2, y + 20)]
    places += [(x + 9, y + 4 + LINE * step) for step in (1, -1, 2, -2, 3, -3)]
    inside = [place for place in places if place[0] >= 46 and place[0] + width <= WIDTH + 6] or places
    left, base = min(inside, key=lambda place: (_overlap_area(_box(place, width), taken), inside.index(place)))
    taken.append(_box((left, base), width))
    return text(left, base, words, "start small")


def _box(position: tuple[float, float], width: float) -> Box:
    return position[0], position[1] - LINE + 3, position[0] + width, position[1] + 3


def _overlap_area(box: Box, taken: Sequence[Box]) -> float:
    """Return the area of a box that others cover."""
    return math.fsum(
        max(0.0, min(box[2], one[2]) - max(box[0], one[0])) * max(0.0, min(box[3], one[3]) - max(box[1], one[1]))
        for one in taken
    )
