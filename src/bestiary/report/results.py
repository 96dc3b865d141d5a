"""Results of a run: metrics, text table and report, written together; the finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bestiary import run_folder
from bestiary.context import Context
from bestiary.files import write_json, write_text
from bestiary.report.classification_report import classification_report
from bestiary.report.run_report import write_report


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the content of its `metrics.json`."""

    path: Path
    metrics: dict[str, Any]


class Session(Protocol):
    """The time and memory of a run over all its sessions."""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage and in total."""

    @property
    def peak_megabytes(self) -> int:
        """The highest memory use, in MB."""


def write_results(run: Path, metrics: Mapping[str, Any], context: Context, *, light: bool = False) -> None:
    """Write `classification_report.txt`, `metrics.json` and, unless `light`, the report."""
    write_text(run / "classification_report.txt", classification_report(metrics))
    write_json(run / "metrics.json", metrics)
    if not light:
        write_report(run, threads=context.threads)


def finish_run(run: Path, metrics: dict[str, Any], context: Context, session: Session, *, light: bool = False) -> Run:
    """Write the results of a run with its seconds and memory, link `runs/latest` to it, and return it."""

    def usage() -> dict[str, Any]:
        return {"seconds": session.seconds, "peak_rss_mb": session.peak_megabytes}

    with context.timer.stage("report"):
        write_results(run, metrics | usage(), context, light=light)
    metrics |= usage()  # the report included
    write_json(run / "metrics.json", metrics)
    if run.parent == run_folder.RUNS:
        run_folder.update_latest_link(run)
    return Run(run, metrics)
