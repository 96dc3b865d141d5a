"""What is wrong with the pictures: measurements in, findings out. Thresholds stand in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary import table
from bestiary.data.duplicates import HOW
from bestiary.picture import SUFFIXES

Row = dict[str, object]


@dataclass(frozen=True)
class Rule:
    """A check of single pictures: where it holds the picture becomes a finding; `score` 0 is worst, 1 is best."""

    check: str
    holds: pl.Expr
    score: pl.Expr
    message: pl.Expr


_long, _short = pl.max_horizontal("width", "height"), pl.min_horizontal("width", "height")
_size = pl.format("{} x {} pixels", "width", "height")


def _share(expression: pl.Expr) -> pl.Expr:
    return expression.cast(pl.Float64).clip(0, 1)


# What is decided about each measurement. Tuned by looking at the pictures on either side of each threshold.
RULES = (
    Rule("tiny", _short < 32, _share(_short / 32), pl.format("Very small: {}.", _size)),
    Rule(
        "extreme-aspect",
        _long > 2.5 * _short,
        _share(2.5 * _short / _long),
        pl.format("Long and narrow: {}; a centre crop would keep {} % of it.", _size, (100 * _short / _long).round(0)),
    ),
    Rule("dark", pl.col("luma") < 0.12, _share(pl.col("luma") / 0.12), pl.lit("Very dark.")),
    Rule("bright", pl.col("luma") > 0.95, _share((1 - pl.col("luma")) / 0.05), pl.lit("Almost white.")),
    Rule("blurry", pl.col("sharpness") < 0.006, _share(pl.col("sharpness") / 0.006), pl.lit("Blurry.")),
    Rule(
        "low-information",
        (pl.col("entropy") < 2.5) | (pl.col("contrast") < 0.05),
        _share(pl.col("entropy") / 2.5),
        pl.lit("Hardly anything to see: nearly one colour."),
    ),
    Rule(
        "animated",
        pl.col("frames") > 1,
        pl.lit(0.5),
        pl.format("An animation of {} frames; its first frame is used.", "frames"),
    ),
    Rule(
        "wrong-extension",
        ~pl.struct("path", "format").map_elements(
            lambda row: _suffix(row["path"]) in SUFFIXES.get(row["format"], set()), return_dtype=pl.Boolean
        ),
        pl.lit(0.5),
        pl.format("The file is {} inside, which its name does not say.", "format"),
    ),
)
SERIOUS = {"unreadable", "truncated", "huge", "label-conflict", "split-leak"}


def find(pictures: pl.DataFrame, pairs: npt.NDArray[np.int64]) -> pl.DataFrame:
    """Return the findings table (`table.FINDINGS`) for measured pictures.

    pictures: the measured table with `group` and, where there was one, `given_split`; pairs: int64 (n, 3) or
    (n, 4), positions of two rows, the number of bits by which their hashes differ, and how else they differ (`HOW`).
    """
    usable = pictures.filter(pl.col("error").is_null())
    rows = [*_unusable(pictures), *_by_rule(usable), *_duplicates(pictures, pairs), *_imbalance(usable)]
    frame = pl.DataFrame(rows, schema=table.FINDINGS)
    order = {check: place for place, check in enumerate(table.CHECKS)}
    return frame.sort(pl.col("check").replace_strict(order, return_dtype=pl.Int32), "score", "row_id", nulls_last=True)


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return f".{name.rsplit('.', 1)[-1].lower()}" if "." in name else ""


def _finding(check: str, message: str, *, row: Row | None = None, score: float = 0.0, group: int | None = None) -> Row:
    of = row or {}
    return {
        "check": check,
        "row_id": of.get("row_id"),
        "path": of.get("path"),
        "score": score,
        "is_issue": True,
        "message": message,
        "group": group,
        "suggested_label": None,
    }


def _unusable(pictures: pl.DataFrame) -> Iterator[Row]:
    for row in pictures.filter(pl.col("error").is_not_null() & pl.col("check").is_not_null()).iter_rows(named=True):
        yield _finding(row["check"], row["error"], row=row)


def _by_rule(usable: pl.DataFrame) -> Iterator[Row]:
    for rule in RULES:
        found = usable.filter(rule.holds).select("row_id", "path", score=rule.score, message=rule.message)
        for row in found.iter_rows(named=True):
            yield _finding(rule.check, row["message"], row=row, score=row["score"])


def _duplicates(pictures: pl.DataFrame, pairs: npt.NDArray[np.int64]) -> Iterator[Row]:
    """One finding for each picture of a pair beyond the first, and more where labels or given splits disagree."""
    name: Callable[[Row], str] = lambda row: str(row["path"]).replace("\\", "/").rsplit("/", 1)[-1]  # noqa: E731
    for left, right, bits, *kind in pairs.tolist():
        one, other = pictures.row(left, named=True), pictures.row(right, named=True)
        group = other["group"]
        same = one["sha256"] == other["sha256"]
        check, how = ("exact-duplicate", "The same file as") if same else ("near-duplicate", "Nearly the same as")
        how = f"{how} {name(one)}{HOW[kind[0]] if kind else ''}"
        yield _finding(check, f"{how}.", row=other, score=bits / 256, group=group)
        if one["label"] != other["label"]:
            message = f"Labelled {other['label']}, but {how[0].lower()}{how[1:]}, which is labelled {one['label']}."
            yield _finding("label-conflict", message, row=other, score=bits / 256, group=group)
        if one["given_split"] and other["given_split"] and one["given_split"] != other["given_split"]:
            message = f"In {other['given_split']}, but {how[0].lower()}{how[1:]}, which is in {one['given_split']}."
            yield _finding("split-leak", message, row=other, score=bits / 256, group=group)


def _imbalance(usable: pl.DataFrame) -> Iterator[Row]:
    counts = usable.group_by("label").len().sort("len", "label")
    if counts.height < 2:
        return
    (small, few), (large, many) = counts.row(0), counts.row(-1)
    if many >= 3 * few:
        message = f"{large} has {many:,} pictures, {small} only {few:,}: {many / few:.0f} times fewer."
        yield _finding("imbalance", message, score=few / many)
