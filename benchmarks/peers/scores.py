"""Scores of a tool's answers, and their paired differences to bestiary's: `bestiary compare`'s own functions."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import table
from bestiary.evaluation.comparison import RunPredictions, compare_runs
from peer_script import read_rows


def read_answers(name: str, answers: Path, pictures: pl.DataFrame) -> RunPredictions:
    """Return the answers (`path,label`) about the test pictures (`path, sha256, label, group`); all must be there.

    Probabilities are 1 and 0: only scores of labels follow from them.
    """
    labels = {row["path"]: row["label"] for row in read_rows(answers)}
    missing = [path for path in pictures["path"] if path not in labels]
    if missing:
        raise SystemExit(f"{answers} has no answer for {len(missing)} of {pictures.height} pictures: {missing[0]}")
    classes = tuple(sorted(set(pictures["label"])))
    predictions = pictures.with_columns(predicted=pl.Series([labels[path] for path in pictures["path"]]))
    columns = [(pl.col("predicted") == name).cast(pl.Float64).alias(f"p_{name}") for name in classes]
    return RunPredictions(name, classes, predictions.with_columns(columns))


def score_answers(answers: dict[str, Path], pictures: pl.DataFrame, first: str) -> dict[str, dict[str, Any]]:
    """Return, by tool, accuracy and macro-F1 with 95 % intervals, and the differences to `first`, paired."""
    names = [first, *(name for name in answers if name != first)]
    result = compare_runs([read_answers(name, answers[name], pictures) for name in names])
    scores = {run["run"]: {metric: run[metric] for metric in ("accuracy", "macro_f1")} for run in result["runs"]}
    for difference in result["differences"]:
        kept = {metric: difference[metric] for metric in ("accuracy", "macro_f1")}
        scores[difference["run"]]["minus_bestiary"] = kept
    return scores


def read_pictures(run: Path) -> pl.DataFrame:
    """Return the pictures of a run's split: `path, sha256, label, group, split`."""
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    return pictures.filter(pl.col("split").is_not_null()).select("path", "sha256", "label", "group", "split")


def count_torn_pairs(pairs: list[tuple[str, str]], parts: dict[str, str]) -> int:
    """Return how many pairs of near-duplicates lie in two parts of a split, from path to part."""
    return sum(parts[first] != parts[second] for first, second in pairs if first in parts and second in parts)


def read_duplicate_pairs(run: Path) -> list[tuple[str, str]]:
    """Return all pairs of paths that lie in one group of duplicates of a run."""
    pictures = table.read(run / "pictures.parquet", table.PICTURES | table.GROUPING).drop_nulls("duplicate_group")
    groups = pictures.group_by("duplicate_group").agg("path")["path"].to_list()
    return [pair for group in groups for pair in combinations(sorted(group), 2)]
