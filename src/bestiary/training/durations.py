"""Spans of time as people write and read them."""

from __future__ import annotations

import re

from bestiary.errors import UserError

_UNITS = {"h": 3600, "m": 60, "min": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)", re.IGNORECASE)


def seconds_of(text: str) -> float:
    """Return the seconds in a span such as `90s`, `10m`, `2h`, `1h30m`; raises UserError for anything else.

    >>> seconds_of("1h30m"), seconds_of("90s")
    (5400.0, 90.0)
    """
    parts = _PART.findall(text)
    written = "".join(f"{number}{unit}" for number, unit in parts)
    units = [_UNITS[unit.lower()] for _, unit in parts]
    seconds = sum(float(number) * size for (number, _), size in zip(parts, units, strict=True))
    falling = units == sorted(set(units), reverse=True)
    if not parts or not falling or seconds <= 0 or written != re.sub(r"\s", "", text):
        raise UserError(f'"{text}" is no span of time. Write 90s, 10m, 2h or 1h30m.')
    return seconds


def spoken(seconds: float) -> str:
    """Return a span for people, in two units at most, rounded to what they would say.

    >>> spoken(55.2), spoken(600), spoken(5430), spoken(130)
    ('55 s', '10 min', '1 h 30 min', '2 min 10 s')
    """
    whole = max(1, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return _two(whole // 60, "min", whole % 60, "s")
    minutes = round(whole / 60)
    return _two(minutes // 60, "h", minutes % 60, "min")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    parts = [f"{large} {large_unit}" if large else "", f"{small} {small_unit}" if small else ""]
    return " ".join(part for part in parts if part)
