"""Which pictures fit no class: unlike the others of their class, and not recognised as anything else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bestiary.array_types import Float32s, Floats, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler
from bestiary.evaluation.neighbours import unit_rows

NEIGHBOURS = 5
REFERENCES, ROWS_AT_ONCE = 2_000, 1_024  # compared with at most so many of the class: memory and time stay linear
# An outlier is less similar to its class than FAR times the median of the class, and its label has less than
# RECOGNISED of the probability. Set by looking at the pictures on either side: docs/log.md.
FAR, RECOGNISED = 0.45, 0.5


@dataclass(frozen=True)
class Outlier:
    """A picture that fits no class: its position, the probability of its label, and a score in 0..1, 0 the strangest.

    score: similarity to its nearest neighbours, as a share of what is usual in its class.
    """

    position: int
    probability: float
    score: float


def find_outliers(
    features: FeatureMatrix, labels: Ints, groups: Ints, probabilities: Floats, *, seed: int
) -> list[Outlier]:
    """Return the pictures that fit no class, strangest first.

    features: (n, channels); labels, groups: int64 (n,); probabilities: float64 (n, classes), out of fold, NaN
    where they are not known. A picture of a class with fewer than NEIGHBOURS others cannot be judged.
    """
    similarity = own_class_similarity(features, labels, groups, seed=seed)
    usual = np.full(len(labels), np.nan)
    for label in np.unique(labels):
        own = labels == label
        if np.isfinite(similarity[own]).any():
            usual[own] = np.nanmedian(similarity[own])
    with np.errstate(invalid="ignore"):
        share = np.clip(similarity, 0, None) / np.maximum(usual, 1e-6)
        believed = probabilities[np.arange(len(labels)), labels]
        strange = np.flatnonzero((share < FAR) & (believed < RECOGNISED))
    strangest_first = strange[np.argsort(share[strange], kind="stable")]
    return [Outlier(int(at), float(believed[at]), float(share[at])) for at in strangest_first]


def own_class_similarity(features: FeatureMatrix, labels: Ints, groups: Ints, *, seed: int) -> Floats:
    """Return each picture's mean cosine similarity to the nearest NEIGHBOURS of its class, float64 (n,) in -1..1.

    Features are standardised first. Its own duplicates (`groups`) do not count. NaN where there are too few others.
    """
    mean, scale = fit_scaler(features)

    def directions(chosen: Ints) -> Float32s:
        return unit_rows((features[chosen] - mean) / scale)

    found = np.full(len(labels), np.nan)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        others = np.sort(rng.choice(own, min(len(own), REFERENCES), replace=False))
        if len(others) <= NEIGHBOURS:
            continue
        compared = directions(others).T
        for rows in np.array_split(own, -(-len(own) // ROWS_AT_ONCE)):
            cosine = directions(rows) @ compared
            cosine[groups[rows][:, None] == groups[others]] = np.nan
            found[rows] = _mean_of_highest(cosine)
    return found


def _mean_of_highest(cosine: Float32s) -> Floats:
    """Return the mean of the NEIGHBOURS highest values of each row; NaN for a row with fewer; NaN values are none."""
    highest = -np.sort(-cosine, axis=1)[:, :NEIGHBOURS]  # NaN is sorted to the end
    mean: Floats = highest.mean(axis=1, dtype=np.float64)
    return mean
