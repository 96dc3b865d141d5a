"""Which settings mattered in a search: the share of the differences between trials that each explains, with spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from bestiary.tune.storage import DONE, rank_trials

FEWEST, RESAMPLES, TREES = 10, 20, 32
STRENGTH = "probe.regularisation"


def importances(trials: Sequence[FrozenTrial], *, seed: int) -> dict[str, Any]:
    """Return `settings`, the most important first, with median, low and high (5 % and 95 % of resamples), and `words`.

    By fANOVA (Hutter, Hoos and Leyton-Brown 2014) on resampled trials: with few of them it varies much. Where pruning
    has left too few that went to their end, all are held against each other by their first epochs.
    """
    points, words = _points(trials)
    if len(points) < FEWEST:
        return {"settings": [], "words": f"{len(points)} trials are too few to tell what mattered."}
    names = sorted(points[0].params)
    rng, found = np.random.default_rng(seed), list[dict[str, float]]()
    for round_ in range(RESAMPLES):
        drawn = [points[at] for at in rng.integers(0, len(points), len(points))]
        if len({one.value for one in drawn}) > 1:
            found.append(_importance_fractions(drawn, seed=round_))
    if not found:
        return {"settings": [], "words": "All trials scored the same: nothing mattered."}
    settings = [_summary(name, [one.get(name, 0.0) for one in found]) for name in names]
    return {"settings": sorted(settings, key=lambda one: -one["median"]), "words": words}


def _importance_fractions(drawn: list[FrozenTrial], *, seed: int) -> dict[str, float]:
    study = optuna.create_study(direction="maximize")
    study.add_trials(drawn)
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _summary(name: str, values: Sequence[float]) -> dict[str, Any]:
    low, median, high = (float(np.quantile(values, share)) for share in (0.05, 0.5, 0.95))
    return {"setting": name, "median": round(median, 4), "low": round(low, 4), "high": round(high, 4)}


def _points(trials: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], str]:
    """Return trials with comparable values, and what these are."""
    complete = [(one, score.value) for one, score in rank_trials(trials)]
    rungs = [min(one.intermediate_values, default=None) for one, _ in complete]
    if len(complete) >= FEWEST or None in rungs or not rungs:
        return _comparable(complete), f"By the scores of {len(complete)} trials that went to their end."
    trials = [one for one in trials if one.state in DONE and one.intermediate_values]
    step = _last_common_epoch(trials)
    early = [(one, one.intermediate_values[step]) for one in trials if step in one.intermediate_values]
    words = (
        f"By the scores of {len(early)} trials after {step} epoch{'s' * (step > 1)}: only {len(complete)} went to their"
        " end. What matters early need not matter in the end."
    )
    return _comparable(early), words


def _last_common_epoch(trials: Sequence[FrozenTrial]) -> int:
    """Return the last epoch that all trials with any epochs have."""
    return min(max(one.intermediate_values) for one in trials)


def _comparable(scored: Sequence[tuple[FrozenTrial, float]]) -> list[FrozenTrial]:
    """Return the trials as finished ones with these values; of the default, the strength that it chose itself."""
    return [
        create_trial(
            state=TrialState.COMPLETE,
            value=value,
            params=_params_as_fitted(one),
            distributions=one.distributions,
        )
        for one, value in scored
    ]


def _params_as_fitted(trial: FrozenTrial) -> dict[str, Any]:
    chosen = trial.user_attrs.get("score", {}).get("strength")
    span = trial.distributions.get(STRENGTH)
    if (
        not trial.user_attrs.get("default")
        or chosen is None
        or not isinstance(span, optuna.distributions.FloatDistribution)
    ):
        return trial.params
    return {**trial.params, STRENGTH: min(max(chosen, span.low), span.high)}
