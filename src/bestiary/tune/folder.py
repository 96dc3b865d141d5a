"""The folder of a search, and its storage, which several processes may share."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bestiary.data.dataset import DataSource
from bestiary.errors import MachineError, RunError
from bestiary.files import is_occupied, require_local_path, require_outside
from bestiary.recipe import Recipe
from bestiary.run_folder import RUNS
from bestiary.tune.storage_location import FILE_NAME, STUDY_ID, StorageLocation, load_study_id, locate_storage

MARKER = "search.json"


@dataclass(frozen=True)
class SearchFolder:
    """The folder of a search, its storage, and the name of its study there."""

    out: Path
    storage: StorageLocation
    study: str


def locate_search(
    out: Path | str | None, storage: Path | str | None, source: DataSource, recipe: Recipe
) -> SearchFolder:
    """Create the folder of a search; without `out`, its name derives from source and recipe.

    storage: a file, or an Optuna URL; by default a file in the folder. Raises RunError if the folder contains something
    else, MachineError if it cannot be created.
    """
    folder = RUNS / f"tune-{recipe.model.method}-{_digest(source, recipe)}" if out is None else Path(out)
    require_local_path(folder)
    require_outside(None if out is None else folder, source.paths)
    location, study = locate_storage(storage, folder), f"tune-{recipe.model.method}"
    path = location.path
    try:
        # A search that was killed early has its storage, but no marker yet.
        own_storage = path.exists() and path.parent.absolute() == folder.absolute()
        is_own = (folder / MARKER).exists() or (folder / STUDY_ID).exists() or own_storage
        if is_occupied(folder) and not is_own:
            raise RunError(f"{folder} contains files that do not belong to a search. Choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if location.url is not None:
            study = f"bestiary-{study}-{load_study_id(folder)}"
    except OSError as error:
        reason = error.strerror or error
        raise MachineError(f"Cannot create the folder {folder}: {reason}. Choose another --out.") from None
    if path.is_dir():
        raise RunError(f"{path} is a folder; --storage takes a file, for example {shlex.quote(FILE_NAME)}.")
    return SearchFolder(folder, location, study)


def _digest(source: DataSource, recipe: Recipe) -> str:
    facts: list[Any] = [[str(path.absolute()) for path in source.paths], source.labels, recipe.overrides()]
    facts += [reading] if source.reading is not None and (reading := source.reading.facts()) else []
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6]
