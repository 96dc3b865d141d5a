"""Hyperparameter importance: the fraction of the differences between trials that each setting explains (fANOVA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from bestiary.tune.storage import DONE, is_default, rank_trials

MIN_TRIALS, RESAMPLES, TREES = 10, 20, 32
C_SETTING = "probe.regularisation"


def importances(trials: Sequence[FrozenTrial], *, seed: int) -> dict[str, Any]:
    """Return `settings`, the most important first, with median, low and high (5 % and 95 % of resamples), and `words`.

    By fANOVA (Hutter, Hoos and Leyton-Brown 2014) on resampled trials: with few trials it varies much. If pruning has
    left too few complete trials, all are compared by their first epochs.
    """
    points, words = _comparable_trials(trials)
    if len(points) < MIN_TRIALS:
        return {"settings": [], "words": f"{len(points)} trials are too few to estimate the importance of settings."}
    rng, resamples = np.random.default_rng(seed), list[dict[str, float]]()
    for resample in range(RESAMPLES):
        drawn = [points[row] for row in rng.integers(0, len(points), len(points))]
        if len({trial.value for trial in drawn}) > 1:
            resamples.append(_importance_fractions(drawn, seed=resample))
    if not resamples:
        return {"settings": [], "words": "All trials have the same score: no setting had an effect."}
    names = sorted(points[0].params)
    settings = [_summary(name, [fractions.get(name, 0.0) for fractions in resamples]) for name in names]
    return {"settings": sorted(settings, key=lambda setting: -setting["median"]), "words": words}


def _importance_fractions(trials: list[FrozenTrial], *, seed: int) -> dict[str, float]:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _summary(name: str, fractions: Sequence[float]) -> dict[str, Any]:
    low, median, high = (round(float(np.quantile(fractions, level)), 4) for level in (0.05, 0.5, 0.95))
    return {"setting": name, "median": median, "low": low, "high": high}


def _comparable_trials(trials: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], str]:
    """Return trials with comparable values, and a sentence on which these are."""
    complete = [(trial, score.value) for trial, score in rank_trials(trials)]
    if len(complete) >= MIN_TRIALS or not complete or not all(trial.intermediate_values for trial, _ in complete):
        return [_with_value(*pair) for pair in complete], f"By the scores of {len(complete)} complete trials."
    trials = [trial for trial in trials if trial.state in DONE and trial.intermediate_values]
    step = min(max(trial.intermediate_values) for trial in trials)  # the last epoch that all of them have
    early = [(trial, trial.intermediate_values[step]) for trial in trials if step in trial.intermediate_values]
    words = (
        f"By the scores of {len(early)} trials after {step} epoch{'s' * (step > 1)}, since only {len(complete)} are"
        " complete. Later in training, other settings may matter."
    )
    return [_with_value(*pair) for pair in early], words


def _with_value(trial: FrozenTrial, value: float) -> FrozenTrial:
    """Return the trial as a complete one with this value; the default with the C that it chose itself."""
    params, c_value = trial.params, trial.user_attrs.get("score", {}).get("strength")
    c_range = trial.distributions.get(C_SETTING)
    if is_default(trial) and c_value is not None and isinstance(c_range, FloatDistribution):
        params = {**params, C_SETTING: min(max(c_value, c_range.low), c_range.high)}
    return create_trial(state=TrialState.COMPLETE, value=value, params=params, distributions=trial.distributions)
