"""The command `runs`: a leaderboard of the runs in a folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Quiet, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples

EXAMPLES = "bestiary runs\nbestiary runs studies --sort seconds"


class Sort(StrEnum):
    """What runs are sorted by."""

    macro_f1 = "macro_f1"
    accuracy = "accuracy"
    log_loss = "log_loss"
    seconds = "seconds"
    date = "date"
    name = "name"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A folder with runs, at any depth.")] = Path(
        "runs"
    ),
    sort: Annotated[
        Sort, typer.Option("--sort", help="A metric, the best first; or seconds, date (newest first), name.")
    ] = Sort.macro_f1,
    threads: Threads = None,  # noqa: ARG001 - every command takes it
    quiet: Quiet = False,  # noqa: ARG001
    as_json: AsJson = False,
) -> None:
    """List the runs of a folder: scores with 95 % intervals, ranked among runs with the same test pictures."""
    from bestiary.report.leaderboard import format_leaderboard, read_leaderboard

    leaderboard = read_leaderboard(folder, sort.value)
    print_json(leaderboard.values()) if as_json else typer.echo(format_leaderboard(leaderboard))
