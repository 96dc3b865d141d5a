"""One trial of a search: what it chose, how it was scored or stopped, and what is entered about it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
import polars as pl
from optuna.trial import TrialState

from bestiary.data.dataset import AuditedDataset
from bestiary.errors import RecipeError
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe import Recipe, override_epochs
from bestiary.run_folder import read_history
from bestiary.training.recipe_checks import check_recipe_supported
from bestiary.tune.objective import History, Score, Watch, scored
from bestiary.tune.plan import Deadlines, SearchPlan
from bestiary.tune.search_space import Choice, Settings, Space, laid_over, shown
from bestiary.tune.storage import MOST_TRIES, Ledger, given_up, number_of

TOO_SLOW = 2.5  # within a budget, a trial whose epochs take so many times as long as the default's is stopped
Ended = Literal["complete", "pruned", "failed"]
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class OutOfTimeError(Exception):
    """The time for trials is up while one is under way."""


@dataclass(frozen=True)
class Ground:
    """What all trials of this process share: the pictures, split; how they are divided to score; how to compute.

    collection: the pictures before they were split; digest: of that split.
    trials: how many in all are wanted, None for as many as there is time for.
    """

    asked: Recipe
    plan: SearchPlan
    collection: AuditedDataset
    shown: pl.DataFrame
    digest: str
    parts: Sequence[pl.DataFrame]
    ledger: Ledger
    deadlines: Deadlines
    threads: int
    reporter: Reporter
    trials: int | None


def tried(ground: Ground, trial: optuna.Trial) -> tuple[float, Ended]:
    """Run one trial and enter how it ended; return its seconds, and that in a word.

    Raises whatever is not the fault of the recipe, and OutOfTimeError; then nothing is entered.
    """
    began, chosen = time.monotonic(), suggested(trial, ground.plan.space)
    is_default = bool(trial.user_attrs.get("default"))
    try:
        _refuse_given_up(trial)
        recipe = trial_recipe(ground.asked, ground.plan, {} if is_default else chosen)
        found: Score | str = _scored(ground, trial, recipe, is_default)
        ended: Ended = "complete"
    except optuna.TrialPruned as error:
        found, ended = str(error), "pruned"
    except (RecipeError, MemoryError, RuntimeError, FloatingPointError, np.linalg.LinAlgError) as error:
        if isinstance(error, RuntimeError) and not _out_of_memory(error):
            raise
        found, ended = str(error) or type(error).__name__, "failed"
    seconds = time.monotonic() - began
    words = _entered(ground, trial, found, ended, seconds)
    what = "the default" if is_default else in_words(chosen)
    ground.reporter.info(f"Trial {_numbered(ground, trial)}: {words}, {seconds:.1f} s: {what}")
    return seconds, ended


def _refuse_given_up(trial: optuna.Trial) -> None:
    if given_up(trial):
        raise RecipeError(f"Its process was killed {MOST_TRIES} times: perhaps there is too little memory for it.")


def _out_of_memory(error: RuntimeError) -> bool:
    """Return whether this is what torch says when memory does not suffice: on a GPU, on the CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def suggested(trial: optuna.Trial, space: Space) -> Settings:
    """Return what the sampler chose for each setting."""
    chosen: Settings = {}
    for name, dimension in space.items():
        if isinstance(dimension, Choice):
            chosen[name] = trial.suggest_categorical(name, dimension.values)
        elif dimension.whole:
            chosen[name] = trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            chosen[name] = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    return chosen


def trial_recipe(asked: Recipe, plan: SearchPlan, chosen: Settings) -> Recipe:
    """Return the recipe of a trial; raises RecipeError if what it chose does not go together."""
    recipe = with_epochs(laid_over(asked, chosen), plan.epochs)
    check_recipe_supported(recipe)
    return recipe


def with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """Return the recipe with so many epochs; as it is, where these are its own."""
    if epochs is None or recipe.resolve().train.epochs == epochs:
        return recipe
    return Recipe.of(override_epochs(recipe.overrides(), epochs))


def in_words(chosen: Settings) -> str:
    """Return what was chosen, for people.

    >>> in_words({"train.balance": '"none"', "train.learning_rate": 0.1})
    'balance none, learning_rate 0.1'
    """
    return ", ".join(f"{name.partition('.')[2] or name} {shown(name, value)}" for name, value in chosen.items())


def _scored(ground: Ground, trial: optuna.Trial, recipe: Recipe, is_default: bool) -> Score:
    return scored(
        recipe.resolve(),
        ground.parts,
        ground.ledger.place(trial),
        threads=ground.threads,
        reporter=SilentReporter(),
        watch=_watch(ground, trial, is_default),
        resume=True,
    )


def _watch(ground: Ground, trial: optuna.Trial, is_default: bool) -> Watch:
    """Return what ends a trial between two epochs: the time, or that it is slow or others were better by then.

    The default is never stopped: the winner must not be worse.
    """
    reported = 0
    usual = [] if is_default or ground.deadlines.luck is None else _default_seconds(ground)

    def watch(division: int, history: History) -> None:
        nonlocal reported
        if ground.deadlines.room() < 0:
            raise OutOfTimeError
        if division > 1:
            return
        for line in history[reported:]:
            trial.report(line["val_macro_f1"], line["epoch"])
            reported += 1
        if (times := _times_as_long(history, usual)) > TOO_SLOW:
            raise optuna.TrialPruned(f": an epoch takes {times:.1f} times as long as the default's")
        if trial.should_prune() and not is_default:
            raise optuna.TrialPruned

    return watch


def _default_seconds(ground: Ground) -> list[float]:
    """Return how long each of the default's epochs took, nothing if it was not tried."""
    trials = ground.ledger.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    default = next((one for one in trials if one.user_attrs.get("default")), None)
    return [] if default is None else default.user_attrs["took"].get("each epoch", [])


def _times_as_long(history: History, usual: Sequence[float]) -> float:
    """Return how many times as long as usual the epochs took that can be compared; 0 for none."""
    own = [line["seconds"] for line, _ in zip(history, usual, strict=False)]
    return sum(own) / sum(usual[: len(own)]) if own else 0.0


def _entered(ground: Ground, trial: optuna.Trial, found: Score | str, ended: Ended, seconds: float) -> str:
    """Enter how a trial ended, and return it in words."""
    lines = _history(ground.ledger.place(trial) / "1")
    training, epochs = sum(line["seconds"] for line in lines), len(lines) or None
    took = {"seconds": round(seconds, 3), "epochs": epochs, "training": round(training, 3)}
    trial.set_user_attr("took", took | {"each epoch": [round(line["seconds"], 3) for line in lines]})
    if isinstance(found, Score):
        before = ground.ledger.best()
        best = ", the best so far" if before is None or found.rank > before[1].rank else ""
        trial.set_user_attr("score", asdict(found))
        ground.ledger.study.tell(trial, found.value)
        return f"macro-F1 {found.macro_f1:.4f}, loss {found.loss:.4f}{best}"
    if ended == "failed":
        trial.set_user_attr("cause", found)
    ground.ledger.study.tell(trial, state=STATES[ended])
    return f"stopped after epoch {epochs} of {ground.plan.epochs}{found}" if ended == "pruned" else f"failed: {found}"


def _history(place: Path) -> History:
    """Return the epochs that a trial trained for, none if it has none."""
    return read_history(place) if (place / "history.jsonl").exists() else []


def _numbered(ground: Ground, trial: optuna.Trial) -> str:
    return f"{number_of(trial)}" if ground.trials is None else f"{number_of(trial)} of {ground.trials}"
