"""Commands that judge finished runs: `evaluate`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Corrections, Labels, Quiet, RunPath, Threads
from bestiary.cli.output import print_json, print_run
from bestiary.errors import UserError, require_extra

if TYPE_CHECKING:
    from bestiary.evaluation.external import ExternalEvaluation


@app.command()
def evaluate(
    run: RunPath,
    pictures: Annotated[
        Path | None,
        typer.Argument(metavar="[PICTURES]", help="Other labelled pictures; its test split when not given."),
    ] = None,
    labels: Labels = None,
    corrections: Corrections = None,
    name: Annotated[
        str | None, typer.Option(help="Of the folder for the result, in RUN/evaluations; from PICTURES when not given.")
    ] = None,
    corruptions: Annotated[
        bool,
        typer.Option("--corruptions", help="How it does on validation pictures with noise, blur, …, in 5 strengths."),
    ] = False,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score a run on its own test split once more, or on other labelled pictures."""
    require_extra("train")
    from bestiary import flow
    from bestiary.context import Context
    from bestiary.data.dataset import DataSource
    from bestiary.evaluation import corruptions as spoiling
    from bestiary.evaluation import external
    from bestiary.progress import make_reporter
    from bestiary.report import text_tables

    show = make_reporter(quiet=quiet)
    if corruptions:
        if pictures is not None or labels is not None:
            raise UserError("--corruptions spoils the run's own validation pictures; give it no others.")
        rows = spoiling.evaluate_corrupted(run, threads=threads, reporter=show).to_dicts()
        print_json({"corruptions": rows}) if as_json else typer.echo(text_tables.format_corruption_table(rows))
    elif pictures is None:
        if labels is not None or name is not None or corrections is not None:
            raise UserError("--labels, --corrections and --name belong to PICTURES; say which pictures to score.")
        print_run(flow.evaluate(run, threads=threads, reporter=show), as_json)
    else:
        source, context = DataSource(pictures, labels, corrections), Context.create(threads, show)
        _print_external(external.evaluate_external(run, source, context, name=name), as_json)


def _print_external(evaluation: ExternalEvaluation, as_json: bool) -> None:
    from bestiary.report import text_tables

    if as_json:
        print_json({"evaluation": str(evaluation.path), "metrics": evaluation.metrics})
        return
    typer.echo(text_tables.format_external_evaluation(evaluation.metrics))
    typer.echo(str(evaluation.path))
