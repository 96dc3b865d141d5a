"""The command `doctor`: what this computer and this installation can do, and what would make them do more."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Quiet, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples

EXAMPLES = "bestiary doctor\nbestiary doctor --json"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def doctor(
    torch: Annotated[
        bool, typer.Option("--torch/--no-torch", help="Also ask torch, which takes some seconds to load.")
    ] = True,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say which processor, accelerators, extras and caches there are, why one is not used, and what to install."""
    from bestiary.cli.diagnosis import diagnose, format_diagnosis
    from bestiary.progress import make_reporter

    if torch and importlib.util.find_spec("torch") is not None:
        make_reporter(quiet=quiet).info("Loading torch; --no-torch is quicker.")
    facts: dict[str, Any] = diagnose(threads=threads, with_torch=torch)
    print_json(facts) if as_json else typer.echo(format_diagnosis(facts))
