"""The command `compare`: paired comparison of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.completion import complete_run
from bestiary.cli.options import AsJson, Quiet, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import UserError, require_extra

EXAMPLES = "bestiary compare runs/a runs/b\nbestiary compare runs/a runs/b --out comparison.html"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN…", help="Run folders; the first is the baseline.", autocompletion=complete_run),
    ],
    intersection: Annotated[bool, typer.Option("--intersection", help="Compare only shared test pictures.")] = False,
    labels_of: Annotated[
        Path | None, typer.Option(help="Score all runs with the labels of this one.", autocompletion=complete_run)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write a chart (.svg) or a page (.html).")] = None,
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="Number of bootstrap resamples.")] = 2000,
    threads: Threads = None,  # noqa: ARG001 - every command takes it
    quiet: Quiet = False,  # noqa: ARG001
    as_json: AsJson = False,
) -> None:
    """Compare runs on the same test pictures: paired differences with 95 % intervals and p values."""
    require_extra("train")
    from bestiary.evaluation.comparison import align_runs, compare_runs, read_run_predictions
    from bestiary.report import comparison_page

    if len(runs) < 2:
        raise UserError("A comparison needs two runs or more: bestiary compare RUN RUN")
    if out is not None:
        comparison_page.require_page_suffix(out)
    label_run = None if labels_of is None else str(labels_of)
    aligned = align_runs([read_run_predictions(run) for run in runs], intersection=intersection, labels_of=label_run)
    comparison = compare_runs(aligned, resamples=resamples)
    if out is not None:
        comparison_page.write_comparison(comparison, out, aligned)
    print_json(comparison) if as_json else comparison_page.print_comparison(comparison)
