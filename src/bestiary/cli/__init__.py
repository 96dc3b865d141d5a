"""The command line: parse, call, print, exit code. Results go to stdout; progress and notices to stderr.

Everything heavy is imported inside the commands, so that `bestiary --help` is quick.
"""

# Each adds its commands to the application.
from bestiary.cli import answering, judging, learning, looking, reviewing, studying, tuning  # noqa: F401
from bestiary.cli.app import app, main

__all__ = ["app", "main"]
