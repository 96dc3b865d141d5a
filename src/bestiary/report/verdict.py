"""The verdict on a run in two or three sentences, each derived from numbers of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bestiary.report.format import format_interval


def verdict(metrics: Mapping[str, Any], n_label_issues: int = 0) -> str:
    """Return the accuracy, the weakest class, and how many training labels look wrong."""
    sentences = f"Right {_format_times_in_100(metrics['accuracy'])}. {describe_weakest_class(metrics)}"
    if not n_label_issues:
        return sentences
    return f"{sentences} {n_label_issues:,} training label{' looks' if n_label_issues == 1 else 's look'} wrong."


def describe_weakest_class(metrics: Mapping[str, Any]) -> str:
    """Return the class with the lowest F1 and what it is confused with, from the confusion matrix (rows: true)."""
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    if all(count == 0 for i, row in enumerate(counts) for j, count in enumerate(row) if i != j):
        return f"No mistake among the {metrics['n']:,} test pictures."
    weakest = classes_by_f1(metrics)[0]
    at = labels.index(weakest)
    row = [0 if i == at else count for i, count in enumerate(counts[at])]
    if missed := sum(row):
        often = "once" if missed == 1 else "mostly" if 2 * max(row) >= missed else "most often"
        return f"Weakest: {weakest}, {often} taken for {labels[row.index(max(row))]}."
    column = [0 if i == at else counts[i][at] for i in range(len(labels))]
    source = labels[column.index(max(column))]
    others = f"1 {source}" if sum(column) == 1 else f"{sum(column)} others, most often {source}"
    return f"Weakest: {weakest}. Its recall is 100\u00a0%, but it was also predicted for {others}."


def classes_by_f1(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes that have test pictures, the lowest F1 first."""
    tested = {label: scores for label, scores in metrics["per_class"].items() if scores.get("support", 1)}
    return sorted(tested, key=lambda label: (tested[label]["f1"].get("value") or 0.0, label))


def _format_times_in_100(metric: Mapping[str, Any]) -> str:
    """Return `97 times in 100 (95 % interval 96 to 98)`; with as many digits as keep it from rounding to 0 or 100."""
    value, digits = metric["value"], 0
    while digits < 3 and round(100 * value, digits) in (0, 100) and value not in (0, 1):
        digits += 1
    interval = format_interval(metric, digits)
    aside = f" (95\u00a0% interval {interval})" if interval else ""
    return f"{100 * value:.{digits}f} times in 100{aside}"
