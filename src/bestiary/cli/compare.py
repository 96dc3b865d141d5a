"""The command `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Quiet, Threads
from bestiary.cli.output import print_json
from bestiary.errors import UserError, require_extra


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
    require_extra("train")
    from bestiary.evaluation.comparison import align_runs, compare_runs, read_run_predictions
    from bestiary.report import comparison_page

    if len(runs) < 2:
        raise UserError("A comparison needs two runs or more: bestiary compare RUN RUN")
    if out is not None:
        comparison_page.require_page_suffix(out)
    judge = None if labels_of is None else str(labels_of)
    scored = align_runs([read_run_predictions(run) for run in runs], intersection=intersection, labels_of=judge)
    found = compare_runs(scored, resamples=resamples)
    if out is not None:
        comparison_page.write_comparison(found, out)
    print_json(found) if as_json else comparison_page.print_comparison(found)
