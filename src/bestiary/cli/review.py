"""The command with which a person decides about doubtful pictures: `review`."""

from __future__ import annotations

import getpass
import secrets
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.errors import UserError, import_optional

if TYPE_CHECKING:
    from bestiary.progress import Reporter
    from bestiary.review.review_session import ReviewSession


@app.command()
def review(
    run: RunPath,
    corrections: Annotated[
        Path | None, typer.Option(help="Where decisions are written; corrections.csv in the run when not given.")
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option(help="Your name in the notes; the user's name when not given.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8001,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Confirm or correct doubtful pictures on a local page, one by one; prints its address, and what to do next."""
    import_optional("polars", extra="train")
    from bestiary.progress import make_reporter
    from bestiary.review.app import create_app
    from bestiary.review.decisions import DecisionLog
    from bestiary.review.review_session import ReviewSession
    from bestiary.web import running
    from bestiary.web.settings import ServerSettings

    show = make_reporter(quiet=quiet)
    desk = ReviewSession(
        run, DecisionLog(corrections or run.resolve() / "corrections.csv", _reviewer_name(reviewer)), threads=threads
    )
    settings = ServerSettings(port=port, token=secrets.token_urlsafe(24))
    with running.bind_socket(settings) as bound:
        address = running.browser_url(bound, settings)
        print_json({"address": address}) if as_json else typer.echo(address)
        sys.stdout.flush()
        _start_neighbour_search(desk, threads, show)
        running.run_server(create_app(desk, settings), bound, settings, show)
    _print_next_commands(desk, as_json)


def _start_neighbour_search(session: ReviewSession, threads: int | None, show: Reporter) -> None:
    """Find the nearest training pictures while the page is open already; the end does not wait for it."""
    from bestiary.context import Context
    from bestiary.errors import BestiaryError

    def seek() -> None:
        try:
            session.start_neighbour_search(Context.create(threads, show))
        except BestiaryError as error:
            session.cancel_neighbour_search(str(error))
            show.info(f"The nearest training pictures cannot be shown. {error}")

    threading.Thread(target=seek, daemon=True, name="bestiary-neighbours").start()


def _reviewer_name(reviewer: str | None) -> str:
    try:
        name = reviewer if reviewer is not None else getpass.getuser()
    except OSError:  # a container without a user
        name = "reviewer"
    if not name.strip() or ":" in name:
        raise UserError(f'--reviewer takes a name without a colon, for example --reviewer anna; got "{name}".')
    return name.strip()


def _print_next_commands(session: ReviewSession, as_json: bool) -> None:
    made = session.decisions.mine()
    counts = {action: sum(one.action == action for one in made) for action in ("keep", "relabel", "drop")}
    file, commands = session.decisions.path, session.commands()
    if as_json:
        print_json({"corrections": str(file), **counts, "next": commands})
    elif made:
        typer.echo(f"{counts['keep']} kept, {counts['relabel']} relabelled, {counts['drop']} dropped: {file}")
        typer.echo("\n".join(["Next:", *(f"  {command}" for command in commands)]))
