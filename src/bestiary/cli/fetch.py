"""The command `fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Quiet, Threads
from bestiary.cli.output import print_json


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help='The collection to download: "animals10".')],
    out: Annotated[Path | None, typer.Option(help="An empty or new folder; ./NAME when not given.")] = None,
    threads: Threads = None,  # noqa: ARG001 - every command takes it
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download a known collection; prints its folder."""
    from bestiary.data.fetch import fetch_dataset as download
    from bestiary.progress import make_reporter

    folder = download(name, out or Path(name), reporter=make_reporter(quiet=quiet))
    if as_json:
        print_json({"pictures": str(folder), "labels": name})
    else:
        typer.echo(str(folder))
