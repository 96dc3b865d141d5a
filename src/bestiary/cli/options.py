"""What several commands take, and how options become a recipe."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bestiary.errors import UserError

if TYPE_CHECKING:
    from bestiary.recipe import Recipe


class Method(StrEnum):
    """Three ways to learn."""

    probe = "probe"
    finetune = "finetune"
    scratch = "scratch"


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


class ExportKind(StrEnum):
    """In which form a model leaves."""

    onnx = "onnx"
    onnx_int8 = "onnx-int8"
    openvino = "openvino"


Pictures = Annotated[
    list[Path],
    typer.Argument(
        metavar="PICTURES…", help="A folder per class, split folders, an archive or a table; several are merged."
    ),
]
Corrections = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv",
        help="Decisions about pictures: sha256,action,label[,note,when]; action is keep, drop or relabel.",
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, for example runs/latest.")]
Labels = Annotated[str | None, typer.Option(help='Folder names to labels: "animals10", or a CSV of folder,label.')]
Classes = Annotated[str | None, typer.Option(help="Only these labels: a,b,c.")]
RecipeName = Annotated[str | None, typer.Option(help="A TOML file of settings, or a name: original-v1, original-v2.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notices.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object on stdout.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; all cores when not given.")]


def build_recipe(
    name: str | None,
    settings: list[str] | None,
    *,
    method: Method | None,
    backbone: str | None,
    classes: str | None,
    seed: int | None,
    folds: int | None = None,
) -> Recipe:
    """Return the recipe of a name or file, with `--set` over it, and the named options over both."""
    from bestiary.recipe import Recipe, apply_overrides, load_recipe_values

    asked = apply_overrides(load_recipe_values(name) if name else {}, settings or [])
    Recipe.of(asked)  # what is wrong in here is told before the options are laid over it
    named: dict[tuple[str, str], Any] = {
        ("model", "method"): method.value if method else None,
        ("model", "backbone"): backbone,
        ("data", "classes"): None if classes is None else parse_names(classes),
        ("data", "folds"): folds,
    }
    for (section, key), value in named.items():
        if value is not None:
            asked.setdefault(section, {})[key] = value
    return Recipe.of(asked if seed is None else asked | {"seed": seed})


def parse_names(text: str) -> list[str]:
    """Return the labels that a text names, between commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f'--classes takes labels, for example --classes cat,dog; got "{text}".')
    return names


_UNITS = {"h": 3600, "m": 60, "min": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Return the seconds in a span such as `90s`, `10m`, `2h`, `1h30m`; raises UserError for anything else.

    >>> parse_duration("1h30m"), parse_duration("90s")
    (5400.0, 90.0)
    """
    parts = _PART.findall(text)
    written = "".join(f"{number}{unit}" for number, unit in parts)
    units = [_UNITS[unit.lower()] for _, unit in parts]
    seconds = sum(float(number) * size for (number, _), size in zip(parts, units, strict=True))
    falling = units == sorted(set(units), reverse=True)
    if not parts or not falling or seconds <= 0 or written != re.sub(r"\s", "", text):
        raise UserError(f'"{text}" is no span of time. Write 90s, 10m, 2h or 1h30m.')
    return seconds
