"""How long a study will take, and how many epochs its recipes may have so that it fits into a budget of time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bestiary.errors import RecipeError
from bestiary.profiling import StageTimer
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe
from bestiary.study.recipes import Entry, named, with_epochs
from bestiary.text import format_duration, format_percent
from bestiary.training.budget import RESERVE_FRACTION, MachineProfile, TimeEstimate, estimate_seconds
from bestiary.training.task import make_task

SHARES = 100  # epochs are tried in so many steps, from all of them down


@dataclass(frozen=True)
class Forecast:
    """What one cell of a recipe takes: its parts, and its epochs as they are asked for; None for a probe."""

    estimate: TimeEstimate
    epochs: int | None

    def seconds(self, share: float = 1.0) -> float:
        """Return the seconds of one cell with a share of its epochs."""
        return self.estimate.seconds(0 if self.epochs is None else epochs_of(self.epochs, share))


def epochs_of(epochs: int, share: float) -> int:
    """Return a share of the epochs, at least one."""
    return max(1, round(epochs * share))


def forecast(entries: Sequence[Entry], shown: pl.DataFrame, *, seed: int, threads: int) -> dict[str, Forecast]:
    """Return what a cell of each recipe takes on these pictures, split by a seed; measured here, in a few seconds."""
    measure, found = MachineProfile(), dict[str, Forecast]()
    for entry in entries:
        with named(entry.name):
            recipe = unlooked(entry.recipe(seed).resolve())
            estimate = estimate_seconds(
                make_task(Path(), recipe, shown, threads, StageTimer(), SilentReporter()), measure
            )
        found[entry.name] = Forecast(estimate, None if recipe.model.method == "probe" else recipe.train.epochs)
    return found


def share_within(forecasts: Sequence[Forecast], seeds: int, budget_seconds: float, elapsed_seconds: float) -> float:
    """Return the largest share of the epochs, up to 1, with which a cell of each recipe and seed fits into the time.

    Raises RecipeError, with the least budget that would do, if one epoch of each is too much.
    """
    room = budget_seconds * (1 - RESERVE_FRACTION) - elapsed_seconds
    for step in range(SHARES, 0, -1):
        if total(forecasts, seeds, step / SHARES) <= room:
            return step / SHARES
    least = total(forecasts, seeds, 1 / SHARES)
    raise RecipeError(
        f"--budget {format_duration(budget_seconds)} is too short: with the fewest epochs the {len(forecasts) * seeds} trainings"
        f" take {format_duration(least)}, and {format_duration(elapsed_seconds)} are over. Give"
        f" {format_duration((least + elapsed_seconds) / (1 - RESERVE_FRACTION) + 1)} or more, or fewer seeds, recipes or classes."
    )


def total(forecasts: Sequence[Forecast], seeds: int, share: float = 1.0) -> float:
    """Return the seconds of a cell of each recipe and seed."""
    return seeds * sum(one.seconds(share) for one in forecasts)


def scaled(entry: Entry, one: Forecast, share: float) -> Entry:
    """Return the recipe with a share of its epochs."""
    if share == 1 or one.epochs is None:
        return entry
    return with_epochs(entry, epochs_of(one.epochs, share))


def announced(names: Mapping[str, int], forecasts: Mapping[str, Forecast], share: float) -> str:
    """Return what is ahead in words, and when it will be done. names: recipes by their number of cells to come."""
    seconds = sum(cells * forecasts[name].seconds(share) for name, cells in names.items())
    done = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    each = ", ".join(f"{name} {format_duration(forecasts[name].seconds(share))}" for name in names)
    cut = f" Recipes have {format_percent(share)} of their epochs, for the budget." if share < 1 else ""
    return f"{sum(names.values())} trainings ahead; done at about {done} (in {format_duration(seconds)}). Each: {each}.{cut}"


def unlooked(recipe: Recipe) -> Recipe:
    """Return the recipe without the search for suspect labels, which a study makes once for all."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"suspects": False})})
