"""The verdict on a run: its accuracy, and facts about mistakes, classes and labels that the numbers carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bestiary.array_types import Ints
from bestiary.report.format import format_interval, format_metric
from bestiary.report.run_summary import RunSummary
from bestiary.stats import holm, wilson_interval
from bestiary.text import format_count

EXACT_BELOW = 100  # test pictures; "times in 100" claims more than fewer can show
MIN_CONFUSIONS = 3  # of two classes, both ways added up; fewer may be chance
MAX_TIED = 2  # pairs of classes that are named
SIGNIFICANT = 0.05
Mistakes = Mapping[tuple[str, str], int]  # how many by true and predicted class


@dataclass(frozen=True)
class Fact:
    """A fact about a run: what it is about, and a text that ends with a full stop."""

    name: str
    text: str

    def __str__(self) -> str:
        """Return the fact as a sentence."""
        return f"{self.name}: {self.text}"


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return the accuracy, the two classes that are confused most, and weak classes."""
    return _join_facts(describe_accuracy(metrics), *list_mistake_facts(metrics))


def run_verdict(summary: RunSummary) -> str:
    """Return the verdict on a run, with the number of wrong labels unless most suspect labels may be correct."""
    labels = [] if summary.is_doubtful or not summary.suspects else list_label_facts(summary)
    return _join_facts(describe_accuracy(summary.metrics), *_list_run_mistakes(summary), *labels)


def list_run_facts(summary: RunSummary) -> list[Fact]:
    """Return all facts about a run."""
    return [*_list_run_mistakes(summary), *list_site_facts(summary.metrics), *list_label_facts(summary)]


def describe_run_mistakes(summary: RunSummary) -> str:
    """Return the facts about the mistakes of a run as one text."""
    return _join_facts(*_list_run_mistakes(summary))


def list_mistake_facts(metrics: Mapping[str, Any], suspect_mistakes: Mistakes | None = None) -> list[Fact]:
    """Return the two classes that are confused most, and the classes whose recall or precision is significantly low.

    From the confusion matrix (rows: true), without the mistakes that have a suspect label. Classes are called confused
    if that occurs three times or more; a class is weak if Fisher's exact test against all other pictures is significant
    at 5 % after Holm's correction for the number of classes.
    """
    counts = np.asarray(metrics["confusion"]["counts"], np.int64)
    labels = metrics["confusion"]["labels"]
    wrong = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    if not wrong.any():
        return [Fact("Mistakes", f"none in {metrics['n']:,} test pictures.")]
    suspect = np.zeros_like(wrong)
    for (label, predicted), n in (suspect_mistakes or {}).items():
        suspect[labels.index(label), labels.index(predicted)] = n
    facts = [Fact("Most confused", _describe_confusions(labels, counts, wrong - suspect, bool(suspect.any())))]
    if n := int(suspect.sum()):
        have = "has a suspect label, where" if n == 1 else "have suspect labels, where"
        text = f"{wrong.sum():,} in {metrics['n']:,} test pictures; {n:,} of them {have} the model may be right."
        facts.insert(0, Fact("Mistakes", text))
    grouped = metrics["per_class"] if metrics.get("group_scores") else {}
    return [*facts, *_iter_weak_classes(labels, counts, grouped, metrics["accuracy"]["value"])]


def list_site_facts(metrics: Mapping[str, Any]) -> list[Fact]:
    """Return the accuracy on new and on known sites or groups; nothing for runs without them."""
    scores = metrics.get("group_scores") or {}
    if "ways" not in scores:
        return []
    new, *rest = [
        format_metric(way["accuracy"], 0) for name, way in reversed(scores["ways"].items()) if name != "random"
    ]
    compared = f"; {rest[0]} on new pictures of known sites" if rest else ""
    return [Fact(f"New {scores['by']}s", f"accuracy {new} on {scores['by']}s never seen{compared}.")]


def list_label_facts(summary: RunSummary) -> list[Fact]:
    """Return how many labels are expected to be wrong; nothing for older runs, which do not record the check."""
    issues, n = summary.label_issues, sum(summary.suspects.values())
    if issues is not None and issues.count > 1:
        return [Fact("Wrong labels", f"{issues.describe_expected()}.")]
    if issues is not None:
        return [Fact("Wrong labels", issues.describe())]
    if n:
        return [Fact("Wrong labels", f"{format_count(n, 'label')} {'is' if n == 1 else 'are'} suspect.")]
    if summary.label_check is None:
        return []
    if summary.label_check:
        return [Fact("Wrong labels", f"not checked, because {summary.label_check.rstrip('.')}.")]
    return [Fact("Wrong labels", "no label is suspect.")]


def _list_run_mistakes(summary: RunSummary) -> list[Fact]:
    """Return the facts about mistakes; those with a suspect label count where most suspect labels are correct."""
    return list_mistake_facts(summary.metrics, None if summary.is_doubtful else summary.suspect_mistakes)


def _join_facts(*parts: str | Fact) -> str:
    return " ".join(map(str, parts))


def classes_by_f1(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes that have test pictures, the lowest F1 first."""
    tested = {label: scores for label, scores in metrics["per_class"].items() if scores.get("support", 1)}
    return sorted(tested, key=lambda label: (tested[label]["f1"].get("value") or 0.0, label))


def _describe_confusions(labels: list[str], counts: Ints, wrong: Ints, is_partial: bool) -> str:
    """Return the two classes that are confused most, how often each way and of how many pictures; ties by rate.

    wrong: the mistakes that count, by true and predicted class; is_partial: those with suspect labels do not.
    """
    both, totals = np.triu(wrong + wrong.T, k=1), counts.sum(axis=1)
    most, apart = int(both.max()), " (mistakes with suspect labels are not counted)" if is_partial else ""
    if most < MIN_CONFUSIONS:
        times = "once" if most == 1 else "twice"
        return f"none; no two classes are confused more than {times}{apart}." if most else f"none{apart}."
    tied = sorted(np.argwhere(both == most).tolist(), key=lambda pair: (totals[pair[0]] + totals[pair[1]], pair))
    named = [_describe_pair(labels, totals, wrong, *pair) for pair in tied[:MAX_TIED]]
    more = [f"{format_count(len(tied) - MAX_TIED, 'more pair')} as often"] if len(tied) > MAX_TIED else []
    return f"{'; equally often '.join(named)}{''.join(f'; {text}' for text in more)}{apart}."


def _describe_pair(labels: list[str], totals: Ints, wrong: Ints, a: int, b: int) -> str:
    """Return `cat and dog, 7 times (cat predicted as dog 4 of 90 times, dog predicted as cat 3 of 262 times)`."""
    if wrong[b, a] > wrong[a, b]:
        a, b = b, a
    ways = [f"{labels[a]} predicted as {labels[b]} {wrong[a, b]:,} of {totals[a]:,} times"]
    if wrong[b, a]:
        ways.append(f"{labels[b]} predicted as {labels[a]} {wrong[b, a]:,} of {totals[b]:,} times")
    return f"{labels[a]} and {labels[b]}, {wrong[a, b] + wrong[b, a]:,} times ({', '.join(ways)})"


def _iter_weak_classes(labels: list[str], counts: Ints, grouped: Mapping[str, Any], accuracy: float) -> Iterator[Fact]:
    """Yield the class with the lowest recall, and that with the lowest precision, if they are significantly low.

    grouped: the scores by class where pictures belong to groups or sites: Fisher's test takes pictures as independent,
    so that a class is only named if its interval over groups lies below the accuracy.
    """
    correct = counts.diagonal()
    for measure, axis, noun in (
        ("recall", 1, "pictures of {} are predicted as {}"),
        ("precision", 0, "predictions of {} are right"),
    ):
        totals = np.where(counts.sum(axis=1) > 0, counts.sum(axis=axis), 0)  # classes without pictures have no score
        weak = _significantly_low(correct, totals)
        if len(weak):
            at = int(weak[np.argmin(correct[weak] / totals[weak])])
            low, high = wilson_interval(correct[at : at + 1] / totals[at], totals[at : at + 1])
            metric = {"low": float(low[0]), "high": float(high[0])}
            if grouped:
                metric = grouped[labels[at]][measure]
                if metric["high"] >= accuracy:
                    continue
            interval = format_interval(metric, 0)
            words = noun.format(labels[at], labels[at])
            text = f"{correct[at]:,} of {totals[at]:,} {words} (95\u00a0% interval {interval}\u00a0%)."
            yield Fact(f"Lowest {measure}", text)


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


def describe_accuracy(metrics: Mapping[str, Any]) -> str:
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
