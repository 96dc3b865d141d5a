"""Next steps for a run, with the estimated gain of each in points of macro-F1, each derived from numbers of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from bestiary.checks import ALTERS_MODEL, find_check
from bestiary.evaluation.learning_curve import WORTH
from bestiary.evaluation.loss_curves import overfitting_point
from bestiary.recipe_sections import BACKBONE_SIZES
from bestiary.report.format import format_metric, format_short_percent
from bestiary.report.run_summary import RunSummary
from bestiary.report.verdict import MIN_CONFUSIONS, classes_by_f1
from bestiary.text import format_count

WEAK_BY = 0.03  # a class is weak when its F1 is this far below the mean of all classes
FEW_FRACTION = 0.5  # a class has few training pictures when it has less than this fraction of the median class
FEW_PICTURES = 100  # or less than this
FEW_TESTED = 20  # test pictures of the median class; with fewer, cross-validation is advised
FAR_BELOW = 0.75  # of the input size that a backbone was made for
HIGH_F1 = 0.95  # of a probe; a stronger model is advised below it
LEAST_GAIN = 0.0005  # of macro-F1; a smaller one is not shown
CURVE_ADVICE = {  # by the verdict on the loss curves; converged ones need none
    "overfitting": "Train with more augmentation, or shorter.",
    "improving": "Train longer.",
    "unstable": "Lower the learning rate.",
    "broken": "Lower the learning rate.",
    "flat": "Change the learning rate.",
}


@dataclass(frozen=True)
class NextStep:
    """One step: what, why (with numbers), a command if one does it, and the section of the report that shows more.

    gain: estimated rise of macro-F1, not a bound; None if the run cannot estimate it. points: the text for the gain.
    is_first: whether the other estimates depend on this step. then: a command that shows what the first one changed;
    needed: one that installs what it needs, if that is missing here.
    """

    what: str
    why: str
    command: str = ""
    anchor: str = ""
    gain: float | None = None
    points: str = "about +{} points"
    is_first: bool = False
    then: str = ""
    needed: str = ""

    @property
    def worth(self) -> str:
        """The gain as text, empty where it is not known."""
        return "" if self.gain is None else self.points.format(f"{100 * self.gain:.1f}")


def next_steps(summary: RunSummary) -> list[NextStep]:
    """Return the next steps, the largest estimated gain first, then those without one; last how to use the model."""
    steps = [
        *_iter_class_steps(summary),
        *_iter_more_pictures_steps(summary.lessons),
        *_iter_slice_steps(summary.metrics),
        *_iter_label_issue_steps(summary),
        *_iter_finding_steps(summary.issues),
        *_iter_model_steps(summary),
        *_iter_training_steps(summary),
        *_iter_calibration_steps(summary.metrics),
        *_iter_test_steps(summary),
    ]
    steps = [step if (step.gain or 0) >= LEAST_GAIN else replace(step, gain=None) for step in steps]
    steps.sort(key=lambda step: (not step.is_first, -(step.gain or 0)))
    return [*steps, NextStep("Use the model.", "On your own pictures:", f"bestiary predict {summary.run} new/*.jpg")]


def _iter_test_steps(summary: RunSummary) -> Iterator[NextStep]:
    metrics = summary.metrics
    scored, accuracy = metrics.get("test_scored", 1), metrics["accuracy"]
    if scored >= 2:
        yield NextStep(
            "Confirm on new pictures.",
            f"The test pictures were scored {scored} times. Every choice based on them makes the scores a little too"
            " high; choose by the validation split, and score new pictures once.",
        )
    low, high = accuracy.get("low"), accuracy.get("high")
    tested = median(scores.get("support", 0) for scores in metrics["per_class"].values())
    if summary.folds and not metrics.get("folds") and tested < FEW_TESTED:
        yield NextStep(
            "Cross-validate.",
            f"Only {metrics['n']:,} pictures are tested, {tested:,.0f} of the median class. Cross-validation tests"
            " every picture once, by a model that was not trained on it: the intervals become narrower.",
            summary.folds,
        )
    elif low is not None and high is not None and high - low > 0.08:
        wide = f"{format_short_percent(round(low, 2))} to {format_short_percent(round(high, 2))}"
        by = (metrics.get("group_scores") or {}).get("by")
        if by is None:
            why = f"With {metrics['n']:,} the 95 % interval of the accuracy is wide: {wide}."
            yield NextStep("Use more test pictures.", why)
        else:
            why = (
                f"The 95 % interval of the accuracy is wide, {wide}. It counts each {by} once, so that more pictures of"
                f" the same {by}s hardly narrow it."
            )
            yield NextStep(f"Add pictures of other {by}s.", why, anchor="groups")


def _iter_class_steps(summary: RunSummary) -> Iterator[NextStep]:
    metrics, train_counts = summary.metrics, summary.train_counts
    values = {label: metrics["per_class"][label]["f1"]["value"] or 0.0 for label in classes_by_f1(metrics)}
    weak = [label for label, value in values.items() if value < metrics["macro_f1"]["value"] - WEAK_BY]
    middle = median(train_counts.values()) if train_counts else 0
    for label in weak[:3]:
        score, n = f"F1 {format_metric(metrics['per_class'][label]['f1'], 0)}", train_counts.get(label, 0)
        gain = (median(values.values()) - values[label]) / len(metrics["per_class"])  # as good as the median class
        if n < FEW_PICTURES or n < FEW_FRACTION * middle:
            others = f", where the median class has {middle:,.0f}" if n < FEW_FRACTION * middle else ""
            why = f"It has {n:,} training pictures{others}; {score}."
            yield NextStep(f"Add pictures of {label}.", why, anchor="pictures", gain=gain)
        elif metrics["per_class"][label]["f1"].get("high", 0.0) < metrics["macro_f1"]["value"]:
            why = f"{score} with {n:,} training pictures. {_describe_confusion(metrics, label)}"
            yield NextStep(f"Look at the mistakes with {label}.", why, anchor="mistakes", gain=gain)


def _describe_confusion(metrics: Mapping[str, Any], label: str) -> str:
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    at = labels.index(label)
    both = [0 if i == at else counts[at][i] + counts[i][at] for i in range(len(labels))]
    if max(both) < MIN_CONFUSIONS:
        return ""
    return f"Most often confused with {labels[both.index(max(both))]}: {max(both)} times, in both directions."


def _iter_more_pictures_steps(lessons: Mapping[str, Any]) -> Iterator[NextStep]:
    curve = lessons.get("curve", {})
    gain = curve.get("twice", {}).get("gain", {}).get("value", 0.0)
    if gain >= WORTH:
        yield NextStep("Collect more pictures of every class.", curve["sentence"], anchor="learning", gain=gain)


def _iter_slice_steps(metrics: Mapping[str, Any]) -> Iterator[NextStep]:
    for row in metrics.get("slices", {}).get("rows", ()):
        if row["worse"]:
            why = (
                f"The accuracy on them ({row['words']}) is {format_metric(row['accuracy'], 0)}, on other pictures of"
                f" the same {row.get('same', 'classes')} {format_metric(row['rest'], 0)}; the difference is"
                " significant."
            )
            if shared := row.get("counted_in"):
                why += f" Pictures that are also {' or '.join(shared)} are counted there."
            yield NextStep(f"Add {row['name']} pictures, or better ones.", why, anchor="slices", gain=row["worth"])


def _iter_label_issue_steps(summary: RunSummary) -> Iterator[NextStep]:
    suspects, n = summary.suspects, sum(summary.suspects.values())
    if not n:
        return
    if summary.is_doubtful and summary.label_issues is not None:
        why = f"{summary.label_issues.describe()} The review begins with the most doubtful."
        what = f"Look at the most doubtful of {n:,} doubtful labels." if n > 1 else "Look at the doubtful label."
        yield NextStep(what, why, command=f"bestiary review {summary.run}", anchor="findings")
        return
    what = "1 suspect label" if n == 1 else f"{n:,} suspect labels"
    why = f"A cross-validated model disagrees with {'it' if n == 1 else 'them'}: {_describe_use(summary)}."
    if summary.label_issues is not None:
        why += f" {summary.label_issues.describe()}"
    if (summary.relabelling_gain or 0) >= LEAST_GAIN:
        why += " If those in the test split are wrong, the macro-F1 of this report is too low by this much."
    if suspects.get("train"):
        why += " The gain from corrected training labels is known only after retraining."
    yield NextStep(
        f"Check {what}.",
        why,
        command=f"bestiary review {summary.run}",
        anchor="findings",
        gain=summary.relabelling_gain,
        points="score may be {} points too low",
    )


def _describe_use(summary: RunSummary) -> str:
    """Return the splits of the pictures with suspect labels; in cross-validation each picture is in all."""
    if summary.metrics.get("folds"):
        return "like every picture of this run, for training in some folds and for testing in another"
    splits = (("train", "training"), ("val", "validation"), ("test", "test"))
    counts = ((summary.suspects.get(split, 0), name) for split, name in splits)
    return ", ".join(format_count(n, f"{name} picture") for n, name in counts if n)


def _iter_finding_steps(issues: Mapping[str, int]) -> Iterator[NextStep]:
    serious = {check: issues[check] for check in ALTERS_MODEL if check != "suspect-label" and issues.get(check)}
    if serious:
        counts = ", ".join(find_check(check).format_count(n) for check, n in serious.items())
        affect = "it affects" if sum(serious.values()) == 1 else "they affect"
        yield NextStep(
            "Check the findings.",
            f"The audit found {counts}: {affect} training or the test score.",
            anchor="findings",
        )


def _iter_model_steps(summary: RunSummary) -> Iterator[NextStep]:
    """Yield what is known of the backbone: an input far below its own size, or that there is a larger one."""
    native = BACKBONE_SIZES.get(summary.backbone, 0)
    if summary.method == "scratch" or not native:
        return
    if 0 < summary.size < FAR_BELOW * native and summary.full_size:
        why = (
            f"{summary.size} px is far below the {native} px that {summary.backbone} was made for, also if the"
            " pictures are smaller: they are then enlarged. The gains estimated below are those at this size."
        )
        yield NextStep(
            f"Train at {native} px, the input size of {summary.backbone}.", why, summary.full_size, is_first=True
        )
    elif summary.backbone == "lite0" and summary.metrics["macro_f1"]["value"] < HIGH_F1 and summary.lite2:
        why = f"lite2 is larger than lite0, was made for {BACKBONE_SIZES['lite2']} px, and takes longer."
        yield NextStep("Try the larger backbone.", why, summary.lite2)


def _iter_training_steps(summary: RunSummary) -> Iterator[NextStep]:
    metrics, history, method = summary.metrics, summary.history, summary.method
    curves = overfitting_point(history)
    if method != "probe" and curves.verdict in CURVE_ADVICE:
        yield NextStep(CURVE_ADVICE[curves.verdict], curves.sentence, anchor="learning")
    c_values = {line.get("regularisation") for line in history}
    if len(c_values) > 1 and history[-1].get("chosen") and (c := history[-1].get("regularisation")):
        why = f"The weakest of {len(c_values)}, C = {c:.3g}, was the best; add larger values to probe.regularisation."
        yield NextStep("Try weaker regularisation.", why, anchor="learning")
    if method == "probe" and metrics["macro_f1"]["value"] < HIGH_F1 and summary.finetune:  # a graph has no fine-tuning
        why = (
            "The backbone is frozen. Fine-tuning its layers may help if the pictures differ much from"
            " photographs of objects."
        )
        if summary.torch:
            why += " It needs torch, which is not installed here."
        yield NextStep("Try fine-tuning.", why, summary.finetune, then=summary.compare, needed=summary.torch)


def _iter_calibration_steps(metrics: Mapping[str, Any]) -> Iterator[NextStep]:
    error = (metrics.get("ece") or {}).get("value")
    if error is not None and error > 0.05:
        why = f"The calibration error is {format_short_percent(round(error, 3))}, even after calibration."
        yield NextStep("Use the probabilities with care.", why, anchor="trust")
    coverage = (metrics.get("unknown") or {}).get("coverage")
    if coverage is not None and coverage < 0.9:
        why = f"Only {format_short_percent(round(coverage, 2))} of the pictures get an answer; the others are unknown."
        yield NextStep("Check the pictures that are answered “unknown”.", why, anchor="unknown")
