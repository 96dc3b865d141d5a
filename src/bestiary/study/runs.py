"""What a study keeps in its folder: what it was asked, and a run folder for each recipe and seed, a cell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.errors import RunError
from bestiary.files import is_occupied, read_json, write_json
from bestiary.study.recipes import RecipeValues, StudyRecipe
from bestiary.training.run_lock import LOCK_FILES

STUDY, CELLS = "study.json", "cells"


@dataclass(frozen=True)
class StudyRun:
    """One recipe under one seed: an ordinary run folder."""

    entry: StudyRecipe
    seed: int
    run: Path

    @property
    def finished(self) -> bool:
        """Whether its scores are there."""
        return (self.run / "metrics.json").exists()

    @property
    def started(self) -> bool:
        """Whether it can be resumed."""
        return (self.run / "asked.toml").exists()

    def __str__(self) -> str:
        """Return its name for people."""
        return f"{self.entry.name}, seed {self.seed}"


@dataclass(frozen=True)
class StudyManifest:
    """What a study was asked when it began, as its folder keeps it: recipes and splits by what they are.

    share: of the epochs that were asked for; recipes: as they were asked for and as they are run; collection: the
    digest of the pictures; splits: that of who is where, by seed.
    """

    budget_seconds: float | None
    share: float
    recipes: dict[str, dict[str, RecipeValues]]
    collection: str
    splits: dict[str, str]


def list_runs(out: Path, entries: Sequence[StudyRecipe], seeds: Sequence[int]) -> list[StudyRun]:
    """Return the cells in the order in which they are run: all recipes of a seed, then the next seed."""
    return [StudyRun(entry, seed, out / CELLS / entry.name / f"seed-{seed}") for seed in seeds for entry in entries]


def read_manifest(out: Path) -> StudyManifest | None:
    """Return what a study folder keeps; None for a new one. Raises RunError for a folder of something else."""
    if not is_occupied(out, ignore=LOCK_FILES):
        return None
    if not (out / STUDY).exists():
        raise RunError(f"{out} exists already and is no study: it has no {STUDY}. Choose another --out.")
    kept = read_json(out / STUDY)
    try:
        return StudyManifest(**{name: kept[name] for name in StudyManifest.__dataclass_fields__})
    except KeyError as error:
        raise RunError(f"{out / STUDY} was made by another version: it has no {error}. Choose another --out.") from None


def write_manifest(out: Path, manifest: StudyManifest, facts: Mapping[str, Any]) -> None:
    """Write what a study was asked into its folder."""
    kept = {name: getattr(manifest, name) for name in StudyManifest.__dataclass_fields__}
    write_json(out / STUDY, {**facts, **kept})


def check_same_study(
    out: Path, manifest: StudyManifest, entries: Sequence[StudyRecipe], budget_seconds: float | None
) -> None:
    """Raise RunError if a recipe of the study, or its budget, is not what it was when the study began."""
    if manifest.budget_seconds != budget_seconds:
        raise RunError(
            f"{out} was begun with {_format_budget(manifest.budget_seconds)} and is to go on with {_format_budget(budget_seconds)}: its"
            " recipes would have other epochs. Give the same budget, or choose another --out."
        )
    for entry in entries:
        kept = manifest.recipes.get(entry.name)
        if kept is not None and kept["asked"] != entry.overrides:
            raise RunError(
                f'{out} has results of another recipe "{entry.name}": {_first_difference(kept["asked"], entry.overrides)}.'
                " Give it another name, or choose another --out."
            )


def collection_digest(pictures: pl.DataFrame) -> str:
    """Return a short digest of what the pictures are: content, label and whether it is used, in the order of rows."""
    used = pl.col("error").is_null().cast(pl.String)
    lines = pictures.sort("row_id").select(pl.concat_str(pl.col("sha256", "label").fill_null(""), used, separator=" "))
    return hashlib.sha256("\n".join(lines.to_series().to_list()).encode()).hexdigest()[:16]


def check_same_dataset(out: Path, manifest: StudyManifest, collection: str) -> None:
    """Raise RunError if pictures have come, gone or changed, or their labels, since the study began."""
    if manifest.collection != collection:
        raise RunError(
            f"The pictures are not those that {out} began with: some have come, gone, or got another content or label"
            " since. Recipes are compared on the same pictures: bring back the pictures, labels, classes and"
            " corrections of then, or choose another --out."
        )


def check_same_splits(out: Path, manifest: StudyManifest, splits: Mapping[str, str]) -> None:
    """Raise RunError if a seed splits the pictures otherwise than when the study began."""
    for seed, digest in splits.items():
        if manifest.splits.get(seed, digest) != digest:
            raise RunError(
                f"Seed {seed} splits the pictures otherwise than when {out} began. Bring back the settings of `data`"
                " (parts, duplicates) of then, or choose another --out."
            )


def _format_budget(seconds: float | None) -> str:
    return "no --budget" if seconds is None else f"--budget {seconds:g}s"


def _first_difference(before: RecipeValues, now: RecipeValues) -> str:
    """Return the first setting in which two recipes differ."""
    these, those = _flatten(before), _flatten(now)
    key = next(key for key in [*these, *those] if these.get(key) != those.get(key))
    return f"{key} was {these.get(key, 'not set')} and is {those.get(key, 'not set')}"


def _flatten(recipe: RecipeValues) -> dict[str, Any]:
    flat = dict[str, Any]()
    for section, part in recipe.items():
        flat |= (
            {f"{section}.{key}": value for key, value in part.items()} if isinstance(part, dict) else {section: part}
        )
    return flat
