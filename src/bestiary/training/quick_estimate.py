"""Refuses a budget that cannot be met before the pictures are read: an estimate from a few of them, and the caches.

The exact plan (`budget.plan_training`) needs every picture's content, and large collections take minutes to read.
"""

from __future__ import annotations

import statistics
import time

from bestiary.context import Context
from bestiary.data.dataset import ListingCheck
from bestiary.data.measure import measure_file
from bestiary.data.scan import unmeasured_paths
from bestiary.data.sources import PictureList
from bestiary.errors import RecipeError
from bestiary.recipe import Recipe
from bestiary.text import format_duration
from bestiary.training.budget import usable_seconds
from bestiary.training.throughput import evenly_spaced, machine_slowdown
from bestiary.training.time_estimate import COSTS

SAMPLED_FILES, SAMPLE_SECONDS = 24, 0.5
CERTAIN = 0.5  # of the estimated time: a budget is refused early only if it is shorter than that
SEARCH_SECONDS = 0.000_3  # a picture, of the search for duplicates, on the reference machine of `COSTS`


def budget_check(requested: Recipe, budget_seconds: float | None, context: Context) -> ListingCheck | None:
    """Return the function that raises RecipeError if listed pictures cannot be trained on within the budget."""
    if budget_seconds is None:
        return None

    def check(listing: PictureList) -> None:
        seconds = _least_seconds(listing, requested, context)
        if CERTAIN * seconds > usable_seconds(budget_seconds, context.timer.total):
            pictures = len(listing.pictures)
            raise RecipeError(
                f"--budget {format_duration(budget_seconds)} is too short: reading {pictures:,} pictures, searching"
                f" them for duplicates and training the smallest model take about {format_duration(seconds)} here."
                " Increase --budget, or use fewer pictures."
            )

    return check


def _least_seconds(listing: PictureList, requested: Recipe, context: Context) -> float:
    """Return the estimated time of what every recipe does, if all features are cached."""
    slowdown = machine_slowdown()
    fixed = (COSTS.probe if requested.model.method == "probe" else COSTS.torch) + COSTS.report
    search = SEARCH_SECONDS * len(listing.pictures) * requested.data.near_duplicates
    return _reading_seconds(listing, requested, context) + slowdown * (fixed + search)


def _reading_seconds(listing: PictureList, requested: Recipe, context: Context) -> float:
    """Return the time of measuring the pictures whose measurements are not cached, from a sample of them."""
    missing, seconds = unmeasured_paths(listing, requested.limits, context), list[float]()
    end = time.perf_counter() + SAMPLE_SECONDS
    for path in evenly_spaced(missing, SAMPLED_FILES):
        began = time.perf_counter()
        measure_file(path, requested.limits)
        seconds.append(time.perf_counter() - began)
        if time.perf_counter() > end:
            break
    return len(missing) * statistics.median(seconds) / context.threads if seconds else 0.0
