"""Many questions asked of one set of pictures: p values corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values of which none below 0.05 is a chance find, with a probability of 95 %: Holm (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(count)
    steps = np.array([p_values[at] for at in order]) * np.arange(count, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1) if count else steps
    return [float(p) for p in corrected]
