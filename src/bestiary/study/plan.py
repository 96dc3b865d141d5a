"""Plan of a study: the time it takes, and the fraction of the epochs that fits a time budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bestiary.context import Context
from bestiary.errors import RecipeError
from bestiary.recipe import ResolvedRecipe
from bestiary.study.recipes import StudyRecipe, error_context
from bestiary.text import format_duration, format_percent
from bestiary.training.budget import RESERVE_FRACTION
from bestiary.training.task import make_task
from bestiary.training.time_estimate import MachineProfile, TimeEstimate, estimate_seconds

FRACTION_STEPS = 100  # fractions of the epochs to try, from 1 down


@dataclass(frozen=True)
class RunEstimate:
    """The estimated time of one run of a recipe, and its requested epochs; None for a probe."""

    estimate: TimeEstimate
    epochs: int | None

    def seconds(self, fraction: float = 1.0) -> float:
        """Return the seconds of one run with a fraction of its epochs."""
        return self.estimate.seconds(0 if self.epochs is None else scale_epoch_count(self.epochs, fraction))


def scale_epoch_count(epochs: int, fraction: float) -> int:
    """Return a fraction of the epochs, at least one."""
    return max(1, round(epochs * fraction))


def estimate_runs(
    entries: Sequence[StudyRecipe], pictures: pl.DataFrame, *, seed: int, threads: int
) -> dict[str, RunEstimate]:
    """Return the estimated time of a run of each recipe on these pictures, measured here in a few seconds."""
    machine, estimates = MachineProfile(), dict[str, RunEstimate]()
    for entry in entries:
        with error_context(entry.name):
            recipe = without_label_check(entry.recipe(seed).resolve())
            context = Context(threads, features=recipe.features)
            estimate = estimate_seconds(make_task(Path(), recipe, pictures, context), machine)
        estimates[entry.name] = RunEstimate(estimate, None if recipe.model.method == "probe" else recipe.train.epochs)
    return estimates


def epoch_fraction_within_budget(
    forecasts: Sequence[RunEstimate], seeds: int, budget_seconds: float, elapsed_seconds: float
) -> float:
    """Return the largest fraction of the epochs, up to 1, with which all runs fit into the budget.

    Raises RecipeError, with the shortest possible budget, if one epoch each takes too long.
    """
    available = budget_seconds * (1 - RESERVE_FRACTION) - elapsed_seconds
    for step in range(FRACTION_STEPS, 0, -1):
        if total_seconds(forecasts, seeds, step / FRACTION_STEPS) <= available:
            return step / FRACTION_STEPS
    least = total_seconds(forecasts, seeds, 1 / FRACTION_STEPS)
    required = (least + elapsed_seconds) / (1 - RESERVE_FRACTION) + 1
    raise RecipeError(
        f"--budget {format_duration(budget_seconds)} is too short: with the fewest epochs the"
        f" {len(forecasts) * seeds} training runs take {format_duration(least)}, and {format_duration(elapsed_seconds)}"
        f" are used already. Give {format_duration(required)} or more, or fewer seeds, recipes or classes."
    )


def total_seconds(forecasts: Sequence[RunEstimate], seeds: int, fraction: float = 1.0) -> float:
    """Return the seconds of a run of each recipe and seed."""
    return seeds * sum(forecast.seconds(fraction) for forecast in forecasts)


def scale_epochs(entry: StudyRecipe, run_estimate: RunEstimate, fraction: float) -> StudyRecipe:
    """Return the recipe with a fraction of its epochs."""
    if fraction == 1 or run_estimate.epochs is None:
        return entry
    return entry.with_epochs(scale_epoch_count(run_estimate.epochs, fraction))


def describe_plan(names: Mapping[str, int], forecasts: Mapping[str, RunEstimate], fraction: float) -> str:
    """Describe the runs ahead and when they will be done. names: recipes with their number of runs ahead."""
    seconds = sum(runs * forecasts[name].seconds(fraction) for name, runs in names.items())
    done = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    each = ", ".join(f"{name} {format_duration(forecasts[name].seconds(fraction))}" for name in names)
    cut = (
        f" To fit the budget, recipes are trained for {format_percent(fraction)} of their epochs."
        if fraction < 1
        else ""
    )
    count = sum(names.values())
    return f"{count} training runs to do; finished at about {done} (in {format_duration(seconds)}). Each: {each}.{cut}"


def without_label_check(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """Return the recipe without the label check, which a study runs once."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"suspects": False})})
