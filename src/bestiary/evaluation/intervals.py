"""95 % confidence intervals: Wilson for a rate, MOVER for a mean of rates, the bootstrap for every metric.

The bootstrap resamples groups of duplicates, not pictures: ten near-copies of one photograph are one piece of evidence.
It is stratified by true class, so that a rare class never vanishes from a resample, unless groups have several classes,
as camera sites do. It can only repeat what it has
seen, though: if all six pictures of a class are correct, so is every resample, and the interval would have no width.
Wilson's score interval does not have this fault. It therefore serves all rates and the averages over classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bestiary.array_types import Array, Floats, Ints
from bestiary.data.mixed_groups import has_mixed_labels
from bestiary.stats import wilson_interval

if TYPE_CHECKING:
    from scipy import sparse

Span = tuple[float, float]  # lowest and highest value
_DRAWS_AT_ONCE = 500_000  # bounds the memory (about 12 MB) and keeps the weights in the processor's cache


def metric_value(value: float, low: float, high: float) -> dict[str, float]:
    """Return a metric of metrics.json: `{"value", "low", "high"}`."""
    return {"value": float(value), "low": float(low), "high": float(high)}


def rate_metric(rate: float, trials: int) -> dict[str, float]:
    """Return a rate in [0, 1] with Wilson's interval for so many independent trials."""
    low, high = wilson_interval(np.array(rate), np.array(trials))
    return metric_value(rate, float(low), float(high))


def bootstrap_metric(value: float, draws: Floats, span: Span | None = None) -> dict[str, float]:
    """Return a metric with the 2.5 % and 97.5 % points of its resamples, widened where needed to contain the value.

    span: of `single_group_span`, which is the interval then.
    """
    low, high = np.percentile(draws, [2.5, 97.5]) if span is None else span
    return metric_value(value, min(float(low), value), max(float(high), value))


def single_group_span(groups: Ints, low: float, high: float) -> Span | None:
    """Return the possible range of a metric if all pictures are of one group, such as a camera site; else None.

    Every resample is the same then: nothing shows how much another group would differ.
    """
    return (low, high) if len(groups) and bool((groups == groups[0]).all()) else None


def widen_metric(metric: dict[str, float], low: float, high: float) -> dict[str, float]:
    """Return the metric with an interval that contains its own and [low, high]."""
    return metric_value(metric["value"], min(metric["low"], low), max(metric["high"], high))


def f1_interval(jaccard: Floats, trials: Ints) -> tuple[Floats, Floats]:
    """Return the low and high ends of the 95 % interval of F1, given the Jaccard index TP / (TP + FP + FN).

    F1 is not a rate: its denominator counts correct pictures twice. The Jaccard index J is a rate, and F1 =
    2 J / (1 + J) increases strictly with it, so the ends of its Wilson interval carry over exactly.
    """
    low, high = wilson_interval(jaccard, trials)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def mover_interval(values: Floats, lows: Floats, highs: Floats) -> tuple[float, float]:
    """Return the low and high ends of the interval of the mean of `values`, from the interval of each.

    The squared distances to the ends are added, as for standard errors (MOVER: Zou and Donner, Statistics in
    Medicine 27, 2008). A class with few pictures keeps its wide interval in the average, even if all were correct.
    """
    mean = float(values.mean())
    below = float(np.sqrt(((values - lows) ** 2).sum())) / len(values)
    above = float(np.sqrt(((highs - values) ** 2).sum())) / len(values)
    return max(mean - below, 0.0), min(mean + above, 1.0)


def group_indices(groups: Array) -> Ints:
    """Return the groups of duplicates renumbered from 0, int64 (n,)."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def groups_per_class(classes: list[Ints], groups: Ints, k: int) -> Ints:
    """Return in how many distinct groups each class occurs, in any of the columns `classes`: int (k,).

    `classes`: int (n,) in [0, k) each; `groups`: int (n,) in [0, n). This is the number of independent trials.
    """
    width = int(groups.max()) + 1
    pairs = np.unique(np.concatenate([column * width + groups for column in classes]))
    return np.bincount(pairs // width, minlength=k)


def has_single_group(y_true: Ints, groups: Ints) -> bool:
    """Return whether a stratum of `resampled_sums` is a single group, which has the same sums in every resample."""
    _, first = np.unique(groups, return_index=True)
    _, sizes = np.unique(_group_strata(y_true, groups, first), return_counts=True)
    return bool(sizes.min() < 2)


def _group_strata(y_true: Ints, groups: Ints, first: Ints) -> Ints:
    """Return the stratum of each group, int (groups,): the class of its first picture; one where groups are mixed.

    The class of one of its pictures says little about a camera site: such strata would be small and arbitrary, and
    their intervals too narrow.
    """
    return np.zeros(len(first), np.int64) if has_mixed_labels(y_true, groups) else y_true[first]


def resampled_sums(rows: sparse.csr_array, y_true: Ints, groups: Ints, *, resamples: int, seed: int) -> Floats:
    """Return the column sums of `rows` under `resamples` draws of whole groups, shape (resamples, columns).

    `rows`: (n, columns), what each picture adds to each sum; `y_true`: int (n,), the stratum; `groups`: int (n,) in
    [0, n). A group of several classes belongs to the stratum of its first picture; where such groups are no exceptions,
    there is one stratum. Memory does not grow with n x resamples: one stratum and a bounded number of draws are in
    memory at a time.
    """
    from scipy import sparse

    present, first, member = np.unique(groups, return_index=True, return_inverse=True)
    ones = np.ones(len(groups))
    group_sums = sparse.csr_array((ones, (member, np.arange(len(groups)))), (len(present), len(groups))) @ rows
    strata = _group_strata(y_true, groups, first)
    totals = np.zeros((resamples, rows.shape[1]))
    rng = np.random.default_rng(seed)
    for stratum in np.unique(strata):
        _add_stratum(totals, group_sums[strata == stratum], rng)
    return totals


def _add_stratum(totals: Floats, group_sums: sparse.csr_array, rng: np.random.Generator) -> None:
    """Add to each row of `totals` one draw, with replacement, of as many groups as the stratum has."""
    columns, size = group_sums.T.tocsr(), group_sums.shape[0]
    step = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, len(totals), step):
        chunk = totals[start : start + step]
        chunk += (columns @ _draw_weights(size, len(chunk), rng)).T


def _draw_weights(size: int, draws: int, rng: np.random.Generator) -> Floats:
    """Return how often each of `size` groups is drawn, shape (size, draws); every column sums to `size`."""
    drawn = rng.integers(0, size, size=(size, draws), dtype=np.uint32).astype(np.int64)
    drawn *= draws
    drawn += np.arange(draws)
    return np.bincount(drawn.ravel(), minlength=size * draws).reshape(size, draws).astype(np.float64)
