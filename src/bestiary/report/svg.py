"""SVG elements of the plots: plot area with axes, text, lines, circles.

Written by hand instead of by a plotting library: sharp at any size, light or dark like the page, drawn in a
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
    """The plot area: limits of the values, and size and margins in SVG units."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    x_log: bool = False
    start_margin: float = 46
    end_margin: float = 24
    top_margin: float = 30
    bottom_margin: float = 44
    height: float = HEIGHT
    width: float = WIDTH

    @property
    def end(self) -> float:
        """The right end of the axis."""
        return self.width - self.end_margin

    def x(self, value: float) -> float:
        """Return the distance of a value from the left edge."""
        scale: Callable[[float], float] = math.log10 if self.x_log else float
        low, high, at = scale(self.x_low), scale(self.x_high), scale(value)
        return round(self.start_margin + (at - low) / (high - low) * (self.end - self.start_margin), 1)

    def y(self, value: float) -> float:
        """Return the distance of a value from the upper edge."""
        fraction = (value - self.y_low) / (self.y_high - self.y_low)
        return round(self.top_margin + (1 - fraction) * (self.height - self.top_margin - self.bottom_margin), 1)


@dataclass(frozen=True)
class Drawing:
    """A finished plot: `label` describes it for screen readers."""

    label: str
    parts: Sequence[str]
    height: float = HEIGHT
    width: float = WIDTH

    @property
    def inline(self) -> Markup:
        """The plot as an element of a page."""
        head = f'<svg class="plot" viewBox="0 0 {self.width:g} {self.height:g}" role="img"'
        return Markup(f'{head} aria-label="{escape(self.label)}">{"".join(self.parts)}</svg>')


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
    """Return horizontal grid lines, tick labels and axis labels; the y label is upright above its axis."""
    start, end, base = frame.start_margin, frame.end, frame.y(frame.y_low)
    return [
        *(draw_line(start, frame.y(tick), end, frame.y(tick), "ink-grid") for tick in y_ticks),
        *(
            text(start - 6, frame.y(tick) + 4, label, "end small")
            for tick, label in zip(y_ticks, _align_decimals([y_text(tick) for tick in y_ticks]), strict=True)
        ),
        draw_line(start, base, end, base, "ink-muted"),
        *(text(frame.x(tick), base + 17, x_text(tick), "middle small") for tick in x_ticks),
        text((start + end) / 2, base + 36, x_label, "middle small"),
        text(4, 14, y_label, "start small"),
    ]


def format_axis_number(value: float) -> str:
    """Return a number for an axis, with no more digits than it needs."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def text(x: float, y: float, words: str, classes: str) -> str:
    """Return text at a position; `classes` gives its anchor (start, middle, end) and style."""
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def draw_line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """Return a straight line."""
    return f'<line class="{classes}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def draw_circle(x: float, y: float, radius: float, classes: str, note: str = "") -> str:
    """Return a filled circle, with `note` as its tooltip."""
    title = f"<title>{escape(note)}</title>" if note else ""
    return f'<circle class="{classes}" cx="{x}" cy="{y}" r="{radius}">{title}</circle>'


def svg_document(title: str, description: str, parts: Sequence[str], height: float) -> Markup:
    """Return the whole plot as an element of a page, with a description for screen readers."""
    return Drawing(f"{title}. {description}.", parts, height).inline


def _align_decimals(numbers: list[str]) -> list[str]:
    """Return the numbers of one axis with as many decimals as the longest has; percentages unchanged.

    >>> _align_decimals(["0", "0.5", "1"])
    ['0.0', '0.5', '1.0']
    """
    if not all(number.replace(".", "", 1).isdigit() for number in numbers):
        return numbers
    digits = max((len(number.partition(".")[2]) for number in numbers), default=0)
    return [f"{float(number):.{digits}f}" for number in numbers]
