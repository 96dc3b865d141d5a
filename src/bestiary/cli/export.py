"""The command `export`: convert a model and verify it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, ExportKind, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import require_extra

NO_PICTURES_HELP = (
    "Do not include the ten pictures with which `predict` and `serve` verify an 8-bit model on other processors."
)


EXAMPLES = "bestiary export runs/latest\nbestiary export runs/latest --to onnx-int8 --out model"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def export(
    run: RunPath,
    to: Annotated[ExportKind, typer.Option("--to", help="Format of the exported model.")] = ExportKind.onnx,
    out: Annotated[Path | None, typer.Option(help="A new folder, or a new .onnx file; default: in RUN/export.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Export even if accuracy drops by more than one point.")
    ] = False,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help=NO_PICTURES_HELP)] = False,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Export the model in another format, verified on real pictures; prints its path."""
    require_extra("train")
    from dataclasses import asdict

    from bestiary.export import verify
    from bestiary.machine import available_cores
    from bestiary.progress import make_reporter

    threads, reporter = threads or available_cores(), make_reporter(quiet=quiet)
    path, parity = verify.export(
        run, to.value, out=out, force=force, with_pictures=not no_pictures, threads=threads, reporter=reporter
    )
    if as_json:
        print_json({"model": str(path), "proof": asdict(parity)})
    else:
        typer.echo(f"{parity.summary()}\n{path}")
