"""Names of files, which may hold any byte but two: as they can be stored, and as they can be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

# Controls, ends of lines, what turns the direction of writing, and bytes that are no text.
_NEVER_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a name with what is no text in it written out, as in `caf\\udce9`, so that it can be shown and stored."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def on_one_line(text: str) -> str:
    """Return a text for a line of a terminal: what would break the line, or hide or turn letters, is written out.

    >>> on_one_line("new\\nline.jpg")
    'new\\\\nline.jpg'
    """
    return _NEVER_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shortened(name: str, most_bytes: int) -> str:
    """Return the beginning of a name that takes at most so many bytes: names of files have 255 at most."""
    while len(os.fsencode(name)) > most_bytes:
        name = name[:-1]
    return name


def some(names: Sequence[str], most: int = 10) -> str:
    """Return names in a row, or of many the first and how many more there are.

    >>> some(["ant", "bee", "cat"], 2)
    'ant, bee and 1 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def whole_percent(share: float) -> str:
    """Return a share as a whole percentage.

    >>> whole_percent(0.996)
    '99\\xa0%'
    """
    return f"{points_text(share, 0)}\u00a0%"


def points_text(share: float, digits: int) -> str:
    """Return a share times 100 with so many digits, without a unit."""
    if share == 1:
        return "100"
    most = 100 - 10**-digits
    return f"{min(100 * share, most) if share < 1 else 100 * share:.{digits}f}"


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
