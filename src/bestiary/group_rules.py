"""Rules by which pictures are grouped for the split, as a recipe has them: auto, folder, regex:PATTERN, time:60s."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

AUTO, NONE, SOURCE, FOLDER = "auto", "none", "source", "folder"
COLUMN = "column"
REGEX, TIME = "regex:", "time:"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
LEAST_SECONDS, MOST_SECONDS = 0.001, 366 * 86400.0  # between pictures of a group
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
        seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
        if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
            raise ValueError(
                "expected a time between pictures, from 1ms to 366d, such as time:5s, time:60s, time:10m or time:1h"
            )
        return GroupRule(TIME, gap_seconds=seconds)
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


def relative_name(path: str, folders: Iterable[str]) -> str:
    """Return a path with forward slashes, relative to the deepest of these folders that it lies in.

    A path in none of them stays whole: patterns of groups do not depend on where a collection lies, only on what is in
    it.

    >>> relative_name("/data/seq7/fox/a.jpg", ["/data", "/data/seq7"]), relative_name("fox/a.jpg", ["/data"])
    ('fox/a.jpg', 'fox/a.jpg')
    """
    name = path.replace("\\", "/")
    starts = (folder.replace("\\", "/").rstrip("/") + "/" for folder in folders)
    return name[max((len(start) for start in starts if name.startswith(start)), default=0) :]


def match_name(pattern: re.Pattern[str], name: str) -> str | None:
    """Return what a pattern matches in a name: its groups, joined, or all of it without one; None: no match, or empty.

    >>> match_name(re.compile("(seq[0-9]+)_"), "fox/seq12_3.jpg")
    'seq12'
    """
    match = pattern.search(name)
    if match is None:
        return None
    return "|".join(part or "" for part in match.groups()) or match[0] or None


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f'"{pattern}" is not a regular expression: {error}') from None
    if not pattern:
        raise ValueError("regex: needs a pattern, for example regex:(seq[0-9]+)_")
    return pattern
