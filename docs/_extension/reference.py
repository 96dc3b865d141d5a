"""Directives of the documentation: commands from `--help`, settings from the recipe, the flow as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.directives.other import TocTree
from sphinx.util.docutils import SphinxDirective

FLOW = Path(__file__).parents[1] / "drawings" / "flow.svg"


def escape_cell(text: str) -> str:
    """Return text for a cell of a Markdown table: marks of Markdown and HTML are shown as they are."""
    for mark in "\\`*_{}[]<>|#$~":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def format_code(text: str) -> str:
    """Return code for a cell of a Markdown table."""
    return "`" + " ".join(text.split()).replace("|", "\\|") + "`"


def format_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def describe_command(name: str, command: Any) -> list[str]:
    """Return the section of a command as lines of Markdown: help, usage, arguments and options, examples."""
    import typer

    context: Any = typer.Context(command, info_name=f"bestiary {name}")
    usage = " ".join(["bestiary", name, *command.collect_usage_pieces(context)])
    lines = [f"## bestiary {name}", "", escape_cell(command.help or ""), "", "```text", usage, "```", ""]
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    rows = [(format_code(names), escape_cell(text)) for names, text in records]
    lines += [*format_table(("option", "meaning"), rows), ""]
    if command.epilog:
        lines += ["Examples:", "", "```text", *command.epilog.splitlines(), "```", ""]
    return lines


class Commands(SphinxDirective):
    """Every command of the command line, as its `--help` describes it."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each command."""
        import typer

        from bestiary import cli
        from bestiary.cli.app import COMMANDS

        group: Any = typer.main.get_command(cli.app)
        lines = [line for name in COMMANDS for line in describe_command(name, group.get_command(None, name))]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Settings(SphinxDirective):
    """Every setting of a recipe, section by section."""

    def run(self) -> list[nodes.Node]:
        """Return a section with a table for each section of a recipe."""
        from bestiary.settings_reference import describe_sections, list_settings

        sections = {"": "Outside the sections.", **describe_sections()}
        header = ("setting", "meaning", "values", "default", "used by")
        lines: list[str] = []
        for section, about in sections.items():
            rows = [
                (f"`{item.name}`", *map(escape_cell, (item.meaning, item.values, item.default, item.users)))
                for item in list_settings()
                if item.section == section
            ]
            lines += [f"## {section or 'seed'}", "", about, "", *format_table(header, rows), ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Flow(SphinxDirective):
    """The flow from pictures to answers as a drawing, with one room marked."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the drawing as inline SVG."""
        room = self.arguments[0] if self.arguments else "none"
        rooms = os.path.relpath("how-it-works", Path(self.env.docname).parent)
        drawing = FLOW.read_text(encoding="utf-8").replace('<a href="', f'<a href="{rooms}/')
        self.env.note_dependency(str(FLOW))
        if room != "none" and f'id="room-{room}"' not in drawing:
            raise self.error(f'The drawing has no room "{room}".')
        page = f'<figure class="drawing flow flow-{room}">{drawing}</figure>'
        return [nodes.raw("", page, format="html")]


class ExistingPages(TocTree):
    """A table of contents of those of the named pages that there are."""

    def run(self) -> list[nodes.Node]:
        """Return the table of contents, nothing without pages."""
        folder = Path(self.env.docname).parent
        resolved = {name: os.path.normpath(folder / name) for name in self.content}
        for name in [name for name, path in resolved.items() if path not in self.env.found_docs]:
            self.content.remove(name)
        return super().run() if len(self.content) else []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("bestiary-commands", Commands)
    app.add_directive("bestiary-settings", Settings)
    app.add_directive("flow", Flow)
    app.add_directive("existing-pages", ExistingPages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
