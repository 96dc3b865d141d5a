"""Text for people: printable file names, percentages, durations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

# Control characters, line ends, bidirectional controls, and surrogates (bytes that are not UTF-8).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_PASSWORD = re.compile(r"(:/+[^/:?]*):[^@]*@(?:[^/?@]*@)*")  # as SQLAlchemy reads it: it may contain slashes
_QUERY_PASSWORD = re.compile(r"([?&;][\w.-]*(?:password|passwd|passphrase|pwd)=)[^&]*", re.IGNORECASE)
_ODBC_PASSWORD = re.compile(r"((?:password|pwd)%3D).*?(?=%3B|&|$)", re.IGNORECASE)  # in a connection string


def printable(text: str) -> str:
    """Return a name with bytes that are not UTF-8 escaped, as in `caf\\udce9`, so that it can be shown and stored."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def escape_control_chars(text: str) -> str:
    """Return a text as one line for a terminal: line ends, control and bidirectional characters are escaped.

    >>> escape_control_chars("new\\nline.jpg")
    'new\\\\nline.jpg'
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def hide_passwords(text: str) -> str:
    """Return a URL, or an argument with one, with its passwords hidden: messages and run folders are passed on.

    >>> hide_passwords("postgresql://me:sec/ret@host/db"), hide_passwords("--storage=mysql://h/db?user=me&passwd=secret")
    ('postgresql://me:***@host/db', '--storage=mysql://h/db?user=me&passwd=***')
    """
    for pattern, hidden in ((_PASSWORD, r"\1:***@"), (_QUERY_PASSWORD, r"\1***"), (_ODBC_PASSWORD, r"\1***")):
        text = pattern.sub(hidden, text)
    return text


def truncate_name(name: str, max_bytes: int) -> str:
    """Return the start of a name, at most `max_bytes` long: file names are limited to 255 bytes."""
    while len(os.fsencode(name)) > max_bytes:
        name = name[:-1]
    return name


def relative_name(path: str, root: str) -> str:
    """Return a path relative to a folder above it; unchanged without such a folder."""
    return os.path.relpath(path, root) if root else path


def common_folder(paths: Iterable[str]) -> str:
    """Return the folder that all paths share, empty if there is none (no paths, or other drives)."""
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 -- thousands of strings, no need for objects
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:
        return ""


def locating_name(path: str, root: str) -> str:
    """Return a path relative to the folder of a collection; one that lies in it directly, with the folder's name.

    >>> locating_name("/a/pets/cat/1.jpg", "/a/pets"), locating_name("/a/pets/1.jpg", "/a/pets")
    ('cat/1.jpg', 'pets/1.jpg')
    """
    name = relative_name(path, root)
    return os.path.join(os.path.basename(root), name) if root and os.sep not in name else name  # noqa: PTH118, PTH119


def format_names(names: Sequence[str], max_names: int = 10) -> str:
    """Return names separated by commas; of many, the first `max_names` and the number of the others.

    >>> format_names(["ant", "bee", "cat"], 2)
    'ant, bee and 1 more'
    """
    more = f" and {len(names) - max_names:,} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + more


def quote_names(names: Sequence[str], end: str = "") -> str:
    """Return names as the value of an option, in quotes if it has spaces.

    >>> quote_names(["ant", "bee"]), quote_names(["guinea pig"], ",…")
    ('ant,bee', '"guinea pig,…"')
    """
    text = ",".join(names) + end
    return f'"{text}"' if " " in text else text


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return the number of skipped files by reason as a sentence, empty if there are none.

    >>> describe_skipped({"hidden": 2, "linked folder": 0})
    'Skipped: 2 hidden.'
    """
    listed = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items() if count)
    return f"Skipped: {listed}." if listed else ""


def format_count(n: int, singular: str, many: str = "") -> str:
    """Return a count with its noun; many: the plural, if not with an s.

    >>> format_count(1, "picture"), format_count(1200, "class", "classes")
    ('1 picture', '1,200 classes')
    """
    return f"{n:,} {singular if n == 1 else many or singular + 's'}"


def format_percent(fraction: float, digits: int = 0) -> str:
    """Return a fraction as a percentage; below 1 it is never rounded up to 100 %.

    >>> format_percent(0.996), format_percent(0.996, 1)
    ('99\\xa0%', '99.6\\xa0%')
    """
    return f"{format_points(fraction, digits)}\u00a0%"


def format_points(fraction: float, digits: int) -> str:
    """Return a fraction times 100 with `digits` decimals, without a unit; below 1 it is never rounded up to 100."""
    if fraction == 1:
        return "100"
    return f"{min(100 * fraction, 100 - 10**-digits) if fraction < 1 else 100 * fraction:.{digits}f}"


def format_duration(seconds: float) -> str:
    """Return a duration in at most two units, rounded: seconds below ten minutes, else minutes.

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
