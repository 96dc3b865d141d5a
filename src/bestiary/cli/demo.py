"""The command `demo`: train on a synthetic dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Quiet, Threads
from bestiary.cli.output import format_program, print_run
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import UserError, require_extra

EXAMPLES = "bestiary demo\nbestiary demo --out creatures"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def demo(
    out: Annotated[Path, typer.Option(help="A new folder for the drawn pictures and the run.")] = Path("demo"),
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draw a small dataset with faults, and train on it."""
    require_extra("train")
    from bestiary import flow
    from bestiary.demo.dataset import make_synthetic_dataset
    from bestiary.locks import output_lock
    from bestiary.progress import make_reporter

    if (page := out / "run" / "report.html").exists():
        raise UserError(f"The demo is in {out} already; its report: {page}. For another one, add --out FOLDER.")
    reporter = make_reporter(quiet=quiet)
    with output_lock(out):
        dataset = make_synthetic_dataset(out / "pictures")
        reporter.info(f"{dataset.about} They are in {dataset.folder}.")
        run = flow.train(dataset.folder, out=out / "run", threads=threads, reporter=reporter)
    if as_json:
        print_run(run, as_json)
    else:
        typer.echo((run.path / "classification_report.txt").read_text(encoding="utf-8"))
        typer.echo(f"Report: {(run.path / 'report.html').absolute()}")
        reporter.info(
            "Open it in a browser. Then your own pictures, in a folder for each class:"
            f" {format_program()} train PICTURES"
        )
