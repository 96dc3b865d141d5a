"""Finds issues in measured pictures: checks of single pictures, duplicates, label conflicts, split leaks, imbalance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bestiary import checks, table
from bestiary.array_types import Ints
from bestiary.data.copy_changes import describe_changes
from bestiary.data.deep_ranges import iter_collection_ranges
from bestiary.data.duplicate_groups import DuplicateGroups, group_duplicates
from bestiary.data.duplicates import connected_groups
from bestiary.depth import count_bits
from bestiary.picture_formats import SUFFIXES
from bestiary.stats import wilson_interval
from bestiary.text import common_folder, relative_name

Row = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """A check of single pictures: a picture that meets the condition gets a finding, with score 0 (worst) to 1."""

    name: str
    condition: pl.Expr
    score: pl.Expr
    message: pl.Expr


def _to_score(expression: pl.Expr) -> pl.Expr:
    return expression.cast(pl.Float64).clip(0, 1)


def _has_matching_suffix(row: Row) -> bool:
    return bool(row["path"].lower().endswith(tuple(SUFFIXES.get(row["format"], ()))))


# Saturation: the maximum of a grey picture, and the minimum of the median picture of a coloured class.
GREY, COLOURED = 0.008, 0.05
MOSTLY = 0.5  # fraction of a picture that compositing on white replaces
# Of 32 x 32 parts of a picture, the fraction that differs by more than BACKGROUND_LEVELS of 255 from the commonest
# brightness. A small butterfly on white has 0.026; the entropy of brightness, which was used before, finds it empty.
MIN_CONTENT, BACKGROUND_LEVELS = 0.02, 8
IMBALANCE_RATIO = 3  # between the largest and the smallest class
EXPECTED_RECALL = 0.9  # its confidence interval is predicted
_long, _short = pl.max_horizontal("width", "height"), pl.min_horizontal("width", "height")
_size = pl.format("{} x {} pixels", "width", "height")
_crop_percent = (100 * _short / _long).round(0).cast(pl.Int64)
_has_suffix = pl.struct("path", "format").map_elements(_has_matching_suffix, return_dtype=pl.Boolean)
_luma, _sharpness, _content, _saturation = (pl.col(n) for n in ("luma", "sharpness", "content", "saturation"))
_whitened = pl.col("whitened")

# The thresholds were tuned by inspecting the pictures on either side of each.
PICTURE_CHECKS = (
    Check("tiny", _short < 32, _to_score(_short / 32), pl.format("Very small: {}.", _size)),
    Check(
        "extreme-aspect",
        _long > 2.5 * _short,
        _to_score(2.5 * _short / _long),
        pl.format("Extreme aspect ratio: {}; a centre crop would keep {} % of it.", _size, _crop_percent),
    ),
    Check("dark", _luma < 0.12, _to_score(_luma / 0.12), pl.lit("Very dark.")),
    Check("bright", _luma > 0.95, _to_score((1 - _luma) / 0.05), pl.lit("Almost white.")),
    Check("blurry", _sharpness < 0.006, _to_score(_sharpness / 0.006), pl.lit("Blurry.")),
    Check(
        "low-information",
        _content < MIN_CONTENT,
        _to_score(_content / MIN_CONTENT),
        pl.format("Almost uniform: {} % of it differs from its background.", (100 * _content).round(1)),
    ),
    Check(
        "animated",
        pl.col("frames") > 1,
        pl.lit(0.5),
        pl.when(pl.col("format") == "TIFF")
        .then(pl.format("A TIFF of {} pages; the first is used.", "frames"))
        .when(pl.col("format") == "HEIF")
        .then(pl.format("A HEIC of {} pictures; its primary one is used.", "frames"))
        .otherwise(pl.format("An animation of {} frames; its first frame is used.", "frames")),
    ),
    Check(
        "wrong-extension",
        ~_has_suffix,
        pl.lit(0.5),
        pl.format("The content is {}, which does not match the file extension.", "format"),
    ),
    # Reported only where colour is usual: no X-ray picture is grey among colour ones.
    Check(
        "grey",
        (_saturation < GREY) & (_saturation.median().over("label") > COLOURED),
        _to_score(_saturation / GREY),
        pl.format("Grey; most pictures of {} have colour.", "label"),
    ),
    Check(
        "rotated", pl.col("orientation") > 1, pl.lit(1.0), pl.lit("Rotated or mirrored by EXIF; it is rotated upright.")
    ),
    Check("alpha", pl.col("has_alpha"), pl.lit(1.0), pl.lit("Has transparent parts, which are composited on white.")),
    Check(
        "mostly-transparent",
        _whitened > MOSTLY,
        _to_score(1 - _whitened),
        pl.format("Transparent: white replaces {} % of its colours.", (100 * _whitened).round().cast(int)),
    ),
    Check(
        "unmeant-alpha",
        pl.col("unmeant_alpha") != "",
        pl.lit(1.0),
        pl.format("Its alpha channel is ignored: {}.", "unmeant_alpha"),
    ),
    Check(
        "broken-profile",
        pl.col("profile_problem") != "",
        pl.lit(0.5),
        pl.format("Its colour profile is ignored: {}.", "profile_problem"),
    ),
    Check(
        "colour-profile",
        pl.col("profile") != "",
        pl.lit(1.0),
        pl.format("Converted to sRGB from its colour profile, “{}”.", "profile"),
    ),
)


def find_issues(
    pictures: pl.DataFrame, pairs: Ints, groups: DuplicateGroups | None = None, *, test_fraction: float = 0.15
) -> pl.DataFrame:
    """Return the findings table (`table.FINDINGS`) of measured pictures.

    pictures: as scanned, with `group` and `given_split` (null without one). pairs: int64 (n, 4), as
    `find_duplicate_pairs` returns them. groups: of these pairs, None to form them here. test_fraction: of each class,
    if no split is given.
    """
    usable = pictures.filter(pl.col("error").is_null())
    groups = groups or group_duplicates(pictures, pairs)
    rows = [
        *_unreadable_findings(pictures),
        *_picture_findings(usable),
        *(_finding(check, message, 0.5, {}) for check, message in groups.notices),
        *_duplicate_findings(pictures, pairs, groups),
        *_imbalance_findings(usable, test_fraction),
        *_depth_findings(usable),
    ]
    return sort_findings(pl.DataFrame(rows, schema=table.FINDINGS))


def sort_findings(findings: pl.DataFrame) -> pl.DataFrame:
    """Return the findings in the order of `table.CHECKS`, the worst of each check first."""
    order = {check: rank for rank, check in enumerate(table.CHECKS)}
    rank = pl.col("check").replace_strict(order, return_dtype=pl.Int32)
    return findings.sort(rank, "score", "row_id", nulls_last=True, maintain_order=True)


def _finding(check: str, message: str, score: float, row: Row, group: int | None = None) -> Row:
    return dict.fromkeys(table.FINDINGS) | {
        "check": check,
        "row_id": row.get("row_id"),
        "path": row.get("path"),
        "score": score,
        "is_issue": check not in checks.NOTED,
        "message": message,
        "group": group,
    }


def _unreadable_findings(pictures: pl.DataFrame) -> Iterator[Row]:
    for row in pictures.filter(pl.col("error").is_not_null() & pl.col("check").is_not_null()).iter_rows(named=True):
        yield _finding(row["check"], row["error"], 0.0 if row["missing"] is None else 1 - row["missing"], row)


def measure_content(thumbnail: bytes) -> float | None:
    """Return the fraction of a thumbnail, grey, uint8, that differs from its background; None without one."""
    grey = np.frombuffer(thumbnail, np.uint8).astype(np.int16)
    if not len(grey):
        return None
    background = 4 * np.bincount(grey // 4).argmax() + 2
    return float((np.abs(grey - background) > BACKGROUND_LEVELS).mean())


def _picture_findings(usable: pl.DataFrame) -> Iterator[Row]:
    content = [measure_content(thumbnail or b"") for thumbnail in usable["thumbnail"]]
    usable = usable.with_columns(content=pl.Series(content, dtype=pl.Float64))
    for check in PICTURE_CHECKS:
        rows = usable.filter(check.condition).select("row_id", "path", score=check.score, message=check.message)
        for row in rows.iter_rows(named=True):
            yield _finding(check.name, row["message"], row["score"], row)


def _duplicate_findings(pictures: pl.DataFrame, pairs: Ints, groups: DuplicateGroups) -> Iterator[Row]:
    """Yield a finding for each pair, at the picture that is not the original, and more if labels or splits disagree.

    Near-duplicates that were not kept in one group have none: a notice says so once for all of them. The message names
    the first with its folders in the collection: one file name may occur in many of them.
    """
    root, names = common_folder(pictures["path"].to_list()), table.name_crops(pictures)["path"]
    ordered = _order_by_original(pictures, pairs)
    for (i, j), (bits, changes), is_conflict in zip(
        ordered.tolist(), pairs[:, 2:4].tolist(), groups.is_conflict.tolist(), strict=True
    ):
        first, row = pictures.row(i, named=True), pictures.row(j, named=True)
        score, group = bits / 256, row["group"]
        is_same, is_together = first["sha256"] == row["sha256"], first["group"] == row["group"]
        if not (is_same or is_together or is_conflict):
            continue
        check, how = ("exact-duplicate", "the same file as") if is_same else ("near-duplicate", "nearly the same as")
        how += f" {relative_name(names[i], root)}{describe_changes(changes)}"
        conflict = f", which is labelled {first['label']}" if first["label"] != row["label"] else ""
        yield _finding(check, f"{how[0].upper()}{how[1:]}{conflict}.", score, row, group)
        if is_conflict:
            yield _finding("label-conflict", f"Labelled {row['label']}, but {how}{conflict}.", score, row, group)
        splits = first["given_split"], row["given_split"]
        if all(splits) and splits[0] != splits[1] and (is_same or is_together):
            yield _finding("split-leak", f"In {splits[1]}, but {how}, which is in {splits[0]}.", score, row, group)


def _order_by_original(pictures: pl.DataFrame, pairs: Ints) -> Ints:
    """Return the pairs with the picture first that is nearer to the original of its group, int64 (n, 2).

    The original is the largest picture, in pixels, of those that pairs connect; of equal ones, the first. So every
    other picture has a finding, and the original has none.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    count = pictures.height
    component = connected_groups(count, pairs)
    pixels = (pictures["width"].fill_null(0).cast(pl.Int64) * pictures["height"].fill_null(0)).to_numpy()
    order = np.lexsort((np.arange(count), -pixels, component))
    _, first = np.unique(component[order], return_index=True)
    originals = np.intersect1d(order[first], pairs[:, :2])
    if not len(originals):
        return pairs[:, :2]
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    steps = dijkstra(links, directed=False, indices=originals, unweighted=True, min_only=True)
    rank = np.lexsort((np.arange(count), -pixels, steps)).argsort()
    is_reversed = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    return np.where(is_reversed[:, None], pairs[:, 1::-1], pairs[:, :2])


def _imbalance_findings(usable: pl.DataFrame, test_fraction: float) -> Iterator[Row]:
    counts = usable.group_by("label").agg(pl.len(), (pl.col("given_split") == "test").sum().alias("test"))
    counts = counts.sort("len", "label")
    if counts.height < 2:
        return
    (small, n_small, n_test), (large, n_large, _) = counts.row(0), counts.row(-1)
    if n_large >= IMBALANCE_RATIO * n_small:
        has_split = usable["given_split"].null_count() < usable.height
        recall = _describe_recall_precision(n_test if has_split else max(1, round(n_small * test_fraction)))
        times = f"{n_large / n_small:.0f} times fewer"
        message = f"{large} has {n_large:,} pictures, {small} only {n_small:,}: {times}. {recall}"
        yield _finding("imbalance", message, n_small / n_large, {})


def _depth_findings(usable: pl.DataFrame) -> Iterator[Row]:
    """Yield a finding for each type of samples of more than 8 bits, with their range."""
    for line in iter_collection_ranges(usable):
        have, do = ("has", "its file does") if line.pictures == 1 else ("have", "their files do")
        is_float = line.sample_type == "float"
        size = "floating point" if is_float else f"{count_bits(line.low, line.high)} bits"
        message = (
            f"{_format_part(line.pictures, usable.height)} {have} samples of type {line.sample_type} whose range {do}"
            f" not declare. They lie between {line.low:,.7g} and {line.high:,.7g} ({size}), and are scaled to 8"
            f" bits from {line.ends[0]:,.7g} to {line.ends[1]:,.7g}."
        )
        yield _finding("deep", message, 0.5, {})
    own = usable.filter((pl.col("sample_type") != "") & pl.col("deep_low").is_null()).height
    if own:
        facts = (
            "has more than 8 bits and declares its range of values, from which it is scaled to 8 bits."
            if own == 1
            else "have more than 8 bits and declare their range of values, from which they are scaled to 8 bits."
        )
        yield _finding("deep", f"{_format_part(own, usable.height)} {facts}", 1.0, {})


def _format_part(count: int, total: int) -> str:
    return f"{count:,} of {total:,} picture{'s' * (total != 1)}"


def _describe_recall_precision(n_test: int) -> str:
    """Return the expected precision of a class's recall with so many test pictures."""
    if not n_test:
        return "It has no test picture, so its recall cannot be measured."
    (low,), (high,) = wilson_interval(np.array([EXPECTED_RECALL]), np.array([n_test]))
    return (
        f"With {n_test:,} test picture{'s' * (n_test != 1)}, a recall of {100 * EXPECTED_RECALL:.0f} % has a 95 %"
        f" interval from {100 * low:.0f} to {100 * high:.0f} %."
    )
