"""The command `review`: confirm or correct labels on a local page."""

from __future__ import annotations

import getpass
import secrets
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Port, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import UserError, import_optional

if TYPE_CHECKING:
    from bestiary.context import Context
    from bestiary.review.review_session import ReviewSession


EXAMPLES = "bestiary review runs/latest"
NOTHING_TO_REVIEW = (
    "There is nothing to review: the audit found no doubtful labels, no duplicates and no outliers, and the model makes"
    " no confident mistakes."
)


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def review(
    run: RunPath,
    corrections: Annotated[Path | None, typer.Option(help="Decisions file; default: RUN/corrections.csv.")] = None,
    reviewer: Annotated[str | None, typer.Option(help="Your name in the notes; default: the user name.")] = None,
    port: Port = 8001,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Review flagged pictures on a local page, one by one; prints its address, then the next commands."""
    import_optional("polars", extra="train")
    from bestiary.context import Context
    from bestiary.progress import make_reporter
    from bestiary.review.app import create_app
    from bestiary.review.decisions import DecisionLog
    from bestiary.review.review_session import ReviewSession
    from bestiary.web import running
    from bestiary.web.settings import ServerSettings

    reporter = make_reporter(quiet=quiet)
    log = DecisionLog(corrections or run.resolve() / "corrections.csv", _reviewer_name(reviewer))
    session = ReviewSession(run, log, threads=threads)
    nothing = "" if session.items else NOTHING_TO_REVIEW
    for message in filter(None, (nothing, session.missing_files())):
        reporter.info(message)
    settings = ServerSettings(port=port, token=secrets.token_urlsafe(24))
    with running.bind_socket(settings) as bound:
        address = running.browser_url(bound, settings)
        print_json({"address": address}) if as_json else typer.echo(address)
        sys.stdout.flush()
        _start_neighbour_search(session, Context.create(threads, reporter))
        running.run_server(create_app(session, settings), bound, settings, reporter)
    _print_next_commands(session, as_json)


def _start_neighbour_search(session: ReviewSession, context: Context) -> None:
    """Find the nearest training pictures in a daemon thread, while the page is open."""
    from bestiary.errors import BestiaryError

    def search() -> None:
        try:
            session.start_neighbour_search(context)
        except BestiaryError as error:
            session.cancel_neighbour_search(str(error))
            context.reporter.info(f"The nearest training pictures cannot be shown. {error}")

    threading.Thread(target=search, daemon=True, name="bestiary-neighbours").start()


def _reviewer_name(reviewer: str | None) -> str:
    try:
        name = reviewer if reviewer is not None else getpass.getuser()
    except OSError:  # a container without a user
        name = "reviewer"
    if not name.strip() or ":" in name:
        raise UserError(f'--reviewer takes a name without a colon, for example --reviewer anna; got "{name}".')
    return name.strip()


def _print_next_commands(session: ReviewSession, as_json: bool) -> None:
    counts = Counter(decision.action for decision in session.decisions.mine())
    file, commands = session.decisions.path, session.commands()
    if as_json:
        actions = {action: counts[action] for action in ("keep", "relabel", "drop", "both")}
        print_json({"corrections": str(file), **actions, "next": commands})
    elif counts:
        two = f", {counts['both']} with two classes, left out" if counts["both"] else ""
        typer.echo(f"{counts['keep']} kept, {counts['relabel']} relabelled, {counts['drop']} dropped{two}: {file}")
        typer.echo("\n".join(["Next:", *(f"  {command}" for command in commands)]))
