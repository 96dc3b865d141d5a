"""The end of a search: the winner becomes an ordinary run; what mattered; how much of the gain was luck; the page."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from optuna.trial import FrozenTrial, TrialState

from bestiary import files, flow, run_folder
from bestiary.errors import RecipeError
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe import Recipe
from bestiary.report.run_report import write_report
from bestiary.training.create_run import Sources, create_run, describe_sources
from bestiary.tune import page as tune_page
from bestiary.tune import selection_bias
from bestiary.tune.folder import write_recipe
from bestiary.tune.importance import importances
from bestiary.tune.objective import Score, fresh_division, scored
from bestiary.tune.search_space import laid_over, shown
from bestiary.tune.storage import FINISHED, Ledger, number_of, ranked, taken_of
from bestiary.tune.trial import Ground, OutOfTimeError, with_epochs

RESULT = "tune.json"
BEGUN = "the end was begun"


@dataclass(frozen=True)
class Source:
    """Where the pictures of the winner's run come from."""

    pictures: Sources
    labels: str | None
    corrections: Path | str | None


def ended(ground: Ground, out: Path, source: Source, fresh_seeds: int | None) -> dict[str, Any]:
    """Return what the search found, as plain values; of several processes one makes the winner, the others wait.

    What an earlier call has made is kept: the test split is scored anew only for another winner, and that is counted.
    """
    ledger = ground.ledger
    with ledger.only_one():
        known = ledger.study.user_attrs.get(FINISHED)
        if known and known["taken"] == ledger.taken() and Path(known["result"]).exists():
            return files.read_json(Path(known["result"]))
        trials = ledger.begin_end(ground.trials)
        best = ranked(trials)[0][0]
        run, looks = _run(ground, out, source, best, winning_recipe(ground, best))
        recipe = run_folder.load_recipe(run)  # an earlier call may have made it
        write_recipe(out / "winner.toml", recipe, f"Found by bestiary tune: trial {number_of(best)}.")
        found = _found(ground, trials, run, out)
        found["luck"] = _luck(ground, trials, fresh_seeds)
        found["test scored"] = looks
        _write(found, out)
        result = str((out / RESULT).absolute())
        ledger.study.set_user_attr(FINISHED, {"taken": taken_of(trials), "result": result})
        return found


def left_to_others(ledger: Ledger, reporter: Reporter) -> dict[str, Any]:
    """Return how far the search is, where other processes go on with it when our time is up."""
    reporter.info("The time is up, but other processes go on: the last one to end makes the winner.")
    best = ledger.best()
    return {
        "winner": None,
        "best so far": None if best is None else best[1].macro_f1,
        "trials": counts(ledger.trials()),
    }


def winning_recipe(ground: Ground, trial: FrozenTrial) -> Recipe:
    """Return the recipe of a trial as the winner is trained."""
    chosen = {} if trial.user_attrs.get("default") else trial.params
    return with_epochs(laid_over(ground.asked, chosen), fitting_epochs(ground, trial.user_attrs["took"]))


def fitting_epochs(ground: Ground, took: dict[str, Any]) -> int | None:
    """Return how many epochs the winner is trained for: those planned, or as many as still fit at its own pace.

    took: of its trial. A larger network, or pictures shown more often, take longer than the default was planned with.
    """
    final = ground.plan.final_epochs
    if final is None or final == ground.plan.epochs or ground.deadlines.luck is None:
        return final
    seconds = took["training"] / took["epochs"]
    return max(1, min(final, int((ground.deadlines.luck_room() - ground.deadlines.besides) / seconds)))


def _run(ground: Ground, out: Path, source: Source, best: FrozenTrial, recipe: Recipe) -> tuple[Path, int]:
    """Return the winner's run folder, trained and tested, and how often the test split was looked at by this search."""
    study = ground.ledger.study
    runs: list[dict[str, Any]] = study.user_attrs.get(BEGUN, [])
    if runs and runs[-1]["trial"] == best.number:
        run = Path(runs[-1]["run"])
    else:
        run = out / ("winner" if not runs else f"winner-{len(runs) + 1}")
        runs = [*runs, {"trial": best.number, "run": str(run.absolute())}]
        study.set_user_attr(BEGUN, runs)
    _trained(ground, source, best, recipe, run)
    looks = sum((Path(one["run"]) / "metrics.json").exists() for one in runs)
    metrics = files.read_json(run / "metrics.json")
    if metrics["test_scored"] < looks:  # earlier winners were tested on the same pictures
        files.write_json(run / "metrics.json", metrics | {"test_scored": looks})
        write_report(run, threads=ground.threads)
    return run, looks


def _trained(ground: Ground, source: Source, best: FrozenTrial, recipe: Recipe, run: Path) -> None:
    """Make a finished run of the winner, on the very split that was searched: from the start, or from where it was."""
    if not (run / "asked.toml").exists():
        resolved = recipe.resolve()
        collection = flow.examined(ground.collection, resolved, ground.threads, ground.reporter)
        facts = describe_sources(source.pictures, source.labels, source.corrections, ground.threads)
        facts |= {"split digest": ground.digest}
        create_run(run, recipe, resolved, ground.shown, collection, facts, resumed_from=_begun(ground, best))
    if not (run / "report.html").exists():
        flow.resume(run, threads=ground.threads, reporter=ground.reporter)


def _begun(ground: Ground, best: FrozenTrial) -> Path | None:
    """Return the folder of the winner's training, if that was all that is wanted: it need not be done again."""
    place = ground.ledger.place(best) / "1"
    whole = not ground.plan.folds and ground.plan.epochs == ground.plan.final_epochs
    return place if whole and (place / "checkpoints" / "last.pt").exists() else None


# ---- Second scores -------------------------------------------------------------------------------------------------


def _luck(ground: Ground, trials: list[FrozenTrial], fresh_seeds: int | None) -> dict[str, Any]:
    """Score the best trials and the default again with fresh seeds, as far as time goes, and return what that says."""
    best, default = ranked(trials)[: selection_bias.BEST], _default(trials)
    seeds = selection_bias.SEEDS[ground.asked.model.method] if fresh_seeds is None else fresh_seeds
    first = {number_of(one): score.macro_f1 for one, score in [*best, *default]}
    winner = number_of(best[0][0])
    base = number_of(default[0][0]) if default else None
    by_number = {number_of(one): one for one, _ in [*best, *default]}
    fresh: dict[int, dict[int, float]] = {number: {} for number in first}
    wanted = selection_bias.order([number_of(one) for one, _ in best], base, seeds)
    longest = 0.0
    with (
        ground.reporter.progress("Scoring the best again", len(wanted)) as advance,
        contextlib.suppress(OutOfTimeError),
    ):
        for number, seed in wanted if len(first) > 1 else []:  # of one trial alone there was no choice
            if ground.deadlines.luck_room() < 1.5 * max(longest, _seconds_once(by_number[number], ground.plan.folds)):
                break
            try:
                fresh[number][seed], seconds = _again(ground, by_number[number], seed)
                longest = max(longest, seconds)
            except RecipeError as error:
                ground.reporter.info(f"Trial {number} has no score on fresh split {seed}: {error}")
            advance(1)
    division = fresh_division(ground.shown, ground.plan.folds, seed=1)
    sides = [division.filter(pl.col("split") == side).height for side in ("val", "train")]
    found = selection_bias.told(first, fresh, winner, base, share=sides[0] / sides[1], wanted=seeds)
    if ground.plan.folds and found["trials"][0]["fresh"] is not None:
        found["sentence"] += " All pictures played a part in the choice by folds: some luck is not seen this way."
    return found


def _seconds_once(trial: FrozenTrial, folds: int) -> float:
    """Return how long a trial takes on one division: by its last session, or by all epochs if that only went on."""
    took = trial.user_attrs["took"]
    return max(float(took["seconds"]) / max(1, folds), float(took["training"]))


def _again(ground: Ground, trial: FrozenTrial, seed: int) -> tuple[float, float]:
    """Return the macro-F1 of a trial on a fresh split and with a fresh seed, from the storage if it is there.

    Raises OutOfTimeError between two epochs if the time is up.
    """
    name, began = f"again {number_of(trial)} {seed}", time.monotonic()
    if (known := ground.ledger.study.user_attrs.get(name)) is not None:
        return float(known), 0.0
    chosen = {} if trial.user_attrs.get("default") else trial.params
    recipe = with_epochs(laid_over(ground.asked, chosen), ground.plan.epochs).resolve()
    recipe = recipe.model_copy(update={"seed": ground.asked.seed + 1000 * seed})
    place = ground.ledger.folder / f"again-{number_of(trial)}-{seed}"
    division = fresh_division(ground.shown, ground.plan.folds, seed=ground.asked.seed + seed)

    def watch(*_: object) -> None:
        if ground.deadlines.luck_room() < 0:
            raise OutOfTimeError

    found = scored(
        recipe, [division], place, threads=ground.threads, reporter=SilentReporter(), watch=watch, resume=True
    )
    shutil.rmtree(place, ignore_errors=True)
    ground.ledger.study.set_user_attr(name, found.macro_f1)
    return found.macro_f1, time.monotonic() - began


def _default(trials: list[FrozenTrial]) -> list[tuple[FrozenTrial, Score]]:
    return [(one, score) for one, score in ranked(trials) if one.user_attrs.get("default")]


# ---- What is written -----------------------------------------------------------------------------------------------


def counts(trials: list[FrozenTrial]) -> dict[str, int]:
    """Return how many trials ended in which way."""
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    found = {name: sum(one.state == state for one in trials) for name, state in states.items()}
    return found | {"failed": sum("cause" in one.user_attrs for one in trials)}


def saved_by_pruning(trials: list[FrozenTrial], epochs: int | None) -> dict[str, float] | None:
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


def _found(ground: Ground, trials: list[FrozenTrial], run: Path, out: Path) -> dict[str, Any]:
    metrics = files.read_json(run / "metrics.json")
    default = _default(trials)
    return {
        "method": ground.asked.model.method,
        "run": str(run),
        "recipe": str(out / "winner.toml"),
        "page": str(out / "tune.html"),
        "chosen by": f"{ground.plan.folds} inner folds" if ground.plan.folds else "the validation split",
        "epochs of a trial": ground.plan.epochs,
        "epochs of the winner": ground.plan.final_epochs and run_folder.load_resolved_recipe(run).train.epochs,
        "trials": counts(trials),
        "default": dict(default[0][1].__dict__) if default else None,
        "winner": _line(ranked(trials)[0][0]),
        "test": {name: metrics[name] for name in ("accuracy", "macro_f1", "log_loss")},
        "importance": importances(trials, seed=ground.asked.seed),
        "pruning": saved_by_pruning(trials, ground.plan.epochs),
        "history": [_line(one) for one in trials if one.state.is_finished() and "took" in one.user_attrs],
    }


def _line(one: FrozenTrial) -> dict[str, Any]:
    score, took = one.user_attrs.get("score", {}), one.user_attrs.get("took", {})
    is_default = bool(one.user_attrs.get("default"))
    return {
        "trial": number_of(one),
        "ended": one.state.name.lower(),
        "ended at": one.datetime_complete.isoformat() if one.datetime_complete else None,
        "default": is_default,
        "macro_f1": score.get("macro_f1"),
        "loss": score.get("loss"),
        "last_macro_f1": list(one.intermediate_values.values())[-1] if one.intermediate_values else None,
        "epochs": took.get("epochs"),
        "seconds": took.get("seconds"),
        "cause": one.user_attrs.get("cause"),
        "settings": {} if is_default else {name: shown(name, value) for name, value in one.params.items()},
    }


def _write(found: dict[str, Any], out: Path) -> None:
    files.write_json(out / RESULT, found)
    tune_page.write(found, out)
