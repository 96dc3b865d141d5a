"""How much a split that ignores duplicates would have flattered the score: models trained both ways, several times.

Two figures. The plain one compares the accuracy of naive and grouped splits over several seeds; it is noisy, since
the test pictures differ. The direct one asks of the same test pictures how often they are named right by a model that
had their twins in training, and by one that had as many other pictures instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary import files, run_folder, table
from bestiary.array_types import Bools, Ints
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.context import Context
from bestiary.data.split import SplitItem, stratified_group_split
from bestiary.errors import RecipeError, RunError, SourceError
from bestiary.machine import available_cores, disable_malloc_trim
from bestiary.models.features import FeatureCache, LabelledFeatures, training_precision
from bestiary.models.logistic_regression import linear_logits
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe import Balance, Recipe, ResolvedRecipe
from bestiary.report.run_report import write_report
from bestiary.training.probe import fit_head

SEEDS = 5
SILENT = SilentReporter()
Names = npt.NDArray[np.str_]


@dataclass(frozen=True)
class LeakageExperiment:
    """The pictures of a run as the experiment needs them, one row each, and how a head is fitted."""

    items: list[SplitItem]
    features: FeatureMatrix
    labels: Ints
    groups: Ints
    classes: int
    split_fractions: dict[str, float]
    strength: float
    balance: Balance

    def correct(self, train: Bools, val: Bools, test: Bools) -> Bools:
        """Return for each test picture whether a head fitted on `train` names it right."""
        seen = LabelledFeatures(self.features[train], self.labels[train])
        known = LabelledFeatures(self.features[val], self.labels[val])
        head, _ = fit_head(seen, known, self.classes, c_values=[self.strength], balance=self.balance)
        said = linear_logits(self.features[test], head.weight, head.bias).argmax(axis=1)
        return np.asarray(said == self.labels[test])


def check_leak_report_supported(recipe: Recipe) -> None:
    """Raise RecipeError for a method that is too slow to be trained many times over."""
    if recipe.model.method != "probe":
        raise RecipeError(
            f"--leak-report trains {4 * SEEDS} more models, which takes seconds with --method probe only; got"
            f' "{recipe.model.method}". Ask it of a probe on the same pictures.'
        )


def leak_report(
    run: Path, *, seeds: int = SEEDS, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Return what is written into `leaks.json` of a finished run, whose report is written again with it.

    Rates are fractions; `sentence` says it all in words. Raises RecipeError unless the run is a probe's.
    """
    recipe = run_folder.load_recipe(run).resolve()
    check_leak_report_supported(recipe)
    problem = _load_experiment(run, recipe, threads or available_cores(), reporter)
    try:
        stratified_group_split(problem.items, problem.split_fractions, seed=recipe.seed)
    except SourceError as error:
        raise RunError(f"{run} is finished, but naive and other splits of it cannot be compared. {error}") from None
    trials = []
    with reporter.progress("Training with naive splits", seeds) as advance:
        for seed in range(recipe.seed, recipe.seed + seeds):
            trials.append(run_leakage_trial(problem, seed))
            advance(1)
    found = summarise_leakage(trials)
    files.write_json(run / "leaks.json", found)
    write_report(run, threads=threads)
    return found


def naive_split(labels: Ints, split_fractions: dict[str, float], *, seed: int) -> Names:
    """Return the part of each picture in a random split that is stratified by label and knows of no duplicates."""
    rng, parts = np.random.default_rng(seed), np.full(len(labels), "train", dtype="<U5")
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        own = rng.permutation(np.flatnonzero(labels == label))
        for name, share in split_fractions.items():
            size = min(max(1, round(share * count)), len(own) - 1)  # something is left to learn from
            parts[own[:size]], own = name, own[size:]
    return parts


def count_cross_split_pairs(items: Sequence[SplitItem], parts: Sequence[str]) -> dict[str, int]:
    """Return how many pairs of pictures that show the same lie in different parts: exact, near, across labels."""
    of = pl.DataFrame(
        {
            "group": [item.group for item in items],
            "sha256": [item.sha256 for item in items],
            "label": [item.label for item in items],
            "part": list(parts),
        }
    )

    def apart(*same: str) -> int:
        """Count the pairs that have all of `same` in common, but not the part: by sizes, for groups may be large."""
        return _count_pairs(of, *same) - _count_pairs(of, *same, "part")

    together, exact = apart("group"), apart("group", "sha256")
    return {"exact": exact, "near": together - exact, "across labels": together - apart("group", "label")}


def run_leakage_trial(experiment: LeakageExperiment, seed: int) -> dict[str, Any]:
    """Train on a naive split, a grouped one, and on the naive one with and without the twins of its test pictures."""
    naive = naive_split(experiment.labels, experiment.split_fractions, seed=seed)
    grouped = np.array(stratified_group_split(experiment.items, experiment.split_fractions, seed=seed))
    scores = [experiment.correct(part == "train", part == "val", part == "test").mean() for part in (naive, grouped)]
    train, val, test = (naive == name for name in ("train", "val", "test"))
    leaked = test & np.isin(experiment.groups, experiment.groups[train])
    twins = train & np.isin(experiment.groups, experiment.groups[leaked])
    only_twins = np.setdiff1d(experiment.labels[train], experiment.labels[train & ~twins])
    twins &= ~np.isin(experiment.labels, only_twins)  # a label must keep a picture to learn from
    leaked &= ~np.isin(experiment.groups, experiment.groups[train & ~twins])
    had = had_not = np.zeros(0, np.bool_)
    if leaked.any():
        others = _choose_replacements(experiment, train & ~twins, twins, seed)
        had, had_not = (experiment.correct(train & ~out, val, leaked) for out in (others, twins))
    return {
        "seed": seed,
        "naive accuracy": float(scores[0]),
        "grouped accuracy": float(scores[1]),
        "pairs across the naive split": count_cross_split_pairs(experiment.items, naive.tolist()),
        "pairs across the grouped split": count_cross_split_pairs(experiment.items, grouped.tolist()),
        "test pictures": int(test.sum()),
        "leaked test pictures": int(leaked.sum()),
        "leaked right with twins in training": int(had.sum()),
        "leaked right without": int(had_not.sum()),
        "leaked right only with": int((had & ~had_not).sum()),
        "leaked right only without": int((had_not & ~had).sum()),
    }


def summarise_leakage(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over the trials with 95 % intervals, and one sentence.

    Intervals are Student's t over the seeds; that of the flattery is at least as wide as the one for paired rates over
    the leaked pictures of all trials, which does not vanish where both models answer alike (Agresti and Min 2005).
    """
    tested, leaked = (sum(one[key] for one in trials) for key in ("test pictures", "leaked test pictures"))
    had, had_not = (
        sum(one[key] for one in trials) / leaked if leaked else None
        for key in ("leaked right with twins in training", "leaked right without")
    )
    found = {
        "seeds": len(trials),
        **{
            name: {kind: sum(one[name][kind] for one in trials) / len(trials) for kind in trials[0][name]}
            for name in ("pairs across the naive split", "pairs across the grouped split")
        },
        "leaked share of test pictures": leaked / tested,
        "accuracy on them with twins in training": had,
        "accuracy on them without": had_not,
        "flattery": _accuracy_inflation(trials),
        "naive minus grouped accuracy": _mean_with_interval(
            [one["naive accuracy"] - one["grouped accuracy"] for one in trials]
        ),
        "trials": list(trials),
    }
    return {**found, "sentence": _describe_leakage(found)}


def _count_pairs(of: pl.DataFrame, *same: str) -> int:
    """Return how many pairs of rows have the same values in these columns."""
    count = pl.col("len").cast(pl.Int64)
    return int(of.group_by(same).len().select((count * (count - 1) // 2).sum()).item())


def _choose_replacements(experiment: LeakageExperiment, from_: Bools, twins: Bools, seed: int) -> Bools:
    """Choose as many other training pictures of each label, so that both models learn from equally many."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(from_), np.bool_)
    for label, count in zip(*np.unique(experiment.labels[twins], return_counts=True), strict=True):
        own = rng.permutation(np.flatnonzero(from_ & (experiment.labels == label)))
        chosen[own[: min(count, len(own) - 1)]] = True
    return chosen


def _describe_leakage(results: dict[str, Any]) -> str:
    pairs, seeds = results["pairs across the naive split"], results["seeds"]
    if not pairs["exact"] + pairs["near"]:
        return f"A naive random split would have leaked nothing: none of {seeds} put duplicates on both sides."
    start = (
        f"A naive random split would have torn {pairs['exact'] + pairs['near']:.0f} pairs of duplicates apart"
        f" ({pairs['exact']:.0f} exact, {pairs['near']:.0f} near, {pairs['across labels']:.0f} across labels; mean of"
        f" {seeds} splits)"
    )
    if results["accuracy on them without"] is None:
        return f"{start}, none of them between training and test."
    return (
        f"{start} and flattered the accuracy by {_format_points(results['flattery'])}:"
        f" {100 * results['leaked share of test pictures']:.1f} % of its test pictures had a twin in training; these were"
        f" right {100 * results['accuracy on them with twins in training']:.1f} times in 100, and"
        f" {100 * results['accuracy on them without']:.1f} with other pictures in place of the twins."
        f" (Naive minus grouped accuracy, a noisier measure: {_format_points(results['naive minus grouped accuracy'])}.)"
    )


def _format_points(mean: dict[str, float]) -> str:
    value, low, high = (100 * mean[key] for key in ("value", "low", "high"))
    return f"{value:.2f} points (95 % interval {low:.2f} to {high:.2f})"


def _accuracy_inflation(trials: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return by how much the accuracy over all test pictures was too good, from the leaked ones among them."""
    only_with, only_without, leaked, tested = (
        sum(one[key] for one in trials)
        for key in ("leaked right only with", "leaked right only without", "leaked test pictures", "test pictures")
    )
    by_seed = _mean_with_interval(
        [(one["leaked right only with"] - one["leaked right only without"]) / one["test pictures"] for one in trials]
    )
    more, count, share = only_with - only_without, leaked + 2, leaked / tested
    half = 1.96 * np.sqrt(only_with + only_without + 1 - more**2 / count) / count
    paired = [share * (more / count + sign * half) for sign in (-1, 1)]
    return {"value": more / tested, "low": min(by_seed["low"], paired[0]), "high": max(by_seed["high"], paired[1])}


def _mean_with_interval(values: Sequence[float]) -> dict[str, float]:
    from scipy.stats import t

    value, count = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return {"value": value, "low": value - half, "high": value + half}


def _load_experiment(run: Path, recipe: ResolvedRecipe, threads: int, reporter: Reporter) -> LeakageExperiment:
    disable_malloc_trim()
    used = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("split").is_not_null())
    chosen = [line["regularisation"] for line in run_folder.read_history(run) if line.get("chosen")]
    if not chosen:
        raise RunError(f"{run / 'history.jsonl'} names no strength that was chosen. Train the run again.")
    names, labels = np.unique(used["label"].to_numpy(), return_inverse=True)
    balance = recipe.train.balance
    return LeakageExperiment(
        items=[SplitItem(*row) for row in used.select("sha256", "label", "group").iter_rows()],
        features=_load_features(used, recipe, threads, reporter),
        labels=labels.astype(np.int64),
        groups=used["group"].to_numpy(),
        classes=len(names),
        split_fractions={"test": recipe.data.test_fraction, "val": recipe.data.val_fraction},
        strength=chosen[-1],
        balance="class-weights" if balance == "oversample" else balance,  # without mirrored features the same
    )


def _load_features(used: pl.DataFrame, recipe: ResolvedRecipe, threads: int, reporter: Reporter) -> FeatureMatrix:
    context, precision = Context(threads=threads, reporter=reporter), training_precision()  # most are cached
    cache = FeatureCache(recipe.model.backbone, recipe.preprocessing, precision, context)
    return cache.features([Path(path) for path in used["path"]], used["sha256"].to_list())
