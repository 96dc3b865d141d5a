"""Paired comparison of runs on the same test pictures: bootstrap intervals of the differences, McNemar's exact test."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Bools, Floats, Ints
from bestiary.data.apply_corrections import LEFT_OUT
from bestiary.data.corrections import read_corrections
from bestiary.errors import RunError, UserError
from bestiary.evaluation import intervals
from bestiary.evaluation.metrics import LOSSES, MetricSums, highest_value, macro_f1_interval, sums_by_picture
from bestiary.evaluation.predictions import join_pictures
from bestiary.inference.bundle import read_bundle
from bestiary.stats import holm

COMPARED = ("accuracy", "macro_f1", "log_loss")
LOWER_IS_BETTER = ("log_loss",)
NO_DIFFERENCE = "no significant difference"
MAX_EXAMPLES = 3  # pictures that a message names
CROP_MARK = "#xywh="  # in the name of a crop


@dataclass(frozen=True)
class RunPredictions:
    """A run's test predictions: `key, sha256, path, label, group, predicted` and `p_<label>`.

    key: SHA-256 and number among equal files, so that a picture that is in the split twice is matched twice. dropped:
    SHA-256 of the pictures that the corrections of the run leave out; left_out: test pictures that are not compared
    because of that.
    """

    name: str
    classes: tuple[str, ...]
    predictions: pl.DataFrame
    dropped: frozenset[str] = frozenset()
    left_out: int = 0


def read_run_predictions(run: Path) -> RunPredictions:
    """Return the test predictions of a run. Raises RunError if it is not finished."""
    classes = read_bundle(run).classes
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    predictions = table.read(run / "predictions.parquet", table.PREDICTIONS).filter(pl.col("split") == "test")
    if not predictions.height:
        name = shlex.quote(str(run))
        raise RunError(f"{run} has no test pictures in its predictions.parquet. Score it: bestiary evaluate {name}")
    predictions = table.name_rows(predictions, pictures)
    if "paired_sha256" in pictures.columns:  # whole pictures, compared with their boxes
        pictures = pictures.with_columns(sha256="paired_sha256")
    joined = join_pictures(predictions, pictures, "sha256", "group").sort("sha256", "path")
    number = pl.int_range(pl.len()).over("sha256")
    joined = joined.with_columns(key=pl.format("{} {}", "sha256", number))
    corrections = run / "corrections.csv"
    decisions = read_corrections(corrections).by_content if corrections.exists() else {}
    dropped = frozenset(sha256 for sha256, decision in decisions.items() if decision.action in LEFT_OUT)
    return RunPredictions(str(run), classes, joined, dropped)


def align_runs(
    runs: Sequence[RunPredictions], *, intersection: bool, labels_of: str | None = None
) -> list[RunPredictions]:
    """Return the runs with the same pictures in the same order.

    labels_of: the name of the run whose labels are used for all of them, after corrections for example; test pictures
    that its corrections leave out are not compared.

    Raises UserError, with numbers and names, if the test pictures differ without `intersection`, if the runs have none
    in common, or if a picture has different labels.
    """
    shared = set(runs[0].predictions["key"]).intersection(*(run.predictions["key"] for run in runs[1:]))
    left_out = 0 if labels_of is None else _count_dropped(_find_run(labels_of, runs), runs, shared)
    _check_same_pictures(runs, shared, intersection=intersection or left_out > 0)
    aligned = [
        replace(
            run,
            predictions=run.predictions.filter(pl.col("key").is_in(list(shared))).sort("key"),
            left_out=left_out,
        )
        for run in runs
    ]
    if labels_of is not None:
        return _relabel_by(labels_of, aligned)
    for run in aligned[1:]:
        _check_same_labels(aligned[0], run)
    return aligned


def _find_run(name: str, runs: Sequence[RunPredictions]) -> RunPredictions:
    """Return the run of `--labels-of`, by its name or as the same folder."""
    source = next((run for run in runs if run.name == name), None)
    source = source or next((run for run in runs if Path(run.name).resolve() == Path(name).resolve()), None)
    if source is None:
        raise UserError(f"--labels-of {name} is not one of the compared runs: {', '.join(run.name for run in runs)}.")
    return source


def _count_dropped(source: RunPredictions, runs: Sequence[RunPredictions], shared: set[str]) -> int:
    """Return how many test pictures other runs have because the corrections of `source` leave them out.

    0 if any differs for another reason.
    """
    others = pl.concat(
        [run.predictions.filter(~pl.col("key").is_in(list(shared))).select("key", "sha256") for run in runs]
    )
    is_explained = others["sha256"].is_in(list(source.dropped)).all()
    return others["key"].n_unique() if is_explained else 0


def _relabel_by(name: str, runs: Sequence[RunPredictions]) -> list[RunPredictions]:
    labels = _find_run(name, runs).predictions.select("label", "group")
    return [replace(run, predictions=run.predictions.with_columns(labels)) for run in runs]


def _check_same_pictures(runs: Sequence[RunPredictions], shared: set[str], *, intersection: bool) -> None:
    if not shared:
        has_crops = {bool(run.predictions["path"].str.contains(CROP_MARK, literal=True).any()) for run in runs}
        advice = " Some look at boxes, others at whole pictures: bestiary study PICTURES --preset crop compares both."
        raise UserError(
            "These runs have no test picture in common, so they cannot be compared."
            f"{advice if len(has_crops) > 1 else ''}"
        )
    if any(run.predictions.height > len(shared) for run in runs) and not intersection:
        counts = ", ".join(f"{run.name} has {run.predictions.height:,}" for run in runs)
        raise UserError(
            f"The test pictures differ: {counts}, and {len(shared):,} are the same. Compare those with --intersection"
            " (not fair if a test picture of one run is a training picture of another), or train with the same pictures"
            " and seed."
        )


def _check_same_labels(first: RunPredictions, run: RunPredictions) -> None:
    differ = (first.predictions["label"] != run.predictions["label"]).arg_true()
    if len(differ):
        examples = "; ".join(
            f"{first.predictions['path'][row]}: {first.predictions['label'][row]} and {run.predictions['label'][row]}"
            for row in differ[:MAX_EXAMPLES]
        )
        raise UserError(
            f"{len(differ):,} test pictures have a different label in {run.name} than in {first.name}: {examples}."
            " Scores against different labels cannot be compared. Name the run whose labels are correct, for example"
            f" the one trained with corrections: --labels-of {run.name}."
        )


@dataclass(frozen=True)
class _Scores:
    """The metrics of a run: values, values of each resample, (resamples,), and values with their own intervals."""

    values: dict[str, float]
    draws: dict[str, Floats]
    metrics: dict[str, dict[str, float]]


def compare_runs(runs: Sequence[RunPredictions], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Return the comparison as plain values: every run's scores, and each later run's differences to the first.

    runs: from `align_runs`. Key `runs`: by run the metrics in COMPARED with the 95 % intervals of metrics.json, which
    have a width even if all pictures are correct. `differences`: this run minus the first: `value, low, high` from
    resamples of whole groups (duplicates, groups and sites of the source), the same for both runs, and `p`, twice the
    fraction of resamples beyond zero. `mcnemar`: the number of pictures that only one of the two predicts correctly,
    the exact two-sided p (McNemar 1947), and `p_holm`, corrected for the number of runs.
    """
    first = runs[0].predictions
    labels = sorted(set(first["label"]).union(*(run.classes for run in runs)))
    y_true, groups = table.label_indices(first["label"], labels), intervals.group_indices(first["group"].to_numpy())
    scores = [_score_run(run, y_true, groups, labels, resamples, seed) for run in runs]
    correct = [np.asarray(run.predictions["predicted"] == run.predictions["label"]) for run in runs]
    differences = []
    for run, this, own_correct in zip(runs[1:], scores[1:], correct[1:], strict=True):
        difference: dict[str, Any] = {"run": run.name}
        for name in COMPARED:
            value, draws = this.values[name] - scores[0].values[name], this.draws[name] - scores[0].draws[name]
            span = intervals.single_group_span(groups, -highest_value(name), highest_value(name))
            difference[name] = difference_with_interval(value, draws, span)
        differences.append(difference | {"mcnemar": _mcnemar(correct[0], own_correct)})
    tests = [difference["mcnemar"] for difference in differences]
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p
    return {
        "n": len(y_true),
        "groups": int(groups.max()) + 1,
        "notes": _describe_left_out(runs[0].left_out),
        "labels": [labels[index] for index in np.unique(y_true)],
        "resamples": resamples,
        "against": runs[0].name,
        "runs": [{"run": run.name, **this.metrics} for run, this in zip(runs, scores, strict=True)],
        "differences": differences,
    }


def _describe_left_out(count: int) -> list[str]:
    if not count:
        return []
    pictures = "1 test picture is" if count == 1 else f"{count:,} test pictures are"
    return [f"{pictures} not compared: the corrections of a run leave out what was dropped."]


def verdict(difference: dict[str, Any], name: str) -> str:
    """Return "better", "worse" or, if the interval contains zero, NO_DIFFERENCE for a metric of a difference."""
    low, high = difference[name]["low"], difference[name]["high"]
    if low <= 0 <= high:
        return NO_DIFFERENCE
    return "better" if (low > 0) != (name in LOWER_IS_BETTER) else "worse"


def _score_run(
    run: RunPredictions, y_true: Ints, groups: Ints, labels: list[str], resamples: int, seed: int
) -> _Scores:
    """Return the metrics of a run. The same seed draws the same groups for every run: the differences are paired."""
    probabilities = probabilities_over(run, labels)
    y_pred = table.label_indices(run.predictions["predicted"], labels)
    rows = sums_by_picture(y_true, y_pred, probabilities)
    total = MetricSums.total(rows, len(labels))
    # Sites hold several classes, so that a class may be the stratum of one site only: nothing would vary in it.
    strata = np.zeros_like(y_true) if intervals.has_single_group(y_true, groups) else y_true
    resampled = MetricSums.resample(rows, strata, groups, len(labels), resamples=resamples, seed=seed)
    values = {name: float(metric_draws(total, name)[0]) for name in COMPARED}
    draws = {name: metric_draws(resampled, name) for name in COMPARED}
    spans = {name: intervals.single_group_span(groups, 0.0, highest_value(name)) for name in LOSSES}
    metrics = {name: intervals.bootstrap_metric(values[name], draws[name], spans.get(name)) for name in COMPARED}
    metrics["accuracy"] = intervals.rate_metric(values["accuracy"], int(groups.max()) + 1)
    ends = macro_f1_interval(total.pictures[0] > 0, total, y_true, y_pred, groups)
    metrics["macro_f1"] = intervals.widen_metric(metrics["macro_f1"], *ends)
    return _Scores(values, draws, metrics)


def metric_draws(sums: MetricSums, name: str) -> Floats:
    """Return a metric per resample; macro-F1 is over the classes that have pictures in the resample."""
    if name != "macro_f1":
        return sums.metric(name)
    present = sums.pictures > 0
    return np.asarray((sums.f1() * present).sum(axis=1) / present.sum(axis=1))


def probabilities_over(run: RunPredictions, labels: Sequence[str]) -> Floats:
    """Return the probabilities, float64 (n, labels); 0 for a class that the run does not have."""
    columns = [pl.col(f"p_{name}") if name in run.classes else pl.lit(0.0).alias(f"p_{name}") for name in labels]
    return run.predictions.select(columns).to_numpy()


def difference_with_interval(value: float, draws: Floats, span: intervals.Span | None = None) -> dict[str, float]:
    """Return a difference with the 95 % interval of its resamples, and `p`, twice the fraction beyond zero.

    span: its interval where all pictures are of one group, which is no evidence: p is 1.
    """
    if span is not None:
        return {**intervals.bootstrap_metric(value, draws, span), "p": 1.0}
    beyond = min(float(np.mean(draws <= 0)), float(np.mean(draws >= 0)))
    return {**intervals.bootstrap_metric(value, draws), "p": min(1.0, max(2 * beyond, 2 / (len(draws) + 1)))}


def _mcnemar(first: Bools, this: Bools) -> dict[str, float]:
    from scipy.stats import binomtest

    only_first, only_this = int((first & ~this).sum()), int((this & ~first).sum())
    differ = only_first + only_this
    p = float(binomtest(only_this, differ).pvalue) if differ else 1.0
    return {"only_first": only_first, "only_this": only_this, "p": p if math.isfinite(p) else 1.0}
