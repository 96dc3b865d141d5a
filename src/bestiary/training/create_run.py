"""What a run folder begins with: recipe, pictures and their split, what was found, and where all of it comes from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import files, run_folder, table
from bestiary.data.corrections import write
from bestiary.data.dataset import AuditedDataset
from bestiary.data.label_map import absolute_label_map
from bestiary.recipe import Recipe, ResolvedRecipe

Sources = Path | str | Sequence[Path | str]  # one source of pictures, or several that are merged


def as_path_list(pictures: Sources) -> list[Path]:
    """Return the paths of one source of pictures or several."""
    return [Path(pictures)] if isinstance(pictures, str | Path) else [Path(one) for one in pictures]


def describe_sources(
    pictures: Sources, labels: str | None, corrections: Path | str | None, threads: int
) -> dict[str, Any]:
    """Return what a run keeps of where its pictures come from."""
    named = [str(path.absolute()) for path in as_path_list(pictures)]
    facts = {
        "pictures": named[0] if len(named) == 1 else named,
        "labels": absolute_label_map(labels),
        "threads": threads,
    }
    return facts if corrections is None else {**facts, "corrections": {"file": str(corrections)}}


def create_run(
    out: Path | None,
    recipe: Recipe,
    resolved: ResolvedRecipe,
    pictures: pl.DataFrame,
    collection: AuditedDataset,
    facts: dict[str, Any],
    *,
    resumed_from: Path | None = None,
) -> Path:
    """Return a new run folder with all that a run begins with: recipe, pictures and their split, findings, `facts`.

    `resume` makes a finished run of it. begun: a folder whose checkpoints its training goes on from.
    """
    done = collection.corrected
    facts = facts | {"passed over": dict(collection.passed_over)}
    if resumed_from is not None:
        facts |= {"training begun in": str(resumed_from.absolute())}
    if done is not None:
        facts |= {"corrections": {**facts.get("corrections", {}), **done.facts()}}

    def contents(folder: Path) -> None:
        if done is not None:  # as they were applied: the file may have changed since
            write(folder / "corrections.csv", done.decisions)
        if resumed_from is not None:
            shutil.copytree(resumed_from / "checkpoints", folder / "checkpoints")
        files.write_json(folder / "environment.json", run_folder.collect_environment(facts))
        table.write(pictures, folder / "pictures.parquet")
        table.write(collection.findings, folder / "findings.parquet")

    return run_folder.create_run_folder(out, recipe, resolved=resolved, contents=contents)
