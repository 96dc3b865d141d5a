"""Names of files, which may hold any byte but two: as they can be stored, and as they can be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

# Controls, ends of lines, what turns the direction of writing, and bytes that are no text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a name with what is no text in it written out, as in `caf\\udce9`, so that it can be shown and stored."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def escape_control_chars(text: str) -> str:
    """Return a text for a line of a terminal: what would break the line, or hide or turn letters, is written out.

    >>> escape_control_chars("new\\nline.jpg")
    'new\\\\nline.jpg'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def truncate_name(name: str, max_bytes: int) -> str:
    """Return the beginning of a name that takes at most so many bytes: names of files have 255 at most."""
    while len(os.fsencode(name)) > max_bytes:
        name = name[:-1]
    return name


def format_names(names: Sequence[str], max_names: int = 10) -> str:
    """Return names in a row, or of many the first and how many more there are.

    >>> format_names(["ant", "bee", "cat"], 2)
    'ant, bee and 1 more'
    """
    more = f" and {len(names) - max_names:,} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + more


def format_percent(fraction: float) -> str:
    """Return a share as a whole percentage.

    >>> format_percent(0.996)
    '99\\xa0%'
    """
    return f"{format_points(fraction, 0)}\u00a0%"


def format_points(fraction: float, digits: int) -> str:
    """Return a share times 100 with so many digits, without a unit."""
    if fraction == 1:
        return "100"
    most = 100 - 10**-digits
    return f"{min(100 * fraction, most) if fraction < 1 else 100 * fraction:.{digits}f}"


def format_duration(seconds: float) -> str:
    """Return a span for people, in two units at most, rounded to what they would say.

    >>> format_duration(55.2), format_duration(600), format_duration(5430), format_duration(130)
    ('55 s', '10 min', '1 h 30 min', '2 min 10 s')
    """
    whole = max(1, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return _join_units(whole // 60, "min", whole % 60, "s")
    minutes = round(whole / 60)
    return _join_units(minutes // 60, "h", minutes % 60, "min")


def _join_units(large: int, large_unit: str, small: int, small_unit: str) -> str:
    parts = [f"{large} {large_unit}" if large else "", f"{small} {small_unit}" if small else ""]
    return " ".join(part for part in parts if part)
