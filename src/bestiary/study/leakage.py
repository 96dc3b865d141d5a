"""Leak report: how much a split that ignores duplicates and given groups would have inflated the score.

Two figures over several seeds. Naive minus grouped accuracy is noisy, since the test pictures differ. The direct one
compares two models on the same test pictures: one had duplicates of them in training, the other as many other pictures.
Pictures of one given group, such as a burst, count as duplicates of each other. Those of one site do not: nearly every
test picture has some in training, and `group_scores` compares known and new sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary import files, run_folder, table
from bestiary.array_types import Bools, Ints
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.context import Context
from bestiary.data.deep_ranges import collection_rules
from bestiary.data.joined_groups import groups_without_sites
from bestiary.data.split import SplitItem, stratified_group_split
from bestiary.errors import RecipeError, RunError, SourceError
from bestiary.machine import disable_malloc_trim
from bestiary.models.backbones import recipe_backbone
from bestiary.models.features import LabelledFeatures, features_by_split, training_feature_cache
from bestiary.models.logistic_regression import linear_logits
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_sections import Balance
from bestiary.report.run_report import write_report
from bestiary.training.probe import fit_head

SEEDS = 5
Names = npt.NDArray[np.str_]


@dataclass(frozen=True)
class LeakageExperiment:
    """The pictures of a run, one row each, and the settings of the head.

    groups: int64 (n,), of duplicates and given groups; duplicates: int64 (n,), of duplicates alone, None: the same.
    """

    items: list[SplitItem]
    features: FeatureMatrix
    labels: Ints
    groups: Ints
    classes: int
    split_fractions: dict[str, float]
    c_value: float
    balance: Balance
    duplicates: Ints | None = None

    def count_pairs(self, splits: Names) -> dict[str, int]:
        """Return how many pairs lie in different splits, str (n,): those of duplicates, and others of given groups."""
        counts = count_cross_split_pairs(self.items, splits.tolist())
        if self.duplicates is None:
            return counts
        items = [replace(item, group=group) for item, group in zip(self.items, self.duplicates.tolist(), strict=True)]
        own = count_cross_split_pairs(items, splits.tolist())
        total = counts["exact"] + counts["near"]
        return {**own, "of given groups": total - own["exact"] - own["near"]}

    def correct(self, train: Bools, val: Bools, test: Bools) -> Bools:
        """Return for each test picture whether a head fitted on `train` predicts its label."""
        training, validation = (LabelledFeatures(self.features[rows], self.labels[rows]) for rows in (train, val))
        head, _ = fit_head(training, validation, self.classes, c_values=[self.c_value], balance=self.balance)
        predicted = linear_logits(self.features[test], head.weight, head.bias).argmax(axis=1)
        return np.asarray(predicted == self.labels[test])


def check_leak_report_supported(recipe: Recipe) -> None:
    """Raise RecipeError for methods that are too slow for many training runs."""
    if recipe.model.method != "probe":
        raise RecipeError(
            f"--leak-report trains {4 * SEEDS} more models, which takes seconds with --method probe only; got"
            f' "{recipe.model.method}". Run it with a probe on the same pictures.'
        )


def leak_report(run: Path, context: Context, *, seeds: int = SEEDS) -> dict[str, Any]:
    """Run the experiment on a finished run, write `leaks.json` and the report again, and return the results.

    Rates are fractions; `sentence` summarises them. Raises RecipeError unless the run is a probe.
    """
    recipe = run_folder.load_resolved_recipe(run)
    check_leak_report_supported(recipe)
    experiment = _load_experiment(run, recipe, context)
    try:
        stratified_group_split(experiment.items, experiment.split_fractions, seed=recipe.seed)
    except SourceError as error:
        raise RunError(
            f"{run} is finished, but its pictures cannot be split again for the leak report. {error}"
        ) from None
    trials = []
    with context.reporter.progress("Training with naive splits", seeds) as advance:
        for seed in range(recipe.seed, recipe.seed + seeds):
            trials.append(run_leakage_trial(experiment, seed))
            advance(1)
    results = summarise_leakage(trials)
    files.write_json(run / "leaks.json", results)
    write_report(run, threads=context.threads)
    return results


def naive_split(labels: Ints, split_fractions: dict[str, float], *, seed: int) -> Names:
    """Return the split of each picture, stratified by label and ignoring duplicates."""
    rng, splits = np.random.default_rng(seed), np.full(len(labels), "train", dtype="<U5")
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        own = rng.permutation(np.flatnonzero(labels == label))
        for name, fraction in split_fractions.items():
            size = min(max(1, round(fraction * count)), len(own) - 1)  # leaves one to train on
            splits[own[:size]], own = name, own[size:]
    return splits


def count_cross_split_pairs(items: Sequence[SplitItem], splits: Sequence[str]) -> dict[str, int]:
    """Return how many duplicate pairs lie in different splits: exact, near, across labels."""
    pictures = pl.DataFrame(
        {
            "group": [item.group for item in items],
            "sha256": [item.sha256 for item in items],
            "label": [item.label for item in items],
            "split": list(splits),
        }
    )

    def count(*columns: str) -> int:
        """Count pairs that are equal in these columns but not in the split, from sizes, since groups may be large."""
        return _count_pairs(pictures, *columns) - _count_pairs(pictures, *columns, "split")

    total, exact = count("group"), count("group", "sha256")
    return {"exact": exact, "near": total - exact, "across labels": total - count("group", "label")}


def run_leakage_trial(experiment: LeakageExperiment, seed: int) -> dict[str, Any]:
    """Train on a naive split, a grouped one, and the naive one with and without the duplicates of its test pictures."""
    naive = naive_split(experiment.labels, experiment.split_fractions, seed=seed)
    grouped = np.array(stratified_group_split(experiment.items, experiment.split_fractions, seed=seed))
    scores = [experiment.correct(*(split == name for name in table.SPLITS)).mean() for split in (naive, grouped)]
    train, val, test = (naive == name for name in table.SPLITS)
    leaked = test & np.isin(experiment.groups, experiment.groups[train])
    twins = train & np.isin(experiment.groups, experiment.groups[leaked])
    only_twins = np.setdiff1d(experiment.labels[train], experiment.labels[train & ~twins])
    twins &= ~np.isin(experiment.labels, only_twins)  # every label needs a training picture
    leaked &= ~np.isin(experiment.groups, experiment.groups[train & ~twins])
    with_twins = without = np.zeros(0, np.bool_)
    if leaked.any():
        others = _choose_replacements(experiment, train & ~twins, twins, seed)
        with_twins, without = (experiment.correct(train & ~left_out, val, leaked) for left_out in (others, twins))
    return {
        "seed": seed,
        "naive accuracy": float(scores[0]),
        "grouped accuracy": float(scores[1]),
        "pairs across the naive split": experiment.count_pairs(naive),
        "pairs across the grouped split": experiment.count_pairs(grouped),
        "test pictures": int(test.sum()),
        "leaked test pictures": int(leaked.sum()),
        "leaked right with twins in training": int(with_twins.sum()),
        "leaked right without": int(without.sum()),
        "leaked right only with": int((with_twins & ~without).sum()),
        "leaked right only without": int((without & ~with_twins).sum()),
    }


def summarise_leakage(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over the trials with 95 % intervals, and one sentence.

    Intervals are Student's t over the seeds; that of "flattery" is at least as wide as the one for paired rates over
    the leaked pictures of all trials, which is not zero where both models agree (Agresti and Min 2005).
    """
    tested, leaked = (sum(trial[key] for trial in trials) for key in ("test pictures", "leaked test pictures"))
    with_twins, without = (
        sum(trial[key] for trial in trials) / leaked if leaked else None
        for key in ("leaked right with twins in training", "leaked right without")
    )
    results = {
        "seeds": len(trials),
        **{
            name: {kind: sum(trial[name][kind] for trial in trials) / len(trials) for kind in trials[0][name]}
            for name in ("pairs across the naive split", "pairs across the grouped split")
        },
        "leaked share of test pictures": leaked / tested,
        "accuracy on them with twins in training": with_twins,
        "accuracy on them without": without,
        "flattery": _accuracy_inflation(trials),
        "naive minus grouped accuracy": _mean_with_interval(
            [trial["naive accuracy"] - trial["grouped accuracy"] for trial in trials]
        ),
        "trials": list(trials),
    }
    return {**results, "sentence": _describe_leakage(results)}


def _count_pairs(pictures: pl.DataFrame, *columns: str) -> int:
    """Return how many pairs of rows are equal in these columns."""
    count = pl.col("len").cast(pl.Int64)
    return int(pictures.group_by(columns).len().select((count * (count - 1) // 2).sum()).item())


def _choose_replacements(experiment: LeakageExperiment, candidates: Bools, twins: Bools, seed: int) -> Bools:
    """Choose as many other training pictures of each label, so that both models are trained on equally many."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(candidates), np.bool_)
    for label, count in zip(*np.unique(experiment.labels[twins], return_counts=True), strict=True):
        own = rng.permutation(np.flatnonzero(candidates & (experiment.labels == label)))
        chosen[own[: min(count, len(own) - 1)]] = True
    return chosen


def _describe_leakage(results: dict[str, Any]) -> str:
    pairs, seeds = results["pairs across the naive split"], results["seeds"]
    grouped = pairs.get("of given groups", 0)
    if not pairs["exact"] + pairs["near"] + grouped:
        return f"A naive random split would not have leaked: none of {seeds} put duplicates into different splits."
    kinds = f"{pairs['exact']:.0f} exact, {pairs['near']:.0f} near, {pairs['across labels']:.0f} across labels"
    groups = f" and {grouped:.0f} other pairs of one group" if grouped else ""
    copy = "duplicate or another picture of its group" if grouped else "duplicate"
    start = (
        f"A naive random split would have separated {pairs['exact'] + pairs['near']:.0f} pairs of duplicates"
        f" ({kinds}; mean of {seeds} splits){groups}"
    )
    if results["accuracy on them without"] is None:
        return f"{start}, none of them between training and test."
    return (
        f"{start} and inflated the accuracy by {_format_points(results['flattery'])}:"
        f" {100 * results['leaked share of test pictures']:.1f} % of its test pictures had a {copy} in training. The"
        f" accuracy on these was {100 * results['accuracy on them with twins in training']:.1f} %, and"
        f" {100 * results['accuracy on them without']:.1f} % with other pictures in place of"
        f" {'those' if grouped else 'the duplicates'}."
        f" (Naive minus grouped accuracy, noisier: {_format_points(results['naive minus grouped accuracy'])}.)"
    )


def _format_points(mean: dict[str, float]) -> str:
    value, low, high = (100 * mean[key] for key in ("value", "low", "high"))
    return f"{value:.2f} points (95 % interval {low:.2f} to {high:.2f})"


def _accuracy_inflation(trials: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return by how much leaked pictures inflated the accuracy over all test pictures."""
    only_with, only_without, leaked, tested = (
        sum(trial[key] for trial in trials)
        for key in ("leaked right only with", "leaked right only without", "leaked test pictures", "test pictures")
    )
    by_seed = _mean_with_interval(
        [
            (trial["leaked right only with"] - trial["leaked right only without"]) / trial["test pictures"]
            for trial in trials
        ]
    )
    more, count, fraction = only_with - only_without, leaked + 2, leaked / tested
    half = 1.96 * np.sqrt(only_with + only_without + 1 - more**2 / count) / count
    paired = [fraction * (more / count + sign * half) for sign in (-1, 1)]
    return {"value": more / tested, "low": min(by_seed["low"], paired[0]), "high": max(by_seed["high"], paired[1])}


def _mean_with_interval(values: Sequence[float]) -> dict[str, float]:
    from scipy.stats import t

    value, count = float(np.mean(values)), len(values)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return {"value": value, "low": value - half, "high": value + half}


def _load_experiment(run: Path, recipe: ResolvedRecipe, context: Context) -> LeakageExperiment:
    disable_malloc_trim()
    context = replace(context, features=run_folder.recorded_features(run))
    used = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("split").is_not_null())
    chosen = [line["regularisation"] for line in run_folder.read_history(run) if line.get("chosen")]
    if not chosen:
        raise RunError(f"{run / 'history.jsonl'} names no chosen value of C. Train the run again.")
    names, labels = np.unique(used["label"].to_numpy(), return_inverse=True)
    balance = recipe.train.balance
    groups, duplicates = groups_without_sites(used), table.with_duplicate_groups(used)["group"].to_numpy()
    has_groups = "given_group" in used.columns and used["given_group"].count() > 0
    rows = used.select("sha256", "label", pl.Series("group", groups))
    return LeakageExperiment(
        items=[SplitItem(*row) for row in rows.iter_rows()],
        features=_load_features(used, recipe, context),
        labels=labels.astype(np.int64),
        groups=groups,
        classes=len(names),
        split_fractions={"test": recipe.data.test_fraction, "val": recipe.data.val_fraction},
        c_value=chosen[-1],
        balance="class-weights" if balance == "oversample" else balance,  # the same without mirrored features
        duplicates=duplicates if has_groups else None,
    )


def _load_features(used: pl.DataFrame, recipe: ResolvedRecipe, context: Context) -> FeatureMatrix:
    preprocess = replace(recipe.preprocessing, rules=collection_rules(used))
    backbone = recipe_backbone(recipe, context.require_cache())
    cache = training_feature_cache(backbone, preprocess, context)  # most are cached
    return features_by_split(cache, table.list_files(used), used["sha256"].to_list(), used["split"].to_list())
