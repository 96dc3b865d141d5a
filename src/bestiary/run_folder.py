"""The run folder: recipe, environment, history and results of an experiment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import polars as pl

from bestiary import table
from bestiary.context import Context, JobOptions
from bestiary.errors import MachineError, RunError
from bestiary.files import (
    is_occupied,
    is_taken_error,
    move_to_free_name,
    next_free_name,
    read_json,
    require_local_path,
    write_json,
    write_text,
)
from bestiary.installation import package_versions
from bestiary.machine import available_cores
from bestiary.processor import read_processor
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_files import read_toml, write_toml
from bestiary.recipe_sections import FeaturesConfig
from bestiary.text import hide_passwords
from bestiary.version import __version__

RUNS = Path("runs")
AUGMENTATION_SHEET = "augmentation.jpg"  # training pictures as training showed them


def create_run_folder(
    out: Path | None,
    recipe: Recipe,
    *,
    resolved: ResolvedRecipe | None = None,
    contents: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Create a run folder with the recipe, as requested and resolved; return its path.

    Without `out` it is `runs/<date>-<method>-<digest>`. `contents` writes the other initial files: the folder is filled
    under a temporary name and then renamed, so that every run that exists can be resumed; two processes without `out`
    get two folders. Raises RunError if `out` is not empty, MachineError if it cannot be created.
    """
    require_free_folder(out)
    resolved = resolved or recipe.resolve()
    run = out or _next_default_path(resolved)
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{run.name[:20]}.", dir=run.parent) as name:
            folder = Path(name) / "run"
            folder.mkdir()
            write_text(folder / "asked.toml", write_toml(recipe.overrides()))
            write_text(folder / "resolved.toml", resolved.toml())
            contents(folder)
            if out is None:
                return move_to_free_name(folder, lambda: _next_default_path(resolved))
            with contextlib.suppress(FileNotFoundError):  # an empty folder may exist
                run.rmdir()
            folder.rename(run)
    except OSError as error:
        if is_taken_error(error):
            require_free_folder(out)  # raises: another process has created it since
        raise MachineError(
            f"Cannot make the run folder {run}: {error.strerror or error}. Choose another --out."
        ) from None
    return run


def require_free_folder(out: Path | None) -> None:
    """Raise RunError if the requested run folder exists and is not empty, UserError if it is a URL."""
    if out is not None:
        require_local_path(out)
    if out is not None and is_occupied(out):
        name = shlex.quote(str(out))
        if (out / "report.html").exists():
            raise RunError(f"{out} exists already, and is finished: {out / 'report.html'}. Choose another --out.")
        raise RunError(f"{out} exists already. Choose another --out, or go on with it: bestiary train --resume {name}")


def require_resumable(run: Path) -> None:
    """Raise RunError unless the folder is a run that is not finished yet."""
    load_recipe(run)
    if (run / "report.html").exists():
        raise RunError(f"{run} is finished already. Its report: {run / 'report.html'}")


def recorded_threads(run: Path, key: str = "threads") -> int | None:
    """Return the number of threads a run was started with, None if unknown or more than there are cores now.

    The rounding of sums depends on it: with the same number a resumed run equals an uninterrupted one. key: "threads",
    or "training threads" for those that its network is trained with.
    """
    load_recipe(run)
    threads = read_json(run / "environment.json").get(key)
    return threads if isinstance(threads, int) and threads <= available_cores() else None


def resume_context(run: Path, **options: Unpack[JobOptions]) -> Context:
    """Return the context of a resumed run: with the requested number of threads, else with those that it recorded."""
    if options.get("threads") is not None:
        return Context.create(job="resume", **options)
    options["threads"] = recorded_threads(run) or available_cores()
    return replace(Context.create(job="resume", **options), network_threads=recorded_threads(run, "training threads"))


def load_recipe(run: Path) -> Recipe:
    """Return the requested recipe of a run. Raises RunError if the folder is not a run."""
    if not run.exists():
        raise RunError(
            f"There is no folder {run}. A run that was stopped before it trained leaves none: start it again."
        )
    if not (run / "asked.toml").is_file():
        raise RunError(f"{run} is not a run folder: it has no asked.toml.")
    return Recipe.of(read_toml(run / "asked.toml"))


def load_resolved_recipe(run: Path) -> ResolvedRecipe:
    """Return the resolved recipe of a run. Raises RunError if the folder is not a run."""
    if not (run / "resolved.toml").is_file():
        return load_recipe(run).resolve()
    return Recipe.of(read_toml(run / "resolved.toml")).resolve()


def recorded_features(run: Path, name: str = "features") -> FeaturesConfig:
    """Return the settings of a run's features: engine and precision as recorded, before that those of its recipe.

    Before that the audit has used `Recipe.feature_settings`: with others, each picture would be computed twice.
    """
    recorded = read_environment(run).get(name)  # without a device where the run is older than that setting
    return (
        Recipe.of({"features": {"device": "cpu"} | recorded}).features
        if recorded
        else load_resolved_recipe(run).feature_settings
    )


def record_features(run: Path, features: FeaturesConfig, name: str = "features") -> None:
    """Record the engine and precision of a run's features in `environment.json`, by a name."""
    update_environment(run, {name: features.model_dump()})


def remove_partial_files(run: Path) -> None:
    """Remove the partial files of a killed process from a run folder; only under the lock of the run."""
    for path in [*run.glob(".*"), *run.glob("checkpoints/.*")]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _program_name() -> str:
    """Return the name of the command: `python -m bestiary` runs `__main__.py`."""
    program = Path(sys.argv[0])
    return "bestiary" if program.parts[-2:] == ("bestiary", "__main__.py") else program.name


def collect_environment(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is needed to reproduce a run: versions, machine, command, and `facts`."""
    return {
        "bestiary": __version__,
        "command": shlex.join(map(hide_passwords, [_program_name(), *sys.argv[1:]])),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": str(read_processor()),
        "cores": available_cores(),
        **facts,
        **{f"version of {name}": version for name, version in package_versions().items()},
    }


def read_environment(run: Path) -> dict[str, Any]:
    """Return the facts in `environment.json` of a run, empty if it has none."""
    path = run / "environment.json"
    return read_json(path) if path.exists() else {}


def update_environment(run: Path, facts: Mapping[str, Any]) -> None:
    """Add facts to `environment.json` of a run."""
    write_json(run / "environment.json", {**read_json(run / "environment.json"), **facts})


def write_history(run: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write `history.jsonl`, one line per epoch."""
    write_text(run / "history.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def read_history(run: Path) -> list[dict[str, Any]]:
    """Return the lines of `history.jsonl`."""
    try:
        return [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{run / 'history.jsonl'} is missing or damaged: {error}.") from None


def _next_default_path(recipe: ResolvedRecipe) -> Path:
    """Return a free path of a run without `--out`: date and time, method, and a digest of the recipe."""
    digest = hashlib.sha256(recipe.toml().encode()).hexdigest()[:6]
    name = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{recipe.model.method}-{digest}"
    return RUNS / next_free_name(name, lambda free: (RUNS / free).exists())


def update_latest_link(run: Path) -> None:
    """Link `latest` beside a finished run to it."""
    link = run.parent / "latest"
    if run.name == link.name:  # --out is called "latest"
        return
    temporary = run.parent / f".latest-{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run.name, target_is_directory=True)
        temporary.replace(link)
    except OSError:  # a file system without links
        temporary.unlink(missing_ok=True)


def read_pictures(run: Path) -> pl.DataFrame:
    """Return the picture table of a run folder."""
    return table.read(run / "pictures.parquet", table.PICTURES)
