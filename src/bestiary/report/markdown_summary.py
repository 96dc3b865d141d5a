"""`report.md`: what a run learnt, short enough for a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bestiary.report import verdict
from bestiary.report.confusion_section import confusion_values
from bestiary.report.markdown import escape, format_metric, markdown_table
from bestiary.report.next_steps import NextStep, next_steps, summarise_run
from bestiary.report.run_files import RunFiles, run_caveats

STEPS, PAIRS, WEAKEST = 4, 3, 3
FIGURES = (("accuracy", "Accuracy"), ("macro_f1", "Macro-F1"), ("ece", "Calibration error"))


def markdown_summary(run: RunFiles) -> str:
    """Return the report as a few lines of Markdown."""
    return "\n\n".join(part for part in _iter_parts(run) if part) + "\n"


def _iter_parts(run: RunFiles) -> Iterator[str]:
    evidence, metrics = summarise_run(run), run.metrics
    yield f"### {escape(verdict.verdict(metrics, evidence.n_label_issues))}"
    yield from (f"> {escape(note)}" for note in [*test_reuse_warning(metrics), *run_caveats(run)])
    found = [(name, format_metric(metrics[key])) for key, name in FIGURES if metrics.get(key)]
    yield markdown_table(("", f"{metrics['n']:,} test pictures, 95 % interval"), found)
    yield "**What to do next** (in points of macro-F1, estimated)\n\n" + "\n".join(
        f"{at}. {_format_step(one)}" for at, one in enumerate(_first_steps(evidence), 1)
    )
    weakest = verdict.classes_by_f1(metrics)[:WEAKEST]
    yield (
        "Weakest classes (F1): "
        + "; ".join(
            f"{escape(label)} {format_metric(metrics['per_class'][label]['f1'], digits=0)}" for label in weakest
        )
        + "."
    )
    pairs = confusion_values(metrics)["pairs"][:PAIRS]
    if pairs:
        taken = (f"{escape(one)} for {escape(other)} {count} of {of}" for one, other, count, of in pairs)
        yield f"Taken for another most: {'; '.join(taken)}."
    yield escape((metrics.get("slices") or {}).get("sentence", ""))


def test_reuse_warning(metrics: Mapping[str, Any]) -> list[str]:
    """Return the warning that belongs beside every score of a test split that was scored more than once."""
    times = metrics.get("test_scored", 1)
    if times < 2:
        return []
    return [
        f"The test pictures were scored {times} times. The first look is the honest one. If anything was chosen after"
        " an earlier look, the figures below are somewhat too good."
    ]


def _first_steps(run_summary: Any) -> list[NextStep]:
    return [step for step in next_steps(run_summary) if not step.command.startswith("bestiary predict")][:STEPS]


def _format_step(step: NextStep) -> str:
    worth = f" ({step.worth})" if step.worth else ""
    return f"**{escape(step.what)}**{worth} {escape(step.why)}"
