"""A caution where the validation or test split has few independent groups, such as camera sites."""

from __future__ import annotations

import polars as pl

FEW_GROUPS = 5


def describe_few_groups(pictures: pl.DataFrame) -> str:
    """Return a caution if validation or test has pictures of few groups or sites; empty without groups.

    pictures: `table.PICTURES`, and of `table.GROUPING` what there is. Duplicates alone are no groups here.
    """
    used = pictures.filter(pl.col("split").is_not_null())
    nouns = {"site": "site", "given_group": "group"}
    noun = next((noun for column, noun in nouns.items() if _has_values(used, column)), "")
    if not noun or "fold" in used.columns:
        return ""
    counts = {split: used.filter(pl.col("split") == split)["group"].n_unique() for split in ("val", "test")}
    few = {split: count for split, count in counts.items() if count < FEW_GROUPS}
    if not few:
        return ""
    names = {"val": "validation", "test": "test"}
    parts = [f"{count} {noun}{'s' * (count != 1)} for {names[split]}" for split, count in few.items()]
    rests = " Calibration and thresholds depend on validation." if "val" in few else ""
    return (
        f"The split has only {' and '.join(parts)}.{rests} Figures for other {noun}s may differ much: add {noun}s, or"
        " cross-validate with --folds 5."
    )


def _has_values(pictures: pl.DataFrame, column: str) -> bool:
    return column in pictures.columns and pictures[column].count() > 0
