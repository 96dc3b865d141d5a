"""Commands that use a finished run: `predict`, `report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Format, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.errors import needs_extra


@app.command()
def predict(
    run: RunPath,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Pictures, or folders of them.")],
    form: Annotated[Format, typer.Option("--format", help="How to write the answers.")] = Format.table,
    top: Annotated[int, typer.Option(min=1, help="How many labels to show in a table.")] = 1,
    heatmaps: Annotated[Path | None, typer.Option(help="Write pictures with the evidence drawn on, here.")] = None,
    sets: Annotated[
        float | None, typer.Option(help="Also name as few labels as hold the true one this often, for example 0.95.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Name what is in pictures, or say "unknown"."""
    from bestiary.deliver import answers
    from bestiary.inference.predictor import MANY, Predictor
    from bestiary.inference.sets import bound_of
    from bestiary.progress import reporter

    sources = answers.pictures_in(paths)
    many = len(sources) >= MANY
    predictor = Predictor(run, threads=threads, engine="fastest" if many else "onnxruntime")
    bound = None if sets is None else bound_of(predictor.bundle.sets, sets)
    with reporter(quiet=quiet or not many).task("Predicting", len(sources)) as advance:
        found = answers.counted(predictor.predict_many(sources), advance)
        if bound is not None:
            found = answers.with_sets(found, bound)
        if heatmaps is not None:
            found = answers.with_heatmaps(found, heatmaps, predictor.bundle.view)
        answers.write(
            found,
            "json" if as_json else form.value,
            sys.stdout,
            classes=predictor.classes,
            top=top,
            sets=sets is not None,
        )


@app.command()
def report(run: RunPath, threads: Threads = None, quiet: Quiet = False, as_json: AsJson = False) -> None:  # noqa: ARG001
    """Write report.html again; prints its path."""
    needs_extra("train")
    from bestiary.deliver.report import write_report

    path = write_report(run)
    print_json({"report": str(path)}) if as_json else typer.echo(str(path))
