"""Outliers: pictures unlike the others of their class that the classifier does not recognise as their class either."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bestiary.array_types import Float32s, Floats, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler
from bestiary.evaluation.borderline import LOG_ODDS_ERROR, SIMILARITY_ERROR, is_within, log_odds, rule_margins
from bestiary.models.neighbours import unit_rows

NEIGHBOURS = 5
REFERENCES, ROWS_AT_ONCE = 2_000, 1_024  # compare with at most so many of the class: memory and time stay linear
# An outlier is less similar to its class than FAR times the median of the class, and its label has less than
# RECOGNISED of the probability. Chosen by inspection of the pictures on either side: docs/log.md.
FAR, RECOGNISED = 0.45, 0.5


@dataclass(frozen=True)
class Outlier:
    """A picture that fits no class: its position, the probability of its label, and a score in 0..1, 0 is worst.

    score: similarity to its nearest neighbours, as a fraction of the median of its class. margin: how far inside the
    rule, in errors of bfloat16 features; below 0 the rule does not name it.
    """

    position: int
    probability: float
    score: float
    margin: float


def find_outliers(
    features: FeatureMatrix, labels: Ints, groups: Ints, probabilities: Floats, *, seed: int, reach: float = 0.0
) -> list[Outlier]:
    """Return the pictures that fit no class, worst first.

    features: (n, channels); labels, groups: int64 (n,); probabilities: float64 (n, classes), out of fold, NaN
    where not known. A picture of a class with fewer than NEIGHBOURS others cannot be an outlier. reach: pictures that
    are less than so many errors of bfloat16 features outside the rule are returned as well.
    """
    similarity = own_class_similarity(features, labels, groups, seed=seed)
    usual = np.full(len(labels), np.nan)
    for label in np.unique(labels):
        own = labels == label
        if np.isfinite(similarity[own]).any():
            usual[own] = np.nanmedian(similarity[own])
    with np.errstate(invalid="ignore"):
        score = np.clip(similarity, 0, None) / np.maximum(usual, 1e-6)
        probability = probabilities[np.arange(len(labels)), labels]
        margins = rule_margins(
            (score < FAR) & (probability < RECOGNISED),
            (FAR - score) / SIMILARITY_ERROR,
            (log_odds(RECOGNISED) - log_odds(probability)) / LOG_ODDS_ERROR,
        )
        rows = np.flatnonzero(is_within(margins, reach))
    worst_first = rows[np.argsort(score[rows], kind="stable")]
    return [Outlier(int(row), float(probability[row]), float(score[row]), float(margins[row])) for row in worst_first]


def own_class_similarity(features: FeatureMatrix, labels: Ints, groups: Ints, *, seed: int) -> Floats:
    """Return each picture's mean cosine similarity to the nearest NEIGHBOURS of its class, float64 (n,) in -1..1.

    Features are standardised first. The picture's own duplicates (`groups`) do not count. NaN with too few others.
    """
    mean, scale = fit_scaler(features)

    def directions(rows: Ints) -> Float32s:
        return unit_rows((features[rows] - mean) / scale)

    similarity = np.full(len(labels), np.nan)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        references = np.sort(rng.choice(own, min(len(own), REFERENCES), replace=False))
        if len(references) <= NEIGHBOURS:
            continue
        reference_directions = directions(references).T
        for rows in np.array_split(own, -(-len(own) // ROWS_AT_ONCE)):
            cosine = directions(rows) @ reference_directions
            cosine[groups[rows][:, None] == groups[references]] = np.nan
            similarity[rows] = _mean_of_highest(cosine)
    return similarity


def _mean_of_highest(cosine: Float32s) -> Floats:
    """Return the mean of the NEIGHBOURS highest values of each row, without NaN; NaN for a row with fewer."""
    highest = -np.sort(-cosine, axis=1)[:, :NEIGHBOURS]  # NaN is sorted to the end
    mean: Floats = highest.mean(axis=1, dtype=np.float64)
    return mean
