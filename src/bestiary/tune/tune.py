"""`tune`: recipes are tried one after another, chosen among by validation; the best one becomes an ordinary run.

Pictures are measured and split once. Features and pixels are kept in the cache, where all trials find them. The test
split is scored once, for the winner, by the same path as that of `train`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bestiary import flow
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import AuditedDataset
from bestiary.errors import InterruptedRun, RecipeError, RunError
from bestiary.machine import available_cores, disable_malloc_trim, world_size
from bestiary.models.efficientnet_lite import cached_backbone_graph
from bestiary.profiling import StageTimer
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe import Recipe
from bestiary.text import format_duration
from bestiary.training.budget import MachineProfile, TimeEstimate, estimate_seconds, usable_seconds
from bestiary.training.create_run import Sources
from bestiary.training.probe import load_split_features, training_precision
from bestiary.training.recipe_checks import check_recipe_supported
from bestiary.training.task import TrainingTask, make_task
from bestiary.tune import finish
from bestiary.tune import folder as folders
from bestiary.tune import plan as planning
from bestiary.tune.objective import divisions, inner_folds
from bestiary.tune.plan import Deadlines, SearchPlan
from bestiary.tune.search_space import Settings, first_values, listed, looks_of, searched
from bestiary.tune.storage import Ledger, failures, told
from bestiary.tune.trial import Ground, OutOfTimeError, tried

SILENT = SilentReporter()
HOPELESS = 3  # failed trials before any succeeds: then the cause is told and the search ends


@dataclass(frozen=True)
class Wishes:
    """What the user asked of a search; see `tune`."""

    asked: Recipe
    search: tuple[str, ...]
    trials: int | None
    folds: int | None
    budget_seconds: float | None


def tune(
    pictures: Sources,
    *,
    labels: str | None = None,
    corrections: Path | str | None = None,
    recipe: Recipe | None = None,
    search: Sequence[str] = (),
    trials: int | None = None,
    budget_seconds: float | None = None,
    storage: Path | str | None = None,
    out: Path | str | None = None,
    inner: int | None = None,
    fresh_seeds: int | None = None,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Return what a search over recipes found, as written to `tune.json` of its folder; the same call goes on with it.

    recipe: where the search starts; what it sets is not searched. search: see `space.searched`. trials: how many in
    all, by all processes; budget_seconds: for all that this process does. inner: folds of training and validation that
    trials are scored by, 0 for the validation split, None to decide by its size. fresh_seeds: for the second scores of
    the best. Raises UserError for what the user can mend, InterruptedRun on Ctrl-C.
    """
    clock, workers = StageTimer(), threads or available_cores()
    asked = recipe or Recipe()
    wishes = Wishes(asked, tuple(search), trials, inner, budget_seconds)
    _refuse(wishes)
    place = folders.place_of(out, storage, pictures, labels, asked)
    disable_malloc_trim()
    try:
        with told(place.storage):
            collection = flow.measured(pictures, labels, corrections, asked.resolve(), workers, reporter)
            ground = _prepared(wishes, place, collection, workers, clock, reporter)
            if not _searched(ground):
                return finish.left_to_others(ground.ledger, reporter)
            source = finish.Source(pictures, labels, corrections)
            return finish.ended(ground, place.out, source, fresh_seeds)
    except (KeyboardInterrupt, InterruptedRun):
        words = f"Interrupted. Nothing is lost: the same command goes on with the search in {place.out}."
        raise InterruptedRun(None, message=words) from None


def _refuse(wishes: Wishes) -> None:
    """Raise RecipeError for what no search can do, before any work is done."""
    asked = wishes.asked
    check_recipe_supported(asked)
    if world_size() > 1:
        raise RecipeError("A search runs in one process; start the same command several times to share the work.")
    if asked.data.folds:
        raise RecipeError(
            "data.folds is for judging a recipe, by testing every picture; a search keeps its test pictures apart."
            " Leave it out; for few pictures choose by inner folds: --inner-folds 5."
        )
    if wishes.trials is not None and wishes.trials < 1:
        raise RecipeError(f"--trials takes 1 or more; got {wishes.trials}.")
    if wishes.folds is not None and (wishes.folds < 0 or wishes.folds == 1):
        raise RecipeError(f"--inner-folds takes 2 or more, or 0 for the validation split; got {wishes.folds}.")
    searched(asked, 1000, wishes.search)  # a wrong wish is told before pictures are looked at


# ---- Before the first trial ----------------------------------------------------------------------------------------


def _prepared(
    wishes: Wishes,
    place: folders.SearchPlace,
    collection: AuditedDataset,
    threads: int,
    clock: StageTimer,
    reporter: Reporter,
) -> Ground:
    """Return what all trials share: the plan agreed on with other processes, the deadlines, features of all looks."""
    asked = wishes.asked
    shown, digest = assign_splits(collection, asked.data, seed=asked.seed)
    folds = inner_folds(wishes.folds, shown)
    ledger = Ledger(place.storage, f"tune-{asked.model.method}")
    task, measure = make_task(ledger.folder, asked.resolve(), shown, threads, clock, reporter), MachineProfile()
    estimate, budget = _estimated(wishes, folds, ledger, task, measure, clock), wishes.budget_seconds

    def shared(agreed: SearchPlan | None = None) -> planning.Sharing | None:
        if estimate is None or budget is None:
            return None
        return planning.shared_out(asked, estimate, usable_seconds(budget, clock.total), folds, agreed)

    def plan() -> tuple[dict[str, Any], Settings]:
        pictures, sharing = len(task.split("train").keys), shared()
        space = searched(asked, pictures, wishes.search)
        if sharing is not None and asked.model.method == "probe":
            space = planning.affordable(space, asked, task, measure, planning.LOOKS_SHARE * sharing.search)
        full = None if asked.model.method == "probe" else asked.resolve().train.epochs
        epochs, final = (full, full) if sharing is None else (sharing.epochs, sharing.final_epochs)
        return SearchPlan(space, folds, epochs, final).plain(), first_values(space, asked)

    facts = {"split": digest, "recipe": asked.overrides(), "search": list(wishes.search), "inner folds": folds}
    agreed, deadlines = SearchPlan.of(ledger.agreed(facts, plan)), Deadlines()
    sharing = shared(agreed)
    if sharing is not None and budget is not None:
        now = time.monotonic()
        deadlines = Deadlines(now + sharing.search, now + usable_seconds(budget, clock.total), sharing.besides)
    place.mark({"method": asked.model.method, "storage": str(place.storage.absolute()), **facts})
    trials = wishes.trials
    if trials is None and sharing is None:
        trials = planning.DEFAULT_TRIALS[asked.model.method]
    parts = divisions(shown, agreed.folds, seed=asked.seed)
    ground = Ground(asked, agreed, collection, shown, digest, parts, ledger, deadlines, threads, reporter, trials)
    reporter.info(_described(ground))
    if asked.model.method == "probe":
        looks = [planning.at_look(task, look) for look in looks_of(agreed.space, asked)]
        for look in [look for look in looks if not _fill(ledger, look, wait=False)]:
            _fill(ledger, look)
    return ground


def _estimated(
    wishes: Wishes, folds: int, ledger: Ledger, task: TrainingTask, measure: MachineProfile, clock: StageTimer
) -> TimeEstimate | None:
    """Return what a run by the recipe itself takes, if there is a budget; a probe's features are computed first."""
    if wishes.budget_seconds is None:
        return None
    whole = estimate_seconds(task, measure)
    if wishes.asked.model.method == "probe":
        room = usable_seconds(wishes.budget_seconds, clock.total)
        planning.shared_out(wishes.asked, whole, room, folds)  # is it too short? Then features need no computing
        _fill(ledger, task)
        whole = estimate_seconds(task, measure)
    return whole


def _fill(ledger: Ledger, task: TrainingTask, *, wait: bool = True) -> bool:
    """Compute the features of a look that are not kept yet; return whether they are there.

    Without `wait` they may not be, because another process is computing them.
    """
    trunk = cached_backbone_graph(task.recipe.model.backbone, task.cache / "trunks", task.preprocess.size)
    try:
        with FileLock(ledger.folder / f"{trunk.stem}-{task.preprocess.fit}.lock", timeout=-1 if wait else 0):
            load_split_features(task, task.split("train"), trunk, training_precision())
            load_split_features(task, task.split("val"), trunk, "float32")
    except Timeout:
        return False
    return True


def _described(ground: Ground) -> str:
    """Return one sentence on what the search will do."""
    plan, count = ground.plan, {side: (ground.shown["split"] == side).sum() for side in ("train", "val", "test")}
    by = f"{plan.folds} inner folds" if plan.folds else f"{count['val']:,} validation pictures"
    trials = f"{ground.trials} trials" if ground.trials is not None else "Trials"
    if plan.epochs is not None:
        trials += f" of up to {plan.epochs} epochs"
    if ground.deadlines.search is not None:
        longer = f", trained for {plan.final_epochs}" if plan.final_epochs != plan.epochs else ""
        trials += f" within {format_duration(ground.deadlines.room())}, then the winner{longer}"
    return (
        f"{count['train']:,} pictures to train, {by} to choose by, {count['test']:,} test pictures for the winner"
        f" alone. {trials}, over {listed(plan.space)}."
    )


# ---- The trials ----------------------------------------------------------------------------------------------------


def _searched(ground: Ground) -> bool:
    """Run trials until there are enough or the time is up; return whether the end is ours to make."""
    ledger, failed, typical = ground.ledger, 0, 0.0
    with ledger.session():
        ledger.use(ground.plan.epochs, seed=ground.asked.seed)
        begun = ledger.ending()
        if straight := begun is not None and begun["wanted"] == ground.trials:
            ground.reporter.info("The winner was chosen before: no more trials are run.")
        while not straight and ground.deadlines.room() > typical:
            try:
                with ledger.claimed(ground.trials) as trial:
                    if trial is None:
                        break
                    seconds, ended = tried(ground, trial)
            except OutOfTimeError:
                ground.reporter.info("The time for trials is up; the one that was under way is queued again.")
                break
            ledger.clear()
            typical = seconds if not typical else 0.8 * typical + 0.2 * seconds
            failed = failed + 1 if ended == "failed" else 0
            if failed >= HOPELESS and not ledger.best():
                raise RecipeError(
                    f"{HOPELESS} trials failed, and none succeeded. The last one: {failures(ledger.trials())[-1]}"
                    " Mend the recipe, or narrow the search."
                )
    together = ledger.wait(lambda: ground.deadlines.room() < 0, ground.reporter.info)
    if together and not ledger.best():
        raise RunError(
            f"No trial went to its end: {len(failures(ledger.trials()))} failed, or the time was up. Give a longer"
            " --budget: the same command goes on where this one ended."
        )
    return together
