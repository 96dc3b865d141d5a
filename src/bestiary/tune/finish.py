"""The end of a search: the winner becomes an ordinary run; second scores, importance of settings, result and page."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from bestiary import files, flow, run_folder
from bestiary.data.dataset import DataSource
from bestiary.errors import RecipeError
from bestiary.evaluation.model_audit import add_model_issues
from bestiary.recipe import Recipe
from bestiary.recipe_files import write_toml
from bestiary.report.run_report import write_report
from bestiary.training.create_run import create_run
from bestiary.tune.importance import importances
from bestiary.tune.objective import evaluate_recipe, resample_validation
from bestiary.tune.page import write_tune_page
from bestiary.tune.search_space import apply_params, format_value
from bestiary.tune.selection_bias import BEST, SEEDS, rescoring_order, selection_bias_report
from bestiary.tune.storage import FINISHED, count_started, display_number, is_default, rank_trials
from bestiary.tune.trial import SearchContext, SearchTimeoutError

RESULT = "tune.json"
WINNERS = "the end was begun"


def finish_search(search: SearchContext, out: Path, source: DataSource, fresh_seeds: int | None) -> dict[str, Any]:
    """Return the result of a search as plain values; one process trains the winner while the others wait.

    Earlier results are reused: the test split is scored again only for another winner, and that is counted.
    """
    storage = search.storage
    with storage.exclusive():
        finished = storage.study.user_attrs.get(FINISHED)
        if finished and finished["taken"] == storage.n_started() and Path(finished["result"]).exists():
            return files.read_json(Path(finished["result"]))
        trials = storage.claim_finish(search.max_trials)
        winner = rank_trials(trials)[0][0]
        run, test_evaluations = _make_winner_run(search, out, source, winner)
        recipe = write_toml(run_folder.load_recipe(run).overrides())  # not of this call if the run was resumed
        comment = f"# Found by bestiary tune: trial {display_number(winner)}."
        files.write_text(out / "winner.toml", f"{comment}\n{recipe}")
        result = _collect_result(search, trials, run, out)
        result |= {"luck": _rescore_best(search, trials, fresh_seeds), "test scored": test_evaluations}
        files.write_json(out / RESULT, result)
        write_tune_page(result, out)
        facts = {"taken": count_started(trials), "result": str((out / RESULT).absolute())}
        storage.study.set_user_attr(FINISHED, facts)
        return result


def report_progress_elsewhere(search: SearchContext) -> dict[str, Any]:
    """Return the state of a search that other processes continue when the time of this one is up."""
    search.context.reporter.info(
        "The time limit is reached. Other processes continue; the last one to finish trains the winner."
    )
    best = search.storage.best()
    return {
        "winner": None,
        "best so far": None if best is None else best[1].macro_f1,
        "trials": count_by_state(search.storage.trials()),
    }


def affordable_epochs(search: SearchContext, took: dict[str, Any]) -> int | None:
    """Return the epochs of the winner: as planned, or as many as fit into the time by the pace of its trial (`took`).

    A larger network or more augmentation takes longer than the default, for which the epochs were planned.
    """
    final = search.plan.final_epochs
    if final is None or final == search.plan.epochs:
        return final
    seconds = search.deadlines.rescoring_room() - search.deadlines.besides
    return max(1, int(min(final, seconds / (took["training"] / took["epochs"]))))


# ---- The winner's run ----------------------------------------------------------------------------------------------


def _make_winner_run(search: SearchContext, out: Path, source: DataSource, winner: FrozenTrial) -> tuple[Path, int]:
    """Train and test the winner; return its run folder, and how often this search has scored the test split."""
    study = search.storage.study
    runs: list[dict[str, Any]] = study.user_attrs.get(WINNERS, [])
    if not runs or runs[-1]["trial"] != winner.number:
        run = out / (f"winner-{len(runs) + 1}" if runs else "winner")
        runs = [*runs, {"trial": winner.number, "run": str(run.absolute())}]
        study.set_user_attr(WINNERS, runs)
    else:
        run = Path(runs[-1]["run"])
    if not (run / "asked.toml").exists():
        _create_winner_run(search, source, winner, run)
    if not (run / "report.html").exists():
        flow.resume(run, threads=search.context.threads, reporter=search.context.reporter)
    test_evaluations = sum((Path(winner_run["run"]) / "metrics.json").exists() for winner_run in runs)
    metrics = files.read_json(run / "metrics.json")
    if metrics["test_scored"] < test_evaluations:  # earlier winners were tested on the same pictures
        files.write_json(run / "metrics.json", metrics | {"test_scored": test_evaluations})
        write_report(run, threads=search.context.threads)
    return run, test_evaluations


def _create_winner_run(search: SearchContext, source: DataSource, winner: FrozenTrial, run: Path) -> None:
    """Create the winner's run on the split of the search, with its trial's checkpoints if that was trained in full."""
    recipe = _trial_recipe(search, winner, affordable_epochs(search, winner.user_attrs["took"]))
    resolved = recipe.resolve()
    dataset = add_model_issues(search.dataset, resolved, search.context, search.pictures)
    facts = source.facts(search.context.threads) | {"split digest": search.digest}
    trained = search.storage.trial_folder(winner) / "1"
    is_whole = not search.plan.folds and search.plan.epochs == search.plan.final_epochs
    resumed_from = trained if is_whole and (trained / "checkpoints" / "last.pt").exists() else None
    create_run(run, recipe, resolved, search.pictures, dataset, facts, resumed_from=resumed_from)


def _trial_recipe(search: SearchContext, trial: FrozenTrial, epochs: int | None) -> Recipe:
    return apply_params(search.base_recipe, {} if is_default(trial) else trial.params).with_epochs(epochs)


# ---- Second scores -------------------------------------------------------------------------------------------------


def _rescore_best(search: SearchContext, trials: list[FrozenTrial], fresh_seeds: int | None) -> dict[str, Any]:
    """Score the best trials and the default again on fresh splits, as time allows; return the selection bias."""
    compared = {
        display_number(trial): (trial, score.macro_f1)
        for rank, (trial, score) in enumerate(rank_trials(trials))
        if rank < BEST or is_default(trial)
    }
    numbers = list(compared)
    default = next((number for number, (trial, _) in compared.items() if is_default(trial)), None)
    seeds = SEEDS[search.base_recipe.model.method] if fresh_seeds is None else fresh_seeds
    order = rescoring_order(numbers, default, seeds) if len(numbers) > 1 else []  # a single trial was not chosen
    fresh: dict[int, dict[int, float]] = {number: {} for number in numbers}
    longest, reporter = 0.0, search.context.reporter
    with reporter.progress("Rescoring the best trials", len(order)) as advance, contextlib.suppress(SearchTimeoutError):
        for number, seed in order:
            trial = compared[number][0]
            took, folds = trial.user_attrs["took"], max(1, search.plan.folds)
            # A trial's seconds are those of its last session: if it was resumed, its epochs took longer.
            if search.deadlines.rescoring_room() < 1.5 * max(longest, took["seconds"] / folds, took["training"]):
                break
            try:
                fresh[number][seed], seconds = _rescore_trial(search, trial, seed)
                longest = max(longest, seconds)
            except RecipeError as error:
                reporter.info(f"Trial {number} has no score on fresh split {seed}: {error}")
            advance(1)
    split = resample_validation(search.pictures, search.plan.folds, seed=1)["split"].to_list()
    first, ratio = {number: f1 for number, (_, f1) in compared.items()}, split.count("val") / split.count("train")
    report = selection_bias_report(first, fresh, numbers[0], default, val_train_ratio=ratio, wanted=seeds)
    if search.plan.folds and report["trials"][0]["fresh"] is not None:
        report["sentence"] += (
            " With inner folds all pictures took part in the choice: some selection bias remains undetected."
        )
    return report


def _rescore_trial(search: SearchContext, trial: FrozenTrial, seed: int) -> tuple[float, float]:
    """Return the macro-F1 of a trial on a fresh split with another random seed (stored ones are reused), and seconds.

    Raises SearchTimeoutError between two epochs if the time is up.
    """
    name, started, study = f"again {display_number(trial)} {seed}", time.monotonic(), search.storage.study
    if (stored := study.user_attrs.get(name)) is not None:
        return float(stored), 0.0
    recipe = _trial_recipe(search, trial, search.plan.epochs).resolve()
    recipe = recipe.model_copy(update={"seed": search.base_recipe.seed + 1000 * seed})
    split = resample_validation(search.pictures, search.plan.folds, seed=search.base_recipe.seed + seed)
    folder = search.storage.folder / f"again-{display_number(trial)}-{seed}"

    def check_time(*_: object) -> None:
        if search.deadlines.rescoring_room() < 0:
            raise SearchTimeoutError

    score = evaluate_recipe(recipe, [split], folder, search.silent, report_epoch=check_time, resume=True)
    shutil.rmtree(folder, ignore_errors=True)
    study.set_user_attr(name, score.macro_f1)
    return score.macro_f1, time.monotonic() - started


# ---- The result ----------------------------------------------------------------------------------------------------


def count_by_state(trials: list[FrozenTrial]) -> dict[str, int]:
    """Return the number of complete, pruned and failed trials."""
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    counts = {name: sum(trial.state == state for trial in trials) for name, state in states.items()}
    return counts | {"failed": sum("cause" in trial.user_attrs for trial in trials)}


def pruning_savings(trials: list[FrozenTrial], epochs: int | None) -> dict[str, float] | None:
    """Return the training seconds with pruning, without it, and the fraction that it saved.

    Without pruning, a pruned trial would have continued to the last epoch at its own pace.
    """
    took = [(trial.state, trial.user_attrs["took"]) for trial in trials if "took" in trial.user_attrs]
    took = [(state, times) for state, times in took if times["epochs"]]
    if epochs is None or not took:
        return None
    spent = sum(times["training"] for _, times in took)
    full = sum(
        times["training"] * (epochs / times["epochs"] if state == TrialState.PRUNED else 1.0) for state, times in took
    )
    return {"seconds": round(spent, 1), "seconds without": round(full, 1), "share saved": round(1 - spent / full, 4)}


def _collect_result(search: SearchContext, trials: list[FrozenTrial], run: Path, out: Path) -> dict[str, Any]:
    metrics, plan, ranked = files.read_json(run / "metrics.json"), search.plan, rank_trials(trials)
    return {
        "method": search.base_recipe.model.method,
        "run": str(run),
        "recipe": str(out / "winner.toml"),
        "page": str(out / "tune.html"),
        "chosen by": f"{plan.folds} inner folds" if plan.folds else "the validation split",
        "epochs of a trial": plan.epochs,
        "epochs of the winner": plan.final_epochs and run_folder.load_resolved_recipe(run).train.epochs,
        "trials": count_by_state(trials),
        "default": next((asdict(score) for trial, score in ranked if is_default(trial)), None),
        "winner": _trial_row(ranked[0][0]),
        "test": {name: metrics[name] for name in ("accuracy", "macro_f1", "log_loss")},
        "importance": importances(trials, seed=search.base_recipe.seed),
        "pruning": pruning_savings(trials, plan.epochs),
        "history": [_trial_row(trial) for trial in trials if trial.state.is_finished() and "took" in trial.user_attrs],
    }


def _trial_row(trial: FrozenTrial) -> dict[str, Any]:
    score, took = trial.user_attrs.get("score", {}), trial.user_attrs.get("took", {})
    params = {} if is_default(trial) else trial.params
    return {
        "trial": display_number(trial),
        "ended": trial.state.name.lower(),
        "ended at": trial.datetime_complete.isoformat() if trial.datetime_complete else None,
        "default": is_default(trial),
        "macro_f1": score.get("macro_f1"),
        "loss": score.get("loss"),
        "last_macro_f1": list(trial.intermediate_values.values())[-1] if trial.intermediate_values else None,
        "epochs": took.get("epochs"),
        "seconds": took.get("seconds"),
        "cause": trial.user_attrs.get("cause"),
        "settings": {name: format_value(name, value) for name, value in params.items()},
    }
