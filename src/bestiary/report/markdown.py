"""The few pieces of Markdown that a summary and a model card are made of; what users named is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bestiary.report.format import format_interval, format_number, format_rate

# What GitHub makes something of, up to where a space of no width breaks it.
SHORTHAND = re.compile(r"@(?=\w)|#(?=\d)|\bGH-(?=\d)|ww(?=w\.)|:(?=//)|:(?=[\w+-]+:)", re.IGNORECASE)


def escape(words: object) -> str:
    r"""Return text that Markdown shows as it is, on one line, and of which GitHub makes no link, mention or picture.

    GitHub looks for `@name`, `#1`, `www.`, `://` and `:skull:` in the text as it is shown, where an entity is no help:
    a space of no width breaks each.

    >>> escape("a|b <i> *c*")
    'a\\|b &lt;i> \\*c\\*'
    """
    text = SHORTHAND.sub("\\g<0>\u200b", " ".join(str(words).split()))
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table: the first column to the left, the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def format_metric(metric: Mapping[str, Any] | None, *, is_rate: bool = True, digits: int = 1) -> str:
    """Return a value with its interval: `97.2 % (96.1 to 98.2)`."""
    if is_rate:
        value, interval = format_rate(metric, digits), format_interval(metric, digits)
    else:
        value, interval = format_number((metric or {}).get("value")), format_interval(metric, 3, 1)
    return f"{value} ({interval})" if interval else value
