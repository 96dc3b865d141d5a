"""`tune`: recipes are tried one after another, chosen among by validation; the best one becomes an ordinary run.

Pictures are measured and split once. Features and pixels are kept in the cache, where all trials find them. The test
split is scored once, for the winner, by the same path as that of `train`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bestiary.context import Context
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import AuditedDataset, DataSource, load_dataset
from bestiary.errors import InterruptedRun, RecipeError, RunError
from bestiary.machine import disable_malloc_trim, world_size
from bestiary.models.features import split_precisions
from bestiary.progress import Reporter
from bestiary.recipe import Recipe
from bestiary.text import format_duration
from bestiary.training.budget import MachineProfile, TimeEstimate, estimate_seconds, usable_seconds
from bestiary.training.recipe_checks import check_recipe_supported
from bestiary.training.task import TrainingTask, make_task
from bestiary.tune import finish
from bestiary.tune import plan as planning
from bestiary.tune.folder import SearchFolder, locate_search
from bestiary.tune.objective import count_inner_folds, inner_splits
from bestiary.tune.plan import Deadlines, SearchPlan
from bestiary.tune.search_space import Settings, build_search_space, default_params, format_space, input_config_recipes
from bestiary.tune.storage import TrialStorage, failure_reasons, storage_errors
from bestiary.tune.trial import SearchContext, SearchTimeoutError, run_trial

MAX_INITIAL_FAILURES = 3  # failed trials before any succeeds: then the cause is told and the search ends


@dataclass(frozen=True)
class SearchRequest:
    """The options of a search.

    recipe: where the search starts; what it sets is not searched. search: dimensions to search, see
    `search_space.build_search_space`. trials: how many in all, by all processes. budget_seconds: for all that this
    process does. inner_folds: folds of training and validation that trials are scored by, 0 for the validation split,
    None to decide by its size. fresh_seeds: for the second scores of the best.
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
) -> dict[str, Any]:
    """Search for a better recipe; return the result, as in `tune.json` of its folder. The same call resumes the search.

    Raises UserError where input or machine are at fault, InterruptedRun on Ctrl-C.
    """
    context = Context.create(threads, reporter)
    _check_request(request)
    search_folder = locate_search(out, storage, source, request.recipe)
    disable_malloc_trim()
    try:
        with storage_errors(search_folder.storage):
            dataset = load_dataset(source, request.recipe.resolve(), context)
            search = _prepare_search(request, search_folder, dataset, context)
            if not _run_trials(search):
                return finish.report_progress_elsewhere(search.storage, context.reporter)
            return finish.finish_search(search, search_folder.out, source, request.fresh_seeds)
    except (KeyboardInterrupt, InterruptedRun):
        words = f"Interrupted. Nothing is lost: the same command goes on with the search in {search_folder.out}."
        raise InterruptedRun(None, message=words) from None


def _check_request(request: SearchRequest) -> None:
    """Raise RecipeError for what no search can do, before any work is done."""
    asked = request.recipe
    check_recipe_supported(asked)
    if world_size() > 1:
        raise RecipeError("A search runs in one process; start the same command several times to share the work.")
    if asked.data.folds:
        raise RecipeError(
            "data.folds is for judging a recipe, by testing every picture; a search keeps its test pictures apart."
            " Leave it out; for few pictures choose by inner folds: --inner-folds 5."
        )
    if request.trials is not None and request.trials < 1:
        raise RecipeError(f"--trials takes 1 or more; got {request.trials}.")
    if request.inner_folds is not None and (request.inner_folds < 0 or request.inner_folds == 1):
        raise RecipeError(f"--inner-folds takes 2 or more, or 0 for the validation split; got {request.inner_folds}.")
    build_search_space(asked, 1000, request.search)  # a wrong wish is told before pictures are looked at


# ---- Before the first trial ----------------------------------------------------------------------------------------


def _prepare_search(
    request: SearchRequest,
    search_folder: SearchFolder,
    collection: AuditedDataset,
    context: Context,
) -> SearchContext:
    """Return what all trials share: the plan agreed on with other processes, the deadlines, features of all looks."""
    asked = request.recipe
    shown, digest = assign_splits(collection, asked.data, seed=asked.seed)
    folds = count_inner_folds(request.inner_folds, shown)
    ledger = TrialStorage(search_folder.storage, f"tune-{asked.model.method}")
    task, measure = make_task(ledger.folder, asked.resolve(), shown, context), MachineProfile()
    estimate, budget = _estimate_run(request, folds, ledger, task, measure), request.budget_seconds

    def shared(agreed: SearchPlan | None = None) -> planning.BudgetSplit | None:
        if estimate is None or budget is None:
            return None
        return planning.allocate_budget(
            asked, estimate, usable_seconds(budget, task.context.timer.total), folds, agreed
        )

    def plan() -> tuple[dict[str, Any], Settings]:
        pictures, sharing = len(task.split("train").keys), shared()
        space = build_search_space(asked, pictures, request.search)
        if sharing is not None and asked.model.method == "probe":
            space = planning.limit_input_configs(
                space, asked, task, measure, planning.FEATURES_FRACTION * sharing.search
            )
        full = None if asked.model.method == "probe" else asked.resolve().train.epochs
        epochs, final = (full, full) if sharing is None else (sharing.epochs, sharing.final_epochs)
        return SearchPlan(space, folds, epochs, final).plain(), default_params(space, asked)

    facts = {"split": digest, "recipe": asked.overrides(), "search": list(request.search), "inner folds": folds}
    agreed, deadlines = SearchPlan.of(ledger.shared_plan(facts, plan)), Deadlines()
    sharing = shared(agreed)
    if sharing is not None and budget is not None:
        now = time.monotonic()
        deadlines = Deadlines(
            now + sharing.search, now + usable_seconds(budget, task.context.timer.total), sharing.besides
        )
    search_folder.write_marker(
        {"method": asked.model.method, "storage": str(search_folder.storage.absolute()), **facts}
    )
    trials = request.trials
    if trials is None and sharing is None:
        trials = planning.DEFAULT_TRIALS[asked.model.method]
    parts = inner_splits(shown, agreed.folds, seed=asked.seed)
    search = SearchContext(asked, agreed, collection, shown, digest, parts, ledger, deadlines, context, trials)
    context.reporter.info(_describe_search(search))
    if asked.model.method == "probe":
        looks = [planning.with_input_config(task, look) for look in input_config_recipes(agreed.space, asked)]
        for look in [look for look in looks if not _fill_features(ledger, look, wait=False)]:
            _fill_features(ledger, look)
    return search


def _estimate_run(
    request: SearchRequest,
    folds: int,
    storage: TrialStorage,
    task: TrainingTask,
    measure: MachineProfile,
) -> TimeEstimate | None:
    """Return what a run by the recipe itself takes, if there is a budget; a probe's features are computed first."""
    if request.budget_seconds is None:
        return None
    whole = estimate_seconds(task, measure)
    if request.recipe.model.method == "probe":
        room = usable_seconds(request.budget_seconds, task.context.timer.total)
        planning.allocate_budget(request.recipe, whole, room, folds)  # is it too short? Then features need no computing
        _fill_features(storage, task)
        whole = estimate_seconds(task, measure)
    return whole


def _fill_features(storage: TrialStorage, task: TrainingTask, *, wait: bool = True) -> bool:
    """Compute the features of a look that are not kept yet; return whether they are there.

    Without `wait` they may not be, because another process is computing them.
    """
    graph = task.feature_cache("float32").graph
    try:
        with FileLock(storage.folder / f"{graph.stem}-{task.preprocess.fit}.lock", timeout=-1 if wait else 0):
            for split, precision in split_precisions().items():
                pictures = task.split(split)
                task.fill_features(pictures, precision).load(pictures.keys)
    except Timeout:
        return False
    return True


def _describe_search(search: SearchContext) -> str:
    """Return one sentence on what the search will do."""
    plan, count = search.plan, {side: (search.pictures["split"] == side).sum() for side in ("train", "val", "test")}
    by = f"{plan.folds} inner folds" if plan.folds else f"{count['val']:,} validation pictures"
    trials = f"{search.trials} trials" if search.trials is not None else "Trials"
    if plan.epochs is not None:
        trials += f" of up to {plan.epochs} epochs"
    if search.deadlines.search is not None:
        longer = f", trained for {plan.final_epochs}" if plan.final_epochs != plan.epochs else ""
        trials += f" within {format_duration(search.deadlines.room())}, then the winner{longer}"
    return (
        f"{count['train']:,} pictures to train, {by} to choose by, {count['test']:,} test pictures for the winner"
        f" alone. {trials}, over {format_space(plan.space)}."
    )


# ---- The trials ----------------------------------------------------------------------------------------------------


def _run_trials(search: SearchContext) -> bool:
    """Run trials until there are enough or the time is up; return whether the end is ours to make."""
    ledger, failed, typical = search.storage, 0, 0.0
    with ledger.session():
        ledger.use(search.plan.epochs, seed=search.base_recipe.seed)
        begun = ledger.pending_finish()
        if straight := begun is not None and begun["wanted"] == search.trials:
            search.context.reporter.info("The winner was chosen before: no more trials are run.")
        while not straight and search.deadlines.room() > typical:
            try:
                with ledger.trial_claim(search.trials) as trial:
                    if trial is None:
                        break
                    seconds, ended = run_trial(search, trial)
            except SearchTimeoutError:
                search.context.reporter.info("The time for trials is up; the one that was under way is queued again.")
                break
            ledger.clear()
            typical = seconds if not typical else 0.8 * typical + 0.2 * seconds
            failed = failed + 1 if ended == "failed" else 0
            if failed >= MAX_INITIAL_FAILURES and not ledger.best():
                raise RecipeError(
                    f"{MAX_INITIAL_FAILURES} trials failed, and none succeeded. The last one: {failure_reasons(ledger.trials())[-1]}"
                    " Mend the recipe, or narrow the search."
                )
    together = ledger.wait(lambda: search.deadlines.room() < 0, search.context.reporter.info)
    if together and not ledger.best():
        raise RunError(
            f"No trial went to its end: {len(failure_reasons(ledger.trials()))} failed, or the time was up. Give a longer"
            " --budget: the same command goes on where this one ended."
        )
    return together
