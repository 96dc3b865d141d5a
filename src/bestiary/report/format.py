"""Numbers of a report as text: rates, intervals, counts. `bestiary.text` has the percentages that need no metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bestiary.text import format_points

ABSENT = "–"
Metric = Mapping[str, Any] | None  # a value with the ends of its 95 % interval, as in metrics.json


def format_rate(metric: Metric, digits: int = 1) -> str:
    """Return a rate as a percentage, `–` for a missing one; only 1 is `100 %`."""
    value = (metric or {}).get("value")
    return ABSENT if value is None or not math.isfinite(value) else f"{format_points(value, digits)}\u00a0%"


def format_interval(metric: Metric, digits: int = 1, factor: float = 100, sign: str = "") -> str:
    """Return a 95 % interval as `96.1 to 98.0`, empty for a missing one; sign: `+` to show it for positive ends."""
    low, high = (metric or {}).get("low"), (metric or {}).get("high")
    if low is None or high is None or not math.isfinite(low + high):
        return ""
    ends = (factor * low, factor * high)
    return " to ".join(f"{end:{sign}.{0 if end == 100 else digits}f}" for end in ends)


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number, `–` for a missing one."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def format_estimate(metric: Metric, digits: int = 3, factor: float = 1, sign: str = "") -> str:
    """Return a value with its interval: `0.927 (0.855 to 0.976)`; factor: 100 for percentage points."""
    value, interval = (metric or {}).get("value"), format_interval(metric, digits, factor, sign)
    number = ABSENT if value is None or not math.isfinite(value) else f"{factor * value:{sign}.{digits}f}"
    return f"{number} ({interval})" if interval else number


def format_metric(metric: Metric, digits: int = 1, *, is_rate: bool = True) -> str:
    """Return a value with its interval, a rate as a percentage: `97.2 % (96.1 to 98.2)`."""
    if not is_rate:
        return format_estimate(metric)
    interval = format_interval(metric, digits)
    return f"{format_rate(metric, digits)} ({interval})" if interval else format_rate(metric, digits)


def format_short_percent(fraction: float) -> str:
    """Return a percentage without decimals, or with one where it needs one."""
    points = round(100 * fraction, 1)
    return f"{points:.0f}\u00a0%" if points == round(points) else f"{points:.1f}\u00a0%"


def format_signed_points(fraction: float) -> str:
    """Return a difference of rates in percentage points, with its sign: `+3.2 points`."""
    return f"{100 * fraction:+.1f} points"
