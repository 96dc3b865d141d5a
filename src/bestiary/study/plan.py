"""How long a study will take, and how many epochs its recipes may have so that it fits into a budget of time."""

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

FRACTION_STEPS = 100  # epochs are tried in so many steps, from all of them down


@dataclass(frozen=True)
class RunEstimate:
    """What one cell of a recipe takes: its parts, and its epochs as they are asked for; None for a probe."""

    estimate: TimeEstimate
    epochs: int | None

    def seconds(self, fraction: float = 1.0) -> float:
        """Return the seconds of one cell with a share of its epochs."""
        return self.estimate.seconds(0 if self.epochs is None else scale_epoch_count(self.epochs, fraction))


def scale_epoch_count(epochs: int, fraction: float) -> int:
    """Return a share of the epochs, at least one."""
    return max(1, round(epochs * fraction))


def estimate_runs(
    entries: Sequence[StudyRecipe], pictures: pl.DataFrame, *, seed: int, threads: int
) -> dict[str, RunEstimate]:
    """Return what a cell of each recipe takes on these pictures, split by a seed; measured here, in a few seconds."""
    measure, found = MachineProfile(), dict[str, RunEstimate]()
    for entry in entries:
        with error_context(entry.name):
            recipe = without_label_check(entry.recipe(seed).resolve())
            estimate = estimate_seconds(make_task(Path(), recipe, pictures, Context(threads)), measure)
        found[entry.name] = RunEstimate(estimate, None if recipe.model.method == "probe" else recipe.train.epochs)
    return found


def epoch_fraction_within_budget(
    forecasts: Sequence[RunEstimate], seeds: int, budget_seconds: float, elapsed_seconds: float
) -> float:
    """Return the largest share of the epochs, up to 1, with which a cell of each recipe and seed fits into the time.

    Raises RecipeError, with the least budget that would do, if one epoch of each is too much.
    """
    room = budget_seconds * (1 - RESERVE_FRACTION) - elapsed_seconds
    for step in range(FRACTION_STEPS, 0, -1):
        if total_seconds(forecasts, seeds, step / FRACTION_STEPS) <= room:
            return step / FRACTION_STEPS
    least = total_seconds(forecasts, seeds, 1 / FRACTION_STEPS)
    raise RecipeError(
        f"--budget {format_duration(budget_seconds)} is too short: with the fewest epochs the {len(forecasts) * seeds} trainings"
        f" take {format_duration(least)}, and {format_duration(elapsed_seconds)} are over. Give"
        f" {format_duration((least + elapsed_seconds) / (1 - RESERVE_FRACTION) + 1)} or more, or fewer seeds, recipes or classes."
    )


def total_seconds(forecasts: Sequence[RunEstimate], seeds: int, fraction: float = 1.0) -> float:
    """Return the seconds of a cell of each recipe and seed."""
    return seeds * sum(one.seconds(fraction) for one in forecasts)


def scale_epochs(entry: StudyRecipe, run_estimate: RunEstimate, fraction: float) -> StudyRecipe:
    """Return the recipe with a share of its epochs."""
    if fraction == 1 or run_estimate.epochs is None:
        return entry
    return entry.with_epochs(scale_epoch_count(run_estimate.epochs, fraction))


def describe_plan(names: Mapping[str, int], forecasts: Mapping[str, RunEstimate], fraction: float) -> str:
    """Return what is ahead in words, and when it will be done. names: recipes by their number of cells to come."""
    seconds = sum(cells * forecasts[name].seconds(fraction) for name, cells in names.items())
    done = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    each = ", ".join(f"{name} {format_duration(forecasts[name].seconds(fraction))}" for name in names)
    cut = f" Recipes have {format_percent(fraction)} of their epochs, for the budget." if fraction < 1 else ""
    return f"{sum(names.values())} trainings ahead; done at about {done} (in {format_duration(seconds)}). Each: {each}.{cut}"


def without_label_check(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """Return the recipe without the search for suspect labels, which a study makes once for all."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"suspects": False})})
