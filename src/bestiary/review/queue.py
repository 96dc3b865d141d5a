"""The review queue of a run: each doubtful picture once, with every reason for its review."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from bestiary import table
from bestiary.checks import REVIEW_ORDER
from bestiary.report.gallery import strip_common_folder

MIN_MISTAKE_CONFIDENCE = 0.7  # a mistake this confident may be a wrong label

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ReviewReason:
    """Why a picture is to be reviewed: the check, a message, and the label that the check suggests, if any."""

    check: str
    message: str
    suggested: str | None = None


@dataclass(frozen=True)
class ReviewItem:
    """One picture by its content, and why it is doubtful.

    copies: rows of the same file in other folders, to which every decision applies as well; near_duplicates: rows of
    its near-duplicates.
    """

    row: int
    sha256: str
    name: str
    label: str
    split: str | None
    reasons: tuple[ReviewReason, ...]
    copies: tuple[int, ...]
    near_duplicates: tuple[int, ...]

    @property
    def suggested_label(self) -> str | None:
        """The first label that a reason suggests."""
        return next((reason.suggested for reason in self.reasons if reason.suggested), None)


def build_queue(pictures: pl.DataFrame, findings: pl.DataFrame, predictions: pl.DataFrame) -> list[ReviewItem]:
    """Return the pictures to review: the checks in the order of `REVIEW_ORDER`, the worst first within each check.

    pictures, findings, predictions: the tables of a run. Findings that are no issue any more, or about a file that
    cannot be read, are skipped.
    """
    usable = table.with_duplicate_groups(pictures).filter(pl.col("error").is_null())
    rows = {row["row_id"]: row for row in usable.iter_rows(named=True)}
    reasons: dict[str, list[ReviewReason]] = defaultdict(list)
    first: dict[str, int] = {}
    scored = [*_audit_reasons(findings), *_mistake_reasons(predictions), *_unknown_reasons(predictions)]
    scored.sort(key=lambda entry: (REVIEW_ORDER.index(entry[2].check), *entry[:2]))
    for _, row_id, reason in scored:
        if row_id in rows:
            content = rows[row_id]["sha256"]
            first.setdefault(content, row_id)
            if reason not in reasons[content]:
                reasons[content].append(reason)
    paths, groups = dict(table.name_crops(usable).select("row_id", "path").iter_rows()), defaultdict(list)
    names = strip_common_folder(list(paths.values()))
    for row in rows.values():
        groups[row["group"]].append(row)
    picked = ((rows[row_id], reasons[content]) for content, row_id in first.items())
    return [
        _make_item(row, row_reasons, names[paths[row["row_id"]]], groups[row["group"]]) for row, row_reasons in picked
    ]


def _audit_reasons(findings: pl.DataFrame) -> Iterable[tuple[float, int, ReviewReason]]:
    issues = findings.filter(pl.col("is_issue") & pl.col("check").is_in(REVIEW_ORDER) & pl.col("row_id").is_not_null())
    for row in issues.iter_rows(named=True):
        yield row["score"] or 0.0, row["row_id"], ReviewReason(row["check"], row["message"], row["suggested_label"])


def _mistake_reasons(predictions: pl.DataFrame) -> Iterable[tuple[float, int, ReviewReason]]:
    is_wrong = (pl.col("predicted") != pl.col("label")) & ~pl.col(
        "unknown"
    )  # null, so no mistake, without a prediction
    for row in predictions.filter(is_wrong & (pl.col("probability") >= MIN_MISTAKE_CONFIDENCE)).iter_rows(named=True):
        confidence, label = row["probability"], row["predicted"]
        message = f"Labelled {row['label']}; the model, not trained on it, predicts {label} ({100 * confidence:.0f} %)."
        yield 1 - confidence, row["row_id"], ReviewReason("confident-mistake", message, label)


def _unknown_reasons(predictions: pl.DataFrame) -> Iterable[tuple[float, int, ReviewReason]]:
    for row in predictions.filter(pl.col("unknown") & pl.col("predicted").is_not_null()).iter_rows(named=True):
        message = f"The model predicts “unknown”; the nearest class is {row['predicted']}."
        yield row["familiarity"] or 0.0, row["row_id"], ReviewReason("unknown", message)


def _make_item(row: Row, reasons: Iterable[ReviewReason], name: str, group: Iterable[Row]) -> ReviewItem:
    duplicates = [member for member in group if member["row_id"] != row["row_id"]]
    return ReviewItem(
        row=row["row_id"],
        sha256=row["sha256"],
        name=name,
        label=row["label"],
        split=row["split"],
        reasons=tuple(reasons),
        copies=tuple(member["row_id"] for member in duplicates if member["sha256"] == row["sha256"]),
        near_duplicates=tuple(member["row_id"] for member in duplicates if member["sha256"] != row["sha256"]),
    )
