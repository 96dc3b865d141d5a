"""Counts of the audit's findings by check and by severity: commands, pages, model card and JSON all count here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from bestiary.checks import AuditCheck, severity_rank
from bestiary.label_issue_summary import LabelIssueSummary, resolve_check

SEVERITIES = ("decide", "know", "note")
SEVERITY_NAMES = {"decide": "needs attention", "know": "worth knowing", "note": "needs no action"}


@dataclass(frozen=True)
class CheckCount:
    """The findings of one check: issues, and those that need no action (resolved, borderline, or notes)."""

    check: AuditCheck
    issues: int
    noted: int

    @property
    def severity(self) -> str:
        """One of SEVERITIES: that of the check if there are issues."""
        return self.check.severity if self.issues else "note"

    @property
    def serious(self) -> int:
        """The findings for which `audit --strict` fails."""
        return self.issues if self.check.fails_strict else 0


@dataclass(frozen=True)
class FindingCounts:
    """The findings of a collection by check, the most serious check first."""

    checks: tuple[CheckCount, ...]

    @property
    def total(self) -> int:
        """All findings: the rows of findings.parquet."""
        return sum(count.issues + count.noted for count in self.checks)

    @property
    def issues(self) -> int:
        """The findings that are issues, whether they need attention or are only worth knowing."""
        return sum(count.issues for count in self.checks)

    @property
    def serious(self) -> int:
        """The findings for which `audit --strict` fails; each needs attention."""
        return sum(count.serious for count in self.checks)

    def by_severity(self) -> dict[str, int]:
        """Return the number of findings by severity, each of SEVERITIES."""
        counts = dict.fromkeys(SEVERITIES, 0)
        for count in self.checks:
            counts[count.severity] += count.issues
            counts["note"] += count.noted
        return counts

    def describe(self) -> str:
        """Return a sentence with the number of findings by severity.

        >>> truncated, alpha = (resolve_check(name, None) for name in ("truncated", "alpha"))
        >>> FindingCounts((CheckCount(truncated, 2, 0), CheckCount(alpha, 0, 9))).describe()
        '11 findings: 2 need attention (2 serious), 9 need no action.'
        """
        decide, know, note = self.by_severity().values()
        if not self.total:
            return "No findings."
        serious = f" ({self.serious:,} serious)" if self.serious else ""
        parts = [
            f"{decide:,} {'needs' if decide == 1 else 'need'} attention{serious}",
            *([f"{know:,} {'is' if know == 1 else 'are'} worth knowing"] if know else []),
            *([f"{note:,} {'needs' if note == 1 else 'need'} no action"] if note else []),
        ]
        return f"{self.total:,} finding{'s' * (self.total != 1)}: {', '.join(parts)}."

    def facts(self) -> dict[str, Any]:
        """Return the counts as plain values, for metrics.json and `audit --json`."""
        checks = {count.check.name: {"issues": count.issues, "noted": count.noted} for count in self.checks}
        return {**self.by_severity(), "serious": self.serious, "checks": checks}


def count_findings(findings: pl.DataFrame, label_issues: LabelIssueSummary | None) -> FindingCounts:
    """Return the counts of a findings table; label_issues: how many suspect labels are expected to be wrong."""
    rows = Counter(findings.select("check", "is_issue").iter_rows())
    counts = (
        CheckCount(resolve_check(name, label_issues), rows[name, True], rows[name, False])
        for name in {name for name, _ in rows}
    )
    return FindingCounts(tuple(sorted(counts, key=_order)))


def _order(count: CheckCount) -> tuple[bool, int, tuple[float, str]]:
    return count.serious == 0, SEVERITIES.index(count.severity), severity_rank(count.check.name)


def read_label_issues(environment: Mapping[str, Any]) -> LabelIssueSummary | None:
    """Return what a run recorded of its suspect labels; None if it has none, or is older."""
    recorded = environment.get("label issues")
    return LabelIssueSummary(**recorded) if recorded else None
