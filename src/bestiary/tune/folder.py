"""The folder of a search, and its storage, which several processes may share."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from bestiary.data.dataset import DataSource
from bestiary.errors import MachineError, RunError
from bestiary.files import is_occupied
from bestiary.recipe import Recipe
from bestiary.run_folder import RUNS

MARKER, STORAGE = "search.json", "tune.db"


@dataclass(frozen=True)
class SearchFolder:
    """The folder of a search, and the SQLite file of its storage."""

    out: Path
    storage: Path


def locate_search(
    out: Path | str | None, storage: Path | str | None, source: DataSource, recipe: Recipe
) -> SearchFolder:
    """Create the folder of a search; without `out`, its name derives from source and recipe.

    Raises RunError if the folder contains something else, MachineError if it cannot be created.
    """
    folder = RUNS / f"tune-{recipe.model.method}-{_digest(source, recipe)}" if out is None else Path(out)
    storage = folder / STORAGE if storage is None else Path(storage)
    try:
        # A search that was killed early has its storage, but no marker yet.
        own_storage = storage.exists() and storage.parent.absolute() == folder.absolute()
        if is_occupied(folder) and not (folder / MARKER).exists() and not own_storage:
            raise RunError(f"{folder} contains files that do not belong to a search. Choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        storage.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise MachineError(f"Cannot create the folder {folder}: {reason}. Choose another --out.") from None
    if storage.is_dir():
        raise RunError(f"{storage} is a folder; --storage takes a file, for example {shlex.quote(STORAGE)}.")
    return SearchFolder(folder, storage)


def _digest(source: DataSource, recipe: Recipe) -> str:
    facts = [[str(path.absolute()) for path in source.paths], source.labels, recipe.overrides()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6]
