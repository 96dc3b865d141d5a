"""The command `fetch`: download a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.completion import complete_words
from bestiary.cli.options import AsJson, Quiet, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples

EXAMPLES = "bestiary fetch animals10"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help='The dataset to download: "animals10".', autocompletion=complete_words("animals10")
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="An empty or new folder; default: ./NAME.")] = None,
    threads: Threads = None,  # noqa: ARG001 - every command takes it
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download a known dataset; prints its folder."""
    from bestiary.data.fetch import fetch_dataset
    from bestiary.progress import make_reporter

    folder = fetch_dataset(name, out or Path(name), reporter=make_reporter(quiet=quiet))
    print_json({"pictures": str(folder), "labels": name}) if as_json else typer.echo(str(folder))
