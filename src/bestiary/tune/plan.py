"""What a search will do: what it tries, for how long each trial trains, and how its time is shared out."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from bestiary.errors import RecipeError
from bestiary.models.features import split_precisions
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.text import format_duration
from bestiary.training.budget import RESERVE_FRACTION, MachineProfile, TimeEstimate
from bestiary.training.task import TrainingTask, make_task
from bestiary.tune.search_space import (
    INPUT_CONFIG,
    Categorical,
    Space,
    input_config_recipes,
    space_from_json,
    space_to_json,
)

DEFAULT_TRIALS = {"probe": 60, "finetune": 20, "scratch": 30}
FEWEST_TRIALS = 6  # whole trainings that should fit into a budget: else trials train for fewer epochs
FEWEST_EPOCHS = 2
FEATURES_FRACTION, FINAL_FRACTION, RESCORING_FRACTION = (
    0.35,
    0.4,
    0.2,
)  # of the time: features at most, final training, second scores
MARGIN = 1.2  # of an estimate, for what it does not foresee
FIT_SECONDS = 1.0  # of a probe's head and its bookkeeping, at first
# Multiplications of one picture, divided by its pixels: what features cost, from one backbone to another.
COST_OF_PIXEL = {"lite0": 0.407e9 / 224**2, "lite2": 0.95e9 / 260**2}


@dataclass(frozen=True)
class SearchPlan:
    """What all processes of a search go by.

    epochs: that trials train for, and final_epochs that the winner does; None for the probe. folds: inner folds that
    trials are scored by, 0 for the validation split.
    """

    space: Space
    folds: int
    epochs: int | None
    final_epochs: int | None

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return {**asdict(self), "space": space_to_json(self.space)}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> SearchPlan:
        """Return the plan that `plain` wrote."""
        return cls(**{**plain, "space": space_from_json(plain["space"])})


@dataclass
class Deadlines:
    """When, on `time.monotonic`, trials must have ended, and second scores; None without a budget."""

    search: float | None = None
    rescoring: float | None = None
    besides: float = 0.0  # seconds of the winner's run, but for its training

    def room(self) -> float:
        """Return the seconds that are left for trials."""
        return math.inf if self.search is None else self.search - time.monotonic()

    def rescoring_room(self) -> float:
        """Return the seconds that are left for second scores."""
        return math.inf if self.rescoring is None else self.rescoring - time.monotonic()


@dataclass(frozen=True)
class BudgetSplit:
    """How a budget is shared out: seconds for trials, and for second scores after the winner is made; and epochs."""

    search: float
    rescoring: float
    epochs: int | None = None
    final_epochs: int | None = None
    besides: float = 0.0


def allocate_budget(
    base_recipe: Recipe, estimate: TimeEstimate, room: float, folds: int, agreed: SearchPlan | None = None
) -> BudgetSplit:
    """Return how the seconds that are left are shared out. Raises RecipeError if they are too few for one trial.

    estimate: of a run by the recipe itself, of a probe with its features there. Where fewer than six whole trainings
    fit, trials train for fewer epochs than the winner. With inner folds a trial trains once for each; the winner is
    then trained anew, as it is after short trials; else its training is the trial's. agreed: the plan of a search that
    was begun before, perhaps with another budget, whose epochs stay.
    """
    if base_recipe.model.method == "probe":
        left = room - MARGIN * estimate.seconds(0)
        _check_budget(left - FIT_SECONDS * max(1, folds), room)
        return _split_budget(left)
    left, whole = room - MARGIN * (estimate.before + estimate.after), base_recipe.resolve().train.epochs
    epoch, trial_epoch = estimate.epoch, estimate.epoch * max(1, folds)
    if agreed is not None and agreed.epochs is not None and agreed.final_epochs is not None:
        anew = folds or agreed.epochs != agreed.final_epochs
        for_trials = left - (agreed.final_epochs * epoch if anew else 0.0)
        _check_budget(for_trials - agreed.epochs * trial_epoch, room)
        return _split_budget(for_trials, agreed.epochs * trial_epoch, agreed.epochs, agreed.final_epochs)
    for_trials = left - (whole * epoch if folds else 0.0)
    if (
        base_recipe.train.epochs is not None
        or for_trials * (1 - RESCORING_FRACTION) >= FEWEST_TRIALS * whole * trial_epoch
    ):
        _check_budget(for_trials - whole * trial_epoch, room)
        return _split_budget(for_trials, whole * trial_epoch, whole, whole)
    final = min(whole, math.floor(FINAL_FRACTION * left / epoch))
    for_trials = left - final * epoch
    epochs = min(final, math.floor((1 - RESCORING_FRACTION) * for_trials / FEWEST_TRIALS / trial_epoch))
    if epochs < FEWEST_EPOCHS:
        least = FEWEST_EPOCHS * (FEWEST_TRIALS * trial_epoch / (1 - RESCORING_FRACTION) + epoch / FINAL_FRACTION)
        _check_budget(left - max(least, 1.01 * left), room)
    return replace(_split_budget(for_trials, 0.0, epochs, final), besides=room - left)


def _split_budget(
    left: float, trial_seconds: float = 0.0, epochs: int | None = None, final: int | None = None
) -> BudgetSplit:
    """Return the seconds for trials, one of which must fit, and for second scores."""
    luck = min(RESCORING_FRACTION * left, left - trial_seconds)
    return BudgetSplit(left - luck, luck, epochs, final)


def _check_budget(spare: float, room: float) -> None:
    if spare < 0:
        short = format_duration(math.ceil(-spare / (1 - RESERVE_FRACTION)))
        have = f"only {format_duration(room)} are left of it" if room > 0 else "nothing is left of it"
        raise RecipeError(
            f"--budget is too short for one trial, the winner and its report: they take about {format_duration(room - spare)},"
            f" and {have}. Give about {short} more, or ask for what is quicker (lite0, smaller pictures, fewer epochs)."
        )


def limit_input_configs(
    space: Space, base_recipe: Recipe, task: TrainingTask, measure: MachineProfile, seconds: float
) -> Space:
    """Return the space with as many looks as features can be computed for in this time, the first ones first."""
    looks = space.get(INPUT_CONFIG)
    if not isinstance(looks, Categorical):
        return space
    paid, kept = 0.0, list[str]()
    for text, recipe in zip(looks.values, input_config_recipes({INPUT_CONFIG: looks}, base_recipe), strict=True):
        paid += _features_seconds(recipe, task, measure)
        if kept and paid > seconds:
            break
        kept.append(text)
    rest = {name: dimension for name, dimension in space.items() if name != INPUT_CONFIG}
    return rest if len(kept) < 2 and rest else {INPUT_CONFIG: Categorical(tuple(kept)), **rest}


def _features_seconds(recipe: ResolvedRecipe, task: TrainingTask, measure: MachineProfile) -> float:
    """Return how long the features of a look will take that are not kept yet, judged by the task's own look."""
    trial_task, seconds = with_input_config(task, recipe), 0.0
    times = feature_cost(recipe) / feature_cost(task.recipe)
    for split, precision in split_precisions().items():
        if missing := len(trial_task.feature_cache(precision).missing(task.split(split).keys)):
            seconds += times * missing / measure.feature_throughput(task, precision).pictures_per_second
    return seconds


def feature_cost(recipe: ResolvedRecipe) -> float:
    """Return what the features of a picture cost with a resolved recipe, to be compared with another's."""
    return COST_OF_PIXEL[recipe.model.backbone] * recipe.picture.size**2


def with_input_config(task: TrainingTask, recipe: ResolvedRecipe) -> TrainingTask:
    """Return the task with the recipe, and thus the look, of another trial."""
    return make_task(task.run, recipe, task.pictures, task.context)
