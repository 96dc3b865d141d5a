"""Output of commands on stdout."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from bestiary.flow import Run


def is_stderr_stdout() -> bool:
    """Return whether stderr and stdout are one terminal or one file, so that what both say is read twice."""
    try:
        return os.path.sameopenfile(sys.stderr.fileno(), sys.stdout.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False


def format_program() -> str:
    """Return what starts bestiary in this shell: its name, or its path if the environment is not activated."""
    if shutil.which("bestiary"):
        return "bestiary"
    if Path(sys.argv[0]).stem == "bestiary":
        return shlex.quote(sys.argv[0])
    return f"{shlex.quote(sys.executable)} -m bestiary"


def describe_predict_command(run: Path) -> str:
    """Return the command that classifies new pictures with a run, as a sentence for stderr."""
    return (
        f"Open the report in a browser. Then new pictures: {format_program()} predict {shlex.quote(str(run))} PICTURES"
    )


def print_run(run: Run, as_json: bool, *, leaks: Mapping[str, Any] | None = None) -> None:
    """Print the scores and verdict of a run, its leak report if any, and its paths; or all as JSON."""
    from bestiary import run_folder
    from bestiary.report.classification_report import classification_report
    from bestiary.report.run_files import read_run
    from bestiary.report.run_summary import summarise_run
    from bestiary.report.verdict import run_verdict

    page = run.path / "report.html"
    if as_json:
        notices = run_folder.read_environment(run.path).get("notices", [])
        values = {"run": str(run.path), "report": str(page), "metrics": run.metrics, "notices": notices}
        print_json({**values, "leaks": leaks} if leaks else values)
        return
    typer.echo(classification_report(run.metrics, short=True))
    if decision := run.metrics.get("decision"):
        typer.echo(f"{decision['sentence']}\n")
    if sentence := (run.metrics.get("group_scores") or {}).get("sentence"):
        typer.echo(f"{sentence}\n")
    if thresholds := run.metrics.get("class_thresholds"):
        typer.echo("\n".join([thresholds["sentence"], *thresholds["unmet"], ""]))
    if events := run.metrics.get("events"):
        typer.echo(f"{events['sentence']}\n")
    if leaks:
        typer.echo(f"{leaks['sentence']}\n")
    typer.echo(f"{run_verdict(summarise_run(read_run(run.path)))}\n\nReport: {page}\n{run.path}")


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    typer.echo(json.dumps(values, ensure_ascii=False))
