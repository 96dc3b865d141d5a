"""The command `report`: write the report of a run again."""

from __future__ import annotations

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import require_extra

EXAMPLES = "bestiary report runs/latest"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def report(
    run: RunPath,
    threads: Threads = None,
    quiet: Quiet = False,  # noqa: ARG001 - every command takes it
    as_json: AsJson = False,
) -> None:
    """Write report.html, report.md and the model card (README.md) again; prints the path of the report."""
    require_extra("train")
    from bestiary.report.run_report import write_report

    path = write_report(run, threads=threads)
    if as_json:
        print_json({"report": str(path), "summary": str(run / "report.md"), "model_card": str(run / "README.md")})
    else:
        typer.echo(str(path))
