"""The command-line application: its commands, exit codes and error messages."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from bestiary.cli.completion import complete_in_bash
from bestiary.cli.usage import write_examples
from bestiary.cli.usage_errors import UsageError, describe_unknown_command, describe_usage_error
from bestiary.errors import BestiaryError, InterruptedRun, UserError

MAX_WIDTH = 110  # of the help, in characters; a narrower terminal narrows it
DONE, CHECK_FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
# In the order of `bestiary --help`; each is registered by the module of its name.
COMMANDS = (
    *("audit", "train", "evaluate", "compare", "predict", "report", "export"),
    *("embed", "runs", "serve", "review", "tune", "study", "fetch", "demo", "settings", "doctor"),
)


class BestiaryGroup(TyperGroup):
    """The group of all commands; turns Ctrl-C and usage errors into errors of bestiary."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the options before the command."""
        try:
            return super().make_context(*arguments, **options)
        except UsageError as error:
            raise UserError(describe_usage_error(error, self, None)) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the command and its arguments."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise UserError(describe_unknown_command(args[0], args[1:], self.commands))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the requested command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedRun(None) from None
        except UsageError as error:
            raise UserError(describe_usage_error(error, self, ctx.invoked_subcommand)) from None
        except ImportError as error:  # Ctrl-C while a compiled library was loading
            if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
                raise InterruptedRun(None) from None
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with their whole help text; typer truncates it."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help or "") for name, command in commands if command is not None])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        write_examples(formatter, self.epilog)


app = typer.Typer(
    name="bestiary",
    cls=BestiaryGroup,
    help="Turn a folder of labelled pictures into a classifier that you can trust."
    " `bestiary COMMAND --help` has the options and examples of a command.",
    epilog="bestiary demo\nbestiary train pictures",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 a check failed, 2 invalid input, 130 interrupted."""
    if os.environ.get("_BESTIARY_COMPLETE") == "complete_bash":
        complete_in_bash(app)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; the audit reports such files itself
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
        os._exit(USER_ERROR)  # skips Python's flush of stdout, which would fail again


def _exit_with_error(error: BestiaryError, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"{error}\n")
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print what a bug report needs: versions, processor, inference engines.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: print a JSON object.")] = False,
) -> None:
    if version:
        from bestiary.cli.versions import collect_versions, format_versions

        facts = collect_versions()
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else format_versions(facts))
        raise typer.Exit
    if as_json:
        raise UserError(
            "--json comes after a command, for example `bestiary audit PICTURES --json`, or with --version."
        )
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(USER_ERROR)
