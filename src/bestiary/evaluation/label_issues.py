"""Label errors, found with out-of-fold predictions of a linear probe (confident learning), and outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Floats, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler
from bestiary.data.split import stratified_group_folds
from bestiary.evaluation.outliers import find_outliers
from bestiary.models.logistic_regression import linear_logits, make_solver
from bestiary.quick_metrics import softmax

FOLDS = 5
# Inverse regularisation strength C of the head times the number of training pictures: the penalty keeps its weight
# against the mean loss. It is stronger than that of the probe itself, because labels are in doubt here. Measured from
# 150 to 5,511 pictures: docs/log.md.
DEFAULT_C = 5.0
# A label is suspect if the given class has a probability below SUSPECT and another class one of at least CLEAR.
# On planted flips this rule found more at the same precision than each filter of cleanlab: docs/log.md.
SUSPECT, CLEAR = 0.1, 0.5
# A class of which the head knows little looks like a class of wrong labels: of correct labels in classes of 3, 6, 10
# and 20 pictures it doubted 5 of 9, 3 of 18, 2 of 30 and 1 of 60. Smaller classes are skipped.
MIN_PICTURES = 10


@dataclass(frozen=True)
class LabelIssue:
    """A suspect label: the picture's position, both labels, and the probability of the suggested one.

    score: cleanlab's self-confidence, the probability of the current label, in 0..1; 0 is worst.
    """

    position: int
    current_label: str
    suggested: str
    probability: float
    score: float


def model_issue_findings(pictures: pl.DataFrame, features: FeatureMatrix, *, seed: int) -> pl.DataFrame:
    """Return the findings (`table.FINDINGS`) "suspect-label" and "outlier", worst first.

    pictures: `row_id, path, label, group`, only readable ones; features: (n, channels), in the same order. The same
    pictures, features and seed give the same findings.
    """
    classes = sorted(pictures["label"].unique())
    labels, groups = table.label_indices(pictures["label"], classes), pictures["group"].to_numpy()
    probabilities = cross_val_probabilities(features, labels, groups, len(classes), seed=seed)
    issues = detect_label_issues(probabilities, labels, classes)
    suspect = {issue.position for issue in issues}
    about = pictures.select("row_id", "path").rows()
    rows: list[tuple[Any, ...]] = []
    for issue in issues:
        message = f"Labelled {issue.current_label}; looks like {issue.suggested} ({100 * issue.probability:.0f} %)."
        rows.append(("suspect-label", *about[issue.position], issue.score, True, message, None, issue.suggested))
    for outlier in find_outliers(features, labels, groups, probabilities, seed=seed):
        if outlier.position not in suspect:
            label, percent = classes[labels[outlier.position]], f"{100 * outlier.probability:.0f} %"
            message = f"Unlike the other pictures of {label}: the probability of {label} is only {percent}."
            rows.append(("outlier", *about[outlier.position], outlier.score, True, message, None, None))
    return pl.DataFrame(rows, schema=table.FINDINGS, orient="row")


def detect_label_issues(probabilities: Floats, labels: Ints, classes: Sequence[str]) -> list[LabelIssue]:
    """Return the labels that are probably wrong, worst first.

    probabilities: float64 (n, classes), out of fold; rows of NaN and classes of fewer than MIN_PICTURES are skipped.
    labels: int64 (n,). The score is cleanlab's (Northcutt et al. 2021).
    """
    from cleanlab.rank import get_label_quality_scores

    scored = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    if not len(scored):
        return []
    probabilities, labels = probabilities[scored], labels[scored]
    scores = get_label_quality_scores(labels, probabilities, method="self_confidence")
    suggested, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    suspect = (np.bincount(labels)[labels] >= MIN_PICTURES) & (scores < SUSPECT) & (confidence >= CLEAR)
    worst_first = np.flatnonzero(suspect)[np.argsort(scores[suspect], kind="stable")]
    return [
        LabelIssue(
            int(scored[row]), classes[labels[row]], classes[suggested[row]], float(confidence[row]), float(scores[row])
        )
        for row in worst_first
    ]


def cross_val_probabilities(
    features: FeatureMatrix, labels: Ints, groups: Ints, classes: int, *, folds: int = FOLDS, seed: int
) -> Floats:
    """Return out-of-fold probabilities, float64 (n, classes): no head is trained on a picture or its duplicates.

    features: (n, channels), not changed; labels, groups: int64 (n,). The head is the probe's: logistic regression on
    standardised features. A picture whose class no other group has cannot be predicted: its row is NaN.
    """
    fold = stratified_group_folds(labels, groups, folds=folds, seed=seed)
    scaler = fit_scaler(features)
    probabilities = np.full((len(labels), classes), np.nan)
    for held_out in (fold == number for number in range(folds)):
        present = np.unique(labels[~held_out])
        rows = np.flatnonzero(held_out & np.isin(labels, present))
        if len(present) < 2 or not len(rows):
            continue
        # A held-out label that is not present gets some index: the row is not trained on.
        indices = np.minimum(np.searchsorted(present, labels), len(present) - 1)
        solver = make_solver(features, indices, len(present), train_mask=~held_out, scaler=scaler)
        weights, biases = solver.fit(DEFAULT_C / np.count_nonzero(~held_out))
        weights = weights / solver.scale
        logits = linear_logits(features, weights, biases - weights @ solver.mean, rows)
        probabilities[rows] = 0.0
        probabilities[np.ix_(rows, present)] = softmax(logits)
    return probabilities
