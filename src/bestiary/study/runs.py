"""The folder of a study: its manifest, and a run folder for each recipe and seed (a cell)."""

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
    def is_finished(self) -> bool:
        """Whether it has scores."""
        return (self.run / "metrics.json").exists()

    @property
    def is_started(self) -> bool:
        """Whether it can be resumed."""
        return (self.run / "asked.toml").exists()

    def __str__(self) -> str:
        """Return recipe and seed, for messages."""
        return f"{self.entry.name}, seed {self.seed}"


@dataclass(frozen=True)
class StudyManifest:
    """The configuration of a study, as its folder records it.

    share: the fraction of the requested epochs; recipes: as requested and as run; collection: the digest of the
    pictures; splits: the digest of each seed's split.
    """

    budget_seconds: float | None
    share: float
    recipes: dict[str, dict[str, RecipeValues]]
    collection: str
    splits: dict[str, str]


def list_runs(out: Path, entries: Sequence[StudyRecipe], seeds: Sequence[int]) -> list[StudyRun]:
    """Return the runs in their order: all recipes of a seed, then the next seed."""
    return [StudyRun(entry, seed, out / CELLS / entry.name / f"seed-{seed}") for seed in seeds for entry in entries]


def read_manifest(out: Path) -> StudyManifest | None:
    """Return the manifest of a study folder, None for a new one. Raises RunError for any other folder."""
    if not is_occupied(out, ignore=LOCK_FILES):
        return None
    if not (out / STUDY).exists():
        raise RunError(f"{out} exists already and is no study: it has no {STUDY}. Choose another --out.")
    values = read_json(out / STUDY)
    try:
        return StudyManifest(**{name: values[name] for name in StudyManifest.__dataclass_fields__})
    except KeyError as error:
        raise RunError(f"{out / STUDY} was made by another version: it has no {error}. Choose another --out.") from None


def write_manifest(out: Path, manifest: StudyManifest, facts: Mapping[str, Any]) -> None:
    """Write manifest and facts of a study into its folder."""
    values = {name: getattr(manifest, name) for name in StudyManifest.__dataclass_fields__}
    write_json(out / STUDY, {**facts, **values})


def check_same_study(
    out: Path, manifest: StudyManifest, entries: Sequence[StudyRecipe], budget_seconds: float | None
) -> None:
    """Raise RunError if a recipe of the study, or its budget, differs from the manifest."""
    if manifest.budget_seconds != budget_seconds:
        raise RunError(
            f"{out} was started with {_format_budget(manifest.budget_seconds)} and cannot continue with"
            f" {_format_budget(budget_seconds)}: its recipes would be trained for other numbers of epochs. Give the"
            " same budget, or choose another --out."
        )
    for entry in entries:
        recorded = manifest.recipes.get(entry.name, {}).get("asked", entry.overrides)
        if recorded != entry.overrides:
            raise RunError(
                f'{out} has results of another recipe "{entry.name}": {_first_difference(recorded, entry.overrides)}.'
                " Give it another name, or choose another --out."
            )


def collection_digest(pictures: pl.DataFrame) -> str:
    """Return a short digest of the pictures: content, label and whether it is used, in the order of rows."""
    used = pl.col("error").is_null().cast(pl.String)
    lines = pictures.sort("row_id").select(pl.concat_str(pl.col("sha256", "label").fill_null(""), used, separator=" "))
    return hashlib.sha256("\n".join(lines.to_series().to_list()).encode()).hexdigest()[:16]


def check_same_dataset(out: Path, manifest: StudyManifest, collection: str) -> None:
    """Raise RunError if pictures or labels were added, removed or changed since the study started."""
    if manifest.collection != collection:
        raise RunError(
            f"The pictures of {out} have changed: some were added, removed, or have a different content or label now."
            " Recipes are compared on the same pictures: restore pictures, labels, classes and corrections, or choose"
            " another --out."
        )


def check_same_splits(out: Path, manifest: StudyManifest, splits: Mapping[str, str]) -> None:
    """Raise RunError if a seed gives a different split than when the study started."""
    for seed, digest in splits.items():
        if manifest.splits.get(seed, digest) != digest:
            raise RunError(
                f"Seed {seed} gives a different split than when {out} was started. Restore the settings of `data`"
                " (splits, duplicates), or choose another --out."
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
    for section, values in recipe.items():
        nested = values.items() if isinstance(values, dict) else ()
        flat |= {f"{section}.{key}": value for key, value in nested} or {section: values}
    return flat
