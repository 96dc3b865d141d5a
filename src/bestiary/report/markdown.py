"""Markdown for the summary and the model card; names given by users are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# What GitHub turns into a link, mention or emoji, up to where a zero-width space breaks it.
SHORTHAND = re.compile(r"@(?=\w)|#(?=\d)|\bGH-(?=\d)|ww(?=w\.)|:(?=//)|:(?=[\w+-]+:)", re.IGNORECASE)


def escape(words: object) -> str:
    r"""Return text on one line that Markdown shows unchanged, without GitHub links, mentions or emoji.

    GitHub looks for `@name`, `#1`, `www.`, `://` and `:skull:` in the rendered text, where an entity does not help: a
    zero-width space breaks each.

    >>> escape("a|b <i> *c*")
    'a\\|b &lt;i> \\*c\\*'
    """
    text = SHORTHAND.sub("\\g<0>\u200b", " ".join(str(words).split()))
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table: the first column to the left, the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])
