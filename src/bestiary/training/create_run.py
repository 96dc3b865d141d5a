"""Creates a run folder: recipe, pictures with their split, findings, environment."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import files, run_folder, table
from bestiary.data.corrections import write
from bestiary.data.dataset import AuditedDataset
from bestiary.data.notices import read_notices
from bestiary.recipe import Recipe, ResolvedRecipe


def create_run(
    out: Path | None,
    recipe: Recipe,
    resolved: ResolvedRecipe,
    pictures: pl.DataFrame,
    dataset: AuditedDataset,
    facts: dict[str, Any],
    *,
    resumed_from: Path | None = None,
) -> Path:
    """Return a new run folder with the initial files of a run; `resume` finishes it.

    facts: for `environment.json`. resumed_from: a folder whose checkpoints training continues from.
    """
    applied = dataset.corrected
    facts = facts | {"passed over": dict(dataset.passed_over), "notices": read_notices(dataset.findings)}
    facts |= {"skipped checks": dict(dataset.not_looked_for)}
    if dataset.label_issues is not None:
        facts |= {"label issues": asdict(dataset.label_issues)}
    if resumed_from is not None:
        facts |= {"training begun in": str(resumed_from.absolute())}
    if applied is not None:
        facts |= {"corrections": {**facts.get("corrections", {}), **applied.facts()}}

    def contents(folder: Path) -> None:
        if applied is not None:  # as applied: the file may have changed since
            write(folder / "corrections.csv", applied.decisions)
        if resumed_from is not None:
            shutil.copytree(resumed_from / "checkpoints", folder / "checkpoints")
        files.write_json(folder / "environment.json", run_folder.collect_environment(facts))
        table.write(pictures, folder / "pictures.parquet")
        table.write(dataset.findings, folder / "findings.parquet")
        table.write(dataset.thumbnails, folder / "thumbnails.parquet")

    return run_folder.create_run_folder(out, recipe, resolved=resolved, contents=contents)
