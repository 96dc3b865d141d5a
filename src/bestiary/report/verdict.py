"""What a report says in words: the verdict, what each audit check looks for, figures as text.

Every sentence is derived from numbers of the run; none is said without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bestiary.report.format import format_interval


def verdict(metrics: Mapping[str, Any], n_label_issues: int = 0) -> str:
    """Return the whole run in two or three short sentences: how often it is right, where it is weakest, wrong labels.

    mislabelled: how many training labels look wrong.
    """
    said = f"Right {_format_times_in_100(metrics['accuracy'])}. {describe_weakest_class(metrics)}"
    if not n_label_issues:
        return said
    return f"{said} {n_label_issues:,} training label{' looks' if n_label_issues == 1 else 's look'} wrong."


def describe_weakest_class(metrics: Mapping[str, Any]) -> str:
    """Return which class is weakest (lowest F1) and what it is taken for, from the confusion matrix (rows: true)."""
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    wrong = sum(map(sum, counts)) - sum(counts[i][i] for i in range(len(labels)))
    if not wrong:
        return f"No mistake among the {metrics['n']:,} test pictures."
    weakest = classes_by_f1(metrics)[0]
    at = labels.index(weakest)
    row = [0 if i == at else count for i, count in enumerate(counts[at])]
    if sum(row):
        word = "once" if sum(row) == 1 else "mostly" if 2 * max(row) >= sum(row) else "most often"
        return f"Weakest: {weakest}, {word} taken for {labels[row.index(max(row))]}."
    column = [0 if i == at else counts[i][at] for i in range(len(labels))]
    given = labels[column.index(max(column))]
    others = "one other" if sum(column) == 1 else f"{sum(column)} others, most often"
    return f"Weakest: {weakest}, always found, but also said of {others}{':' if sum(column) == 1 else ''} {given}."


def classes_by_f1(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes that have test pictures, the lowest F1 first."""
    judged = {label: scores for label, scores in metrics["per_class"].items() if scores.get("support", 1)}
    return sorted(judged, key=lambda label: (judged[label]["f1"].get("value") or 0.0, label))


def _format_times_in_100(metric: Mapping[str, Any]) -> str:
    """Return `97 times in 100 (95 % interval 96 to 98)`; never rounded up to a perfection that is not there."""
    value, digits = metric["value"], 0
    while digits < 3 and round(100 * value, digits) in (0, 100) and value not in (0, 1):
        digits += 1
    interval = format_interval(metric, digits)
    aside = f" (95\u00a0% interval {interval})" if interval else ""
    return f"{100 * value:.{digits}f} times in 100{aside}"
