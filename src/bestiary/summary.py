"""Short summaries of results for an interpreter and a notebook: a title and a few lines, never arrays.

>>> print(Summary("Run runs/latest", (("accuracy", "0.950 (0.910 to 0.974)"),)).text())
Run runs/latest
  accuracy: 0.950 (0.910 to 0.974)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bestiary.text import escape_control_chars


@dataclass(frozen=True)
class Summary:
    """A title, and rows of a name and a value, all plain text."""

    title: str
    rows: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """Return the summary as a few lines for a terminal; control characters of file names are escaped."""
        lines = [self.title, *(f"  {name}: {value}" for name, value in self.rows)]
        return "\n".join(escape_control_chars(line) for line in lines)

    def html(self) -> str:
        """Return the summary as a small table for a notebook, with all text escaped."""
        from html import escape  # not for a prediction on the command line, which starts in half a second

        rows = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
            for name, value in self.rows
        )
        return f"<div><strong>{escape(self.title)}</strong><table>{rows}</table></div>"


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


def score_rows(metrics: Mapping[str, Any], names: Iterable[str] = ("accuracy", "macro_f1")) -> list[tuple[str, str]]:
    """Return a row for each metric of metrics.json that is there, with its 95 % interval."""
    return [(name.replace("_f1", "-F1"), format_score(metrics[name])) for name in names if name in metrics]
