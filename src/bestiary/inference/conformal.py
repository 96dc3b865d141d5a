"""Conformal prediction sets: sets of labels that contain the true label with a chosen probability, for any model.

Split conformal prediction with the least ambiguous sets (LAC: Sadinle, Lei and Wasserman 2019): the score of a
validation picture is 1 - p of its true label; a set contains every label whose own 1 - p is at most the score of the
rank that the level requires, and always the most probable one, so that no set is empty: coverage can only rise. The
guarantee is marginal: on average over pictures like those of validation, not for each class. Needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bestiary.array_types import AnyFloats, Bools, Ints
from bestiary.errors import UserError

# Levels of the stored table. A level between two of them uses the next higher one, which covers slightly more.
LEVELS = (*(round(0.5 + 0.005 * step, 3) for step in range(80)), *(round(0.9 + 0.001 * step, 3) for step in range(100)))


def fit_conformal(probabilities: AnyFloats, y_true: Ints) -> dict[str, Any]:
    """Return the table of the bundle: `{"method", "pictures", "levels", "bounds"}`, one bound on 1 - p for each level.

    probabilities: float (n, classes), calibrated, of validation pictures; y_true: int (n,). A level that needs more
    than n pictures has the bound 1: every set contains all labels.
    """
    scores = np.sort(1 - np.asarray(probabilities, np.float64)[np.arange(len(y_true)), y_true])
    ranks = [_rank(level, len(scores)) for level in LEVELS]
    bounds = [float(scores[rank - 1]) if rank <= len(scores) else 1.0 for rank in ranks]
    return {"method": "LAC", "pictures": len(scores), "levels": list(LEVELS), "bounds": bounds}


def conformal_threshold(table: Mapping[str, Any], level: float) -> float:
    """Return the largest 1 - p of a label in a set of this level.

    Raises UserError for a level outside the table, or if the model has no table.
    """
    if not table:
        raise UserError("This run has no prediction sets: an older version of bestiary trained it. Train again.")
    lowest, highest = table["levels"][0], table["levels"][-1]
    if not lowest <= level <= highest:
        raise UserError(
            f"--sets {level} is not a level of prediction sets; expected a number from {lowest} to {highest}."
        )
    return float(table["bounds"][_level_index(table, level)])


def explain_full_set(table: Mapping[str, Any], level: float) -> str:
    """Return why sets of a valid level contain every label, and which level to use instead; empty if they do not.

    >>> rare = {"pictures": 18, "levels": [0.9, 0.94, 0.95], "bounds": [0.5, 0.6, 1.0]}
    >>> print(explain_full_set(rare, 0.95).replace(": ", ":\\n"))
    Prediction sets at level 0.95 contain every label:
    at least 19 validation pictures are needed, and this run has 18. Use 0.94 or less.
    >>> explain_full_set(rare, 0.9)
    ''
    """
    levels, pictures = table["levels"], table["pictures"]
    served = levels[_level_index(table, level)]
    if _rank(served, pictures) <= pictures:
        return ""
    enough = math.ceil(round(served / (1 - served), 6))
    lower = [lower for lower in levels if _rank(lower, pictures) <= pictures]
    return (
        f"Prediction sets at level {level} contain every label: at least {enough:,} validation pictures are needed, and"
        f" this run has {pictures:,}.{f' Use {lower[-1]} or less.' if lower else ''}"
    )


def prediction_set(probabilities: Mapping[str, float], bound: float) -> list[str]:
    """Return the labels of the set, the most probable first, which is always in it.

    >>> prediction_set({"cat": 0.55, "dog": 0.4, "hen": 0.05}, 0.7)
    ['cat', 'dog']
    >>> prediction_set({"cat": 0.55, "dog": 0.4, "hen": 0.05}, 0.2)
    ['cat']
    """
    most_probable, *others = sorted(probabilities, key=lambda name: -probabilities[name])
    return [most_probable, *(name for name in others if 1 - probabilities[name] <= bound)]


def set_coverage(probabilities: AnyFloats, y_true: Ints, bound: float) -> tuple[Bools, Any]:
    """Return for each picture whether its set contains the true label, bool (n,), and the set sizes, int (n,)."""
    rows = np.asarray(probabilities, np.float64)
    in_set = 1 - rows <= bound
    in_set[np.arange(len(rows)), rows.argmax(axis=1)] = True
    return in_set[np.arange(len(y_true)), y_true], in_set.sum(axis=1)


def _level_index(table: Mapping[str, Any], level: float) -> int:
    """Return the index of the lowest level of the table that is at least this one."""
    return int(np.searchsorted(table["levels"], level - 1e-9))


def _rank(level: float, pictures: int) -> int:
    """Return the rank, counted from 1, of a level's bound among the scores of so many pictures."""
    return math.ceil(round(level * (pictures + 1), 9))
