"""The page with every finding, without pictures: for what a report or an audit page leaves out to stay small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bestiary.files import write_text
from bestiary.finding_counts import SEVERITY_NAMES, count_findings
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.report.render import render_page
from bestiary.version import __version__

FINDINGS_PAGE = "findings.html"


@dataclass(frozen=True)
class FindingEntry:
    """A finding in a list: the short name of its picture, empty for one about no picture, and its message."""

    name: str
    message: str
    is_issue: bool


def list_findings(findings: pl.DataFrame, names: Mapping[str, str]) -> list[FindingEntry]:
    """Return the findings as entries of a list, issues first; names: the short name of each path."""
    ordered = findings.sort("is_issue", descending=True, maintain_order=True)
    return [
        FindingEntry(
            names.get(path, path) if path else "",
            _strip_name(message or "", path, names),
            is_issue,
        )
        for path, message, is_issue in ordered.select("path", "message", "is_issue").iter_rows()
    ]


def write_findings_page(
    findings: pl.DataFrame, names: Mapping[str, str], folder: Path, *, name: str, label_issues: LabelIssueSummary | None
) -> Path:
    """Return the path of `findings.html`, written into a folder: each finding is a row, with an anchor for each check.

    name: of the run or collection. Raises MachineError when the folder cannot be written.
    """
    counts = count_findings(findings, label_issues)
    checks = [
        {
            "name": count.check.name,
            "list_name": count.check.list_name,
            "n": count.issues + count.noted,
            "meaning": count.check.meaning,
            "severity": SEVERITY_NAMES[count.severity],
            "entries": list_findings(findings.filter(pl.col("check") == count.check.name), names),
        }
        for count in counts.checks
    ]
    values = {"version": __version__, "name": name, "verdict": counts.describe(), "checks": checks}
    path = folder / FINDINGS_PAGE
    write_text(path, render_page("findings.html", values))
    return path


def _strip_name(message: str, path: str | None, names: Mapping[str, str]) -> str:
    """Return a message without the name of its own picture, which stands beside it."""
    return message.replace(path, names.get(path, path)).removeprefix(f"{names.get(path, path)} ") if path else message
