"""Where the trials of a search are scored: in this process, one at a time, or by several workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from bestiary.context import Context
from bestiary.recipe import ResolvedRecipe
from bestiary.tune.objective import EpochCallback, TrialScore


class TrialCancelledError(Exception):
    """A trial in a worker was ended because the search ends; it is queued again."""


class Evaluate(Protocol):
    """A function that scores a recipe as `objective.evaluate_recipe` does. Several threads call it at once."""

    def __call__(
        self,
        recipe: ResolvedRecipe,
        splits: Sequence[pl.DataFrame],
        folder: Path,
        context: Context,
        *,
        report_epoch: EpochCallback,
        resume: bool,
    ) -> TrialScore:
        """Return the score; `report_epoch` is called in this process."""


@dataclass(frozen=True)
class TrialWorkers:
    """So many trials at a time.

    evaluate: scores a trial elsewhere, None for this process. stop: lets the trials that are being scored elsewhere end
    with TrialCancelledError.
    """

    count: int = 1
    evaluate: Evaluate | None = None
    stop: Callable[[], None] = lambda: None


THIS_PROCESS = TrialWorkers()
