"""One trial of a search: suggests a recipe, scores it or stops early, and records the outcome."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from bestiary.tune.storage import TrialStorage, display_number, is_abandoned, is_default, killed_too_often_error
from bestiary.tune.trial_workers import THIS_PROCESS, TrialWorkers

MAX_SLOWDOWN = 2.5  # within a budget, a trial is stopped if its epochs take this many times as long as the default's
TrialOutcome = Literal["complete", "pruned", "failed"]
STATES = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class SearchTimeoutError(Exception):
    """The time for trials or second scores is up while one is running."""


@dataclass(frozen=True)
class SearchContext:
    """What all trials of this process share.

    dataset: before the split; pictures: with their split, of which digest is the digest; splits: those that trials are
    scored on. max_trials: of all processes, None for as many as there is time for. workers: where trials are scored.
    """

    base_recipe: Recipe
    plan: SearchPlan
    dataset: AuditedDataset
    pictures: pl.DataFrame
    digest: str
    splits: Sequence[pl.DataFrame]
    storage: TrialStorage
    deadlines: Deadlines
    context: Context
    max_trials: int | None
    workers: TrialWorkers = THIS_PROCESS

    @property
    def silent(self) -> Context:
        """The run context without progress reports."""
        return replace(self.context, reporter=SilentReporter())


def run_trial(search: SearchContext, trial: optuna.Trial) -> tuple[float, TrialOutcome]:
    """Run one trial and record its outcome; return its seconds and the outcome.

    Raises errors that are not the fault of the recipe, and SearchTimeoutError; then nothing is recorded.
    """
    started, params = time.monotonic(), suggest_params(trial, search.plan.space)
    result: TrialScore | str
    outcome: TrialOutcome = "complete"
    try:
        if is_abandoned(trial):
            raise killed_too_often_error()
        recipe = recipe_for_trial(search.base_recipe, search.plan, {} if is_default(trial) else params).resolve()
        folder, report_epoch = search.storage.trial_folder(trial), _make_epoch_callback(search, trial)
        evaluate = search.workers.evaluate or evaluate_recipe
        result = evaluate(recipe, search.splits, folder, search.silent, report_epoch=report_epoch, resume=True)
    except optuna.TrialPruned as error:
        result, outcome = str(error), "pruned"
    except (RecipeError, MemoryError, RuntimeError, FloatingPointError, np.linalg.LinAlgError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory_error(error):
            raise
        result, outcome = str(error) or type(error).__name__, "failed"
    seconds = time.monotonic() - started
    message, is_best = _record_outcome(search, trial, result, outcome, seconds)
    if is_best or outcome == "failed":  # the others are in the table of the page
        number = f"{display_number(trial)}{f' of {search.max_trials}' if search.max_trials is not None else ''}"
        settings = "the default" if is_default(trial) else format_params(params)
        search.context.reporter.info(f"Trial {number}: {message}, {seconds:.1f} s: {settings}")
    return seconds, outcome


def suggest_params(trial: optuna.Trial, space: Space) -> Settings:
    """Return the sampler's value for each dimension."""
    params: Settings = {}
    for name, dimension in space.items():
        if isinstance(dimension, Categorical):
            params[name] = trial.suggest_categorical(name, dimension.values)
        elif dimension.whole:
            params[name] = trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            params[name] = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    return params


def recipe_for_trial(base_recipe: Recipe, plan: SearchPlan, params: Settings) -> Recipe:
    """Return the recipe of a trial; raises RecipeError if its values are invalid together."""
    recipe = apply_params(base_recipe, params).with_epochs(plan.epochs)
    check_recipe_supported(recipe)
    return recipe


def format_params(params: Settings) -> str:
    """Return the values of a trial as text.

    >>> format_params({"train.balance": '"none"', "train.learning_rate": 0.1})
    'balance none, learning_rate 0.1'
    """
    return ", ".join(f"{name.partition('.')[2] or name} {format_value(name, value)}" for name, value in params.items())


def _make_epoch_callback(search: SearchContext, trial: optuna.Trial) -> EpochCallback:
    """Return the callback that stops a trial between epochs: at the deadline, or if it is too slow or unpromising.

    The default is never stopped early: the winner must not be worse.
    """
    n_reported, has_budget = 0, search.deadlines.rescoring < math.inf
    default_seconds = _default_epoch_seconds(search) if has_budget and not is_default(trial) else []

    def report_epoch(split: int, history: History) -> None:
        nonlocal n_reported
        if search.deadlines.room() < 0:
            raise SearchTimeoutError
        if split > 1:
            return
        for line in history[n_reported:]:
            trial.report(line["val_macro_f1"], line["epoch"])
            n_reported += 1
        if (slowdown := _slowdown(history, default_seconds)) > MAX_SLOWDOWN:
            raise optuna.TrialPruned(f": an epoch takes {slowdown:.1f} times as long as the default's")
        if trial.should_prune() and not is_default(trial):  # asked of the default too: it sets the others' rungs
            raise optuna.TrialPruned

    return report_epoch


def _default_epoch_seconds(search: SearchContext) -> list[float]:
    """Return the seconds of each epoch of the default trial, an empty list if it is not complete."""
    trials = search.storage.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    default = next((trial for trial in trials if is_default(trial)), None)
    return [] if default is None else default.user_attrs["took"].get("each epoch", [])


def _slowdown(history: History, default_seconds: Sequence[float]) -> float:
    """Return how many times as long as the default's the epochs took that can be compared; 0 without any."""
    seconds = [line["seconds"] for line, _ in zip(history, default_seconds, strict=False)]
    return sum(seconds) / sum(default_seconds[: len(seconds)]) if seconds else 0.0


def _record_outcome(
    search: SearchContext, trial: optuna.Trial, result: TrialScore | str, outcome: TrialOutcome, seconds: float
) -> tuple[str, bool]:
    """Record the score of a trial, or the reason why it has none; return it as text, and whether it is the best."""
    folder, study = search.storage.trial_folder(trial) / "1", search.storage.study
    epoch_seconds = [line["seconds"] for line in (read_history(folder) if (folder / "history.jsonl").exists() else [])]
    epochs, training = len(epoch_seconds) or None, round(sum(epoch_seconds), 3)
    took = {"seconds": round(seconds, 3), "epochs": epochs, "training": training}
    trial.set_user_attr("took", took | {"each epoch": [round(seconds, 3) for seconds in epoch_seconds]})
    if isinstance(result, TrialScore):
        before = search.storage.best()
        is_best = before is None or result.rank > before[1].rank
        trial.set_user_attr("score", asdict(result))
        study.tell(trial, result.value)
        return f"macro-F1 {result.macro_f1:.4f}, loss {result.loss:.4f}{', the best so far' * is_best}", is_best
    if outcome == "failed":
        trial.set_user_attr("cause", result)
    study.tell(trial, state=STATES[outcome])
    stopped = f"stopped after epoch {epochs} of {search.plan.epochs}{result}"
    return f"failed: {result}" if outcome == "failed" else stopped, False
