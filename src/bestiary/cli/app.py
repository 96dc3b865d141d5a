"""The command line itself: the application, its exit codes, and what becomes of an error."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from bestiary.errors import BestiaryError, InterruptedRun, UserError, did_you_mean
from bestiary.version import __version__

DONE, CHECK_FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
# The order of `bestiary --help`: from pictures to answers.
ORDER = (
    "audit",
    "train",
    "evaluate",
    "compare",
    "predict",
    "report",
    "export",
    "serve",
    "review",
    "tune",
    "study",
    "fetch",
    "demo",
)
PACKAGES = ("numpy", "Pillow", "onnxruntime", "openvino", "polars", "scikit-learn", "torch", "timm")
# What is wrong with the words of a command; the parser has had this error under several names.
WRONG_USE: Any = typer.BadParameter.__mro__[1]
NO_CHOICE = re.compile(r"Invalid value for '(.+?)': (?:Value error, )?'(.*)' is not one of ('.*')\.")


class BestiaryGroup(TyperGroup):
    """The commands; Ctrl-C in one of them ends in our own message and exit code, not in those of the parser."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedRun(None) from None
        except WRONG_USE as error:
            raise UserError(_usage_message(error.format_message(), ctx)) from None
        except ImportError as error:  # Ctrl-C while a compiled library was loading
            if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
                raise InterruptedRun(None) from None
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with all of its sentence; the parser's own list cuts long ones off."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help or "") for name, command in commands if command is not None])

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of their use."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="bestiary",
    cls=BestiaryGroup,
    help="A folder of labelled pictures in, a classifier that you can trust out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 a check failed, 2 the user's input, 130 interrupted."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; what they amount to is told of the file
    try:
        app()
    except InterruptedRun as error:
        _exit_with_error(error, INTERRUPTED)
    except BestiaryError as error:
        _exit_with_error(error, USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(f"The disk is full: {error}. Free some space and run the command again.\n")
        os._exit(USER_ERROR)  # Python would try once more to write what is left


def _usage_message(message: str, ctx: Any) -> str:
    """Return what is wrong with an option or argument, as every other error says it: with what was expected."""
    if no_choice := NO_CHOICE.fullmatch(message):
        option, given, known = no_choice.groups()
        choices = known.strip("'").split("', '")
        return f'Unknown value "{given}" for {option}. {did_you_mean(given, choices)}'
    command = " ".join(filter(None, ("bestiary", ctx.invoked_subcommand)))
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end} All that can be said: {command} --help"


def _exit_with_error(error: BestiaryError, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"{error}\n")
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and what it runs on.")] = False,
) -> None:
    if version:
        typer.echo(f"bestiary {__version__}\n{_build_facts()}")
        raise typer.Exit


def _build_facts() -> str:
    """Return what a report of a fault should name: where it is installed, Python, system, and the packages it uses."""
    import importlib.metadata
    import platform
    from pathlib import Path

    facts = [
        f"installed in {Path(__file__).parents[1]}",
        f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}",
    ]
    for package in PACKAGES:
        try:
            facts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            facts.append(f"{package} not installed")
    return "\n".join(facts)
