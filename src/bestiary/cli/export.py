"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, ExportKind, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.errors import require_extra


@app.command()
def export(
    run: RunPath,
    to: Annotated[ExportKind, typer.Option("--to", help="The form to write.")] = ExportKind.onnx,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder, for predict and serve; or a new .onnx file. RUN/export/… if not given."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if it loses more than one point of accuracy.")] = False,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the model in another form, proven on real pictures; prints its path."""
    require_extra("train")
    from dataclasses import asdict

    from bestiary.export.verify import export as write_proven
    from bestiary.machine import available_cores
    from bestiary.progress import make_reporter

    path, proof = write_proven(
        run, to.value, out=out, force=force, threads=threads or available_cores(), reporter=make_reporter(quiet=quiet)
    )
    if as_json:
        print_json({"model": str(path), "proof": asdict(proof)})
    else:
        typer.echo(proof.summary())
        typer.echo(str(path))
