"""Corrections laid over the tables: labels changed, pictures left out, doubts settled. Files stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from bestiary.data.corrections import ACTIONS, Corrections, format_hashes
from bestiary.errors import did_you_mean

# What somebody who looked at a picture has settled; the rest (unreadable, dark, in two given splits) stays as it is.
LABEL_CHECKS = ("suspect-label", "outlier")
DUPLICATES = ("exact-duplicate", "near-duplicate")


@dataclass(frozen=True)
class CorrectionResult:
    """What corrections did: the decisions, the pictures by action, and the hashes that match no picture."""

    decisions: Corrections
    counts: dict[str, int] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return what a run records."""
        return {"digest": self.decisions.digest, **self.counts, "hashes without a picture": len(self.unmatched)}


def apply_corrections(
    pictures: pl.DataFrame, corrections: Corrections, *, say: Callable[[str], None]
) -> tuple[pl.DataFrame, CorrectionResult]:
    """Return the pictures with the decisions applied, and what was done.

    pictures: `sha256, label, error` at least, and `split` where there is one. `given_label` is added: the label before.
    A dropped picture gets an `error` that says so, and no `split`; `dropped` is true for it. One that cannot be read
    anyway keeps the error it has. What a person should know is told through `say`.
    """
    decided = corrections.by_content
    rows = [(key, one.action, one.label or None, one.note) for key, one in decided.items()]
    decisions = pl.DataFrame(rows, schema=dict.fromkeys(("sha256", "action", "new", "note"), pl.String), orient="row")
    found = pictures.join(decisions, on="sha256", how="left", maintain_order="left")
    actions = found["action"]
    is_dropped = actions.eq_missing("drop") & found["error"].is_null()
    why = pl.format("{}: dropped by the corrections file{}.", "path", _note_suffix)
    found = found.with_columns(
        given_label=pl.col("label"),
        label=pl.coalesce("new", "label"),
        error=pl.when(is_dropped).then(why).otherwise("error"),
        dropped=is_dropped,
    ).drop("action", "new", "note")
    if "split" in found.columns:
        found = found.with_columns(split=pl.when("dropped").then(None).otherwise("split"))
    matched = set(found["sha256"])
    done = CorrectionResult(
        corrections,
        {action: int((actions == action).sum()) for action in ACTIONS},
        tuple(sha256 for sha256 in decided if sha256 not in matched),
    )
    _report_corrections(corrections, done, set(pictures["label"]), say)
    return found, done


def mark_resolved_issues(findings: pl.DataFrame, pictures: pl.DataFrame, corrections: Corrections) -> pl.DataFrame:
    """Return the findings, no longer issues where a decision has settled them.

    pictures: as `apply_corrections` gives them, with `group`. Whether its label is right or the picture belongs here is settled
    by keeping it and by giving it a label; a duplicate where its own picture is kept, or every other picture of its
    group is; a label conflict only where all pictures of the group were decided about: one label that is known to be
    right says that another is wrong. Whatever is wrong with a dropped picture is settled.
    """
    decided = corrections.by_content.items()
    is_kept, is_relabelled, is_dropped = (
        pl.col("sha256").is_in([sha256 for sha256, one in decided if one.action == action])
        for action in ("keep", "relabel", "drop")
    )
    is_used = pl.col("error").is_null()
    marked = pictures.select(
        "row_id",
        kept=is_kept,
        looked_at=is_kept | is_relabelled,
        dropped=is_dropped,
        not_kept=(~is_kept & is_used).sum().over("group"),
        undecided=(~(is_kept | is_relabelled) & is_used).sum().over("group"),
    )
    joined = findings.join(marked, on="row_id", how="left", maintain_order="left")
    check = pl.col("check")
    settled = (
        pl.col("dropped")
        | (check.is_in(LABEL_CHECKS) & pl.col("looked_at"))
        | (check.is_in(DUPLICATES) & (pl.col("kept") | (pl.col("not_kept") == 1)))
        | ((check == "label-conflict") & (pl.col("undecided") == 0))
    )
    return joined.with_columns(is_issue=pl.col("is_issue") & ~settled.fill_null(False)).select(findings.columns)


_note_suffix = pl.when(pl.col("note") == "").then(pl.lit("")).otherwise(pl.format(" ({})", "note"))


def _report_corrections(
    corrections: Corrections, done: CorrectionResult, labels: set[str], say: Callable[[str], None]
) -> None:
    counts = ", ".join(f"{done.counts[action]:,} {word}" for action, word in _ACTION_TEXTS.items())
    say(f"Corrections: {counts} (digest {corrections.digest}).")
    if done.unmatched:
        say(
            f"{len(done.unmatched):,} of {len(corrections.by_content):,} corrections match no picture here:"
            f" {format_hashes(done.unmatched)}."
        )
    if overruled := {row.sha256 for row in corrections.superseded}:
        have = "picture has" if len(overruled) == 1 else "pictures have"
        say(f"{len(overruled):,} {have} rows that contradict each other: the last row holds.")
    for label in sorted({row.label for row in corrections.by_content.values()} - labels - {""}):
        say(f'Corrections name a new label, "{label}". {did_you_mean(label, labels)}')


_ACTION_TEXTS = {"keep": "kept", "drop": "dropped", "relabel": "with another label"}
