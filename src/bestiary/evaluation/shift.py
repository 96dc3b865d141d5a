"""Distribution shift between a run's validation pictures and other pictures, reported before any accuracy.

Both tests compare pictures of the same label only, so that a larger fraction of dogs does not count as a shift; the
change of the class proportions is reported apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import chi2_contingency, norm, rankdata

from bestiary.array_types import Array, Bools, Floats
from bestiary.evaluation.predictions import class_probabilities
from bestiary.text import format_percent

FOLDS, LEAST = 5, 20  # with fewer than LEAST pictures on either side there is no classifier
SIGNIFICANT = 0.01
FAR, SHIFTED = 0.85, 0.65  # AUROC of the classifier from which the verdict is so; 0.5 is no difference
FAR_ANSWERED = 0.75  # far as well: the fraction answered is less than this times the fraction answered in validation


def distribution_shift(
    reference: pl.DataFrame, current: pl.DataFrame, classes: Sequence[str], *, threshold: float
) -> dict[str, Any]:
    """Return how the pictures `current` differ from the validation pictures `reference`, both prediction tables.

    Only pictures of the model's classes are compared. familiarity: the in-distribution score (1 - OOD score):
    `answered`, the fraction at or above `threshold`, also in validation, and `auroc`, the probability that a validation
    picture has a higher score than a current one of the same label, with `p`. classifier: a two-sample test (Lopez-Paz
    and Oquab 2017), a linear classifier on log-probabilities and familiarity that separates the two sets, out of fold;
    None with too few pictures. classes: `total_variation` between the class proportions, 0..1, and `p`. verdict:
    "near", "shifted", "far", or "unclear" with fewer than LEAST pictures; `sentence` describes it.
    """
    current = current.filter(pl.col("label").is_in(list(classes)) & pl.col("predicted").is_not_null())
    if not current.height:
        return {"verdict": "far", "sentence": "None of these pictures has a class of the model."}
    both = pl.concat([reference.select(current.columns), current])
    is_current = np.arange(both.height) >= reference.height
    labels, familiarity = both["label"].to_numpy(), both["familiarity"].to_numpy()
    auroc, p = within_class_auroc(-familiarity, is_current, labels)
    shift: dict[str, Any] = {
        "pictures": current.height,
        "familiarity": {
            "answered": float(np.mean(familiarity[is_current] >= threshold)),
            "answered_in_validation": float(np.mean(familiarity[~is_current] >= threshold)),
            "auroc": auroc,
            "p": p,
        },
        "classifier": _classifier(both, is_current, labels, classes),
        "classes": _classes(reference["label"], current["label"], classes),
    }
    verdict = _verdict(shift)
    return {"verdict": verdict, "sentence": _sentence(shift, verdict), **shift}


def within_class_auroc(score: Floats, is_current: Bools, labels: Array) -> tuple[float, float]:
    """Return the probability that a current picture scores above another one of the same label, and a p value.

    Pairs of different labels do not count. The p value is that of the rank sums within the labels, added up, with the
    normal approximation (van Elteren 1960), two-sided. Without any pair: 0.5 and 1.
    """
    wins = pairs = variance = 0.0
    for label in np.unique(labels):
        own = labels == label
        n, m = int(is_current[own].sum()), int((~is_current[own]).sum())
        if n and m:
            wins += float(rankdata(score[own])[is_current[own]].sum()) - n * (n + 1) / 2
            pairs, variance = pairs + n * m, variance + n * m * (n + m + 1) / 12
    if not pairs:
        return 0.5, 1.0
    return wins / pairs, float(2 * norm.sf(abs(wins - pairs / 2) / math.sqrt(variance)))


def _classifier(
    both: pl.DataFrame, is_current: Bools, labels: Array, classes: Sequence[str]
) -> dict[str, float] | None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(is_current.sum(), (~is_current).sum()) < LEAST:
        return None
    familiarity = np.clip(both["familiarity"].to_numpy(), 1e-9, 1 - 1e-9)
    logs = np.log(np.clip(class_probabilities(both, classes), 1e-9, 1))
    columns = np.column_stack([logs, np.log(familiarity / (1 - familiarity))])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced"))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    score = cross_val_predict(model, columns, is_current, cv=folds, method="decision_function")
    auroc, p = within_class_auroc(score, is_current, labels)
    return {"auroc": auroc, "p": p}


def _classes(reference: pl.Series, current: pl.Series, classes: Sequence[str]) -> dict[str, Any]:
    counts = np.array([[int((labels == name).sum()) for name in classes] for labels in (reference, current)])
    fractions = counts / counts.sum(axis=1, keepdims=True)
    present = counts.sum(axis=0) > 0
    p = float(chi2_contingency(counts[:, present]).pvalue) if present.sum() > 1 else 1.0
    return {
        "total_variation": float(np.abs(fractions[0] - fractions[1]).sum() / 2),
        "p": p,
        "shares": dict(zip(classes, fractions.T.tolist(), strict=True)),
    }


def _verdict(shift: Mapping[str, Any]) -> str:
    if shift["pictures"] < LEAST:
        return "unclear"
    familiarity, classifier = shift["familiarity"], shift["classifier"] or {"auroc": 0.5, "p": 1.0}
    fewer = familiarity["answered"] < FAR_ANSWERED * familiarity["answered_in_validation"]
    if (fewer and familiarity["p"] < SIGNIFICANT) or (classifier["auroc"] >= FAR and classifier["p"] < SIGNIFICANT):
        return "far"
    strongest = max((familiarity, classifier), key=lambda test: abs(test["auroc"] - 0.5))
    shifted = strongest["p"] < SIGNIFICANT and abs(strongest["auroc"] - 0.5) >= SHIFTED - 0.5
    return "shifted" if shifted else "near"


def _sentence(shift: Mapping[str, Any], verdict: str) -> str:
    familiarity, classifier, classes = shift["familiarity"], shift["classifier"], shift["classes"]
    opening = {
        "unclear": "These pictures are too few to detect a distribution shift",
        "near": "These pictures show no distribution shift",
        "shifted": "These pictures show a distribution shift",
        "far": "These pictures show a strong distribution shift",
    }[verdict]
    separation = "too few for a classifier to separate them from validation"
    if classifier is not None:
        separation = (
            f"a classifier separates them from validation with AUROC {classifier['auroc']:.2f} (0.5: not at all)"
        )
    sentence = (
        f"{opening}: {format_percent(familiarity['answered'])} are in-distribution (validation:"
        f" {format_percent(familiarity['answered_in_validation'])}); {separation}."
    )
    if classes["p"] < SIGNIFICANT and classes["total_variation"] > 0.1:
        moved = format_percent(classes["total_variation"])
        sentence += f" The class proportions differ: {moved} of the pictures would need another class."
    return sentence
