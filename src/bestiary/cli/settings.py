"""The command `settings`: every setting of a recipe, with values, default, meaning and the methods that use it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bestiary.cli.app import app
from bestiary.cli.completion import complete_setting
from bestiary.cli.options import AsJson, Quiet, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from bestiary.settings_reference import Setting

EXAMPLES = "bestiary settings crop\nbestiary settings train.epochs --format json"
MIN_WIDTH, MAX_WIDTH = 60, 120  # of the text, in characters


class SettingsFormat(StrEnum):
    """Output formats of the list of settings."""

    text = "text"
    json = "json"


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def settings(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD…]",
            help="Only settings whose name, section or meaning has all these words.",
            autocompletion=complete_setting,
        ),
    ] = None,
    form: Annotated[SettingsFormat, typer.Option("--format", help="Output format.")] = SettingsFormat.text,
    threads: Threads = None,  # noqa: ARG001 - every command takes it
    quiet: Quiet = False,  # noqa: ARG001 - there are no notices
    as_json: AsJson = False,
) -> None:
    """List the settings that --set and recipes take: values, default, meaning, and the methods that use each."""
    from bestiary.settings_reference import describe_sections, list_settings

    sections = describe_sections()
    listed = find_settings(list_settings(), sections, words or ())
    if as_json or form == SettingsFormat.json:
        print_json({"settings": [setting_fields(setting) for setting in listed]})
    else:
        width = min(max(shutil.get_terminal_size().columns, MIN_WIDTH), MAX_WIDTH)
        typer.echo(format_settings(listed, sections, width))


def find_settings(listed: Iterable[Setting], sections: dict[str, str], words: Sequence[str]) -> list[Setting]:
    """Return the settings whose name, section, values or meaning has all words; raises UserError if none has.

    sections: what each section is about.
    """
    listed, words = list(listed), [word.lower() for word in words]
    matching = [setting for setting in listed if all(word in _searched_text(setting, sections) for word in words)]
    if not matching:
        parts = {part for setting in listed for part in (setting.name, setting.name.rpartition(".")[2])}
        guess = did_you_mean(words[0], parts).partition("Known:")[0]
        raise UserError(
            f'No setting has "{" ".join(words)}" in its name or meaning. {guess}'
            "Run `bestiary settings` for all of them."
        )
    return matching


def setting_fields(setting: Setting) -> dict[str, Any]:
    """Return the fields of a setting as JSON has them."""
    return {"name": setting.name, "section": setting.section} | asdict(setting)


def format_settings(listed: Sequence[Setting], sections: dict[str, str], width: int) -> str:
    """Return the settings as text of so many columns, by section, and how to set one."""
    blocks = []
    for section in dict.fromkeys(setting.section for setting in listed):
        title = f"[{section}] {sections[section]}" if section else "Outside the sections"
        own = [_format_setting(setting, width) for setting in listed if setting.section == section]
        blocks.append("\n".join([textwrap.fill(title, width, subsequent_indent="  "), *own]))
    example = f"{listed[0].name}=VALUE"
    blocks.append(f"Set one with `bestiary train PICTURES --set {example}`, or in a TOML file for --recipe.")
    return "\n\n".join(blocks)


def _format_setting(setting: Setting, width: int) -> str:
    """Return the lines of one setting."""
    users = f"used by {setting.users}" if setting.users != "all" else "used by every method"
    lines = [setting.meaning, f"values: {setting.values}; default: {setting.default}; {users}"]
    wrap = textwrap.TextWrapper(
        width,
        initial_indent=" " * 6,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join([f"  {setting.name}", *map(wrap.fill, lines)])


def _searched_text(setting: Setting, sections: dict[str, str]) -> str:
    return f"{setting.name} {sections.get(setting.section, '')} {setting.values} {setting.meaning}".lower()
