"""What a search will do: what it tries, for how long each trial trains, and how its time is shared out."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from bestiary.errors import RecipeError
from bestiary.models.efficientnet_lite import BACKBONES, cached_backbone_graph
from bestiary.recipe import Recipe
from bestiary.text import format_duration
from bestiary.training.budget import RESERVE_FRACTION, MachineProfile, TimeEstimate
from bestiary.training.probe import feature_store, training_precision
from bestiary.training.task import TrainingTask, make_task
from bestiary.tune.search_space import LOOK, Choice, Space, as_json, from_json, looks_of

DEFAULT_TRIALS = {"probe": 60, "finetune": 20, "scratch": 30}
FEWEST_TRIALS = 6  # whole trainings that should fit into a budget: else trials train for fewer epochs
FEWEST_EPOCHS = 2
LOOKS_SHARE, FINAL_SHARE, LUCK_SHARE = 0.35, 0.4, 0.2  # of the time: features at most, final training, second scores
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
        return {**asdict(self), "space": as_json(self.space)}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> SearchPlan:
        """Return the plan that `plain` wrote."""
        return cls(**{**plain, "space": from_json(plain["space"])})


@dataclass
class Deadlines:
    """When, on `time.monotonic`, trials must have ended, and second scores; None without a budget."""

    search: float | None = None
    luck: float | None = None
    besides: float = 0.0  # seconds of the winner's run, but for its training

    def room(self) -> float:
        """Return the seconds that are left for trials."""
        return math.inf if self.search is None else self.search - time.monotonic()

    def luck_room(self) -> float:
        """Return the seconds that are left for second scores."""
        return math.inf if self.luck is None else self.luck - time.monotonic()


@dataclass(frozen=True)
class Sharing:
    """How a budget is shared out: seconds for trials, and for second scores after the winner is made; and epochs."""

    search: float
    luck: float
    epochs: int | None = None
    final_epochs: int | None = None
    besides: float = 0.0


def shared_out(
    asked: Recipe, estimate: TimeEstimate, room: float, folds: int, agreed: SearchPlan | None = None
) -> Sharing:
    """Return how the seconds that are left are shared out. Raises RecipeError if they are too few for one trial.

    estimate: of a run by the recipe itself, of a probe with its features there. Where fewer than six whole trainings
    fit, trials train for fewer epochs than the winner. With inner folds a trial trains once for each; the winner is
    then trained anew, as it is after short trials; else its training is the trial's. agreed: the plan of a search that
    was begun before, perhaps with another budget, whose epochs stay.
    """
    if asked.model.method == "probe":
        left = room - MARGIN * estimate.seconds(0)
        _refuse_too_short(left - FIT_SECONDS * max(1, folds), room)
        return _sharing(left)
    left, whole = room - MARGIN * (estimate.before + estimate.after), asked.resolve().train.epochs or 1
    epoch, trial_epoch = estimate.epoch, estimate.epoch * max(1, folds)
    if agreed is not None and agreed.epochs is not None and agreed.final_epochs is not None:
        anew = folds or agreed.epochs != agreed.final_epochs
        for_trials = left - (agreed.final_epochs * epoch if anew else 0.0)
        _refuse_too_short(for_trials - agreed.epochs * trial_epoch, room)
        return _sharing(for_trials, agreed.epochs * trial_epoch, agreed.epochs, agreed.final_epochs)
    for_trials = left - (whole * epoch if folds else 0.0)
    if asked.train.epochs is not None or for_trials * (1 - LUCK_SHARE) >= FEWEST_TRIALS * whole * trial_epoch:
        _refuse_too_short(for_trials - whole * trial_epoch, room)
        return _sharing(for_trials, whole * trial_epoch, whole, whole)
    final = min(whole, math.floor(FINAL_SHARE * left / epoch))
    for_trials = left - final * epoch
    epochs = min(final, math.floor((1 - LUCK_SHARE) * for_trials / FEWEST_TRIALS / trial_epoch))
    if epochs < FEWEST_EPOCHS:
        least = FEWEST_EPOCHS * (FEWEST_TRIALS * trial_epoch / (1 - LUCK_SHARE) + epoch / FINAL_SHARE)
        _refuse_too_short(left - max(least, 1.01 * left), room)
    return replace(_sharing(for_trials, 0.0, epochs, final), besides=room - left)


def _sharing(left: float, one_trial: float = 0.0, epochs: int | None = None, final: int | None = None) -> Sharing:
    """Return the seconds for trials, one of which must fit, and for second scores."""
    luck = min(LUCK_SHARE * left, left - one_trial)
    return Sharing(left - luck, luck, epochs, final)


def _refuse_too_short(spare: float, room: float) -> None:
    if spare < 0:
        short = format_duration(math.ceil(-spare / (1 - RESERVE_FRACTION)))
        have = f"only {format_duration(room)} are left of it" if room > 0 else "nothing is left of it"
        raise RecipeError(
            f"--budget is too short for one trial, the winner and its report: they take about {format_duration(room - spare)},"
            f" and {have}. Give about {short} more, or ask for what is quicker (lite0, smaller pictures, fewer epochs)."
        )


def affordable(space: Space, asked: Recipe, task: TrainingTask, measure: MachineProfile, seconds: float) -> Space:
    """Return the space with as many looks as features can be computed for in this time, the first ones first."""
    looks = space.get(LOOK)
    if not isinstance(looks, Choice):
        return space
    paid, kept = 0.0, list[str]()
    for text, recipe in zip(looks.values, looks_of({LOOK: looks}, asked), strict=True):
        paid += _features_seconds(recipe, task, measure)
        if kept and paid > seconds:
            break
        kept.append(text)
    rest = {name: dimension for name, dimension in space.items() if name != LOOK}
    return rest if len(kept) < 2 and rest else {LOOK: Choice(tuple(kept)), **rest}


def _features_seconds(recipe: Recipe, task: TrainingTask, measure: MachineProfile) -> float:
    """Return how long the features of a look will take that are not kept yet, judged by the task's own look."""
    there = at_look(task, recipe)
    backbone, seconds = recipe.model.backbone, 0.0
    times = cost(recipe) / cost(task.recipe)
    for part, precision in (("train", training_precision()), ("val", "float32")):
        trunk = cached_backbone_graph(backbone, task.cache / "trunks", there.preprocess.size)
        store = feature_store(task.cache, trunk, there.preprocess, precision, BACKBONES[backbone].channels)
        if missing := len(store.missing_keys(task.split(part).keys)):
            seconds += times * missing / measure.feature_throughput(task, precision).pictures_per_second
    return seconds


def cost(recipe: Recipe) -> float:
    """Return what the features of a picture cost with a resolved recipe, to be compared with another's."""
    assert recipe.picture.size is not None  # it is resolved
    return COST_OF_PIXEL[recipe.model.backbone] * recipe.picture.size**2


def at_look(task: TrainingTask, recipe: Recipe) -> TrainingTask:
    """Return the task with the recipe, and thus the look, of another trial."""
    return make_task(task.run, recipe, task.pictures, task.threads, task.clock, task.reporter)
