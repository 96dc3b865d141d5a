"""The Python interface of searches: `tune` and `study`; see `api.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bestiary.api import Columns, OnEvent
from bestiary.api_results import SearchResult
from bestiary.cluster.tune import connect_trial_workers
from bestiary.context import Context
from bestiary.data.dataset import DataSource, Sources
from bestiary.data.formats.read_options import make_read_options
from bestiary.errors import UserError, require_extra
from bestiary.events import choose_reporter
from bestiary.machine import Device
from bestiary.recipe_arguments import RecipeLike, combine_recipe, study_device_settings
from bestiary.study.recipes import read_study_recipes
from bestiary.study.study import Study, StudyOptions
from bestiary.study.study import study as run_study
from bestiary.tune.tune import SearchRequest
from bestiary.tune.tune import tune as run_search


def tune(
    pictures: Sources,
    *,
    method: str | None = None,
    backbone: str | None = None,
    seed: int | None = None,
    recipe: RecipeLike | None = None,
    search: Sequence[str] = (),
    trials: int | None = None,
    budget_seconds: float | None = None,
    labels: str | None = None,
    corrections: Path | str | None = None,
    format: str | None = None,
    columns: Columns | None = None,
    pictures_folder: Path | str | None = None,
    leave_out: Sequence[str] | None = None,
    boxes: Path | str | None = None,
    inner_folds: int | None = None,
    fresh_seeds: int | None = None,
    storage: Path | str | None = None,
    out: Path | str | None = None,
    device: Device = "auto",
    cluster: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
) -> SearchResult:
    """Search for a better recipe, chosen by validation only; the same call resumes an interrupted search.

    method, backbone, seed, recipe, labels, corrections: see `train`; what they set is not searched. search: settings to
    search, such as "train.learning_rate=0.01..0.3". trials, budget_seconds, inner_folds, fresh_seeds, storage, out,
    cluster, workers: as in the command. Raises UserError, InterruptedRun on Ctrl-C.
    """
    require_extra("tune")
    requested = combine_recipe(
        recipe, method=method, backbone=backbone, seed=seed, device=None if device == "auto" else device
    )
    request = SearchRequest(requested, tuple(search), trials, budget_seconds, inner_folds, fresh_seeds)
    reading, reporter = (
        make_read_options(format, columns, pictures_folder, leave_out, boxes),
        choose_reporter(quiet=quiet, on_event=on_event),
    )
    source = DataSource(pictures, labels, corrections, reading=reading)
    with connect_trial_workers(cluster, workers, requested, threads=threads, reporter=reporter) as trial_workers:
        results = run_search(
            source, request, out=out, storage=storage, threads=threads, reporter=reporter, workers=trial_workers
        )
    return SearchResult(None if results["winner"] is None else Path(results["run"]), results)


def study(
    pictures: Sources,
    recipes: Sequence[str] = (),
    *,
    method: str | None = None,
    backbone: str | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    preset: str | None = None,
    against: str | None = None,
    settings: Sequence[str] = (),
    budget_seconds: float | None = None,
    labels: str | None = None,
    corrections: Path | str | None = None,
    format: str | None = None,
    columns: Columns | None = None,
    pictures_folder: Path | str | None = None,
    leave_out: Sequence[str] | None = None,
    boxes: Path | str | None = None,
    out: Path | str | None = None,
    device: Device = "auto",
    threads: int | None = None,
    quiet: bool = False,
    on_event: OnEvent | None = None,
) -> Study:
    """Compare recipes over several seeds on the same pictures; the same call resumes an interrupted study.

    recipes: TOML files, built-in recipes, methods (for their defaults) or run folders; preset: "original" or "crop".
    method, backbone: of all recipes; seeds: default 0, 1, 2; seed: a single one. settings: "section.key=value" for all
    recipes that use it; against: the recipe to compare with, the first by default. budget_seconds: the epochs of all
    are reduced to fit. Failed runs are in `failed` of what comes back. Raises UserError, RecipeError if an argument
    contradicts a recipe, InterruptedRun on Ctrl-C.
    """
    if isinstance(recipes, str):
        raise UserError(f'recipes is a list, such as ["probe", "scratch"]; got "{recipes}".')
    if seed is not None and seeds is not None:
        raise UserError("seed is a list of one seed; seeds is passed as well. Leave out one of the two.")
    shared = {"method": method, "backbone": backbone}
    for entry in read_study_recipes(recipes, preset, settings):
        combine_recipe(entry.overrides, where=f'the recipe "{entry.name}"', **shared)
    settings = [*settings, *(f"model.{key}={value}" for key, value in shared.items() if value is not None)]
    settings += study_device_settings(device)
    chosen = (seed,) if seed is not None else (0, 1, 2) if seeds is None else seeds
    options = StudyOptions(recipes, preset, settings, chosen, against, budget_seconds)
    context = Context.create(threads, choose_reporter(quiet=quiet, on_event=on_event))
    reading = make_read_options(format, columns, pictures_folder, leave_out, boxes)
    return run_study(DataSource(pictures, labels, corrections, reading=reading), options, out=out, context=context)
