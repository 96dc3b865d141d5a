"""Applies corrections to the tables: changes labels, drops pictures, resolves findings; leaves the files untouched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from bestiary import table
from bestiary.data.corrections import ACTIONS, Corrections
from bestiary.errors import did_you_mean
from bestiary.progress import Reporter
from bestiary.text import format_names

# Checks that a decision about a picture resolves; others (unreadable, dark, split leak) stay as they are.
LABEL_CHECKS = ("suspect-label", "outlier")
LEFT_OUT = ("drop", "both")  # actions after which a picture is not used
DUPLICATES = ("exact-duplicate", "near-duplicate")


@dataclass(frozen=True)
class CorrectionResult:
    """The effect of corrections: the decisions, the pictures by action, and the hashes that match no picture."""

    decisions: Corrections
    counts: dict[str, int] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return what a run records."""
        return {"digest": self.decisions.digest, **self.counts, "hashes without a picture": len(self.unmatched)}


def apply_corrections(
    pictures: pl.DataFrame, corrections: Corrections, reporter: Reporter
) -> tuple[pl.DataFrame, CorrectionResult]:
    """Return the pictures with the decisions applied, and a summary of the changes, which is reported too.

    pictures: `sha256, label, error` at least. Adds `given_label`, the label before, and `dropped`. A dropped picture,
    or one that shows two classes gets an `error` that names the corrections file; an unreadable one keeps its own.
    """
    by_content = corrections.by_content
    rows = [
        (sha256, row.action, row.label if row.action == "relabel" else None, row.label or None, row.note)
        for sha256, row in by_content.items()
    ]
    columns = ("sha256", "action", "new", "second", "note")
    decisions = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    joined = pictures.join(decisions, on="sha256", how="left", maintain_order="left")
    is_dropped = joined["action"].is_in(LEFT_OUT).fill_null(False) & joined["error"].is_null()
    note = pl.when(pl.col("note") == "").then(pl.lit("")).otherwise(pl.format(" ({})", "note"))
    dropped = pl.format("{}: dropped by the corrections file{}.", "path", note)
    two = pl.format("{} and {}", "label", pl.col("second").fill_null("another class"))
    both = pl.format("{}: shows {} by the corrections file{}; a picture has one label.", "path", two, note)
    message = pl.when(pl.col("action") == "both").then(both).otherwise(dropped)
    corrected = joined.with_columns(
        given_label=pl.col("label"),
        label=pl.coalesce("new", "label"),
        error=pl.when(is_dropped).then(message).otherwise("error"),
        dropped=is_dropped,
    ).drop("action", "new", "second", "note")
    counts = {action: int((joined["action"] == action).sum()) for action in ACTIONS}
    contents = set(pictures["sha256"])
    result = CorrectionResult(corrections, counts, tuple(sha256 for sha256 in by_content if sha256 not in contents))
    _report_corrections(result, set(pictures["label"]), reporter)
    return corrected, result


def mark_resolved_issues(findings: pl.DataFrame, pictures: pl.DataFrame, corrections: Corrections) -> pl.DataFrame:
    """Return the findings with `is_issue` false where a decision has resolved them.

    pictures: as `apply_corrections` returns them, with `group`. Doubts about a label or an outlier are resolved by
    keeping or relabelling the picture; a duplicate, if its own picture or every other picture of its group is kept; a
    label conflict, only if all pictures of the group were decided about, since one correct label means that another is
    wrong. Every finding of a dropped picture is resolved.
    """
    decided = corrections.by_content.items()
    keep, drop, relabel = (
        pl.col("sha256").is_in([sha256 for sha256, row in decided if row.action in actions])
        for actions in (("keep",), LEFT_OUT, ("relabel",))
    )
    usable = pl.col("error").is_null()
    decisions = table.with_duplicate_groups(pictures).select(
        "row_id",
        keep=keep,
        drop=drop,
        reviewed=keep | relabel,
        not_kept=(~keep & usable).sum().over("group"),
        undecided=(~(keep | relabel) & usable).sum().over("group"),
    )
    joined = findings.join(decisions, on="row_id", how="left", maintain_order="left")
    check = pl.col("check")
    is_resolved = (
        pl.col("drop")
        | (check.is_in(LABEL_CHECKS) & pl.col("reviewed"))
        | (check.is_in(DUPLICATES) & (pl.col("keep") | (pl.col("not_kept") == 1)))
        | ((check == "label-conflict") & (pl.col("undecided") == 0))
    )
    return joined.with_columns(is_issue=pl.col("is_issue") & ~is_resolved.fill_null(False)).select(findings.columns)


def _report_corrections(result: CorrectionResult, labels: set[str], reporter: Reporter) -> None:
    corrections, counts = result.decisions, result.counts
    reporter.info(
        f"Corrections: {counts['keep']:,} kept, {counts['drop']:,} dropped, {counts['relabel']:,} relabelled"
        f" (digest {corrections.digest})."
    )
    if counts["both"]:
        reporter.info(
            f"{counts['both']:,} {'pictures that show' if counts['both'] > 1 else 'picture that shows'} two classes by"
            " the corrections: left out, because a picture has one label."
        )
    if result.unmatched:
        hashes = format_names([f"{sha256[:12]}…" for sha256 in result.unmatched], max_names=3)
        total = f"{len(result.unmatched):,} of {len(corrections.by_content):,} corrections"
        reporter.info(f"{total} match no picture: {hashes}.")
    if overruled := {row.sha256 for row in corrections.superseded_rows}:
        have = "picture has" if len(overruled) == 1 else "pictures have"
        reporter.info(f"{len(overruled):,} {have} contradicting rows: the last row applies.")
    relabelled = {row.label for row in corrections.by_content.values() if row.action == "relabel"}
    for label in sorted(relabelled - labels):
        reporter.info(f'Corrections name a new label, "{label}". {did_you_mean(label, labels)}')
