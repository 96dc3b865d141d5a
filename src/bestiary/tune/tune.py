"""Hyperparameter search (`bestiary tune`): trials are compared on validation; the best recipe becomes an ordinary run.

Pictures are measured and split once; all trials share the cached features and pixels. The test split is scored once,
for the winner, by the same code as in `train`.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bestiary.context import Context
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import AuditedDataset, DataSource, load_dataset
from bestiary.errors import InterruptedRun, RecipeError
from bestiary.files import write_json
from bestiary.machine import disable_malloc_trim, world_size
from bestiary.progress import Reporter
from bestiary.recipe import Recipe
from bestiary.table import SPLITS
from bestiary.text import format_count, format_duration
from bestiary.training.backbone_choice import settle_single_backbone
from bestiary.training.budget import usable_seconds
from bestiary.training.quick_estimate import budget_check
from bestiary.training.task import TrainingTask, make_task
from bestiary.training.time_estimate import MachineProfile, TimeEstimate, estimate_seconds
from bestiary.tune import plan as planning
from bestiary.tune.finish import finish_search, report_progress_elsewhere
from bestiary.tune.folder import MARKER, SearchFolder, locate_search
from bestiary.tune.objective import count_inner_folds, inner_splits
from bestiary.tune.plan import Deadlines, SearchPlan
from bestiary.tune.search_space import Settings, build_search_space, default_params, format_space, input_config_recipes
from bestiary.tune.storage import TrialStorage, storage_errors
from bestiary.tune.trial import SearchContext
from bestiary.tune.trial_loop import run_trials
from bestiary.tune.trial_workers import THIS_PROCESS, TrialWorkers


@dataclass(frozen=True)
class SearchRequest:
    """The options of a search.

    recipe: where the search starts; what it sets is not searched. search: dimensions to search, see
    `search_space.build_search_space`. trials: how many in all, by all processes. budget_seconds: for all that this
    process does. inner_folds: folds of training and validation that trials are scored by, 0 for the validation split,
    None to decide by its size. fresh_seeds: how often the best trials are scored again.
    """

    recipe: Recipe = field(default_factory=Recipe)
    search: tuple[str, ...] = ()
    trials: int | None = None
    budget_seconds: float | None = None
    inner_folds: int | None = None
    fresh_seeds: int | None = None


def tune(
    source: DataSource,
    request: SearchRequest,
    *,
    out: Path | str | None = None,
    storage: Path | str | None = None,
    threads: int | None = None,
    reporter: Reporter | None = None,
    workers: TrialWorkers = THIS_PROCESS,
) -> dict[str, Any]:
    """Search for a better recipe; return the result, as in `tune.json` of its folder. The same call resumes the search.

    workers: where trials are scored, and how many at a time.
    Raises UserError where input or machine are at fault, InterruptedRun on Ctrl-C.
    """
    context = Context.create(threads, reporter, request.recipe.feature_settings, "tune")
    request = replace(request, recipe=settle_single_backbone(request.recipe, context))
    _check_request(request)
    folder = locate_search(out, storage, source, request.recipe)
    disable_malloc_trim()
    try:
        with storage_errors(folder.storage.name):
            check = budget_check([request.recipe], request.budget_seconds, context)
            dataset = load_dataset(source, request.recipe.resolve(), context, for_training=True, check=check)
            search = replace(_prepare_search(request, folder, dataset, context), workers=workers)
            if not run_trials(search):
                return report_progress_elsewhere(search)
            return finish_search(search, folder.out, source, request.fresh_seeds)
    except (KeyboardInterrupt, InterruptedRun):
        message = f"Interrupted. Nothing is lost: the same command resumes the search in {folder.out}."
        raise InterruptedRun(None, message=message) from None


def _check_request(request: SearchRequest) -> None:
    """Raise RecipeError for an impossible search, before any work is done."""
    if world_size() > 1:
        raise RecipeError("A search runs in one process; start the same command several times to share the work.")
    if request.recipe.data.folds:
        raise RecipeError(
            "data.folds tests every picture, but a search keeps its test pictures apart. Leave it out; with few"
            " pictures, validate by inner folds: --inner-folds 5."
        )
    if request.trials is not None and request.trials < 1:
        raise RecipeError(f"--trials takes 1 or more; got {request.trials}.")
    if request.inner_folds is not None and (request.inner_folds < 0 or request.inner_folds == 1):
        raise RecipeError(f"--inner-folds takes 2 or more, or 0 for the validation split; got {request.inner_folds}.")
    build_search_space(request.recipe, 1000, request.search)


# ---- Before the first trial ----------------------------------------------------------------------------------------


def _prepare_search(
    request: SearchRequest, folder: SearchFolder, dataset: AuditedDataset, context: Context
) -> SearchContext:
    """Return what all trials share: the plan, the deadlines, and the features of all input configurations."""
    recipe, method, trials = request.recipe, request.recipe.model.method, request.trials
    pictures, digest = assign_splits(dataset, recipe.data, seed=recipe.seed)
    folds = count_inner_folds(request.inner_folds, pictures)
    storage, machine = TrialStorage(folder.storage, folder.study), MachineProfile()
    task = make_task(storage.folder, recipe.resolve(), pictures, context)
    estimate = None if request.budget_seconds is None else _estimate_run(request, folds, task, machine)

    def plan() -> tuple[dict[str, Any], Settings]:
        space = build_search_space(recipe, len(task.split("train").keys), request.search)
        budget = planning.allocate_budget(recipe, estimate, _room(request, context), folds)
        if estimate is not None and method == "probe":
            seconds = planning.FEATURES_FRACTION * budget.search
            space = planning.limit_input_configs(space, recipe, task, machine, seconds)
        return asdict(SearchPlan(space, folds, budget.epochs, budget.final_epochs)), default_params(space, recipe)

    facts = {"split": digest, "recipe": recipe.overrides(), "search": list(request.search), "inner folds": folds}
    agreed = SearchPlan.of(storage.shared_plan(facts, plan))
    budget, now = planning.allocate_budget(recipe, estimate, _room(request, context), folds, agreed), time.monotonic()
    deadlines = Deadlines(now + budget.search, now + _room(request, context), budget.besides)
    if trials is None and estimate is None:
        trials = planning.DEFAULT_TRIALS[method]
    write_json(folder.out / MARKER, {"method": method, "storage": folder.storage.record(), **facts})
    splits = inner_splits(pictures, agreed.folds, seed=recipe.seed)
    search = SearchContext(recipe, agreed, dataset, pictures, digest, splits, storage, deadlines, context, trials)
    context.reporter.info(_describe_search(search))
    if method == "probe":
        configs = input_config_recipes(agreed.space, recipe)
        tasks = [make_task(storage.folder, config, pictures, context) for config in configs]
        for locked in [task for task in tasks if not _fill_features(task, wait=False)]:
            _fill_features(locked)
    return search


def _room(request: SearchRequest, context: Context) -> float:
    """Return the seconds of the budget that are left, minus a reserve; infinite without a budget."""
    budget = request.budget_seconds
    return math.inf if budget is None else usable_seconds(budget, context.timer.total)


def _estimate_run(request: SearchRequest, folds: int, task: TrainingTask, machine: MachineProfile) -> TimeEstimate:
    """Return the estimated time of a run of the recipe itself; the features of a probe are computed first."""
    estimate = estimate_seconds(task, machine)
    if request.recipe.model.method == "probe":
        planning.allocate_budget(request.recipe, estimate, _room(request, task.context), folds)  # raises if too short
        _fill_features(task)
        estimate = estimate_seconds(task, machine)
    return estimate


def _fill_features(task: TrainingTask, *, wait: bool = True) -> bool:
    """Compute the missing features of an input configuration; return whether they are complete.

    They are not if another process is computing them and `wait` is false.
    """
    graph = task.feature_cache("float32").graph
    try:
        with FileLock(task.run / f"{graph.stem}-{task.preprocess.fit}.lock", timeout=-1 if wait else 0):
            for split in ("train", "val"):
                pictures = task.split(split)
                task.fill_features(pictures, task.split_precisions[split]).load(pictures.keys)
    except Timeout:
        return False
    return True


def _describe_search(search: SearchContext) -> str:
    """Return a sentence on what the search will do."""
    plan, splits = search.plan, search.pictures["split"].to_list()
    train, val, test = (splits.count(split) for split in SPLITS)
    validation = f"{plan.folds} inner folds" if plan.folds else format_count(val, "validation picture")
    trials = format_count(search.max_trials, "trial") if search.max_trials is not None else "Trials"
    if plan.epochs is not None:
        trials += f" of up to {format_count(plan.epochs, 'epoch')}"
    if search.deadlines.search < math.inf:
        longer = f", trained for {plan.final_epochs}" if plan.final_epochs != plan.epochs else ""
        trials += f" within {format_duration(search.deadlines.room())}, then the winner{longer}"
    return (
        f"{format_count(train, 'training picture')}, {validation}, {format_count(test, 'test picture')} for the winner"
        f" only. {trials}, over {format_space(plan.space)}."
    )
