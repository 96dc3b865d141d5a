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
CONFIDENT = 0.7

Row = dict[str, object]


@dataclass(frozen=True)
class Reason:
    """Why a picture is to be looked at, in words, and the label that was suggested instead of its own, if any."""

    check: str
    message: str
    suggested: str | None = None


@dataclass(frozen=True)
class Item:
    """One picture by its content: where it lies, what it is called, why it is doubtful, and who is like it.

    copies: rows of the same file in other places, which every decision is about as well; alike: rows of its near
    duplicates.
    """

    row: int
    sha256: str
    name: str
    label: str
    split: str | None
    reasons: tuple[Reason, ...]
    copies: tuple[int, ...] = ()
    alike: tuple[int, ...] = ()

    @property
    def suggested(self) -> str | None:
        """The first label that a reason suggests."""
        return next((reason.suggested for reason in self.reasons if reason.suggested), None)


def items_of(pictures: pl.DataFrame, findings: pl.DataFrame, predictions: pl.DataFrame) -> list[Item]:
    """Return what is to be reviewed, worst first within each check, and the checks in the order of `CHECKS`.

    pictures, findings, predictions: the tables of a run. What is no issue any more, or about a file that cannot be
    read, is passed over.
    """
    usable = pictures.filter(pl.col("error").is_null())
    rows = {row["row_id"]: row for row in usable.iter_rows(named=True)}
    reasons: dict[str, list[Reason]] = defaultdict(list)
    first: dict[str, int] = {}
    for row_id, reason in _in_order([*_found(findings), *_mistakes(predictions), *_unknown(predictions)]):
        if row_id in rows:
            content = str(rows[row_id]["sha256"])
            first.setdefault(content, row_id)
            if reason not in reasons[content]:
                reasons[content].append(reason)
    names, near = strip_common_folder(usable["path"].to_list()), _relatives(usable)
    made = (_item(rows[row_id], tuple(reasons[content]), names) for content, row_id in first.items())
    return [_with_relatives(item, near, rows) for item in made]


def _in_order(found: Iterable[tuple[float, int, Reason]]) -> list[tuple[int, Reason]]:
    ordered = sorted(found, key=lambda one: (CHECKS.index(one[2].check), one[0], one[1]))
    return [(row_id, reason) for _, row_id, reason in ordered]


def _found(findings: pl.DataFrame) -> Iterable[tuple[float, int, Reason]]:
    wanted = findings.filter(pl.col("is_issue") & pl.col("check").is_in(CHECKS) & pl.col("row_id").is_not_null())
    for row in wanted.iter_rows(named=True):
        yield row["score"] or 0.0, row["row_id"], Reason(row["check"], row["message"], row["suggested_label"])


def _mistakes(predictions: pl.DataFrame) -> Iterable[tuple[float, int, Reason]]:
    answered = predictions.filter(pl.col("predicted").is_not_null() & ~pl.col("unknown"))
    wrong = answered.filter((pl.col("predicted") != pl.col("label")) & (pl.col("probability") >= CONFIDENT))
    for row in wrong.iter_rows(named=True):
        sure, other = row["probability"], row["predicted"]
        message = f"Labelled {row['label']}; the model, which did not learn from it, says {other} ({100 * sure:.0f} %)."
        yield 1 - sure, row["row_id"], Reason("confident-mistake", message, other)


def _unknown(predictions: pl.DataFrame) -> Iterable[tuple[float, int, Reason]]:
    for row in predictions.filter(pl.col("unknown")).iter_rows(named=True):
        if row["predicted"] is not None:
            message = f"The model answers “none of these”; the nearest would be {row['predicted']}."
            yield row["familiarity"] or 0.0, row["row_id"], Reason("unknown", message)


def _relatives(usable: pl.DataFrame) -> Mapping[int, list[int]]:
    """Return the rows of each group of duplicates that has more than one picture."""
    several = usable.filter(pl.len().over("group") > 1)
    return dict(several.group_by("group", maintain_order=True).agg("row_id").iter_rows())


def _item(row: Row, reasons: tuple[Reason, ...], names: Mapping[str, str]) -> Item:
    split = row["split"]
    return Item(
        row=int(str(row["row_id"])),
        sha256=str(row["sha256"]),
        name=names[str(row["path"])],
        label=str(row["label"]),
        split=None if split is None else str(split),
        reasons=reasons,
    )


def _with_relatives(item: Item, near: Mapping[int, list[int]], rows: Mapping[int, Row]) -> Item:
    others = [row for row in near.get(int(str(rows[item.row]["group"])), []) if row != item.row]
    same = [row for row in others if rows[row]["sha256"] == item.sha256]
    return replace(item, copies=tuple(same), alike=tuple(row for row in others if row not in same))
