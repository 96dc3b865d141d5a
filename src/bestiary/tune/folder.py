"""Where a search keeps what it knows: its folder, and the storage that several processes may share."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bestiary.data.dataset import DataSource
from bestiary.errors import MachineError, RunError
from bestiary.files import is_occupied, write_json, write_text
from bestiary.recipe import Recipe
from bestiary.run_folder import RUNS

MARK, STORAGE = "search.json", "tune.db"


@dataclass(frozen=True)
class SearchFolder:
    """The folder of a search, and its storage."""

    out: Path
    storage: Path

    def write_marker(self, facts: dict[str, Any]) -> None:
        """Say in the folder what it is."""
        write_json(self.out / MARK, facts)


def locate_search(
    out: Path | str | None,
    storage: Path | str | None,
    source: DataSource,
    base_recipe: Recipe,
) -> SearchFolder:
    """Return where a search is kept; without `out` in a folder that the same command finds again.

    Raises RunError if the folder holds something else, MachineError if it cannot be made.
    """
    folder = Path(out) if out is not None else RUNS / f"tune-{base_recipe.model.method}-{_digest(source, base_recipe)}"
    place = SearchFolder(folder, Path(storage) if storage is not None else folder / STORAGE)
    try:
        if is_occupied(folder) and not (folder / MARK).exists() and not _has_storage(folder, place.storage):
            raise RunError(f"{folder} holds something that is no search. Choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        place.storage.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"Cannot make the folder {folder}: {error.strerror or error}. Choose another --out."
        ) from None
    if place.storage.is_dir():
        raise RunError(f"{place.storage} is a folder; --storage takes a file, for example {shlex.quote(STORAGE)}.")
    return place


def write_recipe(path: Path, recipe: Recipe, about: str) -> None:
    """Write a recipe that `train --recipe` takes, with a comment about where it comes from."""
    from bestiary.recipe import write_toml

    write_text(path, f"# {about}\n{write_toml(recipe.overrides())}")


def _has_storage(folder: Path, storage: Path) -> bool:
    """Return whether the storage is there, in this folder: its search was killed before it could mark the folder."""
    return storage.exists() and storage.parent.absolute() == folder.absolute()


def _digest(source: DataSource, base_recipe: Recipe) -> str:
    paths = [str(path.absolute()) for path in source.paths]
    return hashlib.sha256(
        json.dumps([paths, source.labels, base_recipe.overrides()], sort_keys=True).encode()
    ).hexdigest()[:6]
