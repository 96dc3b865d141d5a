"""The verdict on a run in two or three sentences, each derived from numbers of the run that its interval carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bestiary.array_types import Ints
from bestiary.report.format import format_interval
from bestiary.stats import holm, wilson_interval

EXACT_BELOW = 100  # test pictures; "times in 100" claims more than fewer can show
MIN_CONFUSIONS = 3  # of one class as another; fewer may be chance
SIGNIFICANT = 0.05


def verdict(metrics: Mapping[str, Any], n_label_issues: int = 0) -> str:
    """Return the accuracy, the most common confusion, weak classes, and how many training labels look wrong."""
    sentences = f"{_describe_accuracy(metrics)} {describe_mistakes(metrics)}"
    if not n_label_issues:
        return sentences
    return f"{sentences} {n_label_issues:,} training label{' looks' if n_label_issues == 1 else 's look'} wrong."


def describe_mistakes(metrics: Mapping[str, Any]) -> str:
    """Return the most common confusion, and the classes whose recall or precision is significantly low.

    From the confusion matrix (rows: true). A confusion is named if it occurs three times or more; a class if Fisher's
    exact test against all other pictures is significant at 5 % after Holm's correction for the number of classes.
    """
    counts = np.asarray(metrics["confusion"]["counts"], np.int64)
    labels = metrics["confusion"]["labels"]
    wrong = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    if not wrong.any():
        return f"No mistake among the {metrics['n']:,} test pictures."
    return " ".join([_describe_confusions(labels, counts, wrong), *_iter_weak_classes(labels, counts)])


def classes_by_f1(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes that have test pictures, the lowest F1 first."""
    tested = {label: scores for label, scores in metrics["per_class"].items() if scores.get("support", 1)}
    return sorted(tested, key=lambda label: (tested[label]["f1"].get("value") or 0.0, label))


def _describe_confusions(labels: list[str], counts: Ints, wrong: Ints) -> str:
    """Return the most common confusion, how often it occurs and of how many pictures; two if they are tied."""
    most = int(wrong.max())
    if most < MIN_CONFUSIONS:
        return f"No class was taken for the same other one more than {'once' if most == 1 else 'twice'}."
    tied = [(int(i), int(j)) for i, j in np.argwhere(wrong == most)]
    named = [f"{labels[i]} predicted as {labels[j]} ({most:,} of {counts[i].sum():,})" for i, j in tied[:2]]
    more = f", and {len(tied) - 2} more as often" if len(tied) > 2 else ""
    return f"Most common confusion{'s' * (len(tied) > 1)}: {', '.join(named)}{more}."


def _iter_weak_classes(labels: list[str], counts: Ints) -> Iterator[str]:
    """Yield the class with the lowest recall, and that with the lowest precision, if they are significantly low."""
    correct = counts.diagonal()
    for measure, axis, noun in (("recall", 1, "pictures"), ("precision", 0, "predictions")):
        totals = np.where(counts.sum(axis=1) > 0, counts.sum(axis=axis), 0)  # classes without pictures have no score
        weak = _significantly_low(correct, totals)
        if len(weak):
            at = int(weak[np.argmin(correct[weak] / totals[weak])])
            low, high = wilson_interval(correct[at : at + 1] / totals[at], totals[at : at + 1])
            interval = format_interval({"low": float(low[0]), "high": float(high[0])}, 0)
            yield (
                f"Lowest {measure}: {labels[at]}, {correct[at]:,} of {totals[at]:,} {noun} right"
                f" (95\u00a0% interval {interval}\u00a0%)."
            )


def _significantly_low(correct: Ints, totals: Ints) -> Ints:
    """Return the indices of the classes whose fraction of correct ones is lower than that of all others."""
    from scipy.stats import fisher_exact

    tested = np.flatnonzero(totals > 0)
    if len(tested) < 2:
        return tested[:0]
    wrong = totals - correct
    tables = ([[correct[at], wrong[at]], [correct.sum() - correct[at], wrong.sum() - wrong[at]]] for at in tested)
    p_values = holm([float(fisher_exact(np.array(table), alternative="less").pvalue) for table in tables])
    return tested[np.array(p_values) < SIGNIFICANT]


def _describe_accuracy(metrics: Mapping[str, Any]) -> str:
    """Return "Right 97 times in 100" with its interval, of few test pictures "Right for 9 of 9 test pictures"."""
    n, accuracy = metrics["n"], metrics["accuracy"]
    if n >= EXACT_BELOW:
        return f"Right {_format_times_in_100(accuracy)}."
    interval = format_interval(accuracy, 0)
    aside = f" (95\u00a0% interval {interval}\u00a0%)" if interval else ""
    return f"Right for {round(accuracy['value'] * n):,} of {n:,} test pictures{aside}."


def _format_times_in_100(metric: Mapping[str, Any]) -> str:
    """Return `97 times in 100 (95 % interval 96 to 98)`; with as many digits as keep it from rounding to 0 or 100."""
    value, digits = metric["value"], 0
    while digits < 3 and round(100 * value, digits) in (0, 100) and value not in (0, 1):
        digits += 1
    interval = format_interval(metric, digits)
    aside = f" (95\u00a0% interval {interval})" if interval else ""
    return f"{100 * value:.{digits}f} times in 100{aside}"
