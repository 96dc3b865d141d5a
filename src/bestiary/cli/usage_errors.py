"""Messages about wrong usage of the command line: what is wrong, what was expected, and an example that works.

Typer and click have their own words for these errors. A message of bestiary names the value, the nearest option or
command, and what bestiary has in place of an option of another tool.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from bestiary.errors import did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError

UsageError: Any = typer.BadParameter.__mro__[1]  # click's or typer's own, depending on the version of typer
LOOP = "with --method finetune or scratch"
# Options of other tools, or of other commands -> what bestiary has in their place. A hint is given by the commands that
# have the options it names, and the arguments PICTURES or RUN if it names one.
EQUIVALENTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("--epochs", "--epoch", "--num-epochs"): (f"Use --set train.epochs=N ({LOOP})",),
    ("--imgsz", "--img-size", "--image-size", "--img"): ("Use --set picture.size=PIXELS",),
    ("--batch", "--batch-size"): (f"Use --set train.batch_size=N ({LOOP})",),
    ("--lr", "--lr0", "--learning-rate"): (f"Use --set train.learning_rate=RATE ({LOOP})",),
    ("--optimizer", "--optimiser"): (f"Use --set train.optimiser=NAME ({LOOP})",),
    ("--val-split", "--val-size", "--validation-split"): ("Use --set data.val_fraction=FRACTION",),
    ("--test-split", "--test-size"): ("Use --set data.test_fraction=FRACTION",),
    ("--data", "--data-dir", "--dataset"): ("PICTURES is an argument: bestiary {command} PICTURES",),
    ("--model", "--arch", "--weights"): (
        "Use --backbone NAME for pretrained weights, --method for the training method",
        "RUN is an argument: bestiary {command} RUN",
    ),
    ("--gpu", "--gpus"): (
        "Use --device cuda (NVIDIA) or mps (Apple), with --method finetune or scratch; `bestiary doctor` says what"
        " there is",
        "Use --device cuda; `bestiary doctor` says what there is",
    ),
    ("--workers", "--num-workers", "--jobs"): ("Use --threads N",),
    ("--project", "--output-dir", "--output", "-o"): ("Use --out",),
    ("--config", "--cfg"): ("Use --recipe FILE.toml",),
    ("--cache", "--cache-dir", "--cache-folder"): (
        "The cache folder of all commands is set by the environment variable BESTIARY_CACHE",
    ),
    ("--verbose", "-v", "--progress", "--debug"): ("Progress and notices are always shown; --quiet hides them",),
    ("--force", "--overwrite", "--exist-ok"): ("Nothing is overwritten: choose another --out",),
    ("--version", "-V"): ("Run `bestiary --version`",),
}
HINTS = {option: hints for options, hints in EQUIVALENTS.items() for option in options}
# What other tools call a command -> what to run.
COMMAND_HINTS = {
    "help": "`bestiary --help` lists the commands, `bestiary COMMAND --help` the options of one",
    "version": "Run `bestiary --version`",
    "fit": "Run `bestiary train PICTURES`",
    "classify": "Run `bestiary predict RUN PATH`",
    "infer": "Run `bestiary predict RUN PATH`",
    "test": "Run `bestiary evaluate RUN`",
    "val": "Run `bestiary evaluate RUN`",
    "check": "Run `bestiary audit PICTURES` for pictures, `bestiary doctor` for this computer",
    "info": "Run `bestiary doctor`",
    "list": "Run `bestiary runs`",
}
OPTION_NAME = re.compile(r"--[a-z]+|PICTURES|RUN")
PROGRAM_HINTS = {"-V": "Run `bestiary --version`", "-v": "Run `bestiary --version`"}
MIN_SIMILARITY, MIN_PREFIX = 0.7, 3  # of an unknown option and one that is suggested; letters of its beginning

INVALID_CHOICE = re.compile(r"Invalid value for '(.+?)': (?:Value error, )?'(.*)' is not one of ('.*')\.")
EXTRA_ARGUMENTS = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", re.DOTALL)
NO_VALUE = re.compile(r"Option '(.+)' requires (an argument|(\d+) arguments)\.")
CHOICE_SEPARATOR = "', '"
# Types of errors of pydantic, which typer converts values with -> what was expected.
EXPECTED = {
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "greater_than_equal": "at least {ge:,}",
    "less_than_equal": "at most {le:,}",
}


def describe_usage_error(error: Any, group: Any, command: str | None) -> str:
    """Return the message about a usage error of a command, None for an error before the command was read.

    group: the application, whose commands and options are suggested.
    """
    program = " ".join(filter(None, ("bestiary", command)))
    message = error.format_message()
    if (option := _unknown_option(error)) is not None:
        text = f"{program} has no {option}. {_suggest_option(option, error.ctx.command, group, command)}"
    elif match := INVALID_CHOICE.fullmatch(message):
        name, value, choices = match.groups()
        return f'Unknown value "{value}" for {name}. {did_you_mean(value, choices[1:-1].split(CHOICE_SEPARATOR))}'
    elif match := EXTRA_ARGUMENTS.fullmatch(message):
        text = f'{program} takes no more arguments, but got "{match[1]}". {_format_example(group, command)}'
    elif match := NO_VALUE.fullmatch(message):
        text = f"{match[1]} needs {'a value' if match[3] is None else f'{match[3]} values'}, and there is none."
    elif hasattr(error, "param_type"):
        text = f"{_describe_missing(error)} {_format_example(group, command)}"
    elif isinstance(error, typer.BadParameter):
        text = _describe_bad_value(error)
    else:
        text = message if message.endswith((".", "?")) else f"{message}."
    end = f"Run `{program} --help` for all {'options' if command else 'commands'}."
    return text if "Run `" in text else f"{text.rstrip()} {end}"


def describe_unknown_command(name: str, rest: Sequence[str], commands: Iterable[str]) -> str:
    """Return the message about a command that bestiary does not have; rest: the arguments after it.

    >>> describe_unknown_command("fit", [], ["train"])
    'bestiary has no command "fit". Run `bestiary train PICTURES`.'
    """
    start = f'bestiary has no command "{name}".'
    if name == "help" and rest and rest[0] in commands:
        return f"{start} Run `bestiary {rest[0]} --help`."
    if name in COMMAND_HINTS:
        return f"{start} {COMMAND_HINTS[name]}."
    if os.path.exists(name):  # noqa: PTH110 - unlike Path.exists, it does not raise for names that are too long
        return f"{start} {name} is a path; a command comes first, for example: bestiary train {name}"
    close = difflib.get_close_matches(name, commands, n=1)
    guess = f' Did you mean "{close[0]}"?' if close else ""
    return f"{start}{guess} Run `bestiary --help` for all commands."


def describe_equivalent(option: str, command: Any) -> str:
    """Return what a command has in place of an option of another tool; empty if nothing is known."""
    names = [*_list_options(command), *(_argument_name(param).rstrip("…") for param in _list_arguments(command))]
    for hint in HINTS.get(option, ()):
        if all(name in names for name in OPTION_NAME.findall(hint.replace("bestiary --version", ""))):
            return f"{hint.format(command=command.name)}."
    return ""


def _unknown_option(error: Any) -> str | None:
    return str(error.option_name) if hasattr(error, "possibilities") else None


def _suggest_option(option: str, command: Any, group: Any, name: str | None) -> str:
    """Return a sentence with what to use in place of an unknown option of a command; empty if nothing is known."""
    if name is None:
        owners = [title for title, owner in group.commands.items() if option in _list_options(owner)]
        example = "train" if "train" in owners else next(iter(owners), "")
        after = f"It comes after a command: bestiary {example} {option}." if owners else ""
        return f"{PROGRAM_HINTS[option]}." if option in PROGRAM_HINTS else after
    if hint := describe_equivalent(option, command):
        return hint
    text, options = option.lstrip("-"), [name[2:] for name in _list_options(command) if name.startswith("--")]
    longer = [option for option in options if len(text) >= MIN_PREFIX and option.startswith(text)]
    close = longer or difflib.get_close_matches(text, options, n=1, cutoff=MIN_SIMILARITY)
    return f"Did you mean --{close[0]}?" if close else ""


def _list_options(command: Any) -> list[str]:
    return [name for param in command.params for name in param.opts if name.startswith("-")]


def _list_arguments(command: Any) -> list[Any]:
    return [param for param in command.params if param.param_type_name == "argument"]


def _describe_missing(error: Any) -> str:
    """Return the message about an argument or an option that is required, and what was read in its place."""
    param = error.param
    name = param.opts[0] if param.param_type_name == "option" else _argument_name(param)
    read = [
        f'"{error.ctx.params[argument.name]}" was read as {_argument_name(argument)}'
        for argument in _list_arguments(error.ctx.command)
        if argument is not param and error.ctx.params.get(argument.name)
    ]
    return f"{name} is missing{f'; {read[0]}' if read and param.param_type_name == 'argument' else ''}."


def _argument_name(param: Any) -> str:
    return str(param.metavar or param.name).strip("[]")


def _format_example(group: Any, command: str | None) -> str:
    """Return the first example of the command's help as a sentence; empty for the program itself."""
    epilog = None if command is None else group.commands[command].epilog
    return f"For example: `{epilog.splitlines()[0]}`." if epilog else ""


def _describe_bad_value(error: Any) -> str:
    """Return the message about a value that an option or argument cannot have."""
    param, cause = error.param, error.__cause__
    name = _argument_name(param) if param.param_type_name == "argument" else param.opts[0]
    details = None if cause is None or not hasattr(cause, "errors") else _first_detail(cause)
    if details is None:
        return f"{name}: {error.message}{'' if error.message.endswith('.') else '.'}"
    expected, value = details
    return f'{name} takes {expected}; got "{value}".'


def _first_detail(cause: ValidationError) -> tuple[str, Any] | None:
    """Return what was expected and what came; None for a kind of error that has its own sentence."""
    first = cause.errors()[0]
    if first["type"] not in EXPECTED:
        return None
    limits = {
        key: int(limit) if float(limit).is_integer() else limit
        for key, limit in first.get("ctx", {}).items()
        if isinstance(limit, int | float)
    }
    return EXPECTED[first["type"]].format(**limits), first["input"]
