"""Sampler and pruner of a search, each option spelled out: defaults change between major versions of Optuna."""

from __future__ import annotations

import warnings

import optuna

FIRST_RUNG_DIVISOR = 8  # of the epochs: before that the learning rate still rises, and scores mean little


def make_sampler(seed: int) -> optuna.samplers.TPESampler:
    """Return multivariate TPE (Bergstra et al. 2011; Falkner et al. 2018) with the constant liar.

    The first ten trials are random. Trials that are running in other processes count as bad, so that processes do not
    try the same values at once. Both are the defaults of Optuna 5, and experimental options of Optuna 4.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=10, n_ei_candidates=24, seed=seed, multivariate=True, group=False, constant_liar=True
        )


def make_pruner(epochs: int | None) -> optuna.pruners.BasePruner:
    """Return the pruner: asynchronous successive halving (Li et al. 2018, "Massively Parallel").

    Of the trials that reach an eighth of the epochs a third continues, and again of those that reach three eighths.
    """
    if epochs is None or epochs < 2:
        return optuna.pruners.NopPruner()
    first_epoch = max(1, round(epochs / FIRST_RUNG_DIVISOR))
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=first_epoch, reduction_factor=3, min_early_stopping_rate=0, bootstrap_count=0
    )


def describe_version_change(previous: str, current: str) -> str | None:
    """Return a sentence if a search goes on under another major version of Optuna, or None.

    >>> describe_version_change("4.8.0", "4.9.0")
    >>> describe_version_change("4.9.0", "5.0.0")
    'This search was last worked on with Optuna 4.9.0 and goes on with 5.0.0: its trials stay, and new ones may differ.'
    """
    if previous.partition(".")[0] == current.partition(".")[0]:
        return None
    return (
        f"This search was last worked on with Optuna {previous} and goes on with {current}: its trials stay, and new"
        " ones may differ."
    )
