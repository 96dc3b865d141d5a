"""One trial of a search: what it chose, how it was scored or stopped, and what is entered about it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
import polars as pl
from optuna.trial import TrialState

from bestiary.context import Context
from bestiary.data.dataset import AuditedDataset
from bestiary.errors import RecipeError
from bestiary.machine import is_out_of_memory_error
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe
from bestiary.run_folder import read_history
from bestiary.training.recipe_checks import check_recipe_supported
from bestiary.tune.objective import EpochCallback, History, TrialScore, evaluate_recipe
from bestiary.tune.plan import Deadlines, SearchPlan
from bestiary.tune.search_space import Categorical, Settings, Space, apply_params, format_value
from bestiary.tune.storage import MAX_ATTEMPTS, TrialStorage, display_number, is_abandoned

MAX_SLOWDOWN = 2.5  # within a budget, a trial whose epochs take so many times as long as the default's is stopped
TrialOutcome = Literal["complete", "pruned", "failed"]
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class SearchTimeoutError(Exception):
    """The time for trials is up while one is under way."""


@dataclass(frozen=True)
class SearchContext:
    """What all trials of this process share: the pictures, split; how they are divided to score; how to compute.

    collection: the pictures before they were split; digest: of that split.
    trials: how many in all are wanted, None for as many as there is time for.
    """

    base_recipe: Recipe
    plan: SearchPlan
    collection: AuditedDataset
    pictures: pl.DataFrame
    digest: str
    splits: Sequence[pl.DataFrame]
    storage: TrialStorage
    deadlines: Deadlines
    context: Context
    trials: int | None


def run_trial(search: SearchContext, trial: optuna.Trial) -> tuple[float, TrialOutcome]:
    """Run one trial and enter how it ended; return its seconds, and that in a word.

    Raises whatever is not the fault of the recipe, and OutOfTimeError; then nothing is entered.
    """
    began, chosen = time.monotonic(), suggest_params(trial, search.plan.space)
    is_default = bool(trial.user_attrs.get("default"))
    try:
        _check_not_abandoned(trial)
        recipe = recipe_for_trial(search.base_recipe, search.plan, {} if is_default else chosen)
        found: TrialScore | str = _evaluate_trial(search, trial, recipe, is_default)
        ended: TrialOutcome = "complete"
    except optuna.TrialPruned as error:
        found, ended = str(error), "pruned"
    except (RecipeError, MemoryError, RuntimeError, FloatingPointError, np.linalg.LinAlgError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory_error(error):
            raise
        found, ended = str(error) or type(error).__name__, "failed"
    seconds = time.monotonic() - began
    words = _record_outcome(search, trial, found, ended, seconds)
    what = "the default" if is_default else format_params(chosen)
    search.context.reporter.info(f"Trial {_format_trial_number(search, trial)}: {words}, {seconds:.1f} s: {what}")
    return seconds, ended


def _check_not_abandoned(trial: optuna.Trial) -> None:
    if is_abandoned(trial):
        raise RecipeError(f"Its process was killed {MAX_ATTEMPTS} times: perhaps there is too little memory for it.")


def suggest_params(trial: optuna.Trial, space: Space) -> Settings:
    """Return what the sampler chose for each setting."""
    chosen: Settings = {}
    for name, dimension in space.items():
        if isinstance(dimension, Categorical):
            chosen[name] = trial.suggest_categorical(name, dimension.values)
        elif dimension.whole:
            chosen[name] = trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            chosen[name] = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    return chosen


def recipe_for_trial(base_recipe: Recipe, plan: SearchPlan, chosen: Settings) -> Recipe:
    """Return the recipe of a trial; raises RecipeError if what it chose does not go together."""
    recipe = apply_params(base_recipe, chosen).with_epochs(plan.epochs)
    check_recipe_supported(recipe)
    return recipe


def format_params(chosen: Settings) -> str:
    """Return what was chosen, for people.

    >>> format_params({"train.balance": '"none"', "train.learning_rate": 0.1})
    'balance none, learning_rate 0.1'
    """
    return ", ".join(f"{name.partition('.')[2] or name} {format_value(name, value)}" for name, value in chosen.items())


def _evaluate_trial(search: SearchContext, trial: optuna.Trial, recipe: Recipe, is_default: bool) -> TrialScore:
    return evaluate_recipe(
        recipe.resolve(),
        search.splits,
        search.storage.trial_folder(trial),
        replace(search.context, reporter=SilentReporter()),
        report_epoch=_make_epoch_callback(search, trial, is_default),
        resume=True,
    )


def _make_epoch_callback(search: SearchContext, trial: optuna.Trial, is_default: bool) -> EpochCallback:
    """Return what ends a trial between two epochs: the time, or that it is slow or others were better by then.

    The default is never stopped: the winner must not be worse.
    """
    reported = 0
    usual = [] if is_default or search.deadlines.rescoring is None else _default_epoch_seconds(search)

    def watch(division: int, history: History) -> None:
        nonlocal reported
        if search.deadlines.room() < 0:
            raise SearchTimeoutError
        if division > 1:
            return
        for line in history[reported:]:
            trial.report(line["val_macro_f1"], line["epoch"])
            reported += 1
        if (times := _slowdown(history, usual)) > MAX_SLOWDOWN:
            raise optuna.TrialPruned(f": an epoch takes {times:.1f} times as long as the default's")
        if trial.should_prune() and not is_default:
            raise optuna.TrialPruned

    return watch


def _default_epoch_seconds(search: SearchContext) -> list[float]:
    """Return how long each of the default's epochs took, nothing if it was not tried."""
    trials = search.storage.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    default = next((one for one in trials if one.user_attrs.get("default")), None)
    return [] if default is None else default.user_attrs["took"].get("each epoch", [])


def _slowdown(history: History, usual: Sequence[float]) -> float:
    """Return how many times as long as usual the epochs took that can be compared; 0 for none."""
    own = [line["seconds"] for line, _ in zip(history, usual, strict=False)]
    return sum(own) / sum(usual[: len(own)]) if own else 0.0


def _record_outcome(
    search: SearchContext, trial: optuna.Trial, result: TrialScore | str, outcome: TrialOutcome, seconds: float
) -> str:
    """Enter how a trial ended, and return it in words."""
    lines = _read_trial_history(search.storage.trial_folder(trial) / "1")
    training, epochs = sum(line["seconds"] for line in lines), len(lines) or None
    took = {"seconds": round(seconds, 3), "epochs": epochs, "training": round(training, 3)}
    trial.set_user_attr("took", took | {"each epoch": [round(line["seconds"], 3) for line in lines]})
    if isinstance(result, TrialScore):
        before = search.storage.best()
        best = ", the best so far" if before is None or result.rank > before[1].rank else ""
        trial.set_user_attr("score", asdict(result))
        search.storage.study.tell(trial, result.value)
        return f"macro-F1 {result.macro_f1:.4f}, loss {result.loss:.4f}{best}"
    if outcome == "failed":
        trial.set_user_attr("cause", result)
    search.storage.study.tell(trial, state=STATES[outcome])
    return (
        f"stopped after epoch {epochs} of {search.plan.epochs}{result}" if outcome == "pruned" else f"failed: {result}"
    )


def _read_trial_history(folder: Path) -> History:
    """Return the epochs that a trial trained for, none if it has none."""
    return read_history(folder) if (folder / "history.jsonl").exists() else []


def _format_trial_number(search: SearchContext, trial: optuna.Trial) -> str:
    return f"{display_number(trial)}" if search.trials is None else f"{display_number(trial)} of {search.trials}"
