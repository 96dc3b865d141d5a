"""Several recipes under several seeds: means, spreads, and differences that are paired over pictures and over seeds.

A seed decides the split and all chance in training; every recipe of a seed answers to the same test pictures. The
difference of two recipes is the mean over seeds of their differences. Two things make it uncertain, and its 95 %
interval is the wider of both on either side, its p the larger:
- over pictures: whole groups of duplicates are resampled, the same draw for both recipes and for every seed, so that a
  picture that several seeds test is one piece of evidence (paired bootstrap, 2.5 and 97.5 % points); a class, or a
  seed, of which a draw has no picture is left out of its mean, for both recipes: nothing was asked of it;
- over seeds, from two on: Student's t over the seeds' differences, whose variance is multiplied by 1 / seeds + test
  pictures / training pictures instead of 1 / seeds, because the seeds share pictures (Nadeau and Bengio 2003).
With a single seed only the first is known: another training might come out otherwise. The p values of one metric are
corrected for the number of differences (Holm 1979), and by these a recipe is called better, worse or not told apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import t

from bestiary.array_types import Floats, Ints
from bestiary.evaluation import intervals
from bestiary.evaluation.comparison import (
    COMPARED,
    LOWER_IS_BETTER,
    RunPredictions,
    align_runs,
    difference_with_interval,
    metric_draws,
    probabilities_over,
)
from bestiary.evaluation.metrics import MetricSums, sums_by_picture
from bestiary.stats import holm

ALPHA = 0.05
Answers = Mapping[str, Mapping[int, RunPredictions]]  # by recipe and seed


@dataclass(frozen=True)
class RecipePair:
    """A recipe, and the one that it is held against."""

    recipe: str
    against: str


@dataclass(frozen=True)
class SeedScores:
    """The figures of a recipe: by metric its values of each seed, and those of each resample, (resamples, seeds)."""

    values: dict[str, Floats]
    draws: dict[str, Floats]


def compare_over_seeds(
    answers: Answers,
    pairs: Sequence[RecipePair],
    test_train_ratios: Mapping[int, float],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the scores of every recipe and the differences of the pairs, as plain values.

    answers: at least one seed of each recipe, groups numbered alike for all; shares: test pictures per training picture
    of each seed. `recipes`: by metric `mean`, `sd` over seeds (None for one seed), `values` by seed, and `low, high`,
    its interval over pictures alone. `common`: the seeds that all recipes have. `differences`: by metric `value, low,
    high, p, p_holm, verdict` and `by_seed`; pairs without a seed in common are left out.
    Raises UserError if the recipes of a seed tested other pictures.
    """
    answers = _align_by_seed(answers)
    wanted = {(name, tuple(runs)) for name, runs in answers.items()}
    both = [(pair, tuple(one for one in answers[pair.recipe] if one in answers[pair.against])) for pair in pairs]
    both = [(pair, seeds) for pair, seeds in both if seeds]
    wanted |= {(name, seeds) for pair, seeds in both for name in (pair.recipe, pair.against)}
    labels = sorted({label for runs in answers.values() for run in runs.values() for label in _labels(run)})
    measured = {
        (name, seeds): _score_over_seeds([answers[name][one] for one in seeds], labels, resamples, seed)
        for name, seeds in sorted(wanted)
    }
    differences = [
        _difference(pair, seeds, measured[pair.recipe, seeds], measured[pair.against, seeds], test_train_ratios)
        for pair, seeds in both
    ]
    _add_corrected_p(differences)
    return {
        "labels": labels,
        "resamples": resamples,
        "common": sorted(set.intersection(*(set(runs) for runs in answers.values()))),
        "recipes": [_scores(name, tuple(runs), measured[name, tuple(runs)]) for name, runs in answers.items()],
        "differences": differences,
    }


def corrected_resampled_ttest(differences: Sequence[float], test_train_ratio: float) -> dict[str, float]:
    """Return the mean of two differences or more with its 95 % interval and p: the corrected resampled t test.

    share: test pictures per training picture.
    """
    count, value = len(differences), mean(differences)
    error = stdev(differences) * (1 / count + test_train_ratio) ** 0.5
    half = float(t.ppf(1 - ALPHA / 2, count - 1)) * error
    p = 2 * float(t.sf(abs(value) / error, count - 1)) if error else float(value == 0)
    return {"value": value, "low": value - half, "high": value + half, "p": p}


def _align_by_seed(answers: Answers) -> dict[str, dict[int, RunPredictions]]:
    """Return the answers with the pictures of each seed in the same order for every recipe."""
    found: dict[str, dict[int, RunPredictions]] = {name: {} for name in answers}
    for seed in sorted({seed for runs in answers.values() for seed in runs}):
        names = [name for name, runs in answers.items() if seed in runs]
        runs = align_runs([answers[name][seed] for name in names], intersection=False)
        for name, run in zip(names, runs, strict=True):
            found[name][seed] = run
    return {name: runs for name, runs in found.items() if runs}


def _labels(run: RunPredictions) -> set[str]:
    return {*run.classes, *run.answers["label"].unique()}


def _score_over_seeds(runs: Sequence[RunPredictions], labels: list[str], resamples: int, seed: int) -> SeedScores:
    """Return the figures of one recipe over its seeds, under one draw of groups for all of them."""
    place = {label: at for at, label in enumerate(labels)}
    truths = [np.array([place[label] for label in run.answers["label"]], np.int64) for run in runs]
    rows = [_rows(run, truth, labels) for run, truth in zip(runs, truths, strict=True)]
    width = rows[0].shape[1]
    drawn = intervals.resampled_sums(
        sparse.csr_array(sparse.block_diag(rows)),
        np.concatenate(truths),
        np.concatenate([run.answers["group"].to_numpy() for run in runs]),
        resamples=resamples,
        seed=seed,
    )
    whole = np.concatenate([np.asarray(one.sum(axis=0), np.float64) for one in rows]).reshape(1, -1)
    return SeedScores(_metrics_by_seed(whole, width, labels), _metrics_by_seed(drawn, width, labels))


def _rows(run: RunPredictions, truth: Ints, labels: list[str]) -> sparse.csr_array:
    shares = probabilities_over(run, labels)
    return sums_by_picture(truth, shares.argmax(axis=1), shares)


def _metrics_by_seed(sums: Floats, width: int, labels: list[str]) -> dict[str, Floats]:
    """Return by metric the figure of each seed, (rows of sums, seeds); `width` columns of the sums are one seed's."""
    parts = [sums[:, at : at + width] for at in range(0, sums.shape[1], width)]
    return {name: np.stack([_metric_per_draw(part, name, labels) for part in parts], axis=1) for name in COMPARED}


def _metric_per_draw(sums: Floats, name: str, labels: list[str]) -> Floats:
    """Return a metric per row of the sums of a seed; NaN where a resample drew none of its pictures."""
    found = np.full(len(sums), np.nan)
    there = MetricSums(sums, len(labels)).n > 0
    found[there] = metric_draws(MetricSums(sums[there], len(labels)), name)
    return found


def _scores(name: str, seeds: tuple[int, ...], seed_scores: SeedScores) -> dict[str, Any]:
    scores: dict[str, Any] = {"recipe": name, "seeds": list(seeds)}
    for metric in COMPARED:
        values, draws = seed_scores.values[metric][0], np.nanmean(seed_scores.draws[metric], axis=1)
        low, high = intervals.percentile_interval(draws, float(values.mean()))
        sd = float(values.std(ddof=1)) if len(seeds) > 1 else None
        scores[metric] = {"mean": float(values.mean()), "sd": sd, "low": low, "high": high, "values": values.tolist()}
    return scores


def _difference(
    pair: RecipePair,
    seeds: tuple[int, ...],
    this: SeedScores,
    baseline: SeedScores,
    test_train_ratios: Mapping[int, float],
) -> dict[str, Any]:
    found: dict[str, Any] = {"recipe": pair.recipe, "against": pair.against, "seeds": list(seeds)}
    share = mean(test_train_ratios[one] for one in seeds)
    for metric in COMPARED:
        values = (this.values[metric] - baseline.values[metric])[0]
        draws = this.draws[metric] - baseline.draws[metric]
        of_seeds = [one[~np.isnan(one)] for one in draws.T]
        by_seed = [difference_with_interval(float(value), one) for value, one in zip(values, of_seeds, strict=True)]
        own = [{"seed": one, **told} for one, told in zip(seeds, by_seed, strict=True)]
        most = math.inf if metric in LOWER_IS_BETTER else 1.0  # two rates differ by 1 at most
        found[metric] = {**_wider_interval(values.tolist(), np.nanmean(draws, axis=1), share, most), "by_seed": own}
    return found


def _wider_interval(values: list[float], draws: Floats, test_train_ratio: float, bound: float) -> dict[str, float]:
    """Return the mean difference with the wider of both intervals, never beyond `bound`, and the larger of both p."""
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
    """Add to every metric of every difference its corrected p, and what it means."""
    for metric in COMPARED:
        for one, p in zip(differences, holm([one[metric]["p"] for one in differences]), strict=True):
            better = (one[metric]["value"] > 0) != (metric in LOWER_IS_BETTER)
            told = "better" if better else "worse"
            one[metric] |= {"p_holm": p, "verdict": told if p < ALPHA else "not told apart"}
