"""Rules by which pictures are grouped for the split, as a recipe has them: auto, folder, regex:PATTERN, time:60s."""

from __future__ import annotations

import re
from dataclasses import dataclass

AUTO, NONE, SOURCE, FOLDER = "auto", "none", "source", "folder"
COLUMN = "column"
REGEX, TIME = "regex:", "time:"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)")
SYNTAX = f"{AUTO}, {NONE}, {SOURCE}, {FOLDER}, {REGEX}PATTERN, {TIME}60s"
SITE_SYNTAX = f"{NONE}, {SOURCE}, {FOLDER}, {REGEX}PATTERN"


@dataclass(frozen=True)
class GroupRule:
    """How pictures are grouped. kind: AUTO, NONE, SOURCE, FOLDER, COLUMN, REGEX or TIME.

    pattern: of REGEX, or the name of the COLUMN; gap_seconds: of TIME.
    """

    kind: str
    pattern: str = ""
    gap_seconds: float = 0.0


def parse_group_rule(text: str) -> GroupRule:
    """Return the rule of a text such as "folder", "regex:^(seq[0-9]+)" or "time:60s"; any other text is a column.

    Raises ValueError for a time or a pattern that cannot be read.

    >>> parse_group_rule("time:1.5m").gap_seconds
    90.0
    """
    if text in (AUTO, NONE, SOURCE, FOLDER):
        return GroupRule(text)
    if text.startswith(TIME):
        match = _DURATION.fullmatch(text.removeprefix(TIME).strip())
        if not match or not float(match[1]):
            raise ValueError("expected a time between pictures such as time:5s, time:60s, time:10m or time:1h")
        return GroupRule(TIME, gap_seconds=float(match[1]) * _SECONDS[match[2]])
    if text.startswith(REGEX):
        return GroupRule(REGEX, _check_pattern(text.removeprefix(REGEX)))
    if not text.strip():
        raise ValueError(f"expected one of {SYNTAX}, or the name of a column")
    return GroupRule(COLUMN, text)


def parse_site_rule(text: str) -> GroupRule:
    """Return the rule of a text such as "source" or "folder"; any other text is a column. Raises ValueError."""
    if text == AUTO or text.startswith(TIME):
        raise ValueError(f"expected a column or one of {SITE_SYNTAX}; times make groups (--group), not sites")
    return parse_group_rule(text)


def check_group_rule(text: str) -> str:
    """Return the text of a rule of groups; raise ValueError if it is none."""
    parse_group_rule(text)
    return text


def check_site_rule(text: str) -> str:
    """Return the text of a rule of sites; raise ValueError if it is none."""
    parse_site_rule(text)
    return text


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f'"{pattern}" is not a regular expression: {error}') from None
    if not pattern:
        raise ValueError("regex: needs a pattern, for example regex:(seq[0-9]+)_")
    return pattern
