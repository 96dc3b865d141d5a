"""The help of the command line: its short form, its examples, and hints for options of other tools."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer

pytest.importorskip("sklearn")

from bestiary import cli
from bestiary.cli.app import COMMANDS
from bestiary.cli.options import build_recipe, parse_duration
from bestiary.cli.usage import HINTS
from bestiary.training.recipe_checks import check_no_unused_settings, setting_consumers
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
    options = {
        option for command in ("train", "tune") for param in GROUP.commands[command].params for option in param.opts
    }
    for hint in HINTS.values():
        assert set(re.findall(r"--set ([\w.]+)=", hint)) <= keys
        assert set(re.findall(r"--[a-z]+", hint)) <= options
