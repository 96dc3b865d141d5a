"""Wilson confidence intervals of a rate, and Holm's correction of p values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bestiary.array_types import Floats, Ints

Z_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


def wilson_interval(rate: Floats, trials: Ints) -> tuple[Floats, Floats]:
    """Return the lower and upper bounds of Wilson's 95 % score interval for `rate` in [0, 1] out of `trials`.

    Arrays of one shape. Zero trials give [0, 1]. Wilson, JASA 22 (1927).
    """
    n = np.maximum(trials, 1).astype(np.float64)
    centre = (rate + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * np.sqrt(rate * (1 - rate) / n + Z_95**2 / (4 * n**2))
    # Near 0 and 1 rounding could put the rate itself outside its interval.
    low = np.minimum(np.clip(centre - half, 0, 1), rate)
    high = np.maximum(np.clip(centre + half, 0, 1), rate)
    return np.where(trials > 0, low, 0.0), np.where(trials > 0, high, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values with Holm's step-down correction (1979), which bounds the family-wise error rate.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(count)
    steps = np.asarray(p_values, np.float64)[order] * np.arange(count, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1) if count else steps
    return corrected.tolist()
