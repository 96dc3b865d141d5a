"""Runs held against each other on the same test pictures: paired intervals of the differences, McNemar's exact test."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binomtest

from bestiary import table
from bestiary.array_types import Floats, Ints
from bestiary.errors import RunError, UserError
from bestiary.evaluation import intervals
from bestiary.evaluation.metrics import MetricSums, macro_f1_interval, rate_with_interval, sums_by_picture
from bestiary.inference.bundle import read_bundle
from bestiary.stats import holm

COMPARED = ("accuracy", "macro_f1", "log_loss")
LOWER_IS_BETTER = ("log_loss",)
MAX_EXAMPLES = 3  # pictures that a message names


@dataclass(frozen=True)
class RunPredictions:
    """A run's answers to its test pictures: `key, sha256, path, label, group, predicted` and `p_<label>`.

    key: content and number among equal files, so that a picture that lies in the split twice is matched twice.
    """

    name: str
    classes: tuple[str, ...]
    answers: pl.DataFrame


def read_run_predictions(run: Path) -> RunPredictions:
    """Return what a run answered to its test split. Raises RunError if it is not finished."""
    classes = read_bundle(run).classes
    pictures = table.read(run / "pictures.parquet", table.PICTURES).select("row_id", "sha256", "group")
    predictions = table.read(run / "predictions.parquet", table.PREDICTIONS).filter(pl.col("split") == "test")
    answers = predictions.join(pictures, on="row_id", how="left", maintain_order="left").sort("sha256", "path")
    if not answers.height:
        name = shlex.quote(str(run))
        raise RunError(f"{run} has no test pictures in its predictions.parquet. Score it: bestiary evaluate {name}")
    number = pl.int_range(pl.len()).over("sha256")
    return RunPredictions(str(run), classes, answers.with_columns(key=pl.format("{} {}", "sha256", number)))


def align_runs(
    runs: Sequence[RunPredictions], *, intersection: bool, labels_of: str | None = None
) -> list[RunPredictions]:
    """Return the runs with the same pictures in the same order.

    labels_of: the name of the run whose labels judge all of them, after corrections for example.

    Raises UserError, with numbers and names, where the test pictures differ and `intersection` is not asked for, where
    they have none in common, or where the same picture has different labels.
    """
    shared = set(runs[0].answers["key"]).intersection(*(run.answers["key"] for run in runs[1:]))
    _check_same_pictures(runs, shared, intersection=intersection)
    found = [
        RunPredictions(run.name, run.classes, run.answers.filter(pl.col("key").is_in(list(shared))).sort("key"))
        for run in runs
    ]
    if labels_of is not None:
        return _relabel_by(labels_of, found)
    for run in found[1:]:
        _check_same_labels(found[0], run)
    return found


def _relabel_by(name: str, runs: Sequence[RunPredictions]) -> list[RunPredictions]:
    judge = next((run for run in runs if run.name == name), None)
    if judge is None:
        raise UserError(f"--labels-of {name} is none of the runs that are compared: {', '.join(r.name for r in runs)}.")
    truth = judge.answers.select("label", "group")
    return [replace(run, answers=run.answers.with_columns(truth)) for run in runs]


def compare_runs(runs: Sequence[RunPredictions], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Return the comparison as plain values: every run's scores, and each later run's differences to the first.

    runs: as `align_runs` gives them. `runs`: by run the metrics in COMPARED with the 95 % intervals of metrics.json, which
    claim no certainty where all pictures are right. `differences`: this run
    minus the first: `value, low, high` from resamples of whole groups of duplicates, the same for both runs, and `p`,
    the share of resamples beyond zero, two-sided. `mcnemar`: pictures that only one of the two got right, the exact
    two-sided p (McNemar 1947), and `p_holm`, corrected for the number of runs.
    """
    first = runs[0].answers
    labels = sorted(set(first["label"]).union(*(run.classes for run in runs)))
    place = {label: at for at, label in enumerate(labels)}
    truth = np.array([place[label] for label in first["label"]], np.int64)
    groups = np.unique(first["group"].to_numpy(), return_inverse=True)[1].astype(np.int64)
    used = np.flatnonzero(np.bincount(truth, minlength=len(labels)))
    values, draws, alone = _resample_runs(runs, truth, groups, labels, resamples, seed)
    rights = [np.asarray(run.answers["predicted"] == run.answers["label"]) for run in runs]
    differences: list[dict[str, Any]] = [
        {
            "run": run.name,
            **{
                name: difference_with_interval(values[at][name] - values[0][name], draws[at][name] - draws[0][name])
                for name in COMPARED
            },
            "mcnemar": _mcnemar(rights[0], rights[at]),
        }
        for at, run in enumerate(runs[1:], start=1)
    ]
    _add_holm_p([one["mcnemar"] for one in differences])
    return {
        "n": len(truth),
        "groups": int(groups.max()) + 1,
        "labels": [labels[at] for at in used],
        "resamples": resamples,
        "against": runs[0].name,
        "runs": [{"run": run.name, **scores} for run, scores in zip(runs, alone, strict=True)],
        "differences": differences,
    }


def verdict(difference: dict[str, Any], name: str) -> str:
    """Return "better", "worse" or "not told apart" for one metric of a difference: does its interval hold zero?"""
    low, high = difference[name]["low"], difference[name]["high"]
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (low > 0) != (name in LOWER_IS_BETTER) else "worse"


def _check_same_pictures(runs: Sequence[RunPredictions], shared: set[str], *, intersection: bool) -> None:
    alone = {run.name: run.answers.height - len(shared) for run in runs}
    if not shared:
        raise UserError("These runs have no test picture in common; they cannot be compared.")
    if any(alone.values()) and not intersection:
        counts = ", ".join(f"{run.name} has {run.answers.height:,}" for run in runs)
        raise UserError(
            f"The test pictures differ: {counts}, and {len(shared):,} are the same. Compare those with --intersection"
            " (a picture that one run tests may be one that another was trained on: then the comparison is not fair),"
            " or train with the same pictures and seed."
        )


def _check_same_labels(first: RunPredictions, run: RunPredictions) -> None:
    differ = (first.answers["label"] != run.answers["label"]).arg_true()
    if len(differ):
        examples = "; ".join(
            f"{first.answers['path'][at]}: {first.answers['label'][at]} and {run.answers['label'][at]}"
            for at in differ[:MAX_EXAMPLES]
        )
        raise UserError(
            f"{len(differ):,} test pictures have another label in {run.name} than in {first.name}: {examples}."
            " Scores against different labels cannot be compared. Say whose labels are right:"
            f" --labels-of {run.name}, for example, where it was trained with corrections."
        )


def _resample_runs(
    runs: Sequence[RunPredictions],
    y_true: Ints,
    groups: Ints,
    labels: list[str],
    resamples: int,
    seed: int,
) -> tuple[list[dict[str, float]], list[dict[str, Floats]], list[dict[str, dict[str, float]]]]:
    """Return every run's figures, their values under the same resamples, (resamples,) each, and their own intervals.

    The same seed draws the same groups for every run: that is what makes the differences paired.
    """
    values, draws, alone = list[dict[str, float]](), list[dict[str, Floats]](), list[dict[str, dict[str, float]]]()
    for run in runs:
        shares = probabilities_over(run, labels)
        predicted = shares.argmax(axis=1)
        rows = sums_by_picture(y_true, predicted, shares)
        whole = MetricSums(np.asarray(rows.sum(axis=0), np.float64).reshape(1, -1), len(labels))
        drawn = MetricSums(
            intervals.resampled_sums(rows, y_true, groups, resamples=resamples, seed=seed),
            len(labels),
        )
        values.append({name: float(metric_draws(whole, name)[0]) for name in COMPARED})
        draws.append({name: metric_draws(drawn, name) for name in COMPARED})
        scores = {name: _interval(values[-1][name], draws[-1][name]) for name in COMPARED}
        scores["accuracy"] = rate_with_interval(values[-1]["accuracy"], groups)
        low, high = macro_f1_interval(whole.pictures[0] > 0, whole, y_true, predicted, groups)
        f1 = scores["macro_f1"]
        scores["macro_f1"] = intervals.metric_value(f1["value"], min(f1["low"], low), max(f1["high"], high))
        alone.append(scores)
    return values, draws, alone


def metric_draws(sums: MetricSums, name: str) -> Floats:
    """Return a metric per resample; macro-F1 over the classes that have pictures in it, for others have no F1."""
    if name != "macro_f1":
        return sums.metric(name)
    there = sums.pictures > 0
    return np.asarray((sums.f1() * there).sum(axis=1) / there.sum(axis=1))


def probabilities_over(run: RunPredictions, labels: Sequence[str]) -> Floats:
    """Return the probabilities, float64 (n, labels); a class that the run does not know has none."""
    known = set(run.classes)
    columns = [pl.col(f"p_{name}") if name in known else pl.lit(0.0).alias(f"p_{name}") for name in labels]
    return run.answers.select(columns).to_numpy()


def _interval(value: float, draws: Floats) -> dict[str, float]:
    return intervals.metric_value(value, *intervals.percentile_interval(draws, value))


def difference_with_interval(value: float, draws: Floats) -> dict[str, float]:
    """Return a difference with the 95 % interval of its resamples, and `p`, the share beyond zero, two-sided."""
    beyond = min(float(np.mean(draws <= 0)), float(np.mean(draws >= 0)))
    return {**_interval(value, draws), "p": min(1.0, max(2 * beyond, 2 / (len(draws) + 1)))}


def _mcnemar(first: Any, this: Any) -> dict[str, float]:
    only_first, only_this = int((first & ~this).sum()), int((this & ~first).sum())
    differ = only_first + only_this
    p = float(binomtest(only_this, differ).pvalue) if differ else 1.0
    return {"only_first": only_first, "only_this": only_this, "p": p if math.isfinite(p) else 1.0}


def _add_holm_p(tests: Sequence[dict[str, float]]) -> None:
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p
