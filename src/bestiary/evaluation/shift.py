"""Distribution shift between a run's validation pictures and other pictures, reported before any accuracy.

The tests compare pictures of the same label only, so that a larger fraction of dogs does not count as a shift; the
change of the class proportions is reported apart. Duplicates count once. A test that finds nothing shows no likeness by
itself: where the pictures are too few for the tests to find a shift that matters, the verdict is "unclear".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import chi2_contingency, hypergeom, norm, rankdata

from bestiary.array_types import Array, Bools, Floats
from bestiary.evaluation.predictions import class_probabilities
from bestiary.text import format_percent

FOLDS, LEAST = 5, 20  # with fewer than LEAST pictures on either side there is no classifier
SIGNIFICANT = 0.01
FAR, SHIFTED = 0.85, 0.65  # AUROC of the classifier from which the verdict is so; 0.5 is no difference
# As much: the fraction answered is less than this times the fraction answered in validation, of the same labels.
FAR_ANSWERED, SHIFTED_ANSWERED = 0.75, 0.9
NEGLIGIBLE = 1e-30  # a chance below this changes no p value that is reported
POWER = 0.8  # "near" only where a shift that matters would have been detected with this probability


def distribution_shift(
    reference: pl.DataFrame, current: pl.DataFrame, classes: Sequence[str], *, threshold: float
) -> dict[str, Any]:
    """Return how the pictures `current` differ from the validation pictures `reference`, both prediction tables.

    Only pictures of the model's classes are compared. familiarity: the in-distribution score (1 - OOD score):
    `answered`, the fraction at or above `threshold`, also in validation and without duplicates; `answered_expected`,
    that of validation pictures in the class proportions of the current ones; `p_answered`, the exact test of the two;
    `auroc`, the probability that a validation picture has a higher score than a current one of the same label, with
    `p`. classifier: a two-sample test (Lopez-Paz and Oquab 2017), a linear classifier on log-probabilities and
    familiarity that separates the two sets, out of fold; None with too few pictures. classes: `total_variation` between
    the class proportions, 0..1, and `p`. power: `pictures` and `validation_pictures`, without duplicates;
    `detectable_auroc`, which would probably have been detected; `enough`: whether a shift that matters would have been.
    verdict: "near", "shifted", "far", or "unclear" with too few pictures; `sentence` describes it. Duplicates are those
    of equal `group`, if there is such a column.
    """
    current = current.filter(pl.col("label").is_in(list(classes)) & pl.col("predicted").is_not_null())
    if not current.height:
        return {"verdict": "far", "sentence": "None of these pictures has a class of the model."}
    if not reference.height:
        return {"verdict": "unclear", "sentence": "These pictures cannot be compared: the run has no validation split."}
    fractions = [float(np.mean(frame["familiarity"].to_numpy() >= threshold)) for frame in (current, reference)]
    counts = _classes(reference["label"], current["label"], classes)
    n_pictures, current, reference = current.height, _drop_duplicates(current), _drop_duplicates(reference)
    both = pl.concat([reference.select(current.columns), current])
    is_current = np.arange(both.height) >= reference.height
    labels, familiarity = both["label"].to_numpy(), both["familiarity"].to_numpy()
    auroc, p = within_class_auroc(-familiarity, is_current, labels)
    expected, p_answered = within_class_rates(familiarity >= threshold, is_current, labels)
    shift: dict[str, Any] = {
        "pictures": n_pictures,
        "familiarity": {
            "answered": fractions[0],
            "answered_in_validation": fractions[1],
            "answered_without_duplicates": float(np.mean(familiarity[is_current] >= threshold)),
            "answered_expected": expected,
            "p_answered": p_answered,
            "auroc": auroc,
            "p": p,
        },
        "classifier": _classifier(both, is_current, labels, classes),
        "classes": counts,
        "power": _power(is_current, labels, expected),
    }
    verdict = _verdict(shift)
    return {"verdict": verdict, "sentence": _sentence(shift, verdict), **shift}


shift = distribution_shift  # its name until November 2026


def within_class_auroc(score: Floats, is_current: Bools, labels: Array) -> tuple[float, float]:
    """Return the probability that a current picture scores above another one of the same label, and a p value.

    Pairs of different labels do not count. The p value is that of the rank sums within the labels, added up, with the
    normal approximation (van Elteren 1960), two-sided. Without any pair: 0.5 and 1.
    """
    wins = 0.0
    for label in np.unique(labels):
        own = labels == label
        n, m = int(is_current[own].sum()), int((~is_current[own]).sum())
        if n and m:
            wins += float(rankdata(score[own])[is_current[own]].sum()) - n * (n + 1) / 2
    pairs, variance = _pairs_and_variance(is_current, labels)
    if not pairs:
        return 0.5, 1.0
    return wins / pairs, float(2 * norm.sf(abs(wins - pairs / 2) / math.sqrt(variance)))


def within_class_rates(answered: Bools, is_current: Bools, labels: Array) -> tuple[float, float]:
    """Return the fraction answered in validation, in the class proportions of the current pictures, and a p value.

    The p value is that of Fisher's exact test within the labels, two-sided: given the totals of each label, the number
    of current pictures that are answered is a sum of hypergeometric numbers. Labels without validation pictures do not
    count; without any label: 1 and 1.
    """
    expected, n_current, n_answered, first, chances = 0.0, 0, 0, 0, np.ones(1)
    for label in np.unique(labels):
        own, current = labels == label, is_current & (labels == label)
        total, n = int(own.sum()), int(current.sum())
        if 0 < n < total:
            expected += n * float(answered[own & ~is_current].mean())
            n_current, n_answered = n_current + n, n_answered + int(answered[current].sum())
            start, own_chances = _chances_of_answered(total, int(answered[own].sum()), n)
            trimmed, chances = _trim(np.convolve(chances, own_chances))
            first += start + trimmed
    if not n_current:
        return 1.0, 1.0
    chance = chances[np.clip(n_answered - first, 0, len(chances) - 1)]
    p = float(chances[chances <= chance * (1 + 1e-7)].sum())
    return expected / n_current, min(1.0, p)


def _chances_of_answered(total: int, n_answered: int, n: int) -> tuple[int, Array]:
    """Return the least number that is not negligible, and the chances of it and the following numbers.

    They are those of answered pictures among `n` of `total`, of which `n_answered` are. By Hoeffding's inequality the
    others are negligible.
    """
    mean, width = n * n_answered / total, math.sqrt(n * math.log(1 / NEGLIGIBLE) / 2)
    numbers = np.arange(max(0, math.floor(mean - width)), min(n, math.ceil(mean + width)) + 1)
    trimmed, chances = _trim(hypergeom(total, n_answered, n).pmf(numbers))
    return int(numbers[trimmed]), chances


def _trim(chances: Array) -> tuple[int, Array]:
    """Return the position of the first chance that is not negligible, and the chances from it to the last such one.

    Of thousands of pictures nearly all chances are negligible, and the time of a convolution is quadratic.
    """
    positions = np.flatnonzero(chances > NEGLIGIBLE)
    return int(positions[0]), chances[positions[0] : positions[-1] + 1]


def _drop_duplicates(predictions: pl.DataFrame) -> pl.DataFrame:
    """Return the first picture of each label and group of duplicates; all without a column `group`."""
    if "group" not in predictions.columns:
        return predictions
    return predictions.unique(["label", "group"], keep="first", maintain_order=True).drop("group")


def _pairs_and_variance(is_current: Bools, labels: Array) -> tuple[float, float]:
    """Return the number of pairs of a current and another picture of one label, and the variance of the wins."""
    pairs = variance = 0.0
    for label in np.unique(labels):
        own = labels == label
        n, m = int(is_current[own].sum()), int((~is_current[own]).sum())
        pairs, variance = pairs + n * m, variance + n * m * (n + m + 1) / 12
    return pairs, variance


def _power(is_current: Bools, labels: Array, expected: float) -> dict[str, Any]:
    """Return which shift the tests would have detected with probability POWER, by the normal approximation."""
    pairs, variance = _pairs_and_variance(is_current, labels)
    z_error, z_power = float(norm.isf(SIGNIFICANT / 2)), float(norm.ppf(POWER))
    detectable = 0.5 + (z_error + z_power) * math.sqrt(variance) / pairs if pairs else 1.0
    both = np.isin(labels, np.intersect1d(labels[is_current], labels[~is_current]))
    n, m = int((is_current & both).sum()), int((~is_current & both).sum())
    is_fall_detectable = False
    if n and m:
        low = FAR_ANSWERED * expected
        pooled = (n * low + m * expected) / (n + m)
        same = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        apart = math.sqrt(low * (1 - low) / n + expected * (1 - expected) / m)
        is_fall_detectable = expected - low >= z_error * same + z_power * apart
    return {
        "pictures": int(is_current.sum()),
        "validation_pictures": int((~is_current).sum()),
        "detectable_auroc": min(1.0, detectable),
        "enough": detectable <= SHIFTED and is_fall_detectable,
    }


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
    is_fewer = min(familiarity["p"], familiarity["p_answered"]) < SIGNIFICANT
    answered, expected = familiarity["answered_without_duplicates"], familiarity["answered_expected"]
    is_separable = classifier["p"] < SIGNIFICANT
    if (is_fewer and answered < FAR_ANSWERED * expected) or (is_separable and classifier["auroc"] >= FAR):
        return "far"
    # Out of fold, a classifier of two equal sets tends to be below 0.5; only above it does it separate them.
    is_unlike = familiarity["p"] < SIGNIFICANT and abs(familiarity["auroc"] - 0.5) >= SHIFTED - 0.5
    if is_unlike or (is_separable and classifier["auroc"] >= SHIFTED):
        return "shifted"
    if familiarity["p_answered"] < SIGNIFICANT and answered < SHIFTED_ANSWERED * expected:
        return "shifted"
    return "near" if shift["power"]["enough"] else "unclear"


def _sentence(shift: Mapping[str, Any], verdict: str) -> str:
    familiarity, classifier, classes = shift["familiarity"], shift["classifier"], shift["classes"]
    power = shift["power"]
    opening = {
        "unclear": "These pictures are too few to tell whether there is a distribution shift"
        f" ({power['pictures']:,} here, {power['validation_pictures']:,} in validation, without duplicates)",
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
    if verdict == "near":
        sentence += f" An AUROC of {power['detectable_auroc']:.2f} or more would probably have been detected."
    if verdict == "unclear" and familiarity["p_answered"] < SIGNIFICANT:
        sentence += (
            f" The difference of the in-distribution fractions is significant (p = {familiarity['p_answered']:.2g})."
        )
    if classes["p"] < SIGNIFICANT and classes["total_variation"] > 0.1:
        moved = format_percent(classes["total_variation"])
        sentence += f" The class proportions differ: {moved} of the labels would have to change."
    return sentence
