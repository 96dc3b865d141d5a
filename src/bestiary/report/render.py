"""Rendering of pages: a jinja template and plain values become one HTML file without external resources."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from bestiary.report import format
from bestiary.report.svg import WIDTH, Drawing
from bestiary.text import format_percent

ROOMS = ("report", "tune", "study")  # each has a folder of templates
PACKAGE = Path(__file__).parents[1]
STYLE = PACKAGE / "web" / "style.css"


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """Return a template filled with values; text among them is escaped, a missing value is an error."""
    return _template_environment().get_template(template).render(values).lstrip()


@functools.cache
def _template_environment() -> jinja2.Environment:
    """Return the environment of all pages, once for a process: it keeps the templates that it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([PACKAGE / room / "templates" for room in ROOMS]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        estimate=format.format_rate,
        interval=format.format_interval,
        percent=format_percent,
        number=format.format_number,
        style=Markup(STYLE.read_text(encoding="utf-8")),  # ours, not the user's: safe as it is
    )
    return environment


def standalone_svg(drawings: Sequence[Drawing]) -> str:
    """Return drawings below each other as an SVG file with its own colours, without CSS variables."""
    groups, top = [f"<style>{_plot_style()}</style>"], 0.0
    for drawing in drawings:
        groups.append(f'<g transform="translate(0 {top:g})">{"".join(drawing.parts)}</g>')
        top += drawing.height
    label = escape(" ".join(drawing.label for drawing in drawings))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {WIDTH} {top:g}" role="img"'
    return f'{head} aria-label="{label}">{"".join(groups)}</svg>\n'


def _plot_style() -> str:
    """Return the rules for plots of `style.css` in its light colours."""
    style = STYLE.read_text(encoding="utf-8")
    colors = dict(re.findall(r"--([\w-]+): ([^;]+);", style.partition("@media")[0]))
    rules = "\n".join(re.findall(r"^\.plot [^\n]+", style, re.MULTILINE))
    return (
        re.sub(r"var\(--([\w-]+)\)", lambda name: colors[name[1]], rules) + f".plot {{ background: {colors['paper']} }}"
    )
