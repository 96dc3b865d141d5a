"""95 % intervals: Wilson for one rate, square-and-add for an average of rates, the bootstrap for everything.

The bootstrap resamples groups of duplicates, not pictures: ten near-copies of one photograph are one piece of evidence.
It draws within the true class, so that a rare class never vanishes from a resample. It can only repeat what it saw,
though: when all six pictures of a class are right, every resample is all right as well, and the bootstrap would claim
certainty. Wilson's score interval does not, which is why all rates, and averages over classes, lean on it.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from bestiary.array_types import Floats, Ints
from bestiary.stats import wilson_interval

_DRAWS_AT_ONCE = 500_000  # bounds the memory (about 12 MB) and keeps the weights near the processor


def f1_interval(jaccard: Floats, trials: Ints) -> tuple[Floats, Floats]:
    """Return the low and high ends of the 95 % interval of F1, given the Jaccard index TP / (TP + FP + FN).

    F1 is no rate: its denominator counts right pictures twice. The Jaccard index is one, and F1 = 2 J / (1 + J) is a
    strictly rising function of it, so the ends of its Wilson interval carry over exactly.
    """
    low, high = wilson_interval(jaccard, trials)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def mover_interval(values: Floats, lows: Floats, highs: Floats) -> tuple[float, float]:
    """Return the low and high ends of the interval of the mean of `values`, from the interval of each.

    The distances to the ends are added in squares, as standard errors are (MOVER: Zou and Donner, Statistics in
    Medicine 27, 2008). A class with few pictures keeps its wide interval in the average, even if all were right.
    """
    mean = float(values.mean())
    below = float(np.sqrt(((values - lows) ** 2).sum())) / len(values)
    above = float(np.sqrt(((highs - values) ** 2).sum())) / len(values)
    return max(mean - below, 0.0), min(mean + above, 1.0)


def percentile_interval(draws: Floats, value: float) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % points of the resampled figures, widened where needed to hold `value`."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return min(float(low), value), max(float(high), value)


def metric_value(value: float, low: float, high: float) -> dict[str, float]:
    """Return the contract's `{"value", "low", "high"}`."""
    return {"value": float(value), "low": float(low), "high": float(high)}


def groups_per_class(classes: list[Ints], groups: Ints, k: int) -> Ints:
    """Return, shape (k,), in how many distinct groups each class occurs, in any of the columns `classes`.

    `classes`: int (n,) in [0, k) each; `groups`: int (n,) in [0, n). This is the number of independent trials.
    """
    width = int(groups.max()) + 1
    pairs = np.unique(np.concatenate([column * width + groups for column in classes]))
    return np.bincount(pairs // width, minlength=k)


def has_single_group(y_true: Ints, groups: Ints) -> bool:
    """Return whether some stratum of `resampled_sums` is a single group, which is drawn the same every time."""
    _, first = np.unique(groups, return_index=True)
    _, sizes = np.unique(y_true[first], return_counts=True)
    return bool(sizes.min() < 2)


def resampled_sums(rows: sparse.csr_array, y_true: Ints, groups: Ints, *, resamples: int, seed: int) -> Floats:
    """Return the column sums of `rows` under `resamples` draws of whole groups, shape (resamples, columns).

    `rows`: (n, columns), what each picture adds to each sum; `y_true`: int (n,), the stratum; `groups`: int (n,) in
    [0, n). A group that holds several classes is drawn with the class of its first picture. Memory does not grow
    with n x resamples: one stratum and a bounded number of draws are in flight at a time.
    """
    present, first, member = np.unique(groups, return_index=True, return_inverse=True)
    ones = np.ones(len(groups))
    sums_of_groups = sparse.csr_array((ones, (member, np.arange(len(groups)))), (len(present), len(groups))) @ rows
    strata = y_true[first]
    totals = np.zeros((resamples, rows.shape[1]))
    generator = np.random.default_rng(seed)
    for stratum in np.unique(strata):
        _add_stratum(totals, sums_of_groups[strata == stratum], generator)
    return totals


def _add_stratum(totals: Floats, sums_of_groups: sparse.csr_array, generator: np.random.Generator) -> None:
    """Add to each row of `totals` one draw, with replacement, of as many groups as the stratum has."""
    columns = sums_of_groups.T.tocsr()
    size = sums_of_groups.shape[0]
    step = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, len(totals), step):
        part = totals[start : start + step]
        part += (columns @ _weights(size, len(part), generator)).T


def _weights(size: int, draws: int, generator: np.random.Generator) -> Floats:
    """Return how often each of `size` groups was drawn, shape (size, draws); every column sums to `size`."""
    drawn = generator.integers(0, size, size=(size, draws), dtype=np.uint32).astype(np.int64)
    drawn *= draws
    drawn += np.arange(draws)
    return np.bincount(drawn.ravel(), minlength=size * draws).reshape(size, draws).astype(np.float64)
