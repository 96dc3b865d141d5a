"""Label errors, found with out-of-fold predictions of a linear probe (confident learning), and outliers."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Array, Floats, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler, iter_chunks
from bestiary.data.split import stratified_group_folds
from bestiary.evaluation.borderline import LOG_ODDS_ERROR, describe_margin, is_within, log_odds, rule_margins
from bestiary.evaluation.label_noise import WrongLabels, estimate_wrong_labels, fit_label_noise
from bestiary.evaluation.outliers import find_outliers
from bestiary.label_issue_summary import MIN_PRECISION, LabelIssueSummary
from bestiary.models.engine import Precision
from bestiary.models.logistic_regression import linear_logits, make_solver, shared_axes
from bestiary.progress import Advance, ignore_steps
from bestiary.quick_metrics import softmax
from bestiary.result_cache import compute_once, digest_parts

FOLDS = 5
# Inverse regularisation strength C of the head times the number of training pictures: the penalty keeps its weight
# against the mean loss. It is stronger than that of the probe itself, because labels are in doubt here. Measured from
# 150 to 5,511 pictures: docs/log.md.
DEFAULT_C = 5.0
# A label is suspect if the given class has a probability below SUSPECT and another class one of at least CLEAR.
# On planted flips this rule found more at the same precision than each filter of cleanlab: docs/log.md.
SUSPECT, CLEAR = 0.1, 0.5
# Of a weak model, the rule names mostly correct labels. The most doubtful ones are kept while at least MIN_PRECISION of
# them are expected to be wrong; a few, this fraction of the pictures, are listed in any case, as doubtful.
DOUBTFUL_FRACTION = 0.005
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


@dataclass(frozen=True)
class ModelIssues:
    """Findings (`table.FINDINGS`) "suspect-label" and "outlier", worst first; labels: None without a suspect label."""

    findings: pl.DataFrame
    labels: LabelIssueSummary | None


def find_model_issues(
    pictures: pl.DataFrame,
    features: FeatureMatrix,
    *,
    seed: int,
    precision: Precision = "float32",
    advance: Advance = ignore_steps,
    cache: Path | None = None,
) -> ModelIssues:
    """Return the findings that need a model: suspect labels and outliers.

    pictures: `row_id, path, label, group`, only readable ones; features: (n, channels), in the same order, computed in
    `precision`. The same pictures, features and seed give the same findings. In bfloat16, findings that float32 may not
    have are marked as borderline, and those that only float32 may have are listed, but are no issue. cache: a folder in
    which out-of-fold probabilities are remembered.
    """
    classes = sorted(pictures["label"].unique())
    labels, groups = table.label_indices(pictures["label"], classes), pictures["group"].to_numpy()
    versions = [importlib.metadata.version(package) for package in ("scikit-learn", "scipy")]  # scipy's optimiser
    settings = f"{seed} {FOLDS} {DEFAULT_C} {versions}"
    parts: Iterable[str | Array] = itertools.chain((settings, labels, groups), iter_chunks(features))

    def predict() -> Floats:
        return cross_val_probabilities(features, labels, groups, len(classes), seed=seed, advance=advance)

    folder = None if cache is None else cache / "label-check"
    probabilities: Floats = compute_once(folder, digest_parts(parts), predict, width=len(classes))
    reach = 1.0 if precision == "bfloat16" else 0.0
    issues, summary = detect_label_issues(probabilities, labels, classes, reach=reach)
    suspect = {issue.position for issue in issues if issue.margin >= 0}
    verb, word = ("may be", "doubtful") if summary is not None and summary.is_doubtful else ("looks like", "suspect")
    about = pictures.select("row_id", "path").rows()
    rows: list[tuple[Any, ...]] = []
    for issue in issues:
        message = f"Labelled {issue.current_label}; {verb} {issue.suggested} ({100 * issue.probability:.0f} %)."
        message += describe_margin(issue.margin, word) if reach else ""
        is_issue, suggested = issue.margin >= 0, issue.suggested
        rows.append(("suspect-label", *about[issue.position], issue.score, is_issue, message, None, suggested))
    for outlier in find_outliers(features, labels, groups, probabilities, seed=seed, reach=reach):
        if outlier.position not in suspect:
            label, percent = classes[labels[outlier.position]], f"{100 * outlier.probability:.0f} %"
            message = f"Unlike the other pictures of {label}: the probability of {label} is only {percent}."
            message += describe_margin(outlier.margin, "an outlier") if reach else ""
            rows.append(("outlier", *about[outlier.position], outlier.score, outlier.margin >= 0, message, None, None))
    return ModelIssues(pl.DataFrame(rows, schema=table.FINDINGS, orient="row"), summary)


def detect_label_issues(
    probabilities: Floats, labels: Ints, classes: Sequence[str], *, reach: float = 0.0
) -> tuple[list[LabelIssue], LabelIssueSummary | None]:
    """Return the labels that are probably wrong, worst first, and how many of them are expected to be.

    probabilities: float64 (n, classes), out of fold; rows of NaN and classes of fewer than MIN_PICTURES are skipped.
    labels: int64 (n,). The score is cleanlab's (Northcutt et al. 2021). Of a model that errs often, only the most
    doubtful are returned, so that half of them are expected to be wrong (MIN_PRECISION), but at least
    DOUBTFUL_FRACTION of all. reach: labels less than so many errors of bfloat16 features outside the rule are returned
    as well.
    """
    from cleanlab.rank import get_label_quality_scores

    scored = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    if not len(scored):
        return [], None
    probabilities, labels = probabilities[scored], labels[scored]
    scores = get_label_quality_scores(labels, probabilities, method="self_confidence")
    suggested, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    is_judged = (np.bincount(labels)[labels] >= MIN_PICTURES) & (suggested != labels)
    distances = [
        (log_odds(SUSPECT) - log_odds(scores)) / LOG_ODDS_ERROR,
        (log_odds(confidence) - log_odds(CLEAR)) / LOG_ODDS_ERROR,
    ]
    named = (scores < SUSPECT) & (confidence >= CLEAR)
    near = np.flatnonzero(is_judged & is_within(rule_margins(named, *distances), reach))
    if not len(near):
        return [], None
    named = named[near]
    wrong = estimate_wrong_labels(fit_label_noise(probabilities, labels), probabilities[near], labels[near])
    limit = _lowest_probability(wrong.probability[named], len(labels))
    margins = rule_margins(
        named & (wrong.probability >= limit),
        *(distance[near] for distance in distances),
        (log_odds(wrong.probability) - log_odds(limit)) / LOG_ODDS_ERROR,
    )
    rows = np.flatnonzero(is_within(margins, reach))
    rows = rows[np.argsort(scores[near[rows]], kind="stable")]
    issues = [
        LabelIssue(
            int(scored[near[row]]),
            classes[labels[near[row]]],
            classes[suggested[near[row]]],
            float(confidence[near[row]]),
            float(scores[near[row]]),
            float(margins[row]),
        )
        for row in rows
    ]
    accuracy = float((suggested == labels).mean())
    return issues, _summarise(replace(wrong, by_noise=wrong.by_noise[:, margins >= 0]), accuracy)


def _lowest_probability(wrong: Floats, n_pictures: int) -> float:
    """Return the probability of being wrong from which on labels are named.

    wrong: (n,), of the labels that the rule names. The most doubtful ones are taken while half of them are expected to
    be wrong, at least DOUBTFUL_FRACTION of the pictures. 0 if that is all of them.
    """
    descending = np.sort(wrong)[::-1]
    means = np.cumsum(descending) / np.arange(1, len(descending) + 1)
    count = max(int((means >= MIN_PRECISION).sum()), math.ceil(DOUBTFUL_FRACTION * n_pictures))
    return float(descending[count - 1]) if count < len(descending) else 0.0


def _summarise(wrong: WrongLabels, accuracy: float) -> LabelIssueSummary | None:
    count = wrong.by_noise.shape[1]
    if not count:
        return None
    low, high = wrong.precision_interval()
    return LabelIssueSummary(count, accuracy, float(wrong.probability.mean()), low, high)


def cross_val_probabilities(
    features: FeatureMatrix,
    labels: Ints,
    groups: Ints,
    classes: int,
    *,
    folds: int = FOLDS,
    seed: int,
    advance: Advance = ignore_steps,
) -> Floats:
    """Return out-of-fold probabilities, float64 (n, classes): no head is trained on a picture or its duplicates.

    features: (n, channels), not changed; labels, groups: int64 (n,). The head is the probe's: logistic regression on
    standardised features. A picture whose class no other group has cannot be predicted: its row is NaN. advance: takes
    the number of pictures of each fold.
    """
    fold = stratified_group_folds(labels, groups, folds=folds, seed=seed)
    scaler = fit_scaler(features)
    axes = shared_axes(features, scaler)
    probabilities = np.full((len(labels), classes), np.nan)
    for held_out in (fold == number for number in range(folds)):
        present = np.unique(labels[~held_out])
        rows = np.flatnonzero(held_out & np.isin(labels, present))
        if len(present) >= 2 and len(rows):
            # A held-out label that is not present gets some index: the row is not trained on.
            indices = np.minimum(np.searchsorted(present, labels), len(present) - 1)
            solver = make_solver(features, indices, len(present), train_mask=~held_out, scaler=scaler, axes=axes)
            weights, biases = solver.fit(DEFAULT_C / np.count_nonzero(~held_out))
            weights = weights / solver.scale
            logits = linear_logits(features, weights, biases - weights @ solver.mean, rows)
            probabilities[rows] = 0.0
            probabilities[np.ix_(rows, present)] = softmax(logits)
        advance(int(np.count_nonzero(held_out)))
    return probabilities
