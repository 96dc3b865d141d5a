"""How far pictures are from those that a model was made with: said before anything is said of its accuracy.

Both tests compare pictures of the same label with each other, so that more dogs are not taken for stranger dogs; how
the classes' shares differ is told apart from that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import chi2_contingency, norm, rankdata

from bestiary.array_types import Array, Bools, Floats
from bestiary.text import format_percent

FOLDS, LEAST = 5, 20  # fewer pictures than LEAST on either side are not given to a classifier
SIGNIFICANT = 0.01
FAR, SHIFTED = 0.85, 0.65  # AUROC of the classifier from which pictures are called so; 0.5 is no difference
FAR_ANSWERED = 0.75  # far as well: of what is answered in validation, less than this share is answered here


def distribution_shift(
    reference: pl.DataFrame, current: pl.DataFrame, classes: Sequence[str], *, threshold: float
) -> dict[str, Any]:
    """Return how the pictures `current` differ from the validation pictures `reference`, both prediction tables.

    Only labels that the model knows are compared. familiarity: `answered` here and in validation, and `auroc`, the
    chance that a validation picture is more familiar than one of the same label from here, with `p`. classifier: a
    two-sample test (Lopez-Paz and Oquab 2017), a linear classifier on log-probabilities and familiarity that is to tell
    the two apart, out of fold; None with too few pictures. classes: `total_variation` between the shares of the
    labels, 0..1, and `p`. verdict: "near", "shifted", "far", or "unclear" of fewer than LEAST pictures;
    `sentence` says it in words.
    """
    current = current.filter(pl.col("label").is_in(list(classes)) & pl.col("predicted").is_not_null())
    if not current.height:
        return {"verdict": "far", "sentence": "No picture here shows a class that the model knows."}
    both = pl.concat([reference.select(current.columns), current])
    is_here = np.arange(both.height) >= reference.height
    labels = both["label"].to_numpy()
    familiarity = both["familiarity"].to_numpy()
    auroc, p = within_class_auroc(-familiarity, is_here, labels)
    found: dict[str, Any] = {
        "pictures": current.height,
        "familiarity": {
            "answered": float(np.mean(familiarity[is_here] >= threshold)),
            "answered_in_validation": float(np.mean(familiarity[~is_here] >= threshold)),
            "auroc": auroc,
            "p": p,
        },
        "classifier": _classifier(both, is_here, labels, classes),
        "classes": _classes(reference["label"], current["label"], classes),
    }
    word = _verdict(found)
    return {"verdict": word, "sentence": _sentence(found, word), **found}


def within_class_auroc(score: Floats, is_current: Bools, labels: Array) -> tuple[float, float]:
    """Return the chance that a picture from here scores above one of the same label from elsewhere, and a p value.

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
    shares = both.select([f"p_{name}" for name in classes]).to_numpy()
    known = np.clip(both["familiarity"].to_numpy(), 1e-9, 1 - 1e-9)
    columns = np.column_stack([np.log(np.clip(shares, 1e-9, 1)), np.log(known / (1 - known))])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced"))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    score = cross_val_predict(model, columns, is_current, cv=folds, method="decision_function")
    auroc, p = within_class_auroc(score, is_current, labels)
    return {"auroc": auroc, "p": p}


def _classes(reference: pl.Series, current: pl.Series, classes: Sequence[str]) -> dict[str, Any]:
    counts = np.array([[int((part == name).sum()) for name in classes] for part in (reference, current)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    present = counts.sum(axis=0) > 0
    p = float(chi2_contingency(counts[:, present]).pvalue) if present.sum() > 1 else 1.0
    return {
        "total_variation": float(np.abs(shares[0] - shares[1]).sum() / 2),
        "p": p,
        "shares": {name: [float(shares[0, at]), float(shares[1, at])] for at, name in enumerate(classes)},
    }


def _verdict(result: Mapping[str, Any]) -> str:
    if result["pictures"] < LEAST:
        return "unclear"
    familiarity, classifier = result["familiarity"], result["classifier"] or {"auroc": 0.5, "p": 1.0}
    fewer = familiarity["answered"] < FAR_ANSWERED * familiarity["answered_in_validation"]
    if (fewer and familiarity["p"] < SIGNIFICANT) or (classifier["auroc"] >= FAR and classifier["p"] < SIGNIFICANT):
        return "far"
    strongest = max((familiarity, classifier), key=lambda test: abs(test["auroc"] - 0.5))
    shifted = strongest["p"] < SIGNIFICANT and abs(strongest["auroc"] - 0.5) >= SHIFTED - 0.5
    return "shifted" if shifted else "near"


def _sentence(result: Mapping[str, Any], word: str) -> str:
    familiarity, classifier, classes = result["familiarity"], result["classifier"], result["classes"]
    opening = {
        "unclear": "These pictures are too few to tell whether they are like the ones that the model was made with",
        "near": "These pictures look like the ones that the model was made with",
        "shifted": "These pictures differ from the ones that the model was made with",
        "far": "These pictures are far from the ones that the model was made with",
    }[word]
    told = "too few for a classifier to tell them apart" if classifier is None else _describe_auroc(classifier["auroc"])
    mix = ""
    if classes["p"] < SIGNIFICANT and classes["total_variation"] > 0.1:
        moved = format_percent(classes["total_variation"])
        mix = f" The shares of the classes differ: {moved} of the pictures would have to change."
    return (
        f"{opening}: {format_percent(familiarity['answered'])} of them are familiar enough for an answer, in validation"
        f" {format_percent(familiarity['answered_in_validation'])}; {told}.{mix}"
    )


def _describe_auroc(auroc: float) -> str:
    return f"a classifier tells the two apart with AUROC {auroc:.2f} (0.5: not at all, 1: always)"
