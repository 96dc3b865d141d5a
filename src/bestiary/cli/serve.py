"""The command `serve`: HTTP server for a run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, Port, PredictionDevice, PredictionDeviceOption, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples

EXAMPLES = "bestiary serve runs/latest\nbestiary serve runs/latest --host 0.0.0.0 --token SECRET"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def serve(
    run: RunPath,
    host: Annotated[str, typer.Option(help="IP address to listen on; loopback is local only.")] = "127.0.0.1",
    port: Port = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="BESTIARY_TOKEN", help="Token required in every request; needed with --host."),
    ] = None,
    allow_name: Annotated[
        list[str] | None, typer.Option(help="Additional host name to accept, for example of a local proxy.")
    ] = None,
    device: PredictionDeviceOption = PredictionDevice.auto,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Serve a page to drop pictures on, and an HTTP API; prints its address."""
    from bestiary.inference.predictor import Predictor
    from bestiary.progress import make_reporter
    from bestiary.serve.app import create_app
    from bestiary.web import running
    from bestiary.web.settings import ServerSettings

    settings = ServerSettings(host=host, port=port, token=token, allowed_names=tuple(allow_name or ()))
    reporter = make_reporter(quiet=quiet)
    predictor = Predictor(run, threads=threads, engine="fastest", device=device.value, reporter=reporter)
    if warning := predictor.bundle.describe_whole_pictures():
        reporter.info(warning)
    with running.bind_socket(settings) as bound:
        address = running.browser_url(bound, settings)
        print_json({"address": address}) if as_json else typer.echo(address)
        sys.stdout.flush()
        application = create_app(predictor, settings, run.resolve().name)
        running.run_server(application, bound, settings, reporter)
