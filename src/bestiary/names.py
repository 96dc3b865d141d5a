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
