"""What to do next with a run: about what each step would bring, in points of macro-F1, as far as the run can tell.

Every sentence is derived from numbers of the run; none is said without one.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from bestiary.evaluation.learning_curve import WORTH
from bestiary.evaluation.loss_curves import overfitting_point
from bestiary.evaluation.slices import macro_f1_from_confusion
from bestiary.report.audit_checks import SERIOUS
from bestiary.report.commands import retrain_command
from bestiary.report.format import format_interval, format_rate
from bestiary.report.run_files import RunFiles
from bestiary.report.svg import format_short_percent
from bestiary.report.verdict import classes_by_f1

WEAK_BY = 0.03  # a class is weak when its F1 lies this far below the mean of all classes
FEW_FRACTION = 0.5  # a class has few pictures when it has less than this share of the median class
FEW_PICTURES = 100  # or less than this, to learn from
LEAST_GAIN = 0.0005  # of macro-F1; less is not worth a number
CURVE_ADVICE = {  # by the verdict on the learning curves; a curve that has settled needs none
    "overfitting": "Train with more variety, or shorter.",
    "improving": "Train longer.",
    "unstable": "Lower the learning rate.",
    "broken": "Lower the learning rate.",
    "flat": "Change the learning rate.",
}


@dataclass(frozen=True)
class NextStep:
    """One thing to do next: what, why (with numbers), a command if one does it, and the section to look at.

    gain: by about how much macro-F1 would rise, an estimate and no bound; None where the run cannot tell. points: what
    the gain is in words, `{}` a number.
    """

    what: str
    why: str
    command: str = ""
    anchor: str = ""
    gain: float | None = None
    points: str = "about +{} points"

    @property
    def worth(self) -> str:
        """The gain in words, empty where it is not known."""
        return "" if self.gain is None else self.points.format(f"{100 * self.gain:.1f}")


@dataclass(frozen=True)
class RunSummary:
    """What the steps follow from.

    train_counts: training pictures by class; issues: findings by check; suspects: how many labels look wrong in each
    split; relabelled: the rise of macro-F1 as shown if those of the tested pictures were what they look like; run: for
    a shell; finetune: the command that trains on the same pictures in another way.
    """

    metrics: Mapping[str, Any]
    train_counts: Mapping[str, int]
    history: Sequence[Mapping[str, Any]] = ()
    issues: Mapping[str, int] = field(default_factory=dict)
    suspects: Mapping[str, int] = field(default_factory=dict)
    relabelling_gain: float | None = None
    lessons: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    run: str = "RUN"
    finetune: str = "bestiary train PICTURES --method finetune"

    @property
    def n_label_issues(self) -> int:
        """How many training labels look wrong."""
        return self.suspects.get("train", 0)


def summarise_run(run: RunFiles) -> RunSummary:
    """Return what the advice on a run follows from."""
    marked = run.findings.filter(pl.col("is_issue") & (pl.col("check") == "suspect-label"))
    of_suspects = run.pictures.filter(pl.col("row_id").is_in(marked["row_id"].implode()))
    train = run.pictures.filter(pl.col("split") == "train")["label"]
    asked, applied = run.folder / "asked.toml", run.folder / "corrections.csv"
    return RunSummary(
        run.metrics,
        {str(label): n for label, n in Counter(train.to_list()).items()},
        run.history,
        Counter(run.findings.filter(pl.col("is_issue"))["check"].to_list()),
        Counter(of_suspects["split"].drop_nulls().to_list()),
        _relabelling_gain(run, marked),
        run.lessons,
        str(run.bundle.get("method", "")),
        shlex.quote(str(run.folder)),
        retrain_command(asked, run.environment, applied if applied.exists() else None, "--method", "finetune"),
    )


def next_steps(summary: RunSummary) -> list[NextStep]:
    """Return what deserves doing next, and last how to use the model.

    First what the run can put a number on, the largest first; then what shows only after it is done; then what makes
    the figures more certain.
    """
    steps = [
        *_iter_class_steps(summary),
        *_iter_more_pictures_steps(summary.lessons),
        *_iter_slice_steps(summary.metrics),
        *_iter_label_issue_steps(summary),
        *_iter_finding_steps(summary.issues),
        *_iter_training_steps(summary),
        *_iter_calibration_steps(summary.metrics),
        *_iter_test_steps(summary.metrics),
    ]
    steps = [step if (step.gain or 0) >= LEAST_GAIN else replace(step, gain=None) for step in steps]
    steps.sort(key=lambda step: -(step.gain or 0))
    return [*steps, NextStep("Use it.", "On pictures of your own:", f"bestiary predict {summary.run} new/*.jpg")]


def _relabelling_gain(run: RunFiles, label_issues: pl.DataFrame) -> float | None:
    """Return by how much macro-F1 would rise if the suspect labels of tested pictures were the suggested ones."""
    labels = run.metrics["confusion"]["labels"]
    place = {label: at for at, label in enumerate(labels)}
    counts = np.array(run.metrics["confusion"]["counts"], np.float64).reshape(len(labels), len(labels))
    test = run.predictions.filter(pl.col("split") == "test").select("row_id", "label", "predicted")
    before = macro_f1_from_confusion(counts)
    known = pl.col("suggested_label").is_in(labels)
    rows = test.join(label_issues.filter(known).select("row_id", "suggested_label"), on="row_id").drop_nulls()
    for label, said, suggested in rows.select("label", "predicted", "suggested_label").iter_rows():
        counts[place[label], place[said]] -= 1
        counts[place[suggested], place[said]] += 1
    return macro_f1_from_confusion(counts) - before if rows.height else None


def _iter_test_steps(metrics: Mapping[str, Any]) -> Iterator[NextStep]:
    scored, accuracy = metrics.get("test_scored", 1), metrics["accuracy"]
    if scored >= 2:
        yield NextStep(
            "Confirm on fresh pictures.",
            f"The test pictures were scored {scored} times. Each look that led to a choice makes the figures a little "
            "too good; choose by the validation pictures, and score new ones once.",
        )
    low, high = accuracy.get("low"), accuracy.get("high")
    if low is not None and high is not None and high - low > 0.08:
        yield NextStep(
            "Hold back more test pictures.",
            f"With {metrics['n']:,} the accuracy is only known to lie between {format_short_percent(round(low, 2))} "
            f"and {format_short_percent(round(high, 2))}.",
        )


def _iter_class_steps(summary: RunSummary) -> Iterator[NextStep]:
    metrics, train_counts = summary.metrics, summary.train_counts
    values = {label: metrics["per_class"][label]["f1"]["value"] or 0.0 for label in classes_by_f1(metrics)}
    weak = [label for label, value in values.items() if value < metrics["macro_f1"]["value"] - WEAK_BY]
    middle = median(train_counts.values()) if train_counts else 0
    for label in weak[:3]:
        f1, n = metrics["per_class"][label]["f1"], train_counts.get(label, 0)
        gain = (median(values.values()) - values[label]) / len(metrics["per_class"])  # as good as the median class
        interval = format_interval(f1, 0)
        score = f"F1 {format_rate(f1, 0)}" + (f" ({interval})" if interval else "")
        if n < FEW_PICTURES or n < FEW_FRACTION * middle:
            others = f", where the median class has {middle:,.0f}" if n < FEW_FRACTION * middle else ""
            why = f"It was learnt from {n:,}{others}; {score}."
            yield NextStep(f"Add pictures of {label}.", why, anchor="pictures", gain=gain)
        else:
            why = f"{score}, and not for want of pictures ({n:,}). {_describe_confusion(metrics, label)}"
            yield NextStep(f"Look at the mistakes with {label}.", why, anchor="mistakes", gain=gain)


def _describe_confusion(metrics: Mapping[str, Any], label: str) -> str:
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    at = labels.index(label)
    both = [0 if i == at else counts[at][i] + counts[i][at] for i in range(len(labels))]
    times = "once" if max(both) == 1 else f"{max(both)} times, both ways"
    return f"Confused most with {labels[both.index(max(both))]}: {times}." if max(both) else ""


def _iter_more_pictures_steps(lessons: Mapping[str, Any]) -> Iterator[NextStep]:
    curve = lessons.get("curve", {})
    gain = curve.get("twice", {}).get("gain", {}).get("value", 0.0)
    if gain >= WORTH:
        yield NextStep("Collect more pictures of every class.", curve["sentence"], anchor="learning", gain=gain)


def _iter_slice_steps(metrics: Mapping[str, Any]) -> Iterator[NextStep]:
    for row in metrics.get("slices", {}).get("rows", ()):
        if row["worse"]:
            right, others = (
                f"{format_rate(row[key], 0)} ({format_interval(row[key], 0)})" for key in ("accuracy", "rest")
            )
            why = (
                f"Of these ({row['words']}) it gets {right} right, of other pictures of the same classes {others}; that"
                " is more than chance."
            )
            if shared := row.get("counted_in"):
                why += f" Those that are {' or '.join(shared)} as well are counted there."
            yield NextStep(f"Add {row['name']} pictures, or better ones.", why, anchor="slices", gain=row["worth"])


def _iter_label_issue_steps(summary: RunSummary) -> Iterator[NextStep]:
    suspects, n = summary.suspects, sum(summary.suspects.values())
    if not n:
        return
    what = "1 label that looks wrong" if n == 1 else f"{n:,} labels that look wrong"
    why = f"A model that never saw these pictures would label them otherwise: {_describe_use(summary)}."
    if (summary.relabelling_gain or 0) >= LEAST_GAIN:
        why += " If it is right about all that are tested, the macro-F1 shown is too low by so much."
    if suspects.get("train"):
        why += " What correct labels to learn from would bring, only training again tells."
    yield NextStep(
        f"Check {what}.",
        why,
        command=f"bestiary review {summary.run}",
        anchor="findings",
        gain=summary.relabelling_gain,
        points="score may be {} points too low",
    )


def _describe_use(summary: RunSummary) -> str:
    """Return what the pictures with suspect labels were used for; in a cross-validated run each for everything."""
    if summary.metrics.get("folds"):
        return "like all pictures of this run, they were learnt from in some folds and tested in another"
    kinds = (("train", "to learn from"), ("val", "to choose by"), ("test", "to test by"))
    return ", ".join(f"{summary.suspects[split]:,} {use}" for split, use in kinds if summary.suspects.get(split))


def _iter_finding_steps(issues: Mapping[str, int]) -> Iterator[NextStep]:
    serious = [f"{issues[check]:,} {check}" for check in SERIOUS if check != "suspect-label" and issues.get(check)]
    if serious:
        yield NextStep(
            "Look through the findings.",
            f"The audit marked {', '.join(serious)}: a wrong label costs more than a missing picture.",
            anchor="findings",
        )


def _iter_training_steps(summary: RunSummary) -> Iterator[NextStep]:
    metrics, history, method = summary.metrics, summary.history, summary.method
    read = overfitting_point(history)
    if method != "probe" and read.verdict in CURVE_ADVICE:
        yield NextStep(CURVE_ADVICE[read.verdict], read.sentence, anchor="learning")
    strengths = {line.get("regularisation") for line in history}
    if len(strengths) > 1 and history[-1].get("chosen") and (strength := history[-1].get("regularisation")):
        why = f"The weakest of {len(strengths)}, C = {strength:.3g}, was the best; add larger to probe.regularisation."
        yield NextStep("Try weaker regularisation.", why, anchor="learning")
    if method == "probe" and metrics["macro_f1"]["value"] < 0.95:
        why = (
            "The backbone was left as it came. Adapting its layers may help where pictures differ much from photographs"
            " of things; comparing both runs (bestiary compare) tells."
        )
        yield NextStep("Try fine-tuning.", why, summary.finetune)


def _iter_calibration_steps(metrics: Mapping[str, Any]) -> Iterator[NextStep]:
    error = (metrics.get("ece") or {}).get("value")
    if error is not None and error > 0.05:
        why = f"They miss the truth by {format_short_percent(round(error, 3))} on average, even after calibration."
        yield NextStep("Read the probabilities with care.", why, anchor="trust")
    share = (metrics.get("unknown") or {}).get("coverage")
    if share is not None and share < 0.9:
        why = f"Only {format_short_percent(round(share, 2))} of the pictures get an answer; the others are called unknown."
        yield NextStep("Check what is called unknown.", why, anchor="unknown")
