"""Conformal prediction sets: labels that hold the true one as often as was asked, whatever the model is worth.

Split conformal prediction with the least ambiguous sets (Sadinle, Lei and Wasserman 2019): the true label's missing
probability, 1 - p, is ranked on validation pictures; a set holds every label whose own 1 - p is within the rank that
the level asks for. The guarantee is for pictures like those of validation, on average over them, not for each class.
A set may be empty: no label is likely enough. Only numpy is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bestiary.array_types import AnyFloats, Bools, Ints
from bestiary.errors import UserError

# Levels that the table holds; one in between is served by the next higher one, which covers a little more.
LEVELS = (*(round(0.5 + 0.005 * step, 3) for step in range(80)), *(round(0.9 + 0.001 * step, 3) for step in range(100)))


def fit_conformal(probabilities: AnyFloats, y_true: Ints) -> dict[str, Any]:
    """Return what the bundle keeps: `{"method", "pictures", "levels", "bounds"}`, one bound on 1 - p for each level.

    probabilities: float (n, classes), calibrated, of validation pictures; truth: int (n,). A level that needs more
    pictures than there are has the bound 1: every label belongs to the set.
    """
    scores = np.sort(1 - np.asarray(probabilities, np.float64)[np.arange(len(y_true)), y_true])
    ranks = [_rank(level, len(scores)) for level in LEVELS]
    bounds = [float(scores[rank - 1]) if rank <= len(scores) else 1.0 for rank in ranks]
    return {"method": "LAC", "pictures": len(scores), "levels": list(LEVELS), "bounds": bounds}


def conformal_threshold(table: Mapping[str, Any], level: float) -> float:
    """Return the largest 1 - p of a label that belongs to a set of this level.

    Raises UserError for a level that the table does not reach, or if there is no table.
    """
    if not table:
        raise UserError("This run was made before prediction sets were kept. Train again.")
    lowest, highest = table["levels"][0], table["levels"][-1]
    if not lowest <= level <= highest:
        raise UserError(f"--sets takes how often the true label shall be among those named: from {lowest} to {highest}")
    return float(table["bounds"][_level_index(table, level)])


def explain_full_set(table: Mapping[str, Any], level: float) -> str:
    """Return why every label belongs to every set of a level that `conformal_threshold` takes, and what to ask for; else nothing.

    >>> rare = {"pictures": 18, "levels": [0.9, 0.94, 0.95], "bounds": [0.5, 0.6, 1.0]}
    >>> explain_full_set(rare, 0.95)
    'Sets of 0.95 name all labels: fewer take 19 validation pictures, and this run has 18. Ask for 0.94 or less.'
    >>> explain_full_set(rare, 0.9)
    ''
    """
    levels, pictures = table["levels"], table["pictures"]
    served = levels[_level_index(table, level)]
    if _rank(served, pictures) <= pictures:
        return ""
    enough = math.ceil(round(served / (1 - served), 6))
    lower = [one for one in levels if _rank(one, pictures) <= pictures]
    instead = f" Ask for {lower[-1]} or less." if lower else ""
    needs = f"fewer take {enough:,} validation pictures, and this run has {pictures:,}"
    return f"Sets of {level} name all labels: {needs}.{instead}"


def _level_index(table: Mapping[str, Any], level: float) -> int:
    """Return where the level stands in the table that serves this one."""
    return int(np.searchsorted(table["levels"], level - 1e-9))


def _rank(level: float, pictures: int) -> int:
    """Return the rank, counted from 1, of the bound of a level among so many scores."""
    return math.ceil(round(level * (pictures + 1), 9))


def prediction_set(probabilities: Mapping[str, float], bound: float) -> list[str]:
    """Return the labels of the set, the likeliest first; it may be empty.

    >>> prediction_set({"cat": 0.55, "dog": 0.4, "hen": 0.05}, 0.7)
    ['cat', 'dog']
    """
    within = [name for name, probability in probabilities.items() if 1 - probability <= bound]
    return sorted(within, key=lambda name: -probabilities[name])


def covered(probabilities: AnyFloats, y_true: Ints, bound: float) -> tuple[Bools, Any]:
    """Return for each picture whether its true label is in its set, bool (n,), and the sizes of the sets, int (n,)."""
    within = 1 - np.asarray(probabilities, np.float64) <= bound
    return within[np.arange(len(y_true)), y_true], within.sum(axis=1)
