"""How a page is made from a template and plain values: one HTML file that needs nothing from outside itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bestiary.report import format
from bestiary.text import format_percent

ROOMS = ("report", "tune", "study")  # each has a folder of templates
PACKAGE = Path(__file__).parents[1]
STYLE = PACKAGE / "web" / "style.css"


def render_page(template: str, values: Mapping[str, Any]) -> str:
    """Return a template filled with values; text among them is escaped, a value that is missing is an error."""
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
    return environment.get_template(template).render(values).lstrip()
