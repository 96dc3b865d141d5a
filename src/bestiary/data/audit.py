"""What is wrong with the pictures: measurements in, findings out. Thresholds stand in one place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from bestiary import checks, table
from bestiary.array_types import Ints
from bestiary.data.duplicates import HOW
from bestiary.picture import SUFFIXES
from bestiary.stats import wilson_interval

Row = dict[str, object]


@dataclass(frozen=True)
class Check:
    """A check of single pictures: where it holds the picture becomes a finding; `score` 0 is worst, 1 is best.

    What bestiary deals with by itself is noted and is no issue: a thousand such notes must not drown one wrong label.
    """

    check: str
    holds: pl.Expr
    score: pl.Expr
    message: pl.Expr


_long, _short = pl.max_horizontal("width", "height"), pl.min_horizontal("width", "height")
_size = pl.format("{} x {} pixels", "width", "height")


def _to_score(expression: pl.Expr) -> pl.Expr:
    return expression.cast(pl.Float64).clip(0, 1)


GREY, COLOURED = (
    0.008,
    0.05,
)  # saturation: of a grey picture at most, of the middle picture of a coloured class at least
UNEVEN = 3  # times as many pictures in the largest class as in the smallest
EXPECTED_RECALL = 0.9  # for which the width of an interval is foretold

# What is decided about each measurement. Tuned by looking at the pictures on either side of each threshold.
RULES = (
    Check("tiny", _short < 32, _to_score(_short / 32), pl.format("Very small: {}.", _size)),
    Check(
        "extreme-aspect",
        _long > 2.5 * _short,
        _to_score(2.5 * _short / _long),
        pl.format(
            "Long and narrow: {}; a centre crop would keep {} % of it.",
            _size,
            (100 * _short / _long).round(0).cast(pl.Int64),
        ),
    ),
    Check("dark", pl.col("luma") < 0.12, _to_score(pl.col("luma") / 0.12), pl.lit("Very dark.")),
    Check("bright", pl.col("luma") > 0.95, _to_score((1 - pl.col("luma")) / 0.05), pl.lit("Almost white.")),
    Check("blurry", pl.col("sharpness") < 0.006, _to_score(pl.col("sharpness") / 0.006), pl.lit("Blurry.")),
    Check(
        "low-information",
        (pl.col("entropy") < 2.5) | (pl.col("contrast") < 0.05),
        _to_score(pl.col("entropy") / 2.5),
        pl.lit("Hardly anything to see: nearly one colour."),
    ),
    Check(
        "animated",
        pl.col("frames") > 1,
        pl.lit(0.5),
        pl.when(pl.col("format") == "TIFF")
        .then(pl.format("It has {} pages; the first is used.", "frames"))
        .otherwise(pl.format("An animation of {} frames; its first frame is used.", "frames")),
    ),
    Check(
        "wrong-extension",
        ~pl.struct("path", "format").map_elements(
            lambda row: _suffix(row["path"]) in SUFFIXES.get(row["format"], set()), return_dtype=pl.Boolean
        ),
        pl.lit(0.5),
        pl.format("The file is {} inside, which its name does not say.", "format"),
    ),
    # Grey is told only where colour is usual: of X-ray pictures, not one is grey among colour ones.
    Check(
        "grey",
        (pl.col("saturation") < GREY) & (pl.col("saturation").median().over("label") > COLOURED),
        _to_score(pl.col("saturation") / GREY),
        pl.format("Grey, where most pictures of {} have colour.", "label"),
    ),
    Check(
        "rotated",
        pl.col("orientation") > 1,
        pl.lit(1.0),
        pl.lit("Stored on its side or mirrored, with a note how to turn it (EXIF); it is turned upright."),
    ),
    Check(
        "alpha",
        pl.col("has_alpha"),
        pl.lit(1.0),
        pl.lit("Has see-through parts, which are laid on white."),
    ),
)


def find_issues(pictures: pl.DataFrame, pairs: Ints, *, test_fraction: float = 0.15) -> pl.DataFrame:
    """Return the findings table (`table.FINDINGS`) for measured pictures.

    pictures: the measured table with `group` and, where there was one, `given_split`; pairs: int64 (n, 3) or
    (n, 4), positions of two rows, the number of bits by which their hashes differ, and how else they differ (`HOW`);
    test_fraction: of each class, where no split is given.
    """
    usable = pictures.filter(pl.col("error").is_null())
    rows = [
        *_unreadable_findings(pictures),
        *_rule_findings(usable),
        *_duplicate_findings(pictures, pairs),
        *_imbalance_findings(usable, test_fraction),
    ]
    return sort_findings(pl.DataFrame(rows, schema=table.FINDINGS))


def sort_findings(findings: pl.DataFrame) -> pl.DataFrame:
    """Return the findings check by check, in the order of `table.CHECKS`, the worst of each first."""
    order = {check: place for place, check in enumerate(table.CHECKS)}
    place = pl.col("check").replace_strict(order, return_dtype=pl.Int32)
    return findings.sort(place, "score", "row_id", nulls_last=True, maintain_order=True)


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return f".{name.rsplit('.', 1)[-1].lower()}" if "." in name else ""


def _finding(
    check: str,
    message: str,
    *,
    row: Row | None = None,
    score: float = 0.0,
    group: int | None = None,
    is_issue: bool = True,
) -> Row:
    of = row or {}
    return {
        "check": check,
        "row_id": of.get("row_id"),
        "path": of.get("path"),
        "score": score,
        "is_issue": is_issue,
        "message": message,
        "group": group,
        "suggested_label": None,
    }


def _unreadable_findings(pictures: pl.DataFrame) -> Iterator[Row]:
    for row in pictures.filter(pl.col("error").is_not_null() & pl.col("check").is_not_null()).iter_rows(named=True):
        yield _finding(row["check"], row["error"], row=row, score=0.0 if row["missing"] is None else 1 - row["missing"])


def _rule_findings(usable: pl.DataFrame) -> Iterator[Row]:
    for rule in RULES:
        found = usable.filter(rule.holds).select("row_id", "path", score=rule.score, message=rule.message)
        for row in found.iter_rows(named=True):
            yield _finding(
                rule.check, row["message"], row=row, score=row["score"], is_issue=rule.check not in checks.NOTED
            )


def _duplicate_findings(pictures: pl.DataFrame, pairs: Ints) -> Iterator[Row]:
    """One finding for each picture of a pair beyond the first, and more where labels or given splits disagree."""
    for left, right, bits, *kind in pairs.tolist():
        one, other = pictures.row(left, named=True), pictures.row(right, named=True)
        group = other["group"]
        same = one["sha256"] == other["sha256"]
        name = _distinguishing_path(str(one["path"]), str(other["path"]))
        check, how = ("exact-duplicate", "The same file as") if same else ("near-duplicate", "Nearly the same as")
        how = f"{how} {name}{HOW[kind[0]] if kind else ''}"
        yield _finding(check, f"{how}.", row=other, score=bits / 256, group=group)
        if one["label"] != other["label"]:
            message = f"Labelled {other['label']}, but {how[0].lower()}{how[1:]}, which is labelled {one['label']}."
            yield _finding("label-conflict", message, row=other, score=bits / 256, group=group)
        if one["given_split"] and other["given_split"] and one["given_split"] != other["given_split"]:
            message = f"In {other['given_split']}, but {how[0].lower()}{how[1:]}, which is in {one['given_split']}."
            yield _finding("split-leak", message, row=other, score=bits / 256, group=group)


def _distinguishing_path(path: str, other: str) -> str:
    """Return the name of the file `path`, with as many of its folders as tell it from `other`.

    >>> _distinguishing_path("/all/cat/1.jpg", "/all/dog/2.jpg"), _distinguishing_path("/all/cat/1.jpg", "/all/dog/1.jpg")
    ('1.jpg', 'cat/1.jpg')
    """
    parts, others = (one.replace("\\", "/").split("/") for one in (path, other))
    if parts == others:
        return parts[-1]
    return next(("/".join(parts[-n:]) for n in range(1, len(parts)) if parts[-n:] != others[-n:]), path)


def _imbalance_findings(usable: pl.DataFrame, test_fraction: float) -> Iterator[Row]:
    counts = usable.group_by("label").agg(pl.len(), (pl.col("given_split") == "test").sum().alias("test"))
    counts = counts.sort("len", "label")
    if counts.height < 2:
        return
    (small, few, given), (large, many, _) = counts.row(0), counts.row(-1)
    if many >= UNEVEN * few:
        test = given if usable["given_split"].null_count() < usable.height else max(1, round(few * test_fraction))
        message = f"{large} has {many:,} pictures, {small} only {few:,}: {many / few:.0f} times fewer. {_describe_recall_precision(test)}"
        yield _finding("imbalance", message, score=few / many)


def _describe_recall_precision(test: int) -> str:
    """Return how well the recall of a class will be known from so many test pictures."""
    if not test:
        return "It has no test picture: nothing can be said of how often it is found."
    low, high = wilson_interval(np.array([EXPECTED_RECALL]), np.array([test]))
    many, share = "" if test == 1 else "s", f"{100 * EXPECTED_RECALL:.0f} %"
    return (
        f"With {test:,} test picture{many}, even if {share} of them are found, the true share may lie anywhere between"
        f" {100 * low[0]:.0f} and {100 * high[0]:.0f} % (95 % interval)."
    )
