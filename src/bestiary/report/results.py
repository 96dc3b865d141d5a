"""Results of a run: metrics, text table and report, written together; the finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bestiary import run_folder
from bestiary.context import Context
from bestiary.files import write_json, write_text
from bestiary.report.classification_report import classification_report
from bestiary.report.run_files import count_run_findings
from bestiary.report.run_report import write_report
from bestiary.report.verdict import classes_by_f1
from bestiary.summary import Row, Summary, SummaryRepr, score_rows

WEAKEST_CLASSES = 5  # whose F1 a notebook shows
Usage = Callable[[], dict[str, Any]]  # the seconds and the peak memory of a run so far, as in metrics.json


@dataclass(frozen=True, repr=False)
class Run(SummaryRepr):
    """A finished run: its folder and the content of its `metrics.json`."""

    path: Path
    metrics: dict[str, Any]

    def summary(self) -> Summary:
        """Return the scores with their intervals, and the path of the report; in a notebook also the lowest F1."""
        report = self.path / "report.html"
        rows = [*score_rows(self.metrics), Row("test pictures", f"{self.metrics.get('n', 0):,}")]
        scores = self.metrics.get("per_class", {})
        weakest = classes_by_f1(self.metrics)[:WEAKEST_CLASSES] if scores else []
        details = [
            row._replace(name=f"F1 of {label}") for label in weakest for row in score_rows(scores[label], names=["f1"])
        ]
        return Summary(f"Run {self.path}", (*rows, Row("report", str(report), file=report)), tuple(details))


def write_results(run: Path, metrics: Mapping[str, Any], context: Context, *, light: bool = False) -> None:
    """Write `classification_report.txt`, `metrics.json` and, unless `light`, the report."""
    write_text(run / "classification_report.txt", classification_report(metrics))
    write_json(run / "metrics.json", metrics)
    if not light:
        with context.reporter.progress("Writing the report", 1) as advance:
            write_report(run, threads=context.threads)
            advance(1)


def finish_run(run: Path, metrics: dict[str, Any], context: Context, usage: Usage, *, light: bool = False) -> Run:
    """Write the results of a run with its time and memory, link `runs/latest` to it, and return it."""
    metrics |= {"findings": count_run_findings(run).facts()}
    with context.timer.stage("report"):
        write_results(run, metrics | usage(), context, light=light)
    metrics |= usage()  # the report included
    write_json(run / "metrics.json", metrics)
    if run.parent == run_folder.RUNS:
        run_folder.update_latest_link(run)
    return Run(run, metrics)
