"""Commands that judge finished runs: `evaluate`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Corrections, Labels, Quiet, RunPath, Threads
from bestiary.cli.output import print_json, print_run
from bestiary.errors import UserError, needs_extra

if TYPE_CHECKING:
    from bestiary.evaluation.external import Evaluation


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
    needs_extra("train")
    from bestiary import flow
    from bestiary.evaluation import corruptions as spoiling
    from bestiary.evaluation import external
    from bestiary.progress import reporter
    from bestiary.report import text_tables

    show = reporter(quiet=quiet)
    if corruptions:
        if pictures is not None or labels is not None:
            raise UserError("--corruptions spoils the run's own validation pictures; give it no others.")
        rows = spoiling.evaluate_corrupted(run, threads=threads, reporter=show).to_dicts()
        print_json({"corruptions": rows}) if as_json else typer.echo(text_tables.corruption_table(rows))
    elif pictures is None:
        if labels is not None or name is not None or corrections is not None:
            raise UserError("--labels, --corrections and --name belong to PICTURES; say which pictures to score.")
        print_run(flow.evaluate(run, threads=threads, reporter=show), as_json)
    else:
        found = external.evaluate_elsewhere(
            run, pictures, labels=labels, corrections=corrections, name=name, threads=threads, reporter=show
        )
        _print_elsewhere(found, as_json)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN…", help="Run folders; all are held against the first.")
    ],
    intersection: Annotated[
        bool, typer.Option("--intersection", help="Where the test pictures differ, compare those that all runs have.")
    ] = False,
    labels_of: Annotated[
        Path | None, typer.Option(help="Judge all runs by the labels of this one: after train --corrections.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also draw it: a .svg, or a .html page.")] = None,
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="Of the paired bootstrap.")] = 2000,
    threads: Threads = None,  # noqa: ARG001 - every command takes it
    quiet: Quiet = False,  # noqa: ARG001
    as_json: AsJson = False,
) -> None:
    """Hold runs against each other on the same test pictures: what differs, by how much, how sure."""
    needs_extra("train")
    from bestiary.evaluation.comparison import compared, matched, read_scored
    from bestiary.report import comparison_page

    if len(runs) < 2:
        raise UserError("A comparison needs two runs or more: bestiary compare RUN RUN")
    if out is not None:
        comparison_page.refuse_other_suffix(out)
    judge = None if labels_of is None else str(labels_of)
    scored = matched([read_scored(run) for run in runs], intersection=intersection, labels_of=judge)
    found = compared(scored, resamples=resamples)
    if out is not None:
        comparison_page.write(found, out)
    print_json(found) if as_json else comparison_page.print_table(found)


def _print_elsewhere(found: Evaluation, as_json: bool) -> None:
    from bestiary.report import text_tables

    if as_json:
        print_json({"evaluation": str(found.path), "metrics": found.metrics})
        return
    typer.echo(text_tables.elsewhere_text(found.metrics))
    typer.echo(str(found.path))
