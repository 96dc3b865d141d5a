"""95 % intervals over clusters, such as camera sites, whose pictures are not independent.

A rate has the linearised variance of a ratio of cluster totals, with Student's t for the number of clusters (Cochran,
Sampling Techniques, 1977, chapter 9A). Macro-F1 has the bootstrap of whole clusters, widened by the same factor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bestiary.array_types import AnyFloats, Floats, Ints
from bestiary.evaluation.intervals import metric_value
from bestiary.stats import Z_95, wilson_interval

Metric = dict[str, float]


def cluster_rate(correct: AnyFloats, clusters: Ints, *, trials: int) -> Metric:
    """Return the mean of `correct` (n,), 0 or 1, with its interval over clusters, int64 (n,) from 0.

    trials: independent pieces of evidence, for Wilson's interval, which the interval contains: where every cluster has
    the same rate, its variance is zero by chance.
    """
    rate, half = float(correct.mean()), _half_width(correct, clusters)
    low, high = wilson_interval(np.array(rate), np.array(trials))
    return metric_value(rate, max(0.0, min(float(low), rate - half)), min(1.0, max(float(high), rate + half)))


def cluster_mean(values: AnyFloats, clusters: Ints) -> Metric:
    """Return the mean of values (n,), -1 to 1, with its interval over clusters, int64 (n,) from 0; of differences."""
    mean, half = float(values.mean()), _half_width(values, clusters)
    return metric_value(mean, max(-1.0, mean - half), min(1.0, mean + half))


def cluster_bootstrap(
    score: Callable[[Floats], Floats], clusters: Ints, *, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the interval of a score over clusters, int64 (n,) from 0.

    score: from weights of the clusters, (draws, clusters), to scores (draws,).
    """
    count = int(clusters.max()) + 1
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    value = float(score(np.ones((1, count)))[0])
    low, high = np.quantile(score(weights), [0.025, 0.975])
    wider = student_factor(count)
    return value - wider * max(0.0, value - low), value + wider * max(0.0, high - value)


def student_factor(clusters: int) -> float:
    """Return how much wider an interval over so few clusters is than a normal one: Student's t, corrected for bias.

    >>> round(student_factor(40), 3)
    1.045
    """
    from scipy.stats import t

    if clusters < 2:
        return float("inf")
    return float(t.ppf(0.975, clusters - 1) / Z_95 * np.sqrt(clusters / (clusters - 1)))


def _half_width(values: AnyFloats, clusters: Ints) -> float:
    sizes = np.bincount(clusters).astype(np.float64)
    if len(sizes) < 2:
        return 2.0  # all that is possible, cut off by the callers
    residuals = np.bincount(clusters, weights=values) - values.mean() * sizes
    return float(Z_95 * student_factor(len(sizes)) * np.sqrt((residuals**2).sum()) / sizes.sum())
