"""The few pieces of SVG that the plots are made of: a frame with axes, text, lines, dots.

Written by hand instead of by a plotting library: sharp at any size, light or dark as the page is, drawn in a
millisecond. Colours come from classes that `web/style.css` defines (`ink-right`, `fill-wrong`, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 300


@dataclass(frozen=True)
class PlotArea:
    """The plot area: the limits of the values, and the margins around it in SVG units."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    x_log: bool = False
    left: float = 46
    right: float = 24
    top: float = 30
    bottom: float = 44
    height: float = HEIGHT

    def x(self, value: float) -> float:
        """Return where a value lies from the left edge."""
        low, high, at = (self.x_low, self.x_high, value)
        if self.x_log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return round(self.left + (at - low) / (high - low) * (WIDTH - self.left - self.right), 1)

    def y(self, value: float) -> float:
        """Return where a value lies from the upper edge."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(self.top + (1 - share) * (self.height - self.top - self.bottom), 1)


def nice_ticks(low: float, high: float, max_ticks: int = 5) -> list[float]:
    """Return round values within the limits, at most about `max_ticks` of them.

    >>> nice_ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / max_ticks
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def axes(
    frame: PlotArea,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_label: str,
    y_label: str,
) -> list[str]:
    """Return thin lines across, the numbers, and both labels, the one of y upright above its axis."""
    left, right, base = frame.left, WIDTH - frame.right, frame.y(frame.y_low)
    parts = [draw_line(left, frame.y(tick), right, frame.y(tick), "ink-grid") for tick in y_ticks]
    parts += [
        text(left - 6, frame.y(tick) + 4, words, "end small")
        for tick, words in zip(y_ticks, _align_decimals([y_text(tick) for tick in y_ticks]), strict=True)
    ]
    parts.append(draw_line(left, base, right, base, "ink-muted"))
    parts += [text(frame.x(tick), base + 17, x_text(tick), "middle small") for tick in x_ticks]
    parts.append(text((left + right) / 2, base + 36, x_label, "middle small"))
    parts.append(text(4, 14, y_label, "start small"))
    return parts


def format_short_percent(fraction: float) -> str:
    """Return a share as a whole percentage, or with one decimal where that is needed."""
    points = round(100 * fraction, 1)
    return f"{points:.0f}\u00a0%" if points == round(points) else f"{points:.1f}\u00a0%"


def format_axis_number(value: float) -> str:
    """Return a number for an axis, with no more digits than it needs."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def text(x: float, y: float, words: str, classes: str) -> str:
    """Return words at a place; `classes` holds the anchor (start, middle, end) and the look."""
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def draw_line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """Return a straight line."""
    return f'<line class="{classes}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def draw_circle(x: float, y: float, radius: float, classes: str, note: str = "") -> str:
    """Return a filled circle, with a note for those who point at it."""
    inside = f"<title>{escape(note)}</title>" if note else ""
    return f'<circle class="{classes}" cx="{x}" cy="{y}" r="{radius}">{inside}</circle>'


def svg_document(title: str, spoken: str, parts: Sequence[str], height: float) -> Markup:
    """Return the whole picture, with what it shows in words for those who listen to it."""
    label = escape(f"{title}. {spoken}.")
    return (
        Markup(f'<svg class="plot" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{label}">')
        + Markup("".join(parts))
        + Markup("</svg>")
    )


def escape_label(words: str) -> Markup:
    """Return words for an attribute of a drawing."""
    return escape(words)


def _align_decimals(numbers: list[str]) -> list[str]:
    """Return the numbers of one axis with as many decimals as the longest has; percentages as they are.

    >>> _align_decimals(["0", "0.5", "1"])
    ['0.0', '0.5', '1.0']
    """
    if not all(number.replace(".", "", 1).isdigit() for number in numbers):
        return numbers
    digits = max((len(number.partition(".")[2]) for number in numbers), default=0)
    return [f"{float(number):.{digits}f}" for number in numbers]
