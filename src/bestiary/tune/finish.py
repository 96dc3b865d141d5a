"""The end of a search: the winner becomes an ordinary run; what mattered; how much of the gain was luck; the page."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from optuna.trial import FrozenTrial, TrialState

from bestiary import files, flow, run_folder
from bestiary.data.dataset import DataSource
from bestiary.errors import RecipeError
from bestiary.evaluation.model_audit import add_model_issues
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe import Recipe
from bestiary.report.run_report import write_report
from bestiary.training.create_run import create_run
from bestiary.tune import page as tune_page
from bestiary.tune import selection_bias
from bestiary.tune.folder import write_recipe
from bestiary.tune.importance import importances
from bestiary.tune.objective import TrialScore, evaluate_recipe, resample_validation
from bestiary.tune.search_space import apply_params, format_value
from bestiary.tune.storage import FINISHED, TrialStorage, count_started, display_number, rank_trials
from bestiary.tune.trial import SearchContext, SearchTimeoutError

RESULT = "tune.json"
BEGUN = "the end was begun"


def finish_search(search: SearchContext, out: Path, source: DataSource, fresh_seeds: int | None) -> dict[str, Any]:
    """Return what the search found, as plain values; of several processes one makes the winner, the others wait.

    What an earlier call has made is kept: the test split is scored anew only for another winner, and that is counted.
    """
    ledger = search.storage
    with ledger.exclusive():
        known = ledger.study.user_attrs.get(FINISHED)
        if known and known["taken"] == ledger.n_started() and Path(known["result"]).exists():
            return files.read_json(Path(known["result"]))
        trials = ledger.claim_finish(search.trials)
        best = rank_trials(trials)[0][0]
        run, looks = _make_winner_run(search, out, source, best, winning_recipe(search, best))
        recipe = run_folder.load_recipe(run)  # an earlier call may have made it
        write_recipe(out / "winner.toml", recipe, f"Found by bestiary tune: trial {display_number(best)}.")
        found = _collect_result(search, trials, run, out)
        found["luck"] = _rescore_best(search, trials, fresh_seeds)
        found["test scored"] = looks
        _write_result(found, out)
        result = str((out / RESULT).absolute())
        ledger.study.set_user_attr(FINISHED, {"taken": count_started(trials), "result": result})
        return found


def report_progress_elsewhere(storage: TrialStorage, reporter: Reporter) -> dict[str, Any]:
    """Return how far the search is, where other processes go on with it when our time is up."""
    reporter.info("The time is up, but other processes go on: the last one to end makes the winner.")
    best = storage.best()
    return {
        "winner": None,
        "best so far": None if best is None else best[1].macro_f1,
        "trials": count_by_state(storage.trials()),
    }


def winning_recipe(search: SearchContext, trial: FrozenTrial) -> Recipe:
    """Return the recipe of a trial as the winner is trained."""
    chosen = {} if trial.user_attrs.get("default") else trial.params
    return apply_params(search.base_recipe, chosen).with_epochs(affordable_epochs(search, trial.user_attrs["took"]))


def affordable_epochs(search: SearchContext, took: dict[str, Any]) -> int | None:
    """Return how many epochs the winner is trained for: those planned, or as many as still fit at its own pace.

    took: of its trial. A larger network, or pictures shown more often, take longer than the default was planned with.
    """
    final = search.plan.final_epochs
    if final is None or final == search.plan.epochs or search.deadlines.rescoring is None:
        return final
    seconds = took["training"] / took["epochs"]
    return max(1, min(final, int((search.deadlines.rescoring_room() - search.deadlines.besides) / seconds)))


def _make_winner_run(
    search: SearchContext, out: Path, source: DataSource, best: FrozenTrial, recipe: Recipe
) -> tuple[Path, int]:
    """Return the winner's run folder, trained and tested, and how often the test split was looked at by this search."""
    study = search.storage.study
    runs: list[dict[str, Any]] = study.user_attrs.get(BEGUN, [])
    if runs and runs[-1]["trial"] == best.number:
        run = Path(runs[-1]["run"])
    else:
        run = out / ("winner" if not runs else f"winner-{len(runs) + 1}")
        runs = [*runs, {"trial": best.number, "run": str(run.absolute())}]
        study.set_user_attr(BEGUN, runs)
    _train_winner(search, source, best, recipe, run)
    looks = sum((Path(one["run"]) / "metrics.json").exists() for one in runs)
    metrics = files.read_json(run / "metrics.json")
    if metrics["test_scored"] < looks:  # earlier winners were tested on the same pictures
        files.write_json(run / "metrics.json", metrics | {"test_scored": looks})
        write_report(run, threads=search.context.threads)
    return run, looks


def _train_winner(search: SearchContext, source: DataSource, best: FrozenTrial, recipe: Recipe, run: Path) -> None:
    """Make a finished run of the winner, on the very split that was searched: from the start, or from where it was."""
    if not (run / "asked.toml").exists():
        resolved = recipe.resolve()
        collection = add_model_issues(search.collection, resolved, search.context)
        facts = source.facts() | {"threads": search.context.threads, "split digest": search.digest}
        create_run(
            run, recipe, resolved, search.pictures, collection, facts, resumed_from=_reusable_training(search, best)
        )
    if not (run / "report.html").exists():
        flow.resume(run, threads=search.context.threads, reporter=search.context.reporter)


def _reusable_training(search: SearchContext, best: FrozenTrial) -> Path | None:
    """Return the folder of the winner's training, if that was all that is wanted: it need not be done again."""
    place = search.storage.trial_folder(best) / "1"
    whole = not search.plan.folds and search.plan.epochs == search.plan.final_epochs
    return place if whole and (place / "checkpoints" / "last.pt").exists() else None


# ---- Second scores -------------------------------------------------------------------------------------------------


def _rescore_best(search: SearchContext, trials: list[FrozenTrial], fresh_seeds: int | None) -> dict[str, Any]:
    """Score the best trials and the default again with fresh seeds, as far as time goes, and return what that says."""
    best, default = rank_trials(trials)[: selection_bias.BEST], _default_trial(trials)
    seeds = selection_bias.SEEDS[search.base_recipe.model.method] if fresh_seeds is None else fresh_seeds
    first = {display_number(one): score.macro_f1 for one, score in [*best, *default]}
    winner = display_number(best[0][0])
    base = display_number(default[0][0]) if default else None
    by_number = {display_number(one): one for one, _ in [*best, *default]}
    fresh: dict[int, dict[int, float]] = {number: {} for number in first}
    wanted = selection_bias.rescoring_order([display_number(one) for one, _ in best], base, seeds)
    longest = 0.0
    with (
        search.context.reporter.progress("Scoring the best again", len(wanted)) as advance,
        contextlib.suppress(SearchTimeoutError),
    ):
        for number, seed in wanted if len(first) > 1 else []:  # of one trial alone there was no choice
            if search.deadlines.rescoring_room() < 1.5 * max(
                longest, _seconds_per_split(by_number[number], search.plan.folds)
            ):
                break
            try:
                fresh[number][seed], seconds = _rescore_trial(search, by_number[number], seed)
                longest = max(longest, seconds)
            except RecipeError as error:
                search.context.reporter.info(f"Trial {number} has no score on fresh split {seed}: {error}")
            advance(1)
    division = resample_validation(search.pictures, search.plan.folds, seed=1)
    sides = [division.filter(pl.col("split") == side).height for side in ("val", "train")]
    found = selection_bias.selection_bias_report(
        first, fresh, winner, base, val_train_ratio=sides[0] / sides[1], wanted=seeds
    )
    if search.plan.folds and found["trials"][0]["fresh"] is not None:
        found["sentence"] += " All pictures played a part in the choice by folds: some luck is not seen this way."
    return found


def _seconds_per_split(trial: FrozenTrial, folds: int) -> float:
    """Return how long a trial takes on one division: by its last session, or by all epochs if that only went on."""
    took = trial.user_attrs["took"]
    return max(float(took["seconds"]) / max(1, folds), float(took["training"]))


def _rescore_trial(search: SearchContext, trial: FrozenTrial, seed: int) -> tuple[float, float]:
    """Return the macro-F1 of a trial on a fresh split and with a fresh seed, from the storage if it is there.

    Raises OutOfTimeError between two epochs if the time is up.
    """
    name, began = f"again {display_number(trial)} {seed}", time.monotonic()
    if (known := search.storage.study.user_attrs.get(name)) is not None:
        return float(known), 0.0
    chosen = {} if trial.user_attrs.get("default") else trial.params
    recipe = apply_params(search.base_recipe, chosen).with_epochs(search.plan.epochs).resolve()
    recipe = recipe.model_copy(update={"seed": search.base_recipe.seed + 1000 * seed})
    place = search.storage.folder / f"again-{display_number(trial)}-{seed}"
    division = resample_validation(search.pictures, search.plan.folds, seed=search.base_recipe.seed + seed)

    def watch(*_: object) -> None:
        if search.deadlines.rescoring_room() < 0:
            raise SearchTimeoutError

    context = replace(search.context, reporter=SilentReporter())
    found = evaluate_recipe(recipe, [division], place, context, report_epoch=watch, resume=True)
    shutil.rmtree(place, ignore_errors=True)
    search.storage.study.set_user_attr(name, found.macro_f1)
    return found.macro_f1, time.monotonic() - began


def _default_trial(trials: list[FrozenTrial]) -> list[tuple[FrozenTrial, TrialScore]]:
    return [(one, score) for one, score in rank_trials(trials) if one.user_attrs.get("default")]


# ---- What is written -----------------------------------------------------------------------------------------------


def count_by_state(trials: list[FrozenTrial]) -> dict[str, int]:
    """Return how many trials ended in which way."""
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    found = {name: sum(one.state == state for one in trials) for name, state in states.items()}
    return found | {"failed": sum("cause" in one.user_attrs for one in trials)}


def pruning_savings(trials: list[FrozenTrial], epochs: int | None) -> dict[str, float] | None:
    """Return the training seconds that were spent, those that would have been without pruning, and the share saved.

    A pruned trial would have gone on at its own pace to the last epoch; one that ended early by itself is as it is.
    """
    took = [(one, one.user_attrs["took"]) for one in trials if one.user_attrs.get("took", {}).get("epochs")]
    if epochs is None or not took:
        return None
    spent = sum(own["training"] for _, own in took)
    whole = sum(
        own["training"] * (epochs / own["epochs"] if one.state == TrialState.PRUNED else 1.0) for one, own in took
    )
    return {"seconds": round(spent, 1), "seconds without": round(whole, 1), "share saved": round(1 - spent / whole, 4)}


def _collect_result(search: SearchContext, trials: list[FrozenTrial], run: Path, out: Path) -> dict[str, Any]:
    metrics = files.read_json(run / "metrics.json")
    default = _default_trial(trials)
    return {
        "method": search.base_recipe.model.method,
        "run": str(run),
        "recipe": str(out / "winner.toml"),
        "page": str(out / "tune.html"),
        "chosen by": f"{search.plan.folds} inner folds" if search.plan.folds else "the validation split",
        "epochs of a trial": search.plan.epochs,
        "epochs of the winner": search.plan.final_epochs and run_folder.load_resolved_recipe(run).train.epochs,
        "trials": count_by_state(trials),
        "default": dict(default[0][1].__dict__) if default else None,
        "winner": _trial_row(rank_trials(trials)[0][0]),
        "test": {name: metrics[name] for name in ("accuracy", "macro_f1", "log_loss")},
        "importance": importances(trials, seed=search.base_recipe.seed),
        "pruning": pruning_savings(trials, search.plan.epochs),
        "history": [_trial_row(one) for one in trials if one.state.is_finished() and "took" in one.user_attrs],
    }


def _trial_row(trial: FrozenTrial) -> dict[str, Any]:
    score, took = trial.user_attrs.get("score", {}), trial.user_attrs.get("took", {})
    is_default = bool(trial.user_attrs.get("default"))
    return {
        "trial": display_number(trial),
        "ended": trial.state.name.lower(),
        "ended at": trial.datetime_complete.isoformat() if trial.datetime_complete else None,
        "default": is_default,
        "macro_f1": score.get("macro_f1"),
        "loss": score.get("loss"),
        "last_macro_f1": list(trial.intermediate_values.values())[-1] if trial.intermediate_values else None,
        "epochs": took.get("epochs"),
        "seconds": took.get("seconds"),
        "cause": trial.user_attrs.get("cause"),
        "settings": {} if is_default else {name: format_value(name, value) for name, value in trial.params.items()},
    }


def _write_result(result: dict[str, Any], out: Path) -> None:
    files.write_json(out / RESULT, result)
    tune_page.write_tune_page(result, out)
