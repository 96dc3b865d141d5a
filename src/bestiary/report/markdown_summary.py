"""`report.md`: what a run learnt, short enough for a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bestiary.report import verdict
from bestiary.report.confusion_section import confusion_values
from bestiary.report.markdown import figure, plain, rows
from bestiary.report.next_steps import Step, evidence_of, next_steps
from bestiary.report.run_files import RunFiles, notes

STEPS, PAIRS, WEAKEST = 4, 3, 3
FIGURES = (("accuracy", "Accuracy"), ("macro_f1", "Macro-F1"), ("ece", "Calibration error"))


def summary(run: RunFiles) -> str:
    """Return the report as a few lines of Markdown."""
    return "\n\n".join(part for part in _parts(run) if part) + "\n"


def _parts(run: RunFiles) -> Iterator[str]:
    evidence, metrics = evidence_of(run), run.metrics
    yield f"### {plain(verdict.verdict(metrics, evidence.mislabelled))}"
    yield from (f"> {plain(note)}" for note in [*peeked(metrics), *notes(run)])
    found = [(name, figure(metrics[key])) for key, name in FIGURES if metrics.get(key)]
    yield rows(("", f"{metrics['n']:,} test pictures, 95 % interval"), found)
    yield "**What to do next** (in points of macro-F1, estimated)\n\n" + "\n".join(
        f"{at}. {_step(one)}" for at, one in enumerate(_first(evidence), 1)
    )
    weakest = verdict.by_f1(metrics)[:WEAKEST]
    yield (
        "Weakest classes (F1): "
        + "; ".join(f"{plain(label)} {figure(metrics['per_class'][label]['f1'], digits=0)}" for label in weakest)
        + "."
    )
    pairs = confusion_values(metrics)["pairs"][:PAIRS]
    if pairs:
        taken = (f"{plain(one)} for {plain(other)} {count} of {of}" for one, other, count, of in pairs)
        yield f"Taken for another most: {'; '.join(taken)}."
    yield plain((metrics.get("slices") or {}).get("sentence", ""))


def peeked(metrics: Mapping[str, Any]) -> list[str]:
    """Return the warning that belongs beside every score of a test split that was scored more than once."""
    times = metrics.get("test_scored", 1)
    if times < 2:
        return []
    return [
        f"The test pictures were scored {times} times. The first look is the honest one. If anything was chosen after"
        " an earlier look, the figures below are somewhat too good."
    ]


def _first(evidence: Any) -> list[Step]:
    return [step for step in next_steps(evidence) if not step.command.startswith("bestiary predict")][:STEPS]


def _step(step: Step) -> str:
    worth = f" ({step.worth})" if step.worth else ""
    return f"**{plain(step.what)}**{worth} {plain(step.why)}"
