"""Studies: several recipes under several seeds on the same pictures, with paired differences and their intervals.

Pictures are scanned, audited and split once. Each recipe is trained under each seed in a run folder of its own (a
cell), and the results are written after each. Repeating the command resumes an interrupted study without training
finished runs again. Recipes and seeds can be added.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import flow, table
from bestiary.context import Context
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import AuditedDataset, DataSource, load_dataset
from bestiary.errors import IntegrityError, InterruptedRun, MachineError, RecipeError, RunError, SourceError, UserError
from bestiary.evaluation.model_audit import add_model_issues
from bestiary.files import require_local_path, require_outside
from bestiary.machine import is_out_of_memory_error, world_size
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_sections import FeaturesConfig
from bestiary.stages import number_stages
from bestiary.study.plan import (
    describe_plan,
    epoch_fraction_within_budget,
    estimate_runs,
    scale_epochs,
    without_label_check,
)
from bestiary.study.recipes import LIMITS, RecipeValues, StudyRecipe, comparison_pairs, read_study_recipes, settle_entry
from bestiary.study.results import Results
from bestiary.study.runs import (
    CELLS,
    StudyManifest,
    StudyRun,
    check_same_dataset,
    check_same_splits,
    check_same_study,
    collection_digest,
    list_runs,
    read_manifest,
    write_manifest,
)
from bestiary.summary import Summary, SummaryRepr
from bestiary.training.create_run import create_run
from bestiary.training.quick_estimate import budget_check
from bestiary.training.run_lock import LOCK_FILES, run_lock

STUDIES, FINDINGS = Path("studies"), "findings.parquet"
MAX_INITIAL_FAILURES = 3  # failed runs before any finishes: then the study stops
Splits = Mapping[int, tuple[pl.DataFrame, str]]  # by seed: the pictures with their split, and its digest


@dataclass(frozen=True, repr=False)
class Study(SummaryRepr):
    """A finished study: its folder, its results as plain values, and the failed runs with the reason."""

    path: Path
    results: dict[str, Any]
    failed: Mapping[str, str]

    def summary(self) -> Summary:
        """Return the mean macro-F1 of each recipe over the seeds, and the number of failed runs."""
        rows = [
            (recipe["recipe"], f"macro-F1 {recipe['macro_f1']['mean']:.3f}, {len(recipe['seeds'])} seeds")
            for recipe in self.results["recipes"]
        ]
        failed = [("failed", f"{len(self.failed)} runs")] if self.failed else []
        return Summary(f"Study {self.path}", (*rows, *failed))


@dataclass(frozen=True)
class StudyOptions:
    """What to compare: recipes (see `read_study_recipes`) under seeds.

    settings: `section.key=value`, applied to every recipe that uses it; against: the recipe to compare all others with,
    the first when not given; budget_seconds: epochs are reduced, by the same fraction for all, to fit.
    """

    recipes: Sequence[str] = ()
    preset: str | None = None
    settings: Sequence[str] = ()
    seeds: Sequence[int] = (0, 1, 2)
    against: str | None = None
    budget_seconds: float | None = None


@dataclass(frozen=True)
class StudyRequest:
    """A validated request: the source of the pictures, the recipes, the seeds, and the budget."""

    source: DataSource
    entries: list[StudyRecipe]
    seeds: tuple[int, ...]
    budget_seconds: float | None
    context: Context

    def data_recipe(self) -> ResolvedRecipe:
        """Return the settings of the pictures, equal in all recipes; label check if any recipe has it.

        Its features are those of the recipes if they agree on them, else the fastest.
        """
        recipes = [entry.recipe() for entry in self.entries]
        limits = {key: getattr(recipes[0].picture, key) for key in LIMITS}
        suspects = {"suspects": any(recipe.data.suspects for recipe in recipes)}
        crop = "boxes" if any(recipe.data.crop == "boxes" for recipe in recipes) else "none"
        data, features = recipes[0].data.model_dump(mode="json") | suspects | {"crop": crop}, recipes[0].features
        if any(recipe.features != features for recipe in recipes):
            features = FeaturesConfig()
        return Recipe.of({"data": data, "picture": limits, "features": features.model_dump()}).resolve()

    def run_recipes(self) -> list[Recipe]:
        """Return the recipe of every run."""
        return [entry.recipe(seed) for entry in self.entries for seed in self.seeds]

    def facts(self) -> dict[str, Any]:
        """Return what every run folder records of its source."""
        return self.source.facts(self.context.threads)


@dataclass(frozen=True)
class PlannedStudy:
    """The recipes as they are run, with a fraction of the requested epochs."""

    entries: list[StudyRecipe]
    epoch_fraction: float


def study(
    source: DataSource, options: StudyOptions, *, out: Path | str | None = None, context: Context | None = None
) -> Study:
    """Compare recipes over several seeds on the same pictures; return the finished study.

    out: the folder; an unfinished study there is resumed. Raises UserError, InterruptedRun on Ctrl-C.
    """
    seeds = tuple(options.seeds)
    check_seeds(seeds)
    entries = read_study_recipes(options.recipes, options.preset, options.settings)
    pairs = comparison_pairs(entries, options.against)
    context = context or Context()
    context = replace(context, reporter=number_stages(context.reporter, "study"))
    entries = [settle_entry(entry, context) for entry in entries]
    request = StudyRequest(source, entries, seeds, options.budget_seconds, context)
    folder = _default_folder(request) if out is None else Path(out)
    require_local_path(folder)
    require_outside(None if out is None else folder, source.paths)
    manifest = read_manifest(folder)
    if manifest is not None:
        check_same_study(folder, manifest, entries, options.budget_seconds)
    try:
        # ---- Pictures: measured and audited once, split once for each seed -----------------------------------------
        dataset, splits = _load_and_split(request, folder, manifest)
        with _study_lock(folder):
            if read_manifest(folder) != manifest:
                raise RunError(f"Another process has just worked on the study in {folder}. Repeat the same command.")
            # ---- Plan: how long the runs take, and how many epochs fit ---------------------------------------------
            planned = _plan_study(request, folder, splits, manifest)
            manifest = _build_manifest(request, planned, collection_digest(dataset.pictures), splits, manifest)
            facts = {**request.facts(), "seeds": list(seeds), "preset": options.preset}
            write_manifest(folder, manifest, facts)
            table.write(dataset.findings, folder / FINDINGS)
            # ---- Runs: trained one after another, results written after each ---------------------------------------
            results = Results(folder, pairs, facts | {"share of epochs": manifest.share})
            return _run_cells(request, list_runs(folder, planned.entries, seeds), dataset, splits, results)
    except (KeyboardInterrupt, InterruptedRun):
        message = "Interrupted. Nothing is lost. To resume, repeat the same command."
        raise InterruptedRun(folder, message=message) from None


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise UserError unless there are seeds, each once and valid."""
    if not seeds:
        raise UserError("A study needs one seed or more: --seeds 0 1 2.")
    if twice := [str(seed) for seed, times in Counter(seeds).items() if times > 1]:
        raise UserError(f"--seeds has {', '.join(twice)} twice; a repeated seed gives the same result.")
    for seed in seeds:
        Recipe.of({"seed": seed})
    if world_size() > 1:
        raise RecipeError("A study runs in one process: start it without torchrun.")


def check_enough_validation(pictures: pl.DataFrame, seed: int) -> None:
    """Raise SourceError if there are fewer validation pictures than classes."""
    classes = pictures.filter(pl.col("split") == "train")["label"].n_unique()
    if (few := int((pictures["split"] == "val").sum())) < classes:
        raise SourceError(
            f"With seed {seed} there are {few} validation pictures of {classes} classes; a study needs at least one of"
            " each. Add validation pictures, raise --set data.val_fraction, or leave classes out with --classes."
        )


def _default_folder(request: StudyRequest) -> Path:
    """Return the default folder: the same for the same pictures and recipes, whatever the seeds."""
    recipes = {entry.name: entry.overrides for entry in request.entries}
    digest = hashlib.sha256(json.dumps([request.facts() | {"threads": None}, recipes]).encode()).hexdigest()[:6]
    return STUDIES / f"{request.source.paths[0].stem}-{digest}"


def _load_and_split(
    request: StudyRequest, folder: Path, manifest: StudyManifest | None
) -> tuple[AuditedDataset, Splits]:
    """Return the dataset with its findings, and its split under each seed; the label check runs only once."""
    recipe = request.data_recipe()
    context = replace(request.context, features=recipe.features)
    again = manifest is not None and (folder / FINDINGS).exists()
    context.reporter.info("Re-scanning the pictures (measurements are cached)." if again else "Scanning the pictures.")
    if again:
        recipe, context = without_label_check(recipe), replace(context, reporter=SilentReporter())
    # A study that is resumed keeps the epochs of its first plan, whatever is left of the budget.
    budget_seconds = request.budget_seconds if manifest is None else None
    check = budget_check(request.run_recipes(), budget_seconds, context)
    dataset = load_dataset(request.source, recipe, context, for_training=True, check=check)
    splits = {seed: assign_splits(dataset, recipe.data, seed=seed) for seed in request.seeds}
    dataset = add_model_issues(dataset, recipe, context, splits[request.seeds[0]][0])
    if again:
        dataset = replace(dataset, findings=table.read(folder / FINDINGS, table.FINDINGS))
    if manifest is not None:
        check_same_dataset(folder, manifest, collection_digest(dataset.pictures))
    for seed, (pictures, _) in splits.items():
        check_enough_validation(pictures, seed)
    if manifest is not None:
        check_same_splits(folder, manifest, {str(seed): digest for seed, (_, digest) in splits.items()})
    return dataset, splits


@contextmanager
def _study_lock(folder: Path) -> Iterator[None]:
    """Lock the folder of the study and remove partial run folders of a killed process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"Cannot create {folder}: {error.strerror or error}. Choose another --out.") from None
    with run_lock(folder, resume_command="the same command"):
        for left in folder.glob(f"{CELLS}/*/.*"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        except BaseException:
            if {path.name for path in folder.iterdir()} <= LOCK_FILES:  # nothing was saved
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _plan_study(request: StudyRequest, folder: Path, splits: Splits, manifest: StudyManifest | None) -> PlannedStudy:
    """Return the recipes as they are run, after reporting how long the study will take."""
    ahead = Counter(
        cell.entry.name for cell in list_runs(folder, request.entries, request.seeds) if not cell.is_finished
    )
    seed, recorded = request.seeds[0], {} if manifest is None else manifest.recipes
    to_run, context = [entry for entry in request.entries if entry.name in ahead], request.context
    forecasts = estimate_runs(to_run, splits[seed][0], seed=seed, threads=context.threads)
    fraction = 1.0 if manifest is None else manifest.share
    if manifest is None and (budget := request.budget_seconds) is not None:
        fraction = epoch_fraction_within_budget(
            list(forecasts.values()), len(request.seeds), budget, context.timer.total
        )
    if ahead:
        context.reporter.info(describe_plan(ahead, forecasts, fraction))
    entries = [
        replace(entry, overrides=recorded[entry.name]["run"], epochs_times=1)
        if entry.name in recorded
        else scale_epochs(entry, forecasts[entry.name], fraction)
        for entry in request.entries
    ]
    return PlannedStudy(entries, fraction)


def _build_manifest(
    request: StudyRequest, planned: PlannedStudy, collection: str, splits: Splits, previous: StudyManifest | None
) -> StudyManifest:
    """Return the manifest of the study, including recipes and seeds of earlier calls."""
    recipes: dict[str, dict[str, RecipeValues]] = {
        requested.name: {"asked": requested.overrides, "run": run.overrides}
        for requested, run in zip(request.entries, planned.entries, strict=True)
    }
    digests = {str(seed): digest for seed, (_, digest) in splits.items()}
    if previous is not None:
        recipes, digests = previous.recipes | recipes, previous.splits | digests
    return StudyManifest(request.budget_seconds, planned.epoch_fraction, recipes, collection, digests)


def _run_cells(
    request: StudyRequest, cells: Sequence[StudyRun], dataset: AuditedDataset, splits: Splits, results: Results
) -> Study:
    """Train the unfinished runs; write their scores after each, and the comparison after each seed.

    A failed run does not stop the others.
    """
    failed, reporter = dict[str, str](), request.context.reporter
    for number, cell in enumerate(cells, start=1):
        if cell.is_finished:
            continue
        reporter.info(f"Training run {number} of {len(cells)}: {cell}.")
        if (cause := _train_or_explain(cell, request, dataset, splits)) is not None:
            failed[str(cell)] = cause
            reporter.info(f"{cell} failed. {cause}")
            _check_any_finished(cells, failed)
        results.write_cells_table(cells)
        if number < len(cells) and cells[number].seed != cell.seed and any(cell.is_finished for cell in cells):
            results.write_results(cells, failed)
    return Study(results.out, results.write_results(cells, failed), failed)


def _train_or_explain(cell: StudyRun, request: StudyRequest, dataset: AuditedDataset, splits: Splits) -> str | None:
    """Train a run and return None, or why it failed. Errors that the recipe does not cause are raised."""
    try:
        _train_cell(cell, request, dataset, splits)
    except MachineError:
        raise
    except (UserError, IntegrityError) as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory_error(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"Out of memory ({reason}). A smaller picture.size or train.batch_size needs less."
    return None


def _train_cell(cell: StudyRun, request: StudyRequest, dataset: AuditedDataset, splits: Splits) -> None:
    """Train and score a run: from the start, or from its last checkpoint."""
    if not cell.is_started:
        pictures, digest = splits[cell.seed]
        recipe, facts = cell.entry.recipe(cell.seed), {**request.facts(), "split digest": digest}
        if recipe.data.crop == "none":
            pictures = table.show_whole(pictures)
        create_run(cell.run, recipe, recipe.resolve(), pictures, dataset, facts)
    flow.resume(cell.run, light=True, threads=request.context.threads, reporter=request.context.reporter)


def _check_any_finished(cells: Sequence[StudyRun], failed: Mapping[str, str]) -> None:
    """Raise UserError, with the first cause, once several runs have failed and none finished."""
    if len(failed) >= min(MAX_INITIAL_FAILURES, len(cells)) and not any(cell.is_finished for cell in cells):
        first, cause = next(iter(failed.items()))
        raise UserError(f"No training run finished; these failed: {', '.join(failed)}. The first ({first}): {cause}")
