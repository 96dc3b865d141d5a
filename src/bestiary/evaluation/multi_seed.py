"""Comparison of recipes over several random seeds: means, standard deviations, differences paired by picture and seed.

A seed determines the split and all randomness of training; every recipe of a seed is tested on the same pictures. The
difference of two recipes is the mean over seeds of their differences. It has two sources of uncertainty. Its 95 %
interval is the wider of both on either side, its p the larger:
- pictures: whole groups of duplicates are resampled, the same draw for both recipes and for every seed, so that a
  picture tested under several seeds is one piece of evidence (paired bootstrap, 2.5 and 97.5 % points). A class or a
  seed without pictures in a draw is left out of the mean, for both recipes;
- seeds, from two on: the corrected resampled t test (Nadeau and Bengio 2003). The variance of the seeds' differences is
  multiplied by 1 / seeds + test pictures / training pictures instead of 1 / seeds, because the seeds share pictures.
With a single seed only the first is known: another training might have another result. The p values of a metric are
corrected for the number of differences (Holm 1979), and decide between "better", "worse" and "no significant
difference".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np

from bestiary import table
from bestiary.array_types import Floats
from bestiary.evaluation import intervals
from bestiary.evaluation.comparison import (
    COMPARED,
    LOWER_IS_BETTER,
    NO_DIFFERENCE,
    RunPredictions,
    align_runs,
    difference_with_interval,
    metric_draws,
    probabilities_over,
)
from bestiary.evaluation.metrics import MetricSums, sums_by_picture
from bestiary.stats import holm

ALPHA = 0.05
PredictionsBySeed = Mapping[str, Mapping[int, RunPredictions]]  # by recipe and seed


@dataclass(frozen=True)
class RecipePair:
    """A recipe, and the baseline that it is compared with."""

    recipe: str
    against: str


@dataclass(frozen=True)
class SeedScores:
    """The metrics of a recipe: the value of each seed, (1, seeds), and of each resample, (resamples, seeds)."""

    values: dict[str, Floats]
    draws: dict[str, Floats]


def compare_over_seeds(
    predictions: PredictionsBySeed,
    pairs: Sequence[RecipePair],
    test_train_ratios: Mapping[int, float],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the scores of every recipe and the differences of the pairs, as plain values.

    predictions: at least one seed of each recipe, groups numbered alike for all; test_train_ratios: test pictures per
    training picture of each seed. Key `recipes`: by metric `mean`, `sd` over seeds (None for one seed), `values` by
    seed, and `low, high`, its interval over pictures alone. `common`: the seeds that all recipes have. `differences`:
    by metric `value, low, high, p, p_holm, verdict` and `by_seed`; pairs without a common seed are left out.
    Raises UserError if the recipes of a seed have different test pictures.
    """
    aligned = _align_by_seed(predictions)
    seeds = {name: tuple(runs) for name, runs in aligned.items()}
    common = [(pair, tuple(s for s in seeds[pair.recipe] if s in seeds[pair.against])) for pair in pairs]
    common = [(pair, shared) for pair, shared in common if shared]
    wanted = {*seeds.items(), *((name, shared) for pair, shared in common for name in (pair.recipe, pair.against))}
    runs = [run for by_seed in aligned.values() for run in by_seed.values()]
    labels = sorted({label for run in runs for label in (*run.classes, *run.predictions["label"].unique())})
    scores = {
        (name, shared): _score_over_seeds([aligned[name][s] for s in shared], labels, resamples, seed)
        for name, shared in sorted(wanted)
    }
    differences = [
        _difference(pair, shared, scores[pair.recipe, shared], scores[pair.against, shared], test_train_ratios)
        for pair, shared in common
    ]
    _add_corrected_p(differences)
    return {
        "labels": labels,
        "resamples": resamples,
        "common": sorted(set.intersection(*(set(by_seed) for by_seed in aligned.values()))),
        "recipes": [_recipe_scores(name, own, scores[name, own]) for name, own in seeds.items()],
        "differences": differences,
    }


def corrected_resampled_ttest(differences: Sequence[float], test_train_ratio: float) -> dict[str, float]:
    """Return the mean of two differences or more with its 95 % interval and p: the corrected resampled t test.

    test_train_ratio: test pictures per training picture.
    """
    from scipy.stats import t

    count, value = len(differences), mean(differences)
    error = stdev(differences) * (1 / count + test_train_ratio) ** 0.5
    half = float(t.ppf(1 - ALPHA / 2, count - 1)) * error
    p = 2 * float(t.sf(abs(value) / error, count - 1)) if error else float(value == 0)
    return {"value": value, "low": value - half, "high": value + half, "p": p}


def _align_by_seed(predictions: PredictionsBySeed) -> dict[str, dict[int, RunPredictions]]:
    """Return the predictions with the pictures of each seed in the same order for every recipe."""
    aligned: dict[str, dict[int, RunPredictions]] = {name: {} for name in predictions}
    for seed in sorted({seed for runs in predictions.values() for seed in runs}):
        names = [name for name, runs in predictions.items() if seed in runs]
        runs = align_runs([predictions[name][seed] for name in names], intersection=False)
        for name, run in zip(names, runs, strict=True):
            aligned[name][seed] = run
    return {name: runs for name, runs in aligned.items() if runs}


def _score_over_seeds(runs: Sequence[RunPredictions], labels: list[str], resamples: int, seed: int) -> SeedScores:
    """Return the metrics of one recipe over its seeds; one draw of groups serves all seeds."""
    from scipy import sparse

    y_true = [table.label_indices(run.predictions["label"], labels) for run in runs]
    sums = []
    for run, true_labels in zip(runs, y_true, strict=True):
        probabilities = probabilities_over(run, labels)
        sums.append(
            sums_by_picture(true_labels, table.label_indices(run.predictions["predicted"], labels), probabilities)
        )
    drawn = intervals.resampled_sums(
        sparse.csr_array(sparse.block_diag(sums)),
        np.concatenate(y_true),
        np.concatenate([run.predictions["group"].to_numpy() for run in runs]),
        resamples=resamples,
        seed=seed,
    )
    total = np.concatenate([np.asarray(rows.sum(axis=0), np.float64) for rows in sums]).reshape(1, -1)
    return SeedScores(*(_metrics_by_seed(matrix, len(runs), len(labels)) for matrix in (total, drawn)))


def _metrics_by_seed(sums: Floats, seeds: int, k: int) -> dict[str, Floats]:
    """Return by metric the value of each row of sums and each seed, (rows, seeds); NaN without pictures of the seed."""
    metrics = {name: np.full((len(sums), seeds), np.nan) for name in COMPARED}
    for seed, columns in enumerate(np.split(sums, seeds, axis=1)):
        drawn = MetricSums(columns, k).n > 0
        for name, values in metrics.items():
            values[drawn, seed] = metric_draws(MetricSums(columns[drawn], k), name)
    return metrics


def _recipe_scores(name: str, seeds: tuple[int, ...], seed_scores: SeedScores) -> dict[str, Any]:
    scores: dict[str, Any] = {"recipe": name, "seeds": list(seeds)}
    for metric in COMPARED:
        values, draws = seed_scores.values[metric][0], np.nanmean(seed_scores.draws[metric], axis=1)
        value, low, high = intervals.bootstrap_metric(float(values.mean()), draws).values()
        sd = float(values.std(ddof=1)) if len(seeds) > 1 else None
        scores[metric] = {"mean": value, "sd": sd, "low": low, "high": high, "values": values.tolist()}
    return scores


def _difference(
    pair: RecipePair,
    seeds: tuple[int, ...],
    this: SeedScores,
    baseline: SeedScores,
    test_train_ratios: Mapping[int, float],
) -> dict[str, Any]:
    difference: dict[str, Any] = {"recipe": pair.recipe, "against": pair.against, "seeds": list(seeds)}
    ratio = mean(test_train_ratios[seed] for seed in seeds)
    for metric in COMPARED:
        values = (this.values[metric] - baseline.values[metric])[0].tolist()
        draws = this.draws[metric] - baseline.draws[metric]
        by_seed = [
            {"seed": seed, **difference_with_interval(value, column[~np.isnan(column)])}
            for seed, value, column in zip(seeds, values, draws.T, strict=True)
        ]
        bound = math.inf if metric in LOWER_IS_BETTER else 1.0  # two rates differ by 1 at most
        difference[metric] = {**_wider_interval(values, np.nanmean(draws, axis=1), ratio, bound), "by_seed": by_seed}
    return difference


def _wider_interval(values: list[float], draws: Floats, test_train_ratio: float, bound: float) -> dict[str, float]:
    """Return the mean difference with the wider of both intervals, at most `bound`, and the larger of both p."""
    pictures = difference_with_interval(mean(values), draws)
    if len(values) < 2:
        return pictures
    seeds = corrected_resampled_ttest(values, test_train_ratio)
    return {
        "value": pictures["value"],
        "low": max(-bound, min(pictures["low"], seeds["low"])),
        "high": min(bound, max(pictures["high"], seeds["high"])),
        "p": max(pictures["p"], seeds["p"]),
    }


def _add_corrected_p(differences: Sequence[dict[str, Any]]) -> None:
    """Add to every metric of every difference its Holm-corrected p and the verdict."""
    for metric in COMPARED:
        entries = [difference[metric] for difference in differences]
        for entry, p in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
            better = "better" if (entry["value"] > 0) != (metric in LOWER_IS_BETTER) else "worse"
            entry |= {"p_holm": p, "verdict": better if p < ALPHA else NO_DIFFERENCE}
