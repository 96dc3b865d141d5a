"""A study: several recipes under several seeds, on the same pictures. What helped, by how much, how sure.

Pictures are measured, looked over and split once for all; then each recipe learns under each seed, in a run folder of
its own (a cell), and what came out is written after each of them. The same command goes on with a study that was
killed: finished cells are kept, the half-finished one is resumed. Recipes and seeds may be added to it.
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
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import AuditedDataset, DataSource
from bestiary.errors import IntegrityError, InterruptedRun, MachineError, RecipeError, SourceError, UserError
from bestiary.machine import available_cores, is_out_of_memory_error, world_size
from bestiary.profiling import StageTimer
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.study.plan import (
    describe_plan,
    epoch_fraction_within_budget,
    estimate_runs,
    scale_epochs,
    without_label_check,
)
from bestiary.study.recipes import LIMITS, RecipeValues, StudyRecipe, comparison_pairs, read_study_recipes
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
from bestiary.training.create_run import create_run
from bestiary.training.run_lock import LOCK_FILES, run_lock

STUDIES, FINDINGS = Path("studies"), "findings.parquet"
MAX_INITIAL_FAILURES = 3  # so many trainings fail, and none has come to an end: the others are not tried
SILENT = SilentReporter()
Splits = Mapping[int, tuple[pl.DataFrame, str]]  # by seed: the pictures with their split, and the digest of it


@dataclass(frozen=True)
class Study:
    """A finished study: its folder, its results as plain values, and which cells failed, with the reason."""

    path: Path
    results: dict[str, Any]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class StudyRequest:
    """What a study is asked for, read and found possible."""

    pictures: Path
    labels: str | None
    corrections: Path | None
    entries: list[StudyRecipe]
    seeds: tuple[int, ...]
    threads: int

    def settings(self) -> ResolvedRecipe:
        """Return the settings of the pictures, which are the same in all recipes; suspects if any asks for them."""
        recipes = [entry.recipe() for entry in self.entries]
        limits = {key: getattr(recipes[0].picture, key) for key in LIMITS}
        look = {"suspects": any(recipe.data.suspects for recipe in recipes)}
        return Recipe.of({"data": recipes[0].data.model_dump(mode="json") | look, "picture": limits}).resolve()

    def source(self) -> dict[str, Any]:
        """Return what every run folder keeps of where its pictures are."""
        return DataSource(self.pictures, self.labels, self.corrections).facts() | {"threads": self.threads}


@dataclass(frozen=True)
class PlannedStudy:
    """The recipes as they are run, with this share of the epochs that were asked for."""

    entries: list[StudyRecipe]
    epoch_fraction: float


def study(
    pictures: Path | str,
    recipes: Sequence[str] = (),
    *,
    preset: str | None = None,
    settings: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    against: str | None = None,
    labels: str | None = None,
    corrections: Path | str | None = None,
    out: Path | str | None = None,
    budget_seconds: float | None = None,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> Study:
    """Return a finished study of recipes (see `read_study_recipes`) under seeds, on the same pictures.

    settings: `section.key=value`, laid over every recipe that can use it; against: the recipe that all others are held
    against, the first when not given; budget_seconds: epochs are cut, by the same share for all, so that the whole
    is expected to fit; out: the folder, which goes on if it is there.
    Raises UserError for what the user can mend, InterruptedRun on Ctrl-C.
    """
    clock = StageTimer()
    check_seeds(seeds)
    entries = read_study_recipes(recipes, preset, settings)
    pairs = comparison_pairs(entries, against)
    file = None if corrections is None else Path(corrections)
    asking = StudyRequest(Path(pictures), labels, file, entries, tuple(seeds), threads or available_cores())
    place = _default_folder(asking) if out is None else Path(out)
    memory = read_manifest(place)
    if memory is not None:
        check_same_study(place, memory, entries, budget_seconds)
    try:
        # ---- Pictures: measured and looked over once, split once for each seed -------------------------------------
        collection, splits = _load_and_split(asking, place, memory, reporter)
        with _study_lock(place):
            # ---- The plan: how long it will take, and how many epochs fit ------------------------------------------
            planned = _plan_study(asking, place, splits, memory, budget_seconds, clock, reporter)
            memory = _build_manifest(
                asking, planned, collection_digest(collection.pictures), splits, memory, budget_seconds
            )
            facts = {**asking.source(), "seeds": list(seeds), "preset": preset}
            write_manifest(place, memory, facts)
            table.write(collection.findings, place / FINDINGS)
            # ---- The cells: trained one after another, told of after each ------------------------------------------
            results = Results(place, pairs, facts | {"share of epochs": memory.share})
            return _run_cells(asking, list_runs(place, planned.entries, seeds), collection, splits, results, reporter)
    except (KeyboardInterrupt, InterruptedRun):
        words = "Interrupted. Nothing is lost. Go on with: the same command."
        raise InterruptedRun(place, message=words) from None


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise UserError unless there are seeds, each once, that a recipe can have."""
    if not seeds:
        raise UserError("A study needs a seed or more: --seeds 0 1 2.")
    if twice := [str(seed) for seed, times in Counter(seeds).items() if times > 1]:
        raise UserError(f"--seeds has {', '.join(twice)} twice; another training would be the same to the last digit.")
    for seed in seeds:
        Recipe.of({"seed": seed})
    if world_size() > 1:
        raise RecipeError("A study runs in one process: start it without torchrun.")


def check_enough_validation(pictures: pl.DataFrame, seed: int) -> None:
    """Raise SourceError where there are fewer validation pictures than classes: nothing could be chosen by them."""
    classes = pictures.filter(pl.col("split") == "train")["label"].n_unique()
    if (few := int((pictures["split"] == "val").sum())) < classes:
        raise SourceError(
            f"With seed {seed} there are {few} validation pictures of {classes} classes; a study needs one of each or"
            " more. Add pictures to the validation part, raise --set data.val_fraction, or leave classes out with"
            " --classes."
        )


def _default_folder(request: StudyRequest) -> Path:
    """Return the folder of a study that was given none: the same for the same command, whatever its seeds."""
    recipes = {entry.name: entry.overrides for entry in request.entries}
    digest = hashlib.sha256(json.dumps([request.source() | {"threads": None}, recipes]).encode()).hexdigest()[:6]
    return STUDIES / f"{request.pictures.stem}-{digest}"


def _load_and_split(
    request: StudyRequest, folder: Path, manifest: StudyManifest | None, reporter: Reporter
) -> tuple[AuditedDataset, Splits]:
    """Return the collection with its findings, and its split under each seed; the findings are made only once."""
    settings, again = request.settings(), manifest is not None and (folder / FINDINGS).exists()
    reporter.info(
        "Looking at the pictures once more, which are known already." if again else "Looking at the pictures."
    )
    collection = flow.audit(
        request.pictures,
        labels=request.labels,
        corrections=request.corrections,
        recipe=without_label_check(settings) if again else settings,
        threads=request.threads,
        reporter=SILENT if again else reporter,
    )
    if again:
        collection = replace(collection, findings=table.read(folder / FINDINGS, table.FINDINGS))
    if manifest is not None:
        check_same_dataset(folder, manifest, collection_digest(collection.pictures))
    splits = {seed: assign_splits(collection, settings.data, seed=seed) for seed in request.seeds}
    for seed, (shown, _) in splits.items():
        check_enough_validation(shown, seed)
    if manifest is not None:
        check_same_splits(folder, manifest, {str(seed): digest for seed, (_, digest) in splits.items()})
    return collection, splits


@contextmanager
def _study_lock(folder: Path) -> Iterator[None]:
    """Keep the folder of the study for this process, and rid it of what a killed one left half-made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"Cannot make {folder}: {error.strerror or error}. Choose another --out.") from None
    with run_lock(folder, resume_command="the same command"):
        for left in folder.glob(f"{CELLS}/*/.*"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        except BaseException:
            if {path.name for path in folder.iterdir()} <= LOCK_FILES:  # it ended before anything was kept
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _plan_study(
    request: StudyRequest,
    folder: Path,
    splits: Splits,
    manifest: StudyManifest | None,
    budget_seconds: float | None,
    clock: StageTimer,
    reporter: Reporter,
) -> PlannedStudy:
    """Return the recipes as they are run, after saying how long it will take."""
    waiting = Counter(
        cell.entry.name for cell in list_runs(folder, request.entries, request.seeds) if not cell.finished
    )
    seed, known = request.seeds[0], {} if manifest is None else manifest.recipes
    to_run = [entry for entry in request.entries if entry.name in waiting]
    forecasts = estimate_runs(to_run, splits[seed][0], seed=seed, threads=request.threads)
    share = 1.0 if manifest is None else manifest.share
    if manifest is None and budget_seconds is not None:
        share = epoch_fraction_within_budget(list(forecasts.values()), len(request.seeds), budget_seconds, clock.total)
    if waiting:
        reporter.info(describe_plan(waiting, forecasts, share))
    entries = [
        replace(entry, overrides=known[entry.name]["run"], epochs_times=1)
        if entry.name in known
        else scale_epochs(entry, forecasts[entry.name], share)
        for entry in request.entries
    ]
    return PlannedStudy(entries, share)


def _build_manifest(
    request: StudyRequest,
    planned: PlannedStudy,
    collection: str,
    splits: Splits,
    before: StudyManifest | None,
    budget_seconds: float | None,
) -> StudyManifest:
    """Return what the study keeps of itself, with what it kept before."""
    recipes: dict[str, dict[str, RecipeValues]] = {
        asked.name: {"asked": asked.overrides, "run": run.overrides}
        for asked, run in zip(request.entries, planned.entries, strict=True)
    }
    digests = {str(seed): digest for seed, (_, digest) in splits.items()}
    if before is not None:
        recipes, digests = before.recipes | recipes, before.splits | digests
    return StudyManifest(budget_seconds, planned.epoch_fraction, recipes, collection, digests)


def _run_cells(
    request: StudyRequest,
    cells: Sequence[StudyRun],
    collection: AuditedDataset,
    splits: Splits,
    results: Results,
    reporter: Reporter,
) -> Study:
    """Train the cells that are not finished, write their scores after each, and what helped after each seed.

    A cell that fails stops no other.
    """
    failed = dict[str, str]()
    for number, cell in enumerate(cells, start=1):
        if cell.finished:
            continue
        reporter.info(f"Training {number} of {len(cells)}: {cell}.")
        if (cause := _train_or_explain(cell, request, collection, splits, reporter)) is not None:
            failed[str(cell)] = cause
            reporter.info(f"{cell} failed. {cause}")
            _check_any_finished(cells, failed)
        results.write_cells_table(cells)
        if number < len(cells) and cells[number].seed != cell.seed and any(one.finished for one in cells):
            results.write_results(cells, failed)
    return Study(results.out, results.write_results(cells, failed), failed)


def _train_or_explain(
    cell: StudyRun, request: StudyRequest, collection: AuditedDataset, splits: Splits, reporter: Reporter
) -> str | None:
    """Train a cell, and return why that failed; None if it did not. What is no fault of the recipe is raised."""
    try:
        _train_cell(cell, request, collection, splits, reporter)
    except MachineError:
        raise
    except (UserError, IntegrityError) as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory_error(error):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        return f"There was not enough memory ({said}). A smaller picture.size or train.batch_size needs less."
    return None


def _train_cell(
    cell: StudyRun, request: StudyRequest, collection: AuditedDataset, splits: Splits, reporter: Reporter
) -> None:
    """Make a finished run of a cell: from the start, or from where it was stopped."""
    if not cell.started:
        shown, digest = splits[cell.seed]
        recipe = cell.entry.recipe(cell.seed)
        create_run(cell.run, recipe, recipe.resolve(), shown, collection, {**request.source(), "split digest": digest})
    flow.resume(cell.run, light=True, threads=request.threads, reporter=reporter)


def _check_any_finished(cells: Sequence[StudyRun], failed: Mapping[str, str]) -> None:
    """Raise UserError once several cells have failed and none came to an end, with the cause of the first."""
    if len(failed) >= min(MAX_INITIAL_FAILURES, len(cells)) and not any(cell.finished for cell in cells):
        first, cause = next(iter(failed.items()))
        raise UserError(f"No training came to an end: {', '.join(failed)}. The first of them ({first}): {cause}")
