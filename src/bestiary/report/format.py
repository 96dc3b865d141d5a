"""Figures as text: rates, intervals, counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bestiary.text import format_percent

ABSENT = "–"


def format_rate(metric: Mapping[str, Any] | None, digits: int = 1) -> str:
    """Return a rate as a percentage, `–` where it is not known."""
    value = (metric or {}).get("value")
    return ABSENT if value is None or not math.isfinite(value) else format_percent(value, digits)


def format_interval(metric: Mapping[str, Any] | None, digits: int = 1, factor: float = 100) -> str:
    """Return a 95 % interval as `96.1 to 98.0`, empty where there is none."""
    low, high = (metric or {}).get("low"), (metric or {}).get("high")
    if low is None or high is None or not math.isfinite(low + high):
        return ""
    ends = [f"{factor * end:.{digits}f}" for end in (low, high)]
    return " to ".join("100" if factor * end == 100 else text for end, text in zip((low, high), ends, strict=True))


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number, `–` for a missing one."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
