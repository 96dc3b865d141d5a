"""The commands that train once more on what a run was trained on, and hold the result against it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def retrain_command(recipe: Path, facts: Mapping[str, Any], corrections: Path | None, *more: str) -> str:
    """Return the command that trains on the pictures of a run, under a recipe and with its labels, for a shell.

    facts: the `environment.json` of the run; recipe: its `asked.toml` or another, left out where nothing is in it;
    more: what is asked for beyond it, for example `--method finetune`.
    """
    parts = ["bestiary", "train", *_sources(facts.get("pictures"))]
    if recipe.is_file() and recipe.read_text(encoding="utf-8").strip():
        parts += ["--recipe", str(recipe)]
    if facts.get("labels"):
        parts += ["--labels", str(facts["labels"])]
    if corrections is not None:
        parts += ["--corrections", str(corrections)]
    return shlex.join([*parts, *more])


def compare_command(run: Path, *more: str) -> str:
    """Return the command that holds the newest run against this one, for a shell."""
    return shlex.join(["bestiary", "compare", str(run), "runs/latest", *more])


def _sources(pictures: str | Sequence[str] | None) -> list[str]:
    if not pictures:
        return ["PICTURES"]
    return [pictures] if isinstance(pictures, str) else list(pictures)
