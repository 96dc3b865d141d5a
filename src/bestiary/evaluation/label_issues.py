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
from bestiary.evaluation.borderline import LOG_ODDS_ERROR, describe_margin, is_within, log_odds, rule_margins
from bestiary.evaluation.outliers import find_outliers
from bestiary.models.engine import Precision
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

    score: cleanlab's self-confidence, the probability of the current label, in 0..1; 0 is worst. margin: how far inside
    the rule, in errors of bfloat16 features; below 0 the rule does not name it.
    """

    position: int
    current_label: str
    suggested: str
    probability: float
    score: float
    margin: float


def model_issue_findings(
    pictures: pl.DataFrame, features: FeatureMatrix, *, seed: int, precision: Precision = "float32"
) -> pl.DataFrame:
    """Return the findings (`table.FINDINGS`) "suspect-label" and "outlier", worst first.

    pictures: `row_id, path, label, group`, only readable ones; features: (n, channels), in the same order, computed in
    `precision`. The same pictures, features and seed give the same findings. In bfloat16, findings that float32 may not
    have are marked as borderline, and those that only float32 may have are listed, but are no issue.
    """
    classes = sorted(pictures["label"].unique())
    labels, groups = table.label_indices(pictures["label"], classes), pictures["group"].to_numpy()
    probabilities = cross_val_probabilities(features, labels, groups, len(classes), seed=seed)
    reach = 1.0 if precision == "bfloat16" else 0.0
    issues = detect_label_issues(probabilities, labels, classes, reach=reach)
    suspect = {issue.position for issue in issues if issue.margin >= 0}
    about = pictures.select("row_id", "path").rows()
    rows: list[tuple[Any, ...]] = []
    for issue in issues:
        message = f"Labelled {issue.current_label}; looks like {issue.suggested} ({100 * issue.probability:.0f} %)."
        message += describe_margin(issue.margin, "suspect") if reach else ""
        is_issue, suggested = issue.margin >= 0, issue.suggested
        rows.append(("suspect-label", *about[issue.position], issue.score, is_issue, message, None, suggested))
    for outlier in find_outliers(features, labels, groups, probabilities, seed=seed, reach=reach):
        if outlier.position not in suspect:
            label, percent = classes[labels[outlier.position]], f"{100 * outlier.probability:.0f} %"
            message = f"Unlike the other pictures of {label}: the probability of {label} is only {percent}."
            message += describe_margin(outlier.margin, "an outlier") if reach else ""
            rows.append(("outlier", *about[outlier.position], outlier.score, outlier.margin >= 0, message, None, None))
    return pl.DataFrame(rows, schema=table.FINDINGS, orient="row")


def detect_label_issues(
    probabilities: Floats, labels: Ints, classes: Sequence[str], *, reach: float = 0.0
) -> list[LabelIssue]:
    """Return the labels that are probably wrong, worst first.

    probabilities: float64 (n, classes), out of fold; rows of NaN and classes of fewer than MIN_PICTURES are skipped.
    labels: int64 (n,). The score is cleanlab's (Northcutt et al. 2021). reach: labels that are less than so many errors
    of bfloat16 features outside the rule are returned as well.
    """
    from cleanlab.rank import get_label_quality_scores

    scored = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    if not len(scored):
        return []
    probabilities, labels = probabilities[scored], labels[scored]
    scores = get_label_quality_scores(labels, probabilities, method="self_confidence")
    suggested, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    margins = rule_margins(
        (scores < SUSPECT) & (confidence >= CLEAR),
        (log_odds(SUSPECT) - log_odds(scores)) / LOG_ODDS_ERROR,
        (log_odds(confidence) - log_odds(CLEAR)) / LOG_ODDS_ERROR,
    )
    suspect = (np.bincount(labels)[labels] >= MIN_PICTURES) & (suggested != labels) & is_within(margins, reach)
    worst_first = np.flatnonzero(suspect)[np.argsort(scores[suspect], kind="stable")]
    return [
        LabelIssue(
            int(scored[row]),
            classes[labels[row]],
            classes[suggested[row]],
            float(confidence[row]),
            float(scores[row]),
            float(margins[row]),
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
