"""Borderline findings: how far a rule's values are from its limits, in errors of bfloat16 features.

Features in bfloat16 are not those in float32, so a picture close to a limit may be named with the one and not with the
other. Such findings are marked, and those that float32 may have in addition are noted (docs/processors.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bestiary.array_types import Bools, Floats

# The largest differences between bfloat16 and float32 features near the limits, of the shared 5,511 pictures: 0.29 in
# the log-odds of a probability (lite0; lite2: 0.20), 0.018 in a relative similarity (docs/log.md).
LOG_ODDS_ERROR, SIMILARITY_ERROR = 0.3, 0.02
SMALLEST = 1e-12


def rule_margins(is_named: Bools, *distances: Floats) -> Floats:
    """Return how far each picture is inside a rule, in errors: 0 or more if the rule names it, else below 0.

    is_named: bool (n,), what the rule says; distances: float64 (n,) each, of its values inside the limits, in errors.
    """
    nearest = np.min(distances, axis=0)
    margins: Floats = np.where(is_named, np.maximum(nearest, 0.0), np.minimum(nearest, -SMALLEST))
    return margins


def is_within(margins: Floats, reach: float) -> Bools:
    """Return which margins are inside the rule, or less than `reach` errors outside it, bool (n,)."""
    return (margins >= 0) | (margins > -reach)


def log_odds(probability: Any) -> Any:
    """Return ln(p / (1 - p)), for probabilities of 0 and 1 a large number."""
    bounded = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.log(bounded / (1 - bounded))


def describe_margin(margin: float, noun: str) -> str:
    """Return what to add to the message of a finding in bfloat16, empty if float32 has it as well.

    >>> describe_margin(0.4, "suspect")
    ' Borderline: computed in float32 it may not be suspect.'
    """
    if margin >= 1:
        return ""
    return f" Borderline: computed in float32 it may {'not be' if margin >= 0 else 'be'} {noun}."
