"""Which labels are probably wrong: the probe, trained without a picture, says what it takes the picture for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
# Strength C of the head times the number of training pictures: the penalty keeps its weight against the mean loss.
# Stronger than the probe's own, which may trust its labels. Measured from 150 to 5,511 pictures: docs/log.md.
DEFAULT_C = 5.0
# A label is suspect where the probability of the given class is below SUSPECT and another class has at least CLEAR.
# On planted flips this rule found more at the same precision than each filter of cleanlab: docs/log.md.
SUSPECT, CLEAR = 0.1, 0.5
# A class the head hardly knows looks like a class of wrong labels: of right labels in classes of 3, 6, 10 and 20
# pictures it doubted 5 of 9, 3 of 18, 2 of 30 and 1 of 60. Smaller classes are passed over.
MIN_PICTURES = 10


@dataclass(frozen=True)
class LabelIssue:
    """A label in doubt: the picture's position, both labels, and the probability of the suggested one.

    score: cleanlab's self-confidence, the probability of the given label, in 0..1; 0 is worst.
    """

    position: int
    current_label: str
    suggested: str
    probability: float
    score: float


def model_issue_findings(pictures: pl.DataFrame, features: FeatureMatrix, *, seed: int) -> pl.DataFrame:
    """Return the findings (`table.FINDINGS`) "suspect-label" and "outlier", worst first.

    pictures: `row_id, path, label, group`, only those that can be read; features: (n, channels), in the same
    order. The same pictures, features and seed give the same findings.
    """
    classes = sorted(pictures["label"].unique())
    place = {name: position for position, name in enumerate(classes)}
    labels = np.array([place[label] for label in pictures["label"]], np.int64)
    groups = pictures["group"].to_numpy()
    probabilities = cross_val_probabilities(features, labels, groups, len(classes), seed=seed)
    suspected = detect_label_issues(probabilities, labels, classes)
    doubted = {one.position for one in suspected}
    strange = find_outliers(features, labels, groups, probabilities, seed=seed)
    rows = [
        *_label_rows(suspected),
        *(
            (
                "outlier",
                one.position,
                one.score,
                _describe_outlier(classes[labels[one.position]], one.probability),
                None,
            )
            for one in strange
            if one.position not in doubted
        ),
    ]
    return _findings_table(pictures, rows)


def detect_label_issues(probabilities: Floats, labels: Ints, classes: Sequence[str]) -> list[LabelIssue]:
    """Return the labels that are probably wrong, worst first.

    probabilities: float64 (n, classes), out of fold; a row of NaN cannot be judged and is passed over, as are classes
    of fewer than MIN_PICTURES. labels: int64 (n,). The score is cleanlab's (Northcutt et al. 2021).
    """
    from cleanlab.rank import get_label_quality_scores

    judged = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    if not len(judged):
        return []
    believed, given = probabilities[judged], labels[judged]
    scores = get_label_quality_scores(given, believed, method="self_confidence")
    suggested = believed.argmax(axis=1)
    known = np.bincount(given)[given] >= MIN_PICTURES
    doubtful = known & (scores < SUSPECT) & (believed.max(axis=1) >= CLEAR)
    worst_first = np.flatnonzero(doubtful)[np.argsort(scores[doubtful], kind="stable")]
    return [
        LabelIssue(
            int(judged[at]),
            classes[given[at]],
            classes[suggested[at]],
            float(believed[at, suggested[at]]),
            float(scores[at]),
        )
        for at in worst_first
    ]


def cross_val_probabilities(
    features: FeatureMatrix, labels: Ints, groups: Ints, classes: int, *, folds: int = FOLDS, seed: int
) -> Floats:
    """Return for each picture the probabilities by a head that saw neither it nor its duplicates: float64 (n, classes).

    features: (n, channels), not changed; labels, groups: int64 (n,). The head is the probe's:
    standardised features, logistic regression. A picture whose class no other group shows cannot be judged: its row is
    NaN.
    """
    fold = stratified_group_folds(labels, groups, folds=folds, seed=seed)
    standard = fit_scaler(features)
    probabilities = np.full((len(labels), classes), np.nan)
    for held in (fold == number for number in range(folds)):
        known = np.unique(labels[~held])
        judged = np.flatnonzero(held & np.isin(labels, known))
        if len(known) < 2 or not len(judged):
            continue
        place = np.searchsorted(known, labels)  # of a held one that is not known: it has no weight
        solving = make_solver(
            features, np.minimum(place, len(known) - 1), len(known), train_mask=~held, scaler=standard
        )
        weights, biases = solving.fit(DEFAULT_C / np.count_nonzero(~held))
        probabilities[judged] = 0.0
        scaled = weights / solving.scale
        said = linear_logits(features, scaled, biases - scaled @ solving.mean, judged)
        probabilities[np.ix_(judged, known)] = softmax(said)
    return probabilities


def _label_rows(issues: Sequence[LabelIssue]) -> Iterator[tuple[str, int, float, str, str]]:
    for one in issues:
        message = f"Labelled {one.current_label}; looks like {one.suggested} ({100 * one.probability:.0f} %)."
        yield "suspect-label", one.position, one.score, message, one.suggested


def _describe_outlier(label: str, probability: float) -> str:
    return f"Unlike the other pictures of {label}: taken for one with only {100 * probability:.0f} %."


def _findings_table(pictures: pl.DataFrame, rows: Sequence[tuple[str, int, float, str, str | None]]) -> pl.DataFrame:
    about = pictures.select("row_id", "path")[[position for _, position, *_ in rows]]
    columns: dict[str, Any] = {
        "check": [row[0] for row in rows],
        "row_id": about["row_id"],
        "path": about["path"],
        "score": [row[2] for row in rows],
        "is_issue": [True] * len(rows),
        "message": [row[3] for row in rows],
        "group": [None] * len(rows),
        "suggested_label": [row[4] for row in rows],
    }
    return pl.DataFrame(columns, schema=table.FINDINGS)
