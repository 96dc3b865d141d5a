"""Refuses a budget that cannot be met before the pictures are read: an estimate from a few of them, and the caches.

The exact plans (`budget.plan_training`, those of `tune` and `study`) need every picture's content, and large
collections take minutes to read.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from bestiary.context import Context
from bestiary.data import duplicates
from bestiary.data.dataset import ListingCheck
from bestiary.data.measure import measure_file
from bestiary.data.scan import unmeasured_paths
from bestiary.data.sources import PictureList
from bestiary.errors import RecipeError
from bestiary.models.features import has_features
from bestiary.recipe import Recipe
from bestiary.text import format_duration
from bestiary.training.budget import usable_seconds
from bestiary.training.throughput import evenly_spaced, machine_slowdown
from bestiary.training.time_estimate import COSTS

SAMPLED_FILES, SAMPLE_SECONDS = 24, 0.25
CERTAIN = 0.75  # of the estimated time, which is a low one: only a shorter budget is refused early
PLAN_SECONDS = 1.5  # of measuring this machine for the plan, by the clock
# Seconds a picture, with two threads of the reference machine of `COSTS`: 5,511 pictures, `docs/log.md`.
SEARCH_SECONDS = 0.000_7  # of the search for duplicates
SHORTCUT_SECONDS = 0.000_3
FEATURE_SECONDS = 0.001_2  # of decoding and the smallest network, lite0 at 96 px


def budget_check(runs: Sequence[Recipe], budget_seconds: float | None, context: Context) -> ListingCheck | None:
    """Return the function that raises RecipeError if listed pictures cannot be trained on within the budget.

    runs: the requested recipe of each training run that the budget has to cover, one or more, of the same pictures.
    """
    if budget_seconds is None:
        return None

    def check(listing: PictureList) -> None:
        seconds = _least_seconds(listing, runs, context)
        if CERTAIN * seconds > usable_seconds(budget_seconds, context.timer.total):
            pictures = len(listing.pictures)
            trained = "training the smallest model" if len(runs) == 1 else f"{len(runs)} training runs"
            raise RecipeError(
                f"--budget {format_duration(budget_seconds)} is too short: reading {pictures:,} pictures, searching"
                f" them for duplicates and {trained} take about {format_duration(seconds)} here."
                " Increase --budget, or use fewer pictures."
            )

    return check


def _least_seconds(listing: PictureList, runs: Sequence[Recipe], context: Context) -> float:
    """Return the estimated time of what every recipe does.

    Features, and the search for duplicates, count only where the cache has none at all.
    """
    requested, pictures = runs[0], len(listing.pictures)
    fixed = sum((COSTS.probe if run.model.method == "probe" else COSTS.torch) + COSTS.report for run in runs)
    is_searched = requested.data.near_duplicates and not _may_be_searched(context)
    a_picture = SEARCH_SECONDS * is_searched + SHORTCUT_SECONDS * requested.data.suspects
    if not _may_have_features(context) and any(run.model.method != "scratch" for run in runs):
        a_picture += FEATURE_SECONDS
    slowdown = machine_slowdown()
    return _reading_seconds(listing, requested, context) + PLAN_SECONDS + slowdown * (fixed + pictures * a_picture)


def _may_be_searched(context: Context) -> bool:
    return context.cache is not None and (context.cache / duplicates.FOLDER).exists()


def _may_have_features(context: Context) -> bool:
    return context.cache is not None and has_features(context.cache)


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
