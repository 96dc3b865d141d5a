"""What commands print on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from bestiary.flow import Run


def print_run(run: Run, as_json: bool, *, leaks: Mapping[str, Any] | None = None) -> None:
    """Print the scores and the verdict of a run and where its report is, or all as JSON; with what would leak."""
    from bestiary.report.classification_report import classification_report
    from bestiary.report.verdict import verdict

    if as_json:
        files = {"run": str(run.path), "report": str(run.path / "report.html")}
        print_json({**files, "metrics": run.metrics, **({"leaks": leaks} if leaks else {})})
        return
    typer.echo(classification_report(run.metrics, short=True))
    if leaks:
        typer.echo(f"{leaks['sentence']}\n")
    typer.echo(f"{verdict(run.metrics)}\n")
    typer.echo(f"Report: {run.path / 'report.html'}")
    typer.echo(str(run.path))


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    typer.echo(json.dumps(values, ensure_ascii=False))
