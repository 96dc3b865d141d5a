"""Shell commands that train again on the data of a run, and that compare the result with it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bestiary.models.backbones import is_bundled, is_graph, weights_by_name
from bestiary.recipe import Recipe


def retrain_command(recipe: Path, facts: Mapping[str, Any], corrections: Path | None, *more: str) -> str:
    """Return the command that trains on the pictures of a run.

    facts: the run's `environment.json`; recipe: its `asked.toml` or another, left out if it is empty; more: further
    options, for example `--method finetune`.
    """
    pictures = facts.get("pictures") or "PICTURES"
    parts = ["bestiary", "train", *([pictures] if isinstance(pictures, str) else pictures)]
    if recipe.is_file() and recipe.read_text(encoding="utf-8").strip():
        parts += ["--recipe", str(recipe)]
    if facts.get("labels"):
        parts += ["--labels", str(facts["labels"])]
    parts += reading_options(facts.get("reading") or {})
    if corrections is not None:
        parts += ["--corrections", str(corrections)]
    return shlex.join([*parts, *more])


def reading_options(reading: Mapping[str, Any]) -> list[str]:
    """Return the options that read the pictures of a run as it did."""
    columns = ",".join(f"{role}={name}" for role, name in reading.get("columns", {}).items())
    values = {
        "--format": reading.get("format"),
        "--columns": columns,
        "--pictures": reading.get("pictures"),
        "--leave-out": None if "leave out" not in reading else ",".join(reading["leave out"]) or "none",
        "--boxes": reading.get("boxes"),
    }
    return [part for option, value in values.items() if value for part in (option, str(value))]


def reset_options(recipe: Recipe, backbone: str, method: str = "probe") -> list[str]:
    """Return the options that set to its default what a recipe states and has no effect with this backbone and method.

    backbone: as a recipe names it, one of the recipe's or a bundled one.
    """
    requested, defaults = recipe.overrides(), Recipe().model_dump(mode="json")
    values: dict[str, Any] = {}
    weights = weights_by_name(recipe.model).get(backbone, "bundled")
    if weights != recipe.model.weights:
        values["model.weights"] = weights
    sections = [] if is_graph(backbone) else ["onnx"]
    if method == "finetune" and not is_bundled(backbone):  # it starts from no probe
        sections.append("probe")
    for section in sections:
        values |= {f"{section}.{key}": defaults[section][key] for key in requested.get(section, {})}
    texts = {name: value if isinstance(value, str) and value else json.dumps(value) for name, value in values.items()}
    return [part for name, text in texts.items() for part in ("--set", f"{name}={text}")]


def compare_command(run: Path, *more: str) -> str:
    """Return the command that compares the newest run with this one."""
    return shlex.join(["bestiary", "compare", str(run), "runs/latest", *more])
