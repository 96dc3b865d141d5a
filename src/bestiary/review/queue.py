"""What there is to review in a run: each doubtful picture once, with every reason to look at it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import polars as pl

from bestiary.report.gallery import strip_common_folder

# The order of the page: where a decision matters most comes first. The last two are not findings of an audit.
CHECKS = (
    "label-conflict",
    "suspect-label",
    "confident-mistake",
    "outlier",
    "unknown",
    "split-leak",
    "near-duplicate",
    "exact-duplicate",
)
# A mistake is worth a look where the model was this sure of another label: the label may be the mistake.
MIN_MISTAKE_CONFIDENCE = 0.7

Row = dict[str, object]


@dataclass(frozen=True)
class ReviewReason:
    """Why a picture is to be looked at, in words, and the label that was suggested instead of its own, if any."""

    check: str
    message: str
    suggested: str | None = None


@dataclass(frozen=True)
class ReviewItem:
    """One picture by its content: where it lies, what it is called, why it is doubtful, and who is like it.

    copies: rows of the same file in other places, which every decision is about as well; alike: rows of its near
    duplicates.
    """

    row: int
    sha256: str
    name: str
    label: str
    split: str | None
    reasons: tuple[ReviewReason, ...]
    copies: tuple[int, ...] = ()
    near_duplicates: tuple[int, ...] = ()

    @property
    def suggested(self) -> str | None:
        """The first label that a reason suggests."""
        return next((reason.suggested for reason in self.reasons if reason.suggested), None)


def build_queue(pictures: pl.DataFrame, findings: pl.DataFrame, predictions: pl.DataFrame) -> list[ReviewItem]:
    """Return what is to be reviewed, worst first within each check, and the checks in the order of `CHECKS`.

    pictures, findings, predictions: the tables of a run. What is no issue any more, or about a file that cannot be
    read, is passed over.
    """
    usable = pictures.filter(pl.col("error").is_null())
    rows = {row["row_id"]: row for row in usable.iter_rows(named=True)}
    reasons: dict[str, list[ReviewReason]] = defaultdict(list)
    first: dict[str, int] = {}
    for row_id, reason in _sort_reasons(
        [*_audit_reasons(findings), *_mistake_reasons(predictions), *_unknown_reasons(predictions)]
    ):
        if row_id in rows:
            content = str(rows[row_id]["sha256"])
            first.setdefault(content, row_id)
            if reason not in reasons[content]:
                reasons[content].append(reason)
    names, near = strip_common_folder(usable["path"].to_list()), _duplicate_groups(usable)
    made = (_make_item(rows[row_id], tuple(reasons[content]), names) for content, row_id in first.items())
    return [_with_duplicates(item, near, rows) for item in made]


def _sort_reasons(reasons: Iterable[tuple[float, int, ReviewReason]]) -> list[tuple[int, ReviewReason]]:
    ordered = sorted(reasons, key=lambda one: (CHECKS.index(one[2].check), one[0], one[1]))
    return [(row_id, reason) for _, row_id, reason in ordered]


def _audit_reasons(findings: pl.DataFrame) -> Iterable[tuple[float, int, ReviewReason]]:
    wanted = findings.filter(pl.col("is_issue") & pl.col("check").is_in(CHECKS) & pl.col("row_id").is_not_null())
    for row in wanted.iter_rows(named=True):
        yield row["score"] or 0.0, row["row_id"], ReviewReason(row["check"], row["message"], row["suggested_label"])


def _mistake_reasons(predictions: pl.DataFrame) -> Iterable[tuple[float, int, ReviewReason]]:
    answered = predictions.filter(pl.col("predicted").is_not_null() & ~pl.col("unknown"))
    wrong = answered.filter(
        (pl.col("predicted") != pl.col("label")) & (pl.col("probability") >= MIN_MISTAKE_CONFIDENCE)
    )
    for row in wrong.iter_rows(named=True):
        sure, other = row["probability"], row["predicted"]
        message = f"Labelled {row['label']}; the model, which did not learn from it, says {other} ({100 * sure:.0f} %)."
        yield 1 - sure, row["row_id"], ReviewReason("confident-mistake", message, other)


def _unknown_reasons(predictions: pl.DataFrame) -> Iterable[tuple[float, int, ReviewReason]]:
    for row in predictions.filter(pl.col("unknown")).iter_rows(named=True):
        if row["predicted"] is not None:
            message = f"The model answers “none of these”; the nearest would be {row['predicted']}."
            yield row["familiarity"] or 0.0, row["row_id"], ReviewReason("unknown", message)


def _duplicate_groups(usable: pl.DataFrame) -> Mapping[int, list[int]]:
    """Return the rows of each group of duplicates that has more than one picture."""
    several = usable.filter(pl.len().over("group") > 1)
    return dict(several.group_by("group", maintain_order=True).agg("row_id").iter_rows())


def _make_item(row: Row, reasons: tuple[ReviewReason, ...], names: Mapping[str, str]) -> ReviewItem:
    split = row["split"]
    return ReviewItem(
        row=int(str(row["row_id"])),
        sha256=str(row["sha256"]),
        name=names[str(row["path"])],
        label=str(row["label"]),
        split=None if split is None else str(split),
        reasons=reasons,
    )


def _with_duplicates(item: ReviewItem, groups: Mapping[int, list[int]], rows: Mapping[int, Row]) -> ReviewItem:
    others = [row for row in groups.get(int(str(rows[item.row]["group"])), []) if row != item.row]
    same = [row for row in others if rows[row]["sha256"] == item.sha256]
    return replace(item, copies=tuple(same), near_duplicates=tuple(row for row in others if row not in same))
