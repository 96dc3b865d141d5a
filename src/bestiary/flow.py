"""The whole story: pictures -> table -> audit -> splits -> model -> sealed graph -> predictions -> metrics -> report.

Read this first. Every command is a thin function over what stands here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import files, run_folder, table
from bestiary.batches.decoding import missing_picture_error
from bestiary.context import Context
from bestiary.data.apply_corrections import mark_resolved_issues
from bestiary.data.assign_splits import assign_splits, describe_splits
from bestiary.data.corrections import read_corrections
from bestiary.data.dataset import AuditedDataset, audit_sources
from bestiary.errors import InterruptedRun, PictureError, RunError, SourceError
from bestiary.evaluation.cross_validation import concat_folds, cross_validate, fold_scores
from bestiary.evaluation.diagnostics import diagnose_training
from bestiary.evaluation.evaluate import predict_test_split, predict_val_split, score_predictions
from bestiary.evaluation.external import evaluate_external
from bestiary.evaluation.loss_curves import overfitting_sentence, regularisation_path_sentence
from bestiary.evaluation.model_audit import add_model_issues, skipped_check_messages
from bestiary.evaluation.predictions import predict_table
from bestiary.export.finalize import train_and_finalize
from bestiary.files import cache_folder, write_text
from bestiary.inference.predictor import Predictor
from bestiary.machine import available_cores
from bestiary.profiling import PeakMemory, StageTimer
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.report.classification_report import classification_report
from bestiary.report.run_report import write_report
from bestiary.run_folder import read_pictures
from bestiary.training.budget import TrainingPlan, plan_training
from bestiary.training.create_run import Sources, as_path_list, create_run, describe_sources
from bestiary.training.methods import TRAINERS
from bestiary.training.recipe_checks import check_recipe_supported
from bestiary.training.run_lock import run_lock
from bestiary.training.run_session import RunSession, open_session
from bestiary.training.task import TrainingTask, load_task, make_task

SILENT = SilentReporter()


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what `metrics.json` says."""

    path: Path
    metrics: dict[str, Any]


def audit(
    pictures: Sources,
    *,
    labels: str | None = None,
    corrections: Path | str | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> AuditedDataset:
    """Return the pictures of one source or several, measured and grouped, with everything found wrong with them.

    corrections: a file of decisions about pictures, which are applied.
    """
    settings, workers = Recipe.of(recipe or {}).resolve(), threads or available_cores()
    found = load_dataset(pictures, labels, corrections, settings, workers, reporter)
    return add_model_based_issues(found, settings, workers, reporter)


def load_dataset(
    pictures: Sources,
    labels: str | None,
    corrections: Path | str | None,
    recipe: Recipe,
    threads: int,
    reporter: Reporter,
) -> AuditedDataset:
    """Return the pictures as far as they are known without a model: all that splitting and planning need."""
    return audit_sources(
        as_path_list(pictures),
        labels,
        recipe.data,
        recipe.limits,
        Context(threads=threads, reporter=reporter),
        None if corrections is None else read_corrections(Path(corrections)),
    )


def add_model_based_issues(
    dataset: AuditedDataset, recipe: ResolvedRecipe, threads: int, reporter: Reporter
) -> AuditedDataset:
    """Return the audit with what takes a model to see, settled by the decisions that were applied."""
    dataset = add_model_issues(dataset, recipe, threads=threads, cache=cache_folder(), reporter=reporter)
    if dataset.corrected is None:
        return dataset
    return replace(
        dataset, findings=mark_resolved_issues(dataset.findings, dataset.pictures, dataset.corrected.decisions)
    )


def train(
    pictures: Sources,
    *,
    labels: str | None = None,
    corrections: Path | str | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    folds: int | None = None,
    out: Path | str | None = None,
    threads: int | None = None,
    budget_seconds: float | None = None,
    reporter: Reporter = SILENT,
) -> Run:
    """Return a finished run: the pictures audited and split, a model trained, sealed, judged and reported.

    pictures: a folder per class, folders already split, an archive or a table, or several of these, which are merged;
    labels: a map of folder names to labels; corrections: a file of decisions about pictures; recipe: a Recipe, or the
    settings of one; folds: cross-validate with so many folds in place of one test part (the recipe's `data.folds`);
    budget_seconds: what the recipe leaves open is chosen so that all of it is done in this time.
    Raises UserError for what the user can mend, IntegrityError if a proof fails, InterruptedRun on Ctrl-C.
    """
    asked, clock, workers = _override_folds(Recipe.of(recipe or {}), folds), StageTimer(), threads or available_cores()
    out = None if out is None else Path(out)
    check_recipe_supported(asked)
    run_folder.require_free_folder(out)
    with PeakMemory() as memory:
        run, plan = _start_run(pictures, labels, corrections, asked, out, workers, budget_seconds, clock, reporter)
        with _resume_hint(run), open_session(run, clock, memory) as account:
            return _train_and_report(
                run,
                threads=workers,
                clock=clock,
                account=account,
                reporter=reporter,
                deadline=plan.deadline_seconds,
            )


def _start_run(
    pictures: Sources,
    labels: str | None,
    corrections: Path | str | None,
    recipe: Recipe,
    out: Path | None,
    threads: int,
    budget_seconds: float | None,
    clock: StageTimer,
    reporter: Reporter,
) -> tuple[Path, TrainingPlan]:
    """Return a new run folder, with its pictures audited and split, and the plan of what is to be done with them."""
    # ---- Pictures: measured, audited, split ------------------------------------------------------------------------
    with clock.stage("audit"):
        collection = load_dataset(pictures, labels, corrections, recipe, threads, reporter)
        shown, digest = assign_splits(collection, recipe.data, seed=recipe.seed)

    # ---- The plan: what fits into the time, and when it will be done -----------------------------------------------
    def make(recipe: ResolvedRecipe) -> TrainingTask:
        return make_task(Path(), recipe, shown, threads, clock, reporter)

    with clock.stage("plan"):
        plan = plan_training(make, recipe, budget_seconds, lambda: clock.total)
    reporter.info(plan.words)
    with clock.stage("audit"):
        collection = add_model_based_issues(collection, plan.recipe, threads, reporter)
    for words in skipped_check_messages(collection):
        reporter.info(words)
    reporter.info(describe_splits(shown, collection))

    # ---- The run folder: nothing is written before the pictures are known to be good -------------------------------
    facts = describe_sources(pictures, labels, corrections, threads) | {"split digest": digest, "plan": plan.words}
    facts |= {"planned seconds": round(plan.seconds, 1)}
    return create_run(out, recipe, plan.recipe, shown, collection, facts), plan


def resume(run: Path | str, *, light: bool = False, threads: int | None = None, reporter: Reporter = SILENT) -> Run:
    """Return the finished run that an interrupted one becomes, from its pictures, recipe and last checkpoint.

    However it ended (Ctrl-C, a full disk, SIGKILL), the scores are those of the run that was not interrupted; its
    seconds are those of all sessions. light: scores alone; what the training tells and the report are left out.
    Raises RunError if it is finished, or in use by another process.
    """
    run, clock = Path(run), StageTimer()
    run_folder.load_recipe(run)
    with PeakMemory() as memory, _resume_hint(run), open_session(run, clock, memory) as account:
        if (run / "report.html").exists():
            raise RunError(f"{run} is finished already. Its report: {run / 'report.html'}")
        run_folder.remove_partial_files(run)
        if times := len(account.earlier):
            before = account.seconds["total"]
            reporter.info(f"Going on with {run}, after {times} session{'s' * (times > 1)} of {before:.0f} s in all.")
            run_folder.update_environment(
                run, {"resumed": f"{times} time{'s' * (times > 1)}; the seconds are those of all sessions"}
            )
        if (run / "metrics.json").exists():  # the test split was scored: scoring it twice would have to be counted
            return _reported(run, files.read_json(run / "metrics.json"), threads, clock, account, light=light)
        workers = threads or available_cores()
        return _train_and_report(
            run, threads=workers, clock=clock, account=account, reporter=reporter, resume=True, light=light
        )


def run_worker(*, threads: int | None = None) -> None:
    """Train along with the first of several processes (see torchrun), which alone looks, writes and reports."""
    from bestiary.training.distributed import init_process_group

    _, told = init_process_group()
    TRAINERS[told["method"]](
        load_task(Path(told["run"]), threads or available_cores(), StageTimer(), SILENT, resume=told["resume"])
    )


def evaluate(
    run: Path | str,
    pictures: Path | str | None = None,
    *,
    labels: str | None = None,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> Run:
    """Score a finished run on its own test split once more; the run counts that, and its report says so.

    pictures: others, labelled, to score it on instead; the folder returned is that of the result, within the run.
    """
    run = Path(run)
    if pictures is not None:
        found = evaluate_external(run, Path(pictures), labels=labels, threads=threads, reporter=reporter)
        return Run(found.path, found.metrics)
    recipe, before = run_folder.load_resolved_recipe(run), files.read_json(run / "metrics.json")
    if recipe.data.folds:
        raise RunError(
            f"{run} was cross-validated: it has no test pictures of its own, and each was scored by a model that had"
            " not learnt from it. Score it on other labelled pictures."
        )
    with run_lock(run):
        shown, old = read_pictures(run), table.read(run / "predictions.parquet", table.PREDICTIONS)
        test = shown.filter(pl.col("split") == "test").sort("row_id")
        predictor = Predictor(run, threads=threads or available_cores(), engine="fastest")
        predictions = predict_table(predictor, test, reporter)
        metrics = {
            **before,
            **score_predictions(run, predictions, shown, recipe),
            "test_scored": before.get("test_scored", 1) + 1,
        }
        table.write(pl.concat([predictions, old.filter(pl.col("split") != "test")]), run / "predictions.parquet")
        _write(run, metrics, threads)
    return Run(run, metrics)


def _train_and_report(
    run: Path,
    *,
    threads: int,
    clock: StageTimer,
    account: RunSession,
    reporter: Reporter,
    resume: bool = False,
    light: bool = False,
    deadline: float | None = None,
) -> Run:
    """Train, seal, judge and report what a run folder describes."""
    recipe, shown = run_folder.load_resolved_recipe(run), read_pictures(run)
    make = partial(load_task, threads=threads, clock=clock, reporter=reporter, resume=resume)
    made = make_task(run, recipe, shown, threads, clock, reporter, resume=resume, deadline=deadline)
    test = partial(predict_test_split, threads=threads, clock=clock, reporter=reporter)

    def learn_and_test(place: Path) -> pl.DataFrame:
        train_and_finalize(make(place))
        return test(place)

    # ---- Model: learned, calibrated on validation, sealed, held against itself -------------------------------------
    folds = cross_validate(run, recipe, shown, learn_and_test, reporter=reporter) if recipe.data.folds else []
    learned, sealed = train_and_finalize(made)
    run_folder.update_environment(run, learned.notes)
    if not light:
        with clock.stage("lessons"):
            files.write_json(run / "learning_curve.json", diagnose_training(made, learned))

    # ---- Judgement: the test pictures, from their files, through the predictor that users get ----------------------
    predictions = concat_folds(folds) if folds else test(run)
    with clock.stage("evaluate"):
        scored = score_predictions(run, predictions, shown, recipe)
        if folds:  # every picture was tested; what the model that ships says of some of them is not a second test
            scored |= {"split": "folds", "folds": fold_scores(folds, shown, sealed.classes)}
        else:
            predictions = pl.concat([predictions, predict_val_split(shown, learned, sealed)])
        table.write(predictions, run / "predictions.parquet")

    # ---- Report ----------------------------------------------------------------------------------------------------
    curve = regularisation_path_sentence if recipe.model.method == "probe" else overfitting_sentence
    metrics = scored | {"test_scored": 1, "overfitting": curve(learned.history)}
    metrics |= {"temperature": sealed.calibration.temperature}
    return _reported(run, metrics, threads, clock, account, light=light)


def _reported(
    run: Path,
    metrics: dict[str, Any],
    threads: int | None,
    clock: StageTimer,
    account: RunSession,
    *,
    light: bool = False,
) -> Run:
    """Write what came out and the report of it, and note how long all of it took."""
    with clock.stage("report"):
        facts = {"seconds": account.seconds, "peak_rss_mb": account.peak_megabytes}
        _write(run, metrics | facts, threads, light=light)
    metrics |= {"seconds": account.seconds, "peak_rss_mb": account.peak_megabytes}
    files.write_json(run / "metrics.json", metrics)
    if run.parent == run_folder.RUNS:
        run_folder.update_latest_link(run)
    return Run(run, metrics)


@contextmanager
def _resume_hint(run: Path) -> Iterator[None]:
    """Turn Ctrl-C into an error that says how to go on; and say it of a picture that has gone or was changed."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRun(run) from None
    except (SourceError, PictureError) as error:
        told = missing_picture_error(error) if isinstance(error, PictureError) else error
        raise SourceError(
            f"{told} With the pictures as they were, go on with: bestiary train --resume {shlex.quote(str(run))}"
        ) from None


def _write(run: Path, metrics: dict[str, Any], threads: int | None, *, light: bool = False) -> None:
    write_text(run / "classification_report.txt", classification_report(metrics))
    files.write_json(run / "metrics.json", metrics)
    if not light:
        write_report(run, threads=threads)


def _override_folds(recipe: Recipe, folds: int | None) -> Recipe:
    if folds is None:
        return recipe
    asked = recipe.overrides()
    return Recipe.of(asked | {"data": {**asked.get("data", {}), "folds": folds}})
