"""Help of a command: usage, arguments, options in groups, and examples that can be copied.

Plain text, not typer's panels drawn by Rich: a line can be copied and searched, a narrow terminal is no problem, and
`--help` is there in a fifth of a second.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from bestiary.cli.completion import shorten_help
from bestiary.cli.option_groups import GROUPS, UNGROUPED, VALUES, find_group

TYPE_WORDS = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT"}
RANGES = (
    (re.compile(r"([\d.]+)<=x<=([\d.]+)"), r"\1 to \2"),
    (re.compile(r"x>=([\d.]+)"), r"at least \1"),
    (re.compile(r"x<=([\d.]+)"), r"at most \1"),
    (re.compile(r"; required\]$"), "]"),
    (re.compile(r"\s*\[required\]$"), ""),
)


class CommandWithExamples(TyperCommand):
    """A command whose `epilog` has one example a line; `--help` ends with them, and has its options in groups."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the name of the command."""
        return ["[OPTIONS]", *(_format_argument(param) for param in self.params if _is_argument(param))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options group by group."""
        arguments = [
            (_format_argument(param).strip("[]"), _describe(param, ctx)) for param in self.params if _is_argument(param)
        ]
        _write_section(formatter, "Arguments", arguments)
        grouped: dict[str, list[tuple[str, str]]] = {group: [] for group in (*GROUPS, UNGROUPED)}
        options: list[Any] = self.get_params(ctx)
        for param in options:
            if not _is_argument(param) and not param.hidden:
                group = find_group(str(self.name), _long_name(param))
                grouped[group].append((_format_option(param, ctx), _describe(param, ctx)))
        for group, rows in grouped.items():
            _write_section(formatter, group, rows)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the options that begin so, each with a short help text."""
        items = super().shell_complete(ctx, incomplete)
        for item in items:
            item.help = shorten_help(item.help) if item.help else item.help
        return items

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        write_examples(formatter, self.epilog)


def write_examples(formatter: Any, epilog: str | None) -> None:
    """Write one example a line, without wrapping: an example can be copied."""
    if epilog:
        with formatter.section("Examples"):
            for example in epilog.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _write_section(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _format_argument(param: Any) -> str:
    """Return an argument as the usage has it, in brackets if it may be left out."""
    name = str(param.metavar or param.name.upper()).strip("[]")
    return name if param.required else f"[{name}]"


def _format_option(param: Any, ctx: Any) -> str:
    """Return the names of an option and what stands for its value."""
    names = ", ".join(sorted(param.opts, key=len))
    if param.is_flag:
        return " / ".join([names, *param.secondary_opts])
    return f"{names} {_format_value(param, ctx)}"


def _long_name(param: Any) -> str:
    return str(max(param.opts, key=len))


def _format_value(param: Any, ctx: Any) -> str:
    if param.metavar is not None:
        return str(param.metavar)
    if param.type_descriptor.is_choice:
        return str(param.display_type(ctx)).strip("<>")
    return VALUES.get(_long_name(param)) or TYPE_WORDS.get(param.type_descriptor.annotation, "TEXT")


def _describe(param: Any, ctx: Any) -> str:
    """Return the help of an option or argument, with its default and its range in words."""
    record = param.get_help_record(ctx)
    text = str(record[1]) if record else ""
    for pattern, words in RANGES:
        text = pattern.sub(words, text)
    return text
