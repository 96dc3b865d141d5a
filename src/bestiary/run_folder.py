"""The run folder: where an experiment keeps what it was asked, what it did and what came out."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import table
from bestiary.errors import MachineError, RunError
from bestiary.files import read_json, write_json, write_text
from bestiary.machine import available_cores
from bestiary.recipe import Recipe, read_toml, write_toml
from bestiary.version import __version__

RUNS = Path("runs")
PACKAGES = ("numpy", "Pillow", "onnx", "onnxruntime", "openvino", "polars", "scikit-learn", "torch", "timm")


def create_run_folder(
    out: Path | None,
    recipe: Recipe,
    *,
    resolved: Recipe | None = None,
    contents: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Make a new run folder and write the recipe into it, as asked and as resolved; return its path.

    Without `out` it is `runs/<date>-<method>-<digest>`. `contents` writes what else belongs there from the start: the
    folder is filled beside its place and moved there whole, so that a run that exists can be resumed. Raises RunError
    if `out` holds something already, MachineError if it cannot be made.
    """
    require_free_folder(out)
    run, settled = out or _free_path(RUNS / _default_run_name(recipe)), resolved or recipe.resolve()
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{run.name[:20]}.", dir=run.parent) as name:
            made = Path(name) / "run"
            made.mkdir()
            write_text(made / "asked.toml", write_toml(recipe.overrides()))
            write_text(made / "resolved.toml", settled.toml())
            contents(made)
            with contextlib.suppress(FileNotFoundError):  # an empty folder may be there
                run.rmdir()
            made.rename(run)
    except OSError as error:
        raise MachineError(
            f"Cannot make the run folder {run}: {error.strerror or error}. Choose another --out."
        ) from None
    return run


def require_free_folder(out: Path | None) -> None:
    """Raise RunError if the run folder that was asked for exists and holds something."""
    try:
        taken = out is not None and out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise MachineError(f"Cannot look into {out}: {error.strerror or error}. Choose another --out.") from None
    if taken:
        name = shlex.quote(str(out))
        raise RunError(f"{out} exists already. Choose another --out, or go on with it: bestiary train --resume {name}")


def load_recipe(run: Path) -> Recipe:
    """Return the recipe that a run was asked for. Raises RunError if the folder is no run."""
    if not (run / "asked.toml").is_file():
        raise RunError(f"{run} is not a run folder: it has no asked.toml.")
    return Recipe.of(read_toml(run / "asked.toml"))


def load_resolved_recipe(run: Path) -> Recipe:
    """Return the recipe that a run follows, every setting spelled out. Raises RunError if the folder is no run."""
    if not (run / "resolved.toml").is_file():
        return load_recipe(run).resolve()
    return Recipe.of(read_toml(run / "resolved.toml")).resolve()


def remove_partial_files(run: Path) -> None:
    """Remove what a killed process left half-written in a run folder; only for who holds the run."""
    for path in [*run.glob(".*"), *run.glob("checkpoints/.*")]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def collect_environment(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat a run: versions, machine, command, and `facts`."""
    return {
        "bestiary": __version__,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": available_cores(),
        **facts,
        **{f"version of {name}": version for name in PACKAGES if (version := _installed_version(name))},
    }


def update_environment(run: Path, facts: Mapping[str, Any]) -> None:
    """Add facts to `collect_environment.json` of a run."""
    write_json(run / "environment.json", {**read_json(run / "environment.json"), **facts})


def write_history(run: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write `history.jsonl`, one line an epoch."""
    write_text(run / "history.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def read_history(run: Path) -> list[dict[str, Any]]:
    """Return the lines of `history.jsonl`."""
    try:
        return [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RunError(f"{run / 'history.jsonl'} is missing or damaged: {error}.") from None


def _default_run_name(recipe: Recipe) -> str:
    digest = hashlib.sha256(recipe.resolve().toml().encode()).hexdigest()[:6]
    return f"{time.strftime('%Y-%m-%d-%H%M%S')}-{recipe.model.method}-{digest}"


def _free_path(run: Path) -> Path:
    number, free = 1, run
    while free.exists():
        number += 1
        free = run.with_name(f"{run.name}-{number}")
    return free


def update_latest_link(run: Path) -> None:
    """Make `latest` beside the run point to it; called when the run is finished."""
    link = run.parent / "latest"
    if run.name == link.name:  # asked for by that name
        return
    temporary = run.parent / f".latest-{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run.name, target_is_directory=True)
        temporary.replace(link)
    except OSError:  # file systems without links: the run is found by its own name
        temporary.unlink(missing_ok=True)


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_pictures(run: Path) -> pl.DataFrame:
    """Return the picture table of a run folder."""
    return table.read(run / "pictures.parquet", table.PICTURES)
