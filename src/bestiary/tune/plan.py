"""The plan of a search: its space, the epochs of a trial, and the allocation of a time budget."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from bestiary.errors import RecipeError
from bestiary.recipe import Recipe
from bestiary.text import format_duration
from bestiary.training.budget import RESERVE_FRACTION
from bestiary.training.task import TrainingTask, make_task
from bestiary.training.time_estimate import MachineProfile, TimeEstimate, feature_seconds
from bestiary.tune.search_space import INPUT_CONFIG, Categorical, Range, Space, input_config_recipes

DEFAULT_TRIALS = {"probe": 60, "finetune": 20, "scratch": 30}
MIN_TRIALS = 6  # full-length trials that a budget should allow; otherwise trials train for fewer epochs
MIN_EPOCHS = 2
# Fractions of the time: at most this for features, for the final training, for second scores.
FEATURES_FRACTION, FINAL_FRACTION, RESCORING_FRACTION = 0.35, 0.4, 0.2
MARGIN = 1.2  # of an estimate, for unforeseen costs
FIT_SECONDS = 1.0  # of fitting and recording a probe's head, before the first trial is measured


@dataclass(frozen=True)
class SearchPlan:
    """The plan that all processes of a search share.

    epochs: of a trial, and final_epochs of the winner; None for the probe. folds: inner folds that trials are scored
    by, 0 for the validation split.
    """

    space: Space
    folds: int
    epochs: int | None
    final_epochs: int | None

    @classmethod
    def of(cls, plain: dict[str, Any]) -> SearchPlan:
        """Return the plan from plain values, those of `asdict`."""
        space = {
            name: Categorical(tuple(values["values"])) if "values" in values else Range(**values)
            for name, values in plain["space"].items()
        }
        return cls(**{**plain, "space": space})


@dataclass
class Deadlines:
    """The times, on `time.monotonic`, when trials and second scores must have ended; infinite without a budget."""

    search: float = math.inf
    rescoring: float = math.inf
    besides: float = 0.0  # seconds of the winner's run without its training

    def room(self) -> float:
        """Return the seconds that are left for trials."""
        return self.search - time.monotonic()

    def rescoring_room(self) -> float:
        """Return the seconds that are left for second scores."""
        return self.rescoring - time.monotonic()


@dataclass(frozen=True)
class BudgetSplit:
    """The allocation of a budget: seconds for trials, for second scores and for the winner's run besides training."""

    search: float
    rescoring: float
    besides: float
    epochs: int | None = None
    final_epochs: int | None = None


def allocate_budget(
    base_recipe: Recipe, estimate: TimeEstimate | None, room: float, folds: int, agreed: SearchPlan | None = None
) -> BudgetSplit:
    """Return the allocation of the seconds that are left. Raises RecipeError if they are too few for one trial.

    estimate: of a run of the recipe itself, for a probe with its features in the cache; None without a budget. Where
    fewer than six full trainings fit, trials train for fewer epochs than the winner. With inner folds a trial trains
    once per fold. The winner is trained anew after folds or short trials; otherwise the training of its trial is used.
    agreed: the plan of a search that is resumed, perhaps with another budget; its epochs do not change.
    """
    whole = None if base_recipe.model.method == "probe" else base_recipe.resolve().train.epochs
    if estimate is None:
        return BudgetSplit(math.inf, math.inf, 0.0, whole, whole)
    besides = MARGIN * (estimate.before + estimate.after)
    left, epoch, trial_epoch = room - besides, estimate.epoch, estimate.epoch * max(1, folds)

    def split(seconds: float, trial_seconds: float, epochs: int | None = None, final: int | None = None) -> BudgetSplit:
        _check_budget(seconds - trial_seconds, room)
        rescoring = min(RESCORING_FRACTION * seconds, seconds - trial_seconds)
        return BudgetSplit(seconds - rescoring, rescoring, besides, epochs, final)

    if whole is None:
        return split(left, FIT_SECONDS * max(1, folds))
    epochs, final = (agreed.epochs or whole, agreed.final_epochs or whole) if agreed else (whole, whole)
    seconds = left - (final * epoch if folds or epochs != final else 0.0)
    is_enough = (1 - RESCORING_FRACTION) * seconds >= MIN_TRIALS * whole * trial_epoch
    if agreed is not None or base_recipe.train.epochs is not None or is_enough:
        return split(seconds, epochs * trial_epoch, epochs, final)
    final = min(whole, math.floor(FINAL_FRACTION * left / epoch))
    seconds = left - final * epoch
    epochs = min(final, math.floor((1 - RESCORING_FRACTION) * seconds / MIN_TRIALS / trial_epoch))
    if epochs < MIN_EPOCHS:
        least = MIN_EPOCHS * (MIN_TRIALS * trial_epoch / (1 - RESCORING_FRACTION) + epoch / FINAL_FRACTION)
        _check_budget(left - max(least, 1.01 * left), room)
    return split(seconds, epochs * trial_epoch, epochs, final)


def _check_budget(spare: float, room: float) -> None:
    if spare < 0:
        needed = format_duration(room - spare)
        missing = format_duration(math.ceil(-spare / (1 - RESERVE_FRACTION)))
        rest = f"only {format_duration(room)} are left" if room > 0 else "no time is left"
        raise RecipeError(
            f"--budget is too short for one trial, the winner and its report: they take about {needed}, and {rest}."
            f" Add about {missing}, or choose something faster (lite0, smaller pictures, fewer epochs)."
        )


def limit_input_configs(
    space: Space, base_recipe: Recipe, task: TrainingTask, machine: MachineProfile, seconds: float
) -> Space:
    """Return the space with the first input configurations, as many as features can be computed for in this time."""
    configs = space.get(INPUT_CONFIG)
    if not isinstance(configs, Categorical):
        return space
    total, affordable = 0.0, list[str]()
    for text, recipe in zip(configs.values, input_config_recipes({INPUT_CONFIG: configs}, base_recipe), strict=True):
        total += feature_seconds(make_task(task.run, recipe, task.pictures, task.context), machine)
        if affordable and total > seconds:
            break
        affordable.append(text)
    rest = {name: dimension for name, dimension in space.items() if name != INPUT_CONFIG}
    return rest if len(affordable) < 2 and rest else {INPUT_CONFIG: Categorical(tuple(affordable)), **rest}
