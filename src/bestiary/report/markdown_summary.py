"""`report.md`: the results of a run, short enough for a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from bestiary.report import verdict
from bestiary.report.confusion_section import confusion_values
from bestiary.report.format import format_metric
from bestiary.report.markdown import escape, markdown_table
from bestiary.report.next_steps import NextStep, next_steps
from bestiary.report.run_files import RunFiles, run_caveats
from bestiary.report.run_summary import summarise_run
from bestiary.report.threshold_section import iter_threshold_blocks

STEPS, PAIRS, WEAKEST = 4, 3, 3
FIGURES = (("accuracy", "Accuracy"), ("macro_f1", "Macro-F1"), ("ece", "Calibration error"))


def markdown_summary(run: RunFiles) -> str:
    """Return the summary as Markdown."""
    return "\n\n".join(part for part in _iter_parts(run) if part) + "\n"


def _iter_parts(run: RunFiles) -> Iterator[str]:
    summary, metrics = summarise_run(run), run.metrics
    yield f"### {escape(verdict.run_verdict(summary))}"
    yield from (f"> {escape(note)}" for note in run_caveats(run))
    rows = [(name, format_metric(metrics[key])) for key, name in FIGURES if metrics.get(key)]
    yield markdown_table(("", f"{metrics['n']:,} test pictures, 95 % interval"), rows)
    steps = [step for step in next_steps(summary) if not step.command.startswith("bestiary predict")][:STEPS]
    yield "**What to do next** (in points of macro-F1, estimated)\n\n" + "\n".join(
        f"{rank}. {_format_step(step)}" for rank, step in enumerate(steps, 1)
    )
    weakest = ((label, metrics["per_class"][label]["f1"]) for label in verdict.classes_by_f1(metrics)[:WEAKEST])
    listed = "; ".join(f"{escape(label)} {format_metric(f1, 0)}" for label, f1 in weakest)
    yield f"Weakest classes (F1): {listed}."
    if pairs := confusion_values(metrics)["pairs"][:PAIRS]:
        confused = (f"{escape(label)} as {escape(predicted)} {count} of {n}" for label, predicted, count, n in pairs)
        yield f"Most frequent mistakes: {'; '.join(confused)}."
    yield escape((metrics.get("decision") or {}).get("sentence", ""))
    yield escape((metrics.get("group_scores") or {}).get("sentence", ""))
    yield from iter_threshold_blocks(metrics)
    yield escape((metrics.get("events") or {}).get("sentence", ""))
    yield escape((metrics.get("slices") or {}).get("sentence", ""))


def _format_step(step: NextStep) -> str:
    worth = f" ({step.worth})" if step.worth else ""
    return f"**{escape(step.what)}**{worth} {escape(step.why)}"
