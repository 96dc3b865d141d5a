"""Time budgets: choose what the recipe leaves open so that the whole job ends in time.

A ladder of alternatives (backbone, input size, label check) is tried from the best down; the first whose estimated time
fits is taken. The deadline in the training loop keeps the promise where the estimate is wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.context import Context, PlannedSeconds
from bestiary.errors import RecipeError
from bestiary.machine import world_size
from bestiary.progress import Advance
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.text import format_duration
from bestiary.training.free_cores import describe_load, measure_training_threads
from bestiary.training.task import make_task
from bestiary.training.time_estimate import MachineProfile, TimeEstimate, estimate_seconds, has_cached_features
from bestiary.tried_backbones import TRIED

RESERVE_FRACTION, RESERVE_SECONDS = 0.05, 1.0  # of the budget, for what no estimate foresees
# From the best to the fastest. On pictures far below its own size a smaller network is the better one.
PROBES = (("lite2", 260), ("lite0", 224), ("lite0", 160), ("lite0", 128), ("lite0", 96))
SCRATCH_SIZES = (128, 96, 64)
SUFFICIENT_EPOCHS, MAX_TIMES_DEFAULT = 12, 3  # with fewer a smaller size is tried first; more only overfit


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a run: the resolved recipe, a description, and the seconds from now to the end.

    deadline_seconds: since the start of the run, when training has to end so that the budget is kept; planned: the
    seconds that it is compared with. network_threads: the number that a network is trained with, None for a probe;
    load: the cores that other programs used then. backbones: that were chosen from, with their validation scores.
    """

    recipe: ResolvedRecipe
    words: str
    seconds: float
    deadline_seconds: float | None = None
    planned: PlannedSeconds | None = None
    network_threads: int | None = None
    load: float = 0.0
    backbones: tuple[dict[str, Any], ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return what a run records of its plan."""
        facts: dict[str, Any] = {"plan": self.words, "planned seconds": round(self.seconds, 1)}
        if self.network_threads is not None:
            facts |= {"training threads": self.network_threads, "cores in use by others": round(self.load, 1)}
        if self.backbones:
            facts |= {TRIED: list(self.backbones)}
        return facts

    def run_context(self, context: Context) -> Context:
        """Return the context with the deadline and the threads of the plan."""
        context = context.with_deadline(self.deadline_seconds, self.planned)
        return replace(context, network_threads=self.network_threads)


def plan_training(
    requested: Recipe, pictures: pl.DataFrame, budget_seconds: float | None, context: Context
) -> TrainingPlan:
    """Return the best resolved recipe that ends within the budget; without a budget the requested one.

    pictures: with their `split`. Raises RecipeError, with the shortest possible budget, if no recipe fits.
    """
    if budget_seconds is not None and world_size() > 1:
        raise RecipeError("A time budget works in a single process: start it without torchrun.")
    with context.reporter.progress("Estimating the time", None) as advance:
        return _choose_plan(requested, pictures, budget_seconds, context, advance)


def _choose_plan(
    requested: Recipe, pictures: pl.DataFrame, budget_seconds: float | None, context: Context, advance: Advance
) -> TrainingPlan:
    context, load = _adapt_to_load(requested, context)
    timer, machine = context.timer, MachineProfile(is_exact=budget_seconds is not None)
    recipes = [requested.resolve()] if budget_seconds is None else list(_iter_candidates(requested))
    tasks = [make_task(Path(), recipe, pictures, context) for recipe in recipes]
    estimates: dict[int, TimeEstimate] = {}

    def estimate_candidate(position: int) -> TimeEstimate:
        if position not in estimates:
            estimates[position] = estimate_seconds(tasks[position], machine)
            advance(1)
        return estimates[position]

    if budget_seconds is None:
        return replace(_make_plan(recipes[0], estimate_candidate(0), None, context), load=load)
    budget = budget_seconds

    def affordable_epochs(position: int) -> int:
        estimate = estimate_candidate(position)  # takes time, which is not left then
        return _affordable_epochs(requested, recipes[position], estimate, usable_seconds(budget, timer.total))

    for position in _iter_positions(
        len(recipes), lambda last: affordable_epochs(last) > 0, lambda middle: has_cached_features(tasks[middle])
    ):
        recipe, epochs = recipes[position], affordable_epochs(position)
        if epochs >= _sufficient_epochs(requested, recipe):
            break
    estimate = estimates[position]
    if epochs < 1:
        fastest = min(estimates, key=lambda tried: estimates[tried].seconds(1))
        recipe, estimate = recipes[fastest], estimates[fastest]
        raise RecipeError(_budget_too_short_message(requested, recipe, estimate, budget_seconds, timer.total))
    if recipe.model.method != "probe" and requested.train.epochs is None:
        settings: dict[str, dict[str, Any]] = {
            "picture": {"size": recipe.picture.size},
            "model": {"backbone": recipe.model.backbone},
            "data": {"suspects": recipe.data.suspects},
            "train": {"epochs": epochs},
        }
        recipe = requested.override(settings).resolve()
    return replace(_make_plan(recipe, estimate, budget_seconds, context), load=load)


def _adapt_to_load(requested: Recipe, context: Context) -> tuple[Context, float]:
    """Return the context with the number of threads for a network, and the load; report a busy machine."""
    if requested.model.method == "probe":
        return context, 0.0
    threads, load = measure_training_threads(context)
    if threads < context.threads:
        context.reporter.info(describe_load(load, context.threads, threads))
    return replace(context, network_threads=threads), load


# ---- The ladder of alternatives -------------------------------------------------------------------------------------


def _iter_positions(
    count: int, fits: Callable[[int], bool], has_cached_features: Callable[[int], bool]
) -> Iterator[int]:
    """Yield the positions in the ladder to try, from the best, 0, down to the fastest, the last; the caller stops.

    To measure one takes seconds, so the fastest is measured after the best: where even that does not fit, of those
    between them only recipes with cached features may.
    """
    yield 0
    if count > 1:
        last = count - 1
        is_too_slow = not fits(last)
        yield from (position for position in range(1, last) if not is_too_slow or has_cached_features(position))
        yield last


def _iter_candidates(requested: Recipe) -> Iterator[ResolvedRecipe]:
    """Yield the resolved recipes of all alternatives, the best first.

    The label check is dropped before a smaller size or backbone is tried.
    """
    suspects = [requested.data.suspects] if "suspects" in requested.overrides().get("data", {}) else [True, False]
    for alternative in _iter_alternatives(requested):
        for check in suspects:
            yield requested.override({**alternative, "data": {"suspects": check}}).resolve()


def _iter_alternatives(requested: Recipe) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield what may replace backbone and input size where the recipe leaves them open."""
    first, size = requested.resolve(), requested.picture.size
    if first.model.method == "scratch":
        yield from ({"picture": {"size": pixels}} for pixels in ([size] if size else SCRATCH_SIZES))
        return
    backbone = requested.overrides().get("model", {}).get("backbone")
    probes = [probe for probe in PROBES if backbone in (None, probe[0])] or [(first.model.backbone, first.picture.size)]
    for name, pixels in dict.fromkeys((name, size or pixels) for name, pixels in probes):
        yield {"model": {"backbone": name}, "picture": {"size": pixels}}


def _sufficient_epochs(requested: Recipe, recipe: ResolvedRecipe) -> int:
    """Return how many epochs are enough to take an alternative."""
    trains = recipe.model.method != "probe" and requested.train.epochs is None
    return min(SUFFICIENT_EPOCHS, recipe.train.epochs) if trains else 1


def _affordable_epochs(requested: Recipe, recipe: ResolvedRecipe, estimate: TimeEstimate, seconds: float) -> int:
    """Return how many epochs fit; where the number is fixed, 1 if all of them fit, else 0."""
    epochs = recipe.train.epochs
    if recipe.model.method == "probe" or requested.train.epochs is not None:
        return int(estimate.seconds(epochs) <= seconds)
    affordable = math.floor((seconds - estimate.before - estimate.after) / estimate.epoch)
    return max(0, min(affordable, MAX_TIMES_DEFAULT * epochs))


def usable_seconds(budget_seconds: float, elapsed: float) -> float:
    """Return the seconds to plan with: the rest of the budget, less a reserve."""
    return budget_seconds * (1 - RESERVE_FRACTION) - RESERVE_SECONDS - elapsed


# ---- Messages -------------------------------------------------------------------------------------------------------


def _make_plan(recipe: ResolvedRecipe, estimate: TimeEstimate, budget: float | None, context: Context) -> TrainingPlan:
    seconds, elapsed = estimate.seconds(recipe.train.epochs), context.timer.total
    done = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    within = f" Budget {format_duration(budget)}, of which {format_duration(elapsed)} are used." if budget else ""
    words = f"{describe_recipe(recipe)}; finished at about {done} (in {format_duration(seconds)}).{within}"
    plan = TrainingPlan(recipe, words, seconds, network_threads=context.network_threads)
    if budget is None:
        return plan
    models, reserve = 1 + recipe.data.folds, RESERVE_FRACTION * budget + RESERVE_SECONDS
    planned = PlannedSeconds(estimate.epoch / models, estimate.after / models, reserve)
    has_epochs = recipe.model.method != "probe"
    return replace(plan, deadline_seconds=budget - planned.after, planned=planned if has_epochs else None)


def describe_recipe(recipe: ResolvedRecipe) -> str:
    """Describe a resolved recipe in a few words.

    >>> describe_recipe(Recipe().resolve())
    'Probe with lite2 at 260 px'
    """
    model, size = recipe.model, recipe.picture.size
    if model.method == "probe":
        return f"Probe with {model.backbone} at {size} px{_describe_skipped_search(recipe)}"
    learner = f"Scratch ({model.network})" if model.method == "scratch" else f"Finetune {model.backbone}"
    return f"{learner} at {size} px for {recipe.train.epochs} epochs{_describe_skipped_search(recipe)}"


def _describe_skipped_search(recipe: ResolvedRecipe) -> str:
    return "" if recipe.data.suspects else ", without the label check"


def _budget_too_short_message(
    requested: Recipe, recipe: ResolvedRecipe, estimate: TimeEstimate, budget_seconds: float, elapsed: float
) -> str:
    epochs = requested.train.epochs or 1
    shortest, seconds = describe_recipe(recipe.with_epochs(epochs).resolve()), elapsed + estimate.seconds(epochs)
    required = math.ceil((seconds + RESERVE_SECONDS) / (1 - RESERVE_FRACTION)) + 1
    return (
        f"--budget {format_duration(budget_seconds)} is too short: {shortest} is the fastest training that the recipe"
        f" allows, and takes {format_duration(seconds)}, of which {format_duration(elapsed)} are used. Give"
        f" {format_duration(required)} or more, or set fewer options (method, backbone, size, epochs)."
    )
