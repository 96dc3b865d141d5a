"""Short summaries of results for an interpreter and a notebook: a title and rows, never arrays; there with bars.

>>> print(Summary("Run runs/latest", (("accuracy", "0.950 (0.910 to 0.974)"),)).text())
Run runs/latest
  accuracy: 0.950 (0.910 to 0.974)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bestiary.text import escape_control_chars

BAR_WIDTH, BAR_HEIGHT = 160, 10  # pixels
BAR_COLOUR = "#3b82c4"  # at least 3:1 on white and on the dark background of a notebook
CELL = 'style="text-align:left;padding:2px 12px 2px 0;vertical-align:middle"'


class Bar(NamedTuple):
    """A number from 0 to 1 as a bar, and its interval, if there is one, as a line on it."""

    value: float
    low: float | None = None
    high: float | None = None


class Row(NamedTuple):
    """A row of a summary: a name and a value, plain text.

    A notebook also shows a bar, a thumbnail (`draw_thumbnail` returns a `data:` address, or None) and the value as a
    link to `file`, if its path is relative: a page may not open others by their absolute paths.
    """

    name: str
    value: str
    bar: Bar | None = None
    draw_thumbnail: Callable[[], str | None] | None = None
    file: Path | None = None


@dataclass(frozen=True)
class Summary:
    """A title, and rows of a name and a value, all plain text; details: rows that only a notebook shows."""

    title: str
    rows: tuple[Row | tuple[str, str], ...]
    details: tuple[Row | tuple[str, str], ...] = ()

    def text(self) -> str:
        """Return the summary as a few lines for a terminal; control characters of file names are escaped."""
        lines = [self.title, *(f"  {row[0]}: {row[1]}" for row in self.rows)]
        return "\n".join(escape_control_chars(line) for line in lines)

    def html(self) -> str:
        """Return the summary as a small table for a notebook, with all text escaped and no external asset.

        Colours are those of the notebook (`currentColor`), so that it is legible on dark and on light ground.
        """
        from html import escape  # not for a prediction on the command line, which starts in half a second
        from urllib.parse import quote

        rows = [Row(*row) for row in (*self.rows, *self.details)]
        has_thumbnails, has_bars = any(row.draw_thumbnail for row in rows), any(row.bar for row in rows)
        lines = []
        for row in rows:
            address = row.draw_thumbnail and row.draw_thumbnail()
            image = f'<img src="{escape(address)}" alt="" style="max-height:72px">' if address else ""
            value = escape(row.value)
            if row.file is not None and not row.file.is_absolute():
                value = f'<a href="{escape(quote(row.file.as_posix()))}">{value}</a>'
            cells = [
                *([f"<td {CELL}>{image}</td>"] if has_thumbnails else []),
                f'<th scope="row" {CELL}>{escape(row.name)}</th>',
                f"<td {CELL}>{value}</td>",
                *([f"<td {CELL}>{_draw_bar(row.bar) if row.bar else ''}</td>"] if has_bars else []),
            ]
            lines.append(f"<tr>{''.join(cells)}</tr>")
        table = f'<table style="color:inherit;border-collapse:collapse">{"".join(lines)}</table>'
        return f'<div style="color:inherit"><strong>{escape(self.title)}</strong>{table}</div>'


class SummaryRepr:
    """Gives a result the `repr` of its summary, and the same as HTML in a notebook."""

    def summary(self) -> Summary:
        """Return what to show of the result."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the summary as text."""
        return self.summary().text()

    def _repr_html_(self) -> str:
        return self.summary().html()


def format_score(metric: Mapping[str, Any] | None) -> str:
    """Return a metric of metrics.json with its 95 % interval.

    >>> format_score({"value": 0.95, "low": 0.91, "high": 0.974}), format_score({"value": None})
    ('0.950 (0.910 to 0.974)', '–')
    """
    value, low, high = ((metric or {}).get(key) for key in ("value", "low", "high"))
    if value is None or not math.isfinite(value):
        return "–"
    has_interval = low is not None and high is not None and math.isfinite(low + high)
    return f"{value:.3f} ({low:.3f} to {high:.3f})" if has_interval else f"{value:.3f}"


def score_rows(metrics: Mapping[str, Any], names: Iterable[str] = ("accuracy", "macro_f1")) -> list[Row]:
    """Return a row for each metric of metrics.json that is there, with its 95 % interval."""
    return [
        Row(name.replace("_f1", "-F1"), format_score(metrics[name]), _make_bar(metrics[name]))
        for name in names
        if name in metrics
    ]


def _make_bar(metric: Mapping[str, Any] | None) -> Bar | None:
    """Return the bar of a metric of metrics.json; None for one that is not known."""
    value, low, high = ((metric or {}).get(key) for key in ("value", "low", "high"))
    if value is None or not math.isfinite(value):
        return None
    return Bar(value, low, high) if low is not None and high is not None and math.isfinite(low + high) else Bar(value)


def _draw_bar(bar: Bar) -> str:
    """Return a bar as inline SVG: a track, the value, and the interval as a line."""
    width, height, middle = BAR_WIDTH, BAR_HEIGHT, BAR_HEIGHT / 2
    parts = [
        f'<rect width="{width}" height="{height}" fill="currentColor" opacity="0.15"/>',
        f'<rect width="{_position(bar.value):.1f}" height="{height}" fill="{BAR_COLOUR}"/>',
    ]
    if bar.low is not None and bar.high is not None:
        line = f'y1="{middle}" y2="{middle}" stroke="currentColor" stroke-width="2"'
        parts.append(f'<line x1="{_position(bar.low):.1f}" x2="{_position(bar.high):.1f}" {line}/>')
    return f'<svg width="{width}" height="{height}" aria-hidden="true">{"".join(parts)}</svg>'


def _position(fraction: float) -> float:
    return BAR_WIDTH * min(max(fraction, 0.0), 1.0)
