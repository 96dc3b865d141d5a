"""Learning curve: macro-F1 of the probe's head on a quarter, a half and all of the training pictures, extrapolated.

The scores are those of the validation pictures; the test split is not touched. Groups of duplicates stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bestiary.array_types import Floats, Ints
from bestiary.batches.feature_matrix import fit_scaler
from bestiary.evaluation.intervals import Span, bootstrap_metric, group_indices, has_single_group, resampled_sums
from bestiary.models.features import LabelledFeatures
from bestiary.models.logistic_regression import Solver, linear_logits, make_solver, shared_axes
from bestiary.progress import Advance, ignore_steps
from bestiary.text import format_percent, format_points

FRACTIONS, DRAWS = (0.25, 0.5, 1.0), (2, 2, 1)  # of the training pictures, and the number of samples of each size
MAX_PICTURES = 8_000  # a larger dataset is sampled first: time and memory are bounded
RESAMPLES = 400
FASTEST_FALL = 0.5  # twice the pictures remove at most half of the errors: few curves fall faster for long
WORTH = 0.003  # a smaller gain of macro-F1 does not count
UNCERTAIN = 0.05  # a gain that small is no result if its interval reaches so far
CLASS_WORTH, CONFIDENCE = 0.02, 0.9  # of a class: gain of F1 from a quarter to all, and fraction of resamples with one


def learning_curve(
    train: LabelledFeatures,
    val: LabelledFeatures,
    groups: tuple[Ints, Ints],
    classes: Sequence[str],
    *,
    c_value: float,
    seed: int,
    val_predictions: Ints | None = None,
    advance: Advance = ignore_steps,
) -> dict[str, Any]:
    """Return the curve, the expected gain from twice as many pictures, and a sentence about it.

    train, val: features (n, channels) and labels. groups: of duplicates, int64 (n,), of train and val. c_value: C of
    the head on all pictures; on fewer it is larger in proportion, so that the penalty keeps its weight against the mean
    loss. val_predictions: the classes that the head on all pictures predicts for `val`, if known.
    """
    rng = np.random.default_rng(seed)
    scaler, n = fit_scaler(train.features), len(train.labels)
    axes = shared_axes(train.features, scaler)
    pool = _sample_groups(train.labels, groups[0], min(1.0, MAX_PICTURES / n), rng)
    labels, pool_groups = train.labels[pool], groups[0][pool]
    predictions, sizes = list[Ints](), list[int]()
    for fraction, draws in zip(FRACTIONS, DRAWS, strict=True):
        samples = [_sample_groups(labels, pool_groups, fraction, rng) for _ in range(draws)]
        sizes.append(round(float(np.mean([len(rows) for rows in samples]))))
        for rows in samples:
            if val_predictions is not None and len(rows) == n:
                predictions.append(val_predictions)
            else:
                sample = train.features[pool[rows]]
                solver = make_solver(sample, labels[rows], len(classes), scaler=scaler, axes=axes)
                predictions.append(_predict_with_head(solver, val, c_value * n / len(rows)))
            advance(1)
    f1 = _f1(np.stack(predictions), val.labels, groups[1], len(classes), seed)
    is_single_group = len(np.unique(groups[1])) < 2
    return _describe_curve(f1, sizes, classes, is_single_group=is_single_group)


def _sample_groups(labels: Ints, groups: Ints, fraction: float, rng: np.random.Generator) -> Ints:
    """Return positions, ascending: of each class random whole groups up to this fraction, one group at least."""
    if fraction >= 1:
        return np.arange(len(labels))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        order = rng.permutation(np.unique(groups[own]))
        ranks = {group: rank for rank, group in enumerate(order.tolist())}
        ranked = own[np.argsort([ranks[group] for group in groups[own].tolist()], kind="stable")]
        size = max(1, round(fraction * len(own)))
        chosen[ranked[:size]] = True
        chosen[own[groups[own] == groups[ranked[size - 1]]]] = True  # the rest of the last group
    return np.flatnonzero(chosen)


def _predict_with_head(solver: Solver, val: LabelledFeatures, c_value: float) -> Ints:
    """Return the classes that the solver's head predicts for `val`, int64 (n,)."""
    weights, biases = solver.fit(c_value)
    weights = weights / solver.scale
    y_pred: Ints = linear_logits(val.features, weights, biases - weights @ solver.mean).argmax(axis=1)
    return y_pred


def _f1(predictions: Ints, labels: Ints, groups: Ints, k: int, seed: int) -> Floats:
    """Return F1 by size and class, (1 + RESAMPLES, sizes, k): as measured, then in resamples of whole groups.

    predictions: int64 (fits, n). NaN if a class neither occurs nor is predicted.
    """
    from scipy import sparse

    indicators = np.eye(k, dtype=np.float64)
    y_true = indicators[labels]
    rows = sparse.csr_array(
        np.hstack([np.hstack([indicators[p] * y_true, indicators[p] + y_true]) for p in predictions])
    )
    members = group_indices(groups)
    strata = np.zeros_like(labels) if has_single_group(labels, members) else labels
    draws = resampled_sums(rows, strata, members, resamples=RESAMPLES, seed=seed)
    sums = np.vstack([rows.sum(axis=0)[None], draws]).reshape(1 + RESAMPLES, len(predictions), 2, k)
    correct, totals = sums[:, :, 0], sums[:, :, 1]
    f1 = np.divide(2 * correct, totals, out=np.full_like(correct, np.nan), where=totals > 0)
    return np.stack([fits.mean(axis=1) for fits in np.split(f1, np.cumsum(DRAWS)[:-1], axis=1)], axis=1)


def _describe_curve(
    f1: Floats, sizes: list[int], classes: Sequence[str], *, is_single_group: bool = False
) -> dict[str, Any]:
    macro = np.nanmean(f1, axis=2)
    doubled = extrapolate(macro[:, 0], macro[:, -1])
    span, both = ((0.0, 1.0), (-1.0, 1.0)) if is_single_group else (None, None)  # resamples of one group show nothing
    points = [
        {"pictures": size, "draws": draws, "macro_f1": _interval(scores, span)}
        for size, draws, scores in zip(sizes, DRAWS, macro.T, strict=True)
    ]
    per_class = {
        name: [round(value, 4) if np.isfinite(value) else None for value in values]
        for name, values in zip(classes, f1[0].T.tolist(), strict=True)
    }
    gain = _interval(doubled - macro[:, -1], both)
    twice: dict[str, Any] = {"pictures": 2 * sizes[-1], "macro_f1": _interval(doubled, span), "gain": gain}
    most = None if is_single_group else _most_improved_class(f1, classes)
    return {
        "points": points,
        "twice": twice,
        "f1_by_class": per_class,
        "gains_most": most,
        "sentence": summarise(macro[0, -1], twice, most),
    }


def extrapolate(quarter: Floats, whole: Floats) -> Floats:
    """Return the expected macro-F1 of twice the pictures, from that of a quarter and of all.

    Errors fall with a power of the number of pictures (Hestness et al. 2017): by the same factor with each doubling.
    The factor is the mean of the last two doublings, between one half and one.

    >>> extrapolate(np.array([0.6, 0.8]), np.array([0.9, 0.8])).round(3).tolist()
    [0.95, 0.8]
    """
    factor = np.clip(np.sqrt((1 - whole) / np.maximum(1 - quarter, 1e-9)), FASTEST_FALL, 1.0)
    doubled: Floats = 1 - (1 - whole) * factor
    return doubled


def _most_improved_class(f1: Floats, classes: Sequence[str]) -> str | None:
    """Return the class that gained most from a quarter to all, if the gain is more than chance."""
    gains = f1[:, -1] - f1[:, 0]
    if not np.isfinite(gains[0]).any():
        return None
    best = int(np.nanargmax(gains[0]))
    is_gain = gains[0, best] >= CLASS_WORTH and float((gains[1:, best] > 0).mean()) >= CONFIDENCE
    return classes[best] if is_gain else None


def summarise(now: float, twice: dict[str, Any], most_improved: str | None) -> str:
    """Return the expected gain from twice as many pictures, in a sentence."""
    then, gain = twice["macro_f1"], twice["gain"]
    before, after = format_percent(now, 1), format_percent(then["value"], 1)
    interval = f"{format_points(then['low'], 1)} to {format_points(then['high'], 1)}"
    if gain["value"] < WORTH and gain["high"] >= UNCERTAIN:
        return (
            "There are too few validation pictures to tell whether twice as many pictures would help: validation"
            f" macro-F1 would change from {before} to about {after} ({interval})."
        )
    if gain["value"] < WORTH:
        return (
            f"Twice as many pictures would hardly help: validation macro-F1 would rise from {before} to about {after}."
        )
    likely = "would probably" if gain["low"] >= WORTH / 2 else "would perhaps"
    most = f"; the largest gain is that of {most_improved}" if most_improved else ""
    return (
        f"Twice as many pictures {likely} raise validation macro-F1 from {before} to about {after} ({interval}){most}."
    )


def _interval(values: Floats, span: Span | None) -> dict[str, float]:
    """Return a metric as measured (the first value) with its interval from the resamples (the others)."""
    return {name: round(end, 4) for name, end in bootstrap_metric(float(values[0]), values[1:], span).items()}
