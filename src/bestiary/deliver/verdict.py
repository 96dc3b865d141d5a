"""What a report says in words: the verdict, what to do next, what each audit check looks for.

Every sentence is derived from numbers of the run; none is said without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bestiary.deliver.svg import percent_text
from bestiary.evaluation.curves import overfitting_point

WEAK_BY = 0.03  # a class is weak when its F1 lies this far below the mean of all classes
FEW_SHARE = 0.5  # a class has few pictures when it has less than this share of the median class
FEW_PICTURES = 100  # or less than this, to learn from
ABSENT = "–"
NONE: Mapping[str, int] = {}
CHECKS = {
    "unreadable": "files that no decoder could open",
    "truncated": "files that end too early",
    "wrong-extension": "files whose name promises another format than they hold",
    "animated": "moving pictures; only the first frame is used",
    "tiny": "very small pictures",
    "huge": "pictures beyond the size limit",
    "extreme-aspect": "pictures far wider than high, or the other way round",
    "dark": "very dark pictures",
    "bright": "very bright pictures",
    "blurry": "pictures without sharp detail",
    "low-information": "pictures that show next to nothing",
    "exact-duplicate": "the same file more than once",
    "near-duplicate": "nearly the same picture more than once",
    "label-conflict": "the same picture under different labels",
    "split-leak": "the same picture in two splits",
    "imbalance": "classes with far fewer pictures than others",
    "shortcut": "file properties that give the label away without looking at the picture",
    "suspect-label": "labels that the model, trained without them, disagrees with",
    "outlier": "pictures unlike all others of their class",
    "grey": "grey pictures among colour ones",
    "rotated": "pictures stored on their side, with a note how to turn them",
    "alpha": "pictures with see-through parts",
}
# Checks whose findings change the score or the model, in the order in which they deserve a look.
SERIOUS = ("label-conflict", "split-leak", "suspect-label", "shortcut")
CURVE_ADVICE = {  # by the verdict on the learning curves; a curve that has settled needs none
    "overfitting": "Train with more variety, or shorter.",
    "improving": "Train longer.",
    "unstable": "Lower the learning rate.",
    "broken": "Lower the learning rate.",
    "flat": "Change the learning rate.",
}


@dataclass(frozen=True)
class Step:
    """One thing to do next: what, why (with numbers), a command if one does it, and the section to look at."""

    what: str
    why: str
    command: str = ""
    anchor: str = ""


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return the whole run in one plain sentence or two: how often it is right, and where it is weakest."""
    return f"Right {_in_hundred(metrics['accuracy'])}. {weakest_sentence(metrics)}"


def weakest_sentence(metrics: Mapping[str, Any]) -> str:
    """Return which class is weakest (lowest F1) and what it is taken for, from the confusion matrix (rows: true)."""
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    wrong = sum(map(sum, counts)) - sum(counts[i][i] for i in range(len(labels)))
    if not wrong:
        return f"No mistake among the {metrics['n']:,} test pictures."
    weakest = by_f1(metrics)[0]
    at = labels.index(weakest)
    row = [0 if i == at else count for i, count in enumerate(counts[at])]
    if sum(row):
        word = "mostly" if 2 * max(row) >= sum(row) else "most often"
        return f"Weakest: {weakest}, {word} taken for {labels[row.index(max(row))]}."
    column = [0 if i == at else counts[i][at] for i in range(len(labels))]
    given = labels[column.index(max(column))]
    return f"Weakest: {weakest}, always found, but also said of {sum(column)} others, most often {given}."


def by_f1(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes that have test pictures, the lowest F1 first."""
    judged = {label: scores for label, scores in metrics["per_class"].items() if scores.get("support", 1)}
    return sorted(judged, key=lambda label: (judged[label]["f1"].get("value") or 0.0, label))


def next_steps(
    metrics: Mapping[str, Any],
    train_counts: Mapping[str, int],
    history: Sequence[Mapping[str, Any]],
    issues: Mapping[str, int],
    run: str,
    method: str,
    suspects: Mapping[str, int] = NONE,
) -> list[Step]:
    """Return what deserves doing next, the most useful first, and last how to use the model.

    suspects: how many labels look wrong in each split.
    """
    return [
        *_test_steps(metrics),
        *_class_steps(metrics, train_counts),
        *_suspect_steps(suspects),
        *_finding_steps(issues),
        *_training_steps(metrics, history, method),
        *_trust_steps(metrics),
        Step("Use it.", "On pictures of your own:", f"bestiary predict {run} new/*.jpg"),
    ]


def estimate_text(metric: Mapping[str, Any] | None, digits: int = 1) -> str:
    """Return a rate as a percentage, `–` where it is not known."""
    value = (metric or {}).get("value")
    return ABSENT if value is None or not math.isfinite(value) else f"{_points(value, digits)}\u00a0%"


def interval_text(metric: Mapping[str, Any] | None, digits: int = 1, factor: float = 100) -> str:
    """Return a 95 % interval as `96.1 to 98.0`, empty where there is none."""
    low, high = (metric or {}).get("low"), (metric or {}).get("high")
    if low is None or high is None or not math.isfinite(low + high):
        return ""
    ends = [f"{factor * end:.{digits}f}" for end in (low, high)]
    return " to ".join("100" if factor * end == 100 else text for end, text in zip((low, high), ends, strict=True))


def whole_percent(share: float) -> str:
    """Return a share as a whole percentage; what is not quite certain is never rounded up to 100 %."""
    return f"{_points(share, 0)}\u00a0%"


def number_text(value: float | None, digits: int = 3) -> str:
    """Return a number, `–` for a missing one."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def _points(share: float, digits: int) -> str:
    """Return a share times 100; what is not quite certain is never rounded up to 100."""
    if share == 1:
        return "100"
    most = 100 - 10**-digits
    return f"{min(100 * share, most) if share < 1 else 100 * share:.{digits}f}"


def _in_hundred(metric: Mapping[str, Any]) -> str:
    """Return `97 times in 100 (95 % interval 96 to 98)`; never rounded up to a perfection that is not there."""
    value, digits = metric["value"], 0
    while digits < 3 and round(100 * value, digits) in (0, 100) and value not in (0, 1):
        digits += 1
    interval = interval_text(metric, digits)
    aside = f" (95\u00a0% interval {interval})" if interval else ""
    return f"{100 * value:.{digits}f} times in 100{aside}"


def _test_steps(metrics: Mapping[str, Any]) -> Iterator[Step]:
    scored, accuracy = metrics.get("test_scored", 1), metrics["accuracy"]
    if scored >= 2:
        yield Step(
            "Confirm on fresh pictures.",
            f"The test pictures were scored {scored} times. Each look that led to a choice makes the figures a little "
            "too good; choose by the validation pictures, and score new ones once.",
        )
    low, high = accuracy.get("low"), accuracy.get("high")
    if low is not None and high is not None and high - low > 0.08:
        yield Step(
            "Hold back more test pictures.",
            f"With {metrics['n']:,} the accuracy is only known to lie between {percent_text(round(low, 2))} "
            f"and {percent_text(round(high, 2))}.",
        )


def _class_steps(metrics: Mapping[str, Any], train_counts: Mapping[str, int]) -> Iterator[Step]:
    mean = metrics["macro_f1"]["value"]
    weak = [label for label in by_f1(metrics) if (metrics["per_class"][label]["f1"]["value"] or 0) < mean - WEAK_BY]
    middle = median(train_counts.values()) if train_counts else 0
    for label in weak[:3]:
        f1, n = metrics["per_class"][label]["f1"], train_counts.get(label, 0)
        interval = interval_text(f1, 0)
        score = f"F1 {estimate_text(f1, 0)}" + (f" ({interval})" if interval else "")
        if n < FEW_PICTURES or n < FEW_SHARE * middle:
            others = f", where the median class has {middle:,.0f}" if n < FEW_SHARE * middle else ""
            why = f"It was learnt from {n:,}{others}; {score}."
            yield Step(f"Add pictures of {label}.", why, anchor="pictures")
        else:
            why = f"{score}, and not for want of pictures ({n:,}). {_confused(metrics, label)}"
            yield Step(f"Look at the mistakes with {label}.", why, anchor="mistakes")


def _confused(metrics: Mapping[str, Any], label: str) -> str:
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    at = labels.index(label)
    both = [0 if i == at else counts[at][i] + counts[i][at] for i in range(len(labels))]
    times = "once" if max(both) == 1 else f"{max(both)} times, both ways"
    return f"Confused most with {labels[both.index(max(both))]}: {times}." if max(both) else ""


def _suspect_steps(suspects: Mapping[str, int]) -> Iterator[Step]:
    n = sum(suspects.values())
    if not n:
        return
    taught, judged = suspects.get("train", 0), suspects.get("val", 0) + suspects.get("test", 0)
    parts = [f"{taught:,} teach the model the wrong thing"] if taught else []
    parts += [f"{judged:,} make it look worse than it is"] if judged else []
    what = f"{taught:,} training label{'' if taught == 1 else 's'}" if taught else f"{n:,} label{'' if n == 1 else 's'}"
    yield Step(
        f"Check {what} that look{'s' if (taught or n) == 1 else ''} wrong.",
        f"A model that never saw these pictures would label them otherwise. Where it is right, {' and '.join(parts)}.",
        anchor="findings",
    )


def _finding_steps(issues: Mapping[str, int]) -> Iterator[Step]:
    serious = [f"{issues[check]:,} {check}" for check in SERIOUS if check != "suspect-label" and issues.get(check)]
    if serious:
        yield Step(
            "Look through the findings.",
            f"The audit marked {', '.join(serious)}: a wrong label costs more than a missing picture.",
            anchor="findings",
        )


def _training_steps(metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]], method: str) -> Iterator[Step]:
    read = overfitting_point(history)
    if method != "probe" and read.verdict in CURVE_ADVICE:
        yield Step(CURVE_ADVICE[read.verdict], read.sentence, anchor="learning")
    if history and history[-1].get("chosen") and (strength := history[-1].get("regularisation")):
        why = f"The weakest that was tried, C = {strength:g}, was the best; add larger values to probe.regularisation."
        yield Step("Try weaker regularisation.", why, anchor="learning")
    if method == "probe" and metrics["macro_f1"]["value"] < 0.95:
        why = "The backbone was left as it came; adapting its layers to these pictures is the next thing to try."
        yield Step("Fine-tune.", why, "bestiary train PICTURES --method finetune")


def _trust_steps(metrics: Mapping[str, Any]) -> Iterator[Step]:
    error = (metrics.get("ece") or {}).get("value")
    if error is not None and error > 0.05:
        why = f"They miss the truth by {percent_text(round(error, 3))} on average, even after calibration."
        yield Step("Read the probabilities with care.", why, anchor="trust")
    share = (metrics.get("unknown") or {}).get("coverage")
    if share is not None and share < 0.9:
        why = f"Only {percent_text(round(share, 2))} of the pictures get an answer; the others are called unknown."
        yield Step("Check what is called unknown.", why, anchor="unknown")
