"""Whether more pictures would help: the probe's head fitted on a quarter, a half and all of the training pictures.

The scores are those of the validation pictures; the test split is not touched. Groups of duplicates stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from bestiary.array_types import Float32s, Floats, Ints
from bestiary.batches.feature_matrix import fit_scaler
from bestiary.evaluation.intervals import metric_value, percentile_interval, resampled_sums
from bestiary.models.features import LabelledFeatures
from bestiary.models.logistic_regression import linear_logits, make_solver
from bestiary.text import format_percent, format_points

FRACTIONS, DRAWS = (0.25, 0.5, 1.0), (2, 2, 1)  # of the training pictures, and how often each share is drawn
MAX_PICTURES = 8_000  # of a larger collection so many are drawn first: seconds and memory stay bounded
RESAMPLES = 400
FASTEST_FALL = 0.5  # twice the pictures never take away more than half of the errors: few curves fall faster for long
WORTH = 0.003  # a smaller gain of macro-F1 is not worth the words
CLASS_WORTH, CONFIDENCE = (
    0.02,
    0.9,
)  # of a class: gain of F1 from a quarter to all, and the share of resamples that agree


def learning_curve(
    train: LabelledFeatures,
    val: LabelledFeatures,
    groups: tuple[Ints, Ints],
    classes: Sequence[str],
    *,
    strength: float,
    seed: int,
    whole: Ints | None = None,
) -> dict[str, Any]:
    """Return the curve, what twice as many pictures would bring, and a sentence about it.

    train, val: features (n, channels) and labels. groups: of
    duplicates, int64 (n,), of train and val. strength: C of the head on all pictures; on fewer it is larger by as much,
    so that the penalty keeps its weight against the mean loss. whole: the classes that the head on all pictures gives
    to `val`, if known.
    """
    rng = np.random.default_rng(seed)
    standard = fit_scaler(train.features)
    count = len(train.labels)
    everything = _sample_groups(train.labels, groups[0], min(1.0, MAX_PICTURES / count), rng)
    labels, own_groups = train.labels[everything], groups[0][everything]
    answers, sizes = list[Ints](), list[list[int]]()
    for share, draws in zip(FRACTIONS, DRAWS, strict=True):
        sizes.append([])
        for _ in range(draws):
            rows = _sample_groups(labels, own_groups, share, rng)
            sizes[-1].append(len(rows))
            if whole is not None and len(rows) == count:
                answers.append(whole)
                continue
            learned = LabelledFeatures(train.features[everything[rows]], labels[rows])
            answers.append(_predict_with_head(learned, val, len(classes), strength * count / len(rows), standard))
    f1 = _f1(np.stack(answers), val.labels, groups[1], len(classes), seed)
    return _describe_curve(f1, [round(float(np.mean(size))) for size in sizes], classes)


def _sample_groups(labels: Ints, groups: Ints, fraction: float, rng: np.random.Generator) -> Ints:
    """Return positions, ascending: of each class whole groups at random up to this share, one group at least."""
    if fraction >= 1:
        return np.arange(len(labels))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        order = rng.permutation(np.unique(groups[mine]))
        place = {group: rank for rank, group in enumerate(order.tolist())}
        ranked = mine[np.argsort([place[group] for group in groups[mine].tolist()], kind="stable")]
        wanted = max(1, round(fraction * len(mine)))
        last = groups[ranked[wanted - 1]]
        chosen[ranked[:wanted]] = True
        chosen[mine[groups[mine] == last]] = True
    return np.flatnonzero(chosen)


def _predict_with_head(
    learned: LabelledFeatures, val: LabelledFeatures, classes: int, strength: float, scaler: tuple[Float32s, Float32s]
) -> Ints:
    """Return the classes that a head fitted on some pictures gives to `val`, int64 (n,)."""
    solving = make_solver(learned.features, learned.labels, classes, scaler=scaler)
    weights, biases = solving.fit(strength)
    scaled = weights / solving.scale
    found: Ints = linear_logits(val.features, scaled, biases - scaled @ solving.mean).argmax(axis=1)
    return found


def _f1(answers: Ints, labels: Ints, groups: Ints, k: int, seed: int) -> Floats:
    """Return F1 by share and class, (1 + RESAMPLES, shares, k): as measured, then in resamples of whole groups.

    answers: int64 (fits, n). NaN where a class neither occurs nor is said.
    """
    hot = np.eye(k, dtype=np.float64)
    truth = hot[labels]
    columns = [np.hstack([hot[given] * truth, hot[given] + truth]) for given in answers]
    rows = sparse.csr_array(np.hstack(columns))
    _, member = np.unique(groups, return_inverse=True)
    draws = resampled_sums(rows, labels, member, resamples=RESAMPLES, seed=seed)
    sums = np.vstack([rows.sum(axis=0)[None], draws]).reshape(1 + RESAMPLES, len(answers), 2, k)
    right, named = sums[:, :, 0], sums[:, :, 1]
    f1 = np.divide(2 * right, named, out=np.full_like(right, np.nan), where=named > 0)
    ends = np.cumsum(DRAWS)
    return np.stack([f1[:, end - draws : end].mean(axis=1) for end, draws in zip(ends, DRAWS, strict=True)], axis=1)


def _describe_curve(f1: Floats, sizes: list[int], classes: Sequence[str]) -> dict[str, Any]:
    macro = np.nanmean(f1, axis=2)
    doubled = extrapolate(macro[:, 0], macro[:, -1])
    gain = doubled - macro[:, -1]
    points = [
        {"pictures": size, "draws": draws, "macro_f1": _interval(macro[:, place])}
        for place, (size, draws) in enumerate(zip(sizes, DRAWS, strict=True))
    ]
    per_class = {
        name: [round(float(value), 4) if np.isfinite(value) else None for value in f1[0, :, place]]
        for place, name in enumerate(classes)
    }
    most = _most_improved_class(f1, classes)
    twice: dict[str, Any] = {"pictures": 2 * sizes[-1], "macro_f1": _interval(doubled), "gain": _interval(gain)}
    return {
        "points": points,
        "twice": twice,
        "f1_by_class": per_class,
        "gains_most": most,
        "sentence": summarise(macro[0, -1], twice, most),
    }


def extrapolate(quarter: Floats, whole: Floats) -> Floats:
    """Return the macro-F1 to expect of twice the pictures, from that of a quarter and of all.

    Errors fall with a power of the number of pictures (Hestness et al. 2017): by the same factor with each doubling.
    The factor is the mean of the last two doublings, between one half and one.

    >>> extrapolate(np.array([0.6, 0.8]), np.array([0.9, 0.8])).round(3).tolist()
    [0.95, 0.8]
    """
    left = np.maximum(1 - quarter, 1e-9)
    factor = np.clip(np.sqrt((1 - whole) / left), FASTEST_FALL, 1.0)
    found: Floats = 1 - (1 - whole) * factor
    return found


def _most_improved_class(f1: Floats, classes: Sequence[str]) -> str | None:
    """Return the class that gained most from a quarter to all, if that is more than chance."""
    gains = f1[:, -1] - f1[:, 0]
    if not np.isfinite(gains[0]).any():
        return None
    best = int(np.nanargmax(gains[0]))
    sure = float((gains[1:, best] > 0).mean())
    return classes[best] if gains[0, best] >= CLASS_WORTH and sure >= CONFIDENCE else None


def summarise(now: float, twice: dict[str, Any], most_improved: str | None) -> str:
    """Return what twice as many pictures would bring, in a sentence."""
    then, gain = twice["macro_f1"], twice["gain"]
    if gain["value"] < WORTH:
        return (
            f"Twice as many pictures would hardly help: macro-F1 on the validation pictures, {format_percent(now, 1)},"
            f" would become about {format_percent(then['value'], 1)}."
        )
    likely = "would probably" if gain["low"] >= WORTH / 2 else "would perhaps"
    where = f"; most for {most_improved}" if most_improved else ""
    return (
        f"Twice as many pictures {likely} raise macro-F1 on the validation pictures from {format_percent(now, 1)} to"
        f" about {format_percent(then['value'], 1)} ({format_points(then['low'], 1)} to"
        f" {format_points(then['high'], 1)}){where}."
    )


def _interval(values: Floats) -> dict[str, float]:
    """Return a figure as measured (the first value) with its interval from the resamples (the others)."""
    value = float(values[0])
    return {name: round(end, 4) for name, end in metric_value(value, *percentile_interval(values[1:], value)).items()}
