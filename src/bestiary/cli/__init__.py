"""Command line: parse, call, print, exit code. Results go to stdout; progress and notices to stderr.

Everything heavy is imported inside the commands, so that `bestiary --help` is quick.
"""

from importlib import import_module

from bestiary.cli.app import COMMANDS, app, main

for _command in COMMANDS:
    import_module(f"bestiary.cli.{_command}")  # registers the command with the application

__all__ = ["app", "main"]
