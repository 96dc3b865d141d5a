"""Notices about a source of pictures: what its folders and columns were taken for, and what was not used of it.

They become rows of the findings table without a picture, so that the run, the report and the audit have them too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from bestiary import table
from bestiary.checks import ABOUT_SOURCE, EMPTY_CLASS
from bestiary.text import escape_control_chars, printable

__all__ = [
    "EMPTY_CLASS",
    "GROUPS",
    "LEFT_OUT_ROWS",
    "NESTED",
    "SOURCE_FORMAT",
    "SPLIT_FOLDERS",
    "UNUSED_COLUMN",
    "SourceNotice",
    "notice_findings",
    "read_notices",
]

SPLIT_FOLDERS, NESTED, UNUSED_COLUMN, GROUPS = "split-folders", "nested-classes", "unused-column", "groups"
SOURCE_FORMAT, LEFT_OUT_ROWS = "source-format", "left-out-rows"


@dataclass(frozen=True)
class SourceNotice:
    """A notice about a source: the check that it is a finding of, and its message.

    folder: the name of the class folder that it is about, else empty. is_issue: whether it needs attention.
    """

    check: str
    message: str
    folder: str = ""
    is_issue: bool = True

    def __post_init__(self) -> None:
        """Escape what cannot be printed or stored: folders may have any name."""
        object.__setattr__(self, "message", escape_control_chars(self.message))
        object.__setattr__(self, "folder", printable(self.folder))


def notice_findings(notices: Iterable[SourceNotice]) -> pl.DataFrame:
    """Return the notices as rows of the findings table, without a picture; equal ones once."""
    rows = [
        dict.fromkeys(table.FINDINGS)
        | {"check": notice.check, "score": 0.0, "is_issue": notice.is_issue, "message": notice.message}
        for notice in dict.fromkeys(notices)
    ]
    return pl.DataFrame(rows, schema=table.FINDINGS)


def read_notices(findings: pl.DataFrame) -> list[dict[str, str | bool]]:
    """Return the notices among findings as `check`, `message` and `is_issue`, for JSON."""
    rows = findings.filter(pl.col("check").is_in(ABOUT_SOURCE))
    return rows.select("check", "message", "is_issue").to_dicts()
