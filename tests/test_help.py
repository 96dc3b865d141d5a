"""The help of the command line: its short form, its examples, and hints for options of other tools."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

pytest.importorskip("sklearn")

from bestiary import cli
from bestiary.cli.app import COMMANDS
from bestiary.cli.option_groups import EXCEPTIONS, GROUPS, UNGROUPED
from bestiary.cli.options import build_recipe, parse_duration
from bestiary.cli.output import format_program
from bestiary.cli.usage_errors import EQUIVALENTS, HINTS, describe_equivalent
from bestiary.settings_reference import setting_consumers
from bestiary.training.recipe_checks import check_no_unused_settings
from bestiary.tune.search_space import build_search_space
from commands import Call

GROUP: Any = typer.main.get_command(cli.app)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_has_a_short_form_and_ends_with_examples(bestiary: Call, name: str) -> None:
    short, long = bestiary(*name.split(), "-h"), bestiary(*name.split(), "--help")
    assert (short, long[0]) == (long, 0)
    examples = long[1].partition("\nExamples:\n")[2].splitlines()
    assert 1 <= len(examples) <= 2
    assert all(example.startswith(f"  bestiary {name}") for example in examples)


EXAMPLES = [line for command in GROUP.commands.values() for line in command.epilog.splitlines()]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_are_valid(example: str) -> None:
    program, name, *arguments = shlex.split(example)
    context = GROUP.commands[name].make_context(name, arguments)
    values = context.params
    recipe = build_recipe(None, values.get("settings"), method=values.get("method"))
    check_no_unused_settings(recipe)
    build_search_space(recipe, 1000, values.get("search") or [])
    assert (program, parse_duration(values.get("budget") or "1s") > 0) == ("bestiary", True)


def test_the_program_is_named_as_this_shell_starts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/my python")
    monkeypatch.setattr(sys, "argv", [".venv/bin/bestiary", "demo"])
    assert format_program() == ".venv/bin/bestiary"
    monkeypatch.setattr(sys, "argv", ["/src/bestiary/__main__.py", "demo"])
    assert format_program() == "'/my python' -m bestiary"
    (tmp_path / "bestiary").touch(mode=0o755)
    assert format_program() == "bestiary"


@pytest.mark.parametrize(
    ("option", "equivalent"),
    [
        ("--epochs", "--set train.epochs=N"),
        ("--imgsz", "--set picture.size=PIXELS"),
        ("--img-size", "--set picture.size=PIXELS"),
        ("--batch", "--set train.batch_size=N"),
        ("--batch-size", "--set train.batch_size=N"),
        ("--lr", "--set train.learning_rate=RATE"),
        ("--data", "bestiary train PICTURES"),
        ("--model", "--backbone NAME"),
        ("--gpu", "--device cuda"),
        ("--num-workers", "--threads N"),
    ],
)
def test_options_of_other_tools_get_the_equivalent(bestiary: Call, option: str, equivalent: str) -> None:
    for arguments in ([option, "30"], [f"{option}=30"]):
        code, out, err = bestiary("train", "pictures", *arguments)
        assert (code, out) == (2, "")
        assert f"bestiary train has no {option}." in err
        assert equivalent in err


def test_the_equivalents_of_other_tools_exist() -> None:
    keys = {f"{section}.{key}" for section, key in setting_consumers()}
    given = {
        (option, describe_equivalent(option, command)) for option in HINTS for command in GROUP.commands.values()
    } - {(option, "") for option in HINTS}
    for options, hints in EQUIVALENTS.items():
        for hint in hints:
            assert set(re.findall(r"--set ([\w.]+)=", hint)) <= keys
            start = hint.partition("{command}")[0]  # each hint is given by some command, for each spelling
            assert {option for option, text in given if text.startswith(start)} >= set(options)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["train", "x", "--cache", "y"],
            "bestiary train has no --cache. The cache folder of all commands is set by the"
            " environment variable BESTIARY_CACHE.",
        ),
        (["serve", "run", "--cache-dir=y"], "environment variable BESTIARY_CACHE"),
        (["predict", "run", "x", "--model", "y"], "RUN is an argument: bestiary predict RUN."),
        (["serve", "run", "--gpu"], "Use --device cuda;"),
        (["report", "run", "--gpu"], "bestiary report has no --gpu. Run `bestiary report --help`"),
        (["doctor", "-v"], "--quiet hides them"),
        (["train", "--back", "lite0"], "Did you mean --backbone?"),
        (["train", "--clases", "a"], "Did you mean --classes?"),
        (["--quiet", "train"], "It comes after a command: bestiary train --quiet."),
        (["-V"], "bestiary has no -V. Run `bestiary --version`."),
        (["help"], "`bestiary COMMAND --help` the options of one"),
        (["help", "train"], "Run `bestiary train --help`."),
        (["version"], "Run `bestiary --version`."),
        (["trian"], 'bestiary has no command "trian". Did you mean "train"?'),
        (["."], "a command comes first, for example: bestiary train ."),
        (["predict", "a.jpg"], 'PATH… is missing; "a.jpg" was read as RUN. For example: `bestiary predict runs/latest'),
        (["fetch", "a", "b"], 'takes no more arguments, but got "b".'),
        (["embed", "run", "x"], "--out is missing. For example: `bestiary embed runs/latest"),
        (["train", "x", "--seed", "three"], '--seed takes a whole number; got "three".'),
        (["predict", "run", "x", "--sets", "most"], '--sets takes a number; got "most".'),
        (["train", "x", "--folds", "100"], '--folds takes at most 50; got "100".'),
        (["train", "x", "--threads", "0"], '--threads takes at least 1; got "0".'),
        (["train", "--seed"], "--seed needs a value, and there is none."),
    ],
)
def test_usage_errors_say_what_to_write_instead(bestiary: Call, arguments: list[str], says: str) -> None:
    code, out, err = bestiary(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_without_arguments_the_help_is_shown(bestiary: Call) -> None:
    code, out, err = bestiary()
    assert (code, out) == (2, "")
    assert err == bestiary("--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_in_groups_and_nothing_is_in_the_words_of_a_programmer(bestiary: Call, name: str) -> None:
    text = bestiary(name, "--help").out
    assert UNGROUPED not in text, f"Add the new option of {name} to a group in cli/option_groups.py."
    sections = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    expected = [group for group in ("Arguments", *GROUPS, "Examples") if group in sections]
    assert sections == expected
    assert "Every command" in sections
    for word in ("<str>", "<int", "<path>", "list[", "<=x", "x>=", "[required]", "...", "{"):
        assert word not in text.partition("Examples:")[0].replace("[label[,note", "")
    for param in GROUP.commands[name].params:
        shown = max(param.opts, key=len) if param.param_type_name == "option" else param.metavar.strip("[]")
        assert shown in text


def test_every_grouped_option_exists_once() -> None:
    listed = [option for options in GROUPS.values() for option in options]
    known = {name for command in GROUP.commands.values() for param in command.params for name in param.opts}
    cluster = {"--cluster", "--workers"}
    assert len(listed) == len(set(listed))
    assert set(listed) - known - cluster == {"--help"}
    assert {(command, option) for command, option in EXCEPTIONS if option not in option_names(command)} == set()


def option_names(command: str) -> set[str]:
    return {name for param in GROUP.commands[command].params for name in param.opts}
