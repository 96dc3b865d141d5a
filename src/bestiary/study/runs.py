"""What a study keeps in its folder: what it was asked, and a run folder for each recipe and seed, a cell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.errors import MachineError, RunError
from bestiary.files import read_json, write_json
from bestiary.study.recipes import Asked, Entry
from bestiary.training.run_session import LOCK

STUDY, CELLS = "study.json", "cells"


@dataclass(frozen=True)
class Cell:
    """One recipe under one seed: an ordinary run folder."""

    entry: Entry
    seed: int
    run: Path

    @property
    def finished(self) -> bool:
        """Whether its scores are there."""
        return (self.run / "metrics.json").exists()

    @property
    def begun(self) -> bool:
        """Whether it can be resumed."""
        return (self.run / "asked.toml").exists()

    def __str__(self) -> str:
        """Return its name for people."""
        return f"{self.entry.name}, seed {self.seed}"


@dataclass(frozen=True)
class Memory:
    """What a study was asked when it began, as its folder keeps it: recipes and splits by what they are.

    share: of the epochs that were asked for; recipes: as they were asked for and as they are run; collection: the
    digest of the pictures; splits: that of who is where, by seed.
    """

    budget_seconds: float | None
    share: float
    recipes: dict[str, dict[str, Asked]]
    collection: str
    splits: dict[str, str]


def cells_of(out: Path, entries: Sequence[Entry], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells in the order in which they are run: all recipes of a seed, then the next seed."""
    return [Cell(entry, seed, out / CELLS / entry.name / f"seed-{seed}") for seed in seeds for entry in entries]


def remembered(out: Path) -> Memory | None:
    """Return what a study folder keeps; None for a new one. Raises RunError for a folder of something else."""
    try:
        taken = out.exists() and (not out.is_dir() or any(one.name != LOCK for one in out.iterdir()))
    except OSError as error:
        raise MachineError(f"Cannot look into {out}: {error.strerror or error}. Choose another --out.") from None
    if not taken:
        return None
    if not (out / STUDY).exists():
        raise RunError(f"{out} exists already and is no study: it has no {STUDY}. Choose another --out.")
    kept = read_json(out / STUDY)
    try:
        return Memory(**{name: kept[name] for name in Memory.__dataclass_fields__})
    except KeyError as error:
        raise RunError(f"{out / STUDY} was made by another version: it has no {error}. Choose another --out.") from None


def remember(out: Path, memory: Memory, facts: Mapping[str, Any]) -> None:
    """Write what a study was asked into its folder."""
    kept = {name: getattr(memory, name) for name in Memory.__dataclass_fields__}
    write_json(out / STUDY, {**facts, **kept})


def refuse_another(out: Path, memory: Memory, entries: Sequence[Entry], budget_seconds: float | None) -> None:
    """Raise RunError if a recipe of the study, or its budget, is not what it was when the study began."""
    if memory.budget_seconds != budget_seconds:
        raise RunError(
            f"{out} was begun with {_budget(memory.budget_seconds)} and is to go on with {_budget(budget_seconds)}: its"
            " recipes would have other epochs. Give the same budget, or choose another --out."
        )
    for entry in entries:
        kept = memory.recipes.get(entry.name)
        if kept is not None and kept["asked"] != entry.asked:
            raise RunError(
                f'{out} has results of another recipe "{entry.name}": {_difference(kept["asked"], entry.asked)}.'
                " Give it another name, or choose another --out."
            )


def collection_digest(pictures: pl.DataFrame) -> str:
    """Return a short digest of what the pictures are: content, label and whether it is used, in the order of rows."""
    used = pl.col("error").is_null().cast(pl.String)
    lines = pictures.sort("row_id").select(pl.concat_str(pl.col("sha256", "label").fill_null(""), used, separator=" "))
    return hashlib.sha256("\n".join(lines.to_series().to_list()).encode()).hexdigest()[:16]


def refuse_other_collection(out: Path, memory: Memory, collection: str) -> None:
    """Raise RunError if pictures have come, gone or changed, or their labels, since the study began."""
    if memory.collection != collection:
        raise RunError(
            f"The pictures are not those that {out} began with: some have come, gone, or got another content or label"
            " since. Recipes are compared on the same pictures: bring back the pictures, labels, classes and"
            " corrections of then, or choose another --out."
        )


def refuse_other_splits(out: Path, memory: Memory, splits: Mapping[str, str]) -> None:
    """Raise RunError if a seed splits the pictures otherwise than when the study began."""
    for seed, digest in splits.items():
        if memory.splits.get(seed, digest) != digest:
            raise RunError(
                f"Seed {seed} splits the pictures otherwise than when {out} began. Bring back the settings of `data`"
                " (parts, duplicates) of then, or choose another --out."
            )


def _budget(seconds: float | None) -> str:
    return "no --budget" if seconds is None else f"--budget {seconds:g}s"


def _difference(before: Asked, now: Asked) -> str:
    """Return the first setting in which two recipes differ."""
    these, those = _flat(before), _flat(now)
    key = next(key for key in [*these, *those] if these.get(key) != those.get(key))
    return f"{key} was {these.get(key, 'not set')} and is {those.get(key, 'not set')}"


def _flat(asked: Asked) -> dict[str, Any]:
    flat = dict[str, Any]()
    for section, part in asked.items():
        flat |= (
            {f"{section}.{key}": value for key, value in part.items()} if isinstance(part, dict) else {section: part}
        )
    return flat
