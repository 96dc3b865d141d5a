"""Start here: pictures -> table -> audit -> splits -> model -> exported graph -> predictions -> metrics -> report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import polars as pl

from bestiary import run_folder, table
from bestiary.context import Context, JobOptions
from bestiary.data.assign_splits import assign_splits, describe_splits
from bestiary.data.dataset import AuditedDataset, DataSource, Sources, load_dataset
from bestiary.data.formats.label_table import ReadOptions
from bestiary.evaluation.cross_validation import concat_folds, cross_validate, fold_scores
from bestiary.evaluation.diagnostics import write_diagnostics
from bestiary.evaluation.evaluate import predict_val_split, rescore_test_split, score_predictions, test_predictions
from bestiary.evaluation.group_scores import measure_group_scores
from bestiary.evaluation.loss_curves import describe_fit
from bestiary.evaluation.model_audit import add_model_issues, describe_model_issues, settle_label_check
from bestiary.export.finalize import train_and_finalize
from bestiary.files import read_json, require_outside
from bestiary.profiling import PeakMemory
from bestiary.recipe import Recipe
from bestiary.report.results import Run, finish_run, write_results
from bestiary.report.run_files import count_run_findings
from bestiary.training import backbone_choice, quick_estimate
from bestiary.training.create_run import create_run
from bestiary.training.experiment_loggers import RECORDED, check_log_supported, open_experiment_log
from bestiary.training.run_lock import run_lock
from bestiary.training.run_session import RunSession, open_session
from bestiary.training.task import load_task, record_engine


def audit(
    pictures: Sources,
    *,
    labels: str | None = None,
    corrections: Path | str | None = None,
    reading: ReadOptions | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    **options: Unpack[JobOptions],
) -> AuditedDataset:
    """Return the pictures of one source or several, grouped by duplicates, with all findings; see `train`."""
    requested, source = Recipe.of(recipe or {}), DataSource(pictures, labels, corrections, reading=reading)
    context = Context.create(features=requested.feature_settings, job="audit", **options)
    resolved = settle_label_check(requested, context).resolve()
    return add_model_issues(load_dataset(source, resolved, context), resolved, context)


def train(
    pictures: Sources,
    *,
    labels: str | None = None,
    corrections: Path | str | None = None,
    reading: ReadOptions | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    folds: int | None = None,
    out: Path | str | None = None,
    budget_seconds: float | None = None,
    log: str | None = None,
    **options: Unpack[JobOptions],
) -> Run:
    """Audit and split the pictures, train, calibrate and export a model, test it and write the report; return the run.

    pictures: a folder per class, split folders, an archive, a table, or several, which are merged; labels: a map of
    folder names to labels; corrections: label decisions; reading: of a table; recipe: a Recipe or its settings;
    folds: its `data.folds`; budget_seconds: open settings are chosen to end in time; log: as in the command.
    Raises UserError, IntegrityError if the exported model differs from the trained one, InterruptedRun on Ctrl-C.
    """
    requested = Recipe.of(recipe or {}).override({} if folds is None else {"data": {"folds": folds}})
    context = Context.create(features=requested.feature_settings, job="train", **options)
    source, out = DataSource(pictures, labels, corrections, reading=reading), None if out is None else Path(out)
    timer, check = context.timer, quick_estimate.budget_check([requested], budget_seconds, context)
    requested = backbone_choice.settle_backbone(requested, context)
    check_log_supported(log, requested)
    require_outside(out, source.paths)
    run_folder.require_free_folder(out)
    with PeakMemory() as memory:
        # ---- Data: measure, audit, split ---------------------------------------------------------------------------
        with timer.stage("audit"):
            dataset = load_dataset(source, requested.resolve(), context, for_training=True, check=check)
            split_table, digest = assign_splits(dataset, requested.data, seed=requested.seed)

        # ---- Plan: the settings that fit the time budget, and when the job will end --------------------------------
        with timer.stage("plan"):
            plan = backbone_choice.plan_best_backbone(requested, split_table, budget_seconds, context)
        context.reporter.info(plan.words)
        with timer.stage("audit"):
            dataset = add_model_issues(dataset, plan.recipe, context, split_table)
        for message in [*describe_model_issues(dataset), describe_splits(split_table, dataset)]:
            context.reporter.info(message)

        # ---- Run folder: created when the pictures are known to be usable ------------------------------------------
        facts = source.facts(context.threads) | {"split digest": digest} | plan.facts()
        facts |= {} if log is None else {RECORDED: log}
        run = create_run(out, requested, plan.recipe, split_table, dataset, facts)
        del dataset  # its thumbnails are in the run folder
        logged_context = open_experiment_log(run, plan.run_context(context))
        with open_session(run, timer, memory) as session, logged_context as context:
            return _train_run(run, context, session)


def resume(run: Path | str, *, light: bool = False, **options: Unpack[JobOptions]) -> Run:
    """Finish an interrupted run from its pictures, recipe and last checkpoint, and return it.

    The scores equal those of an uninterrupted run. light: scores only. Raises RunError if it is finished or in use.
    """
    run, context = Path(run), run_folder.resume_context(Path(run), **options)
    with PeakMemory() as memory, open_session(run, context.timer, memory) as session:
        run_folder.require_resumable(run)
        run_folder.remove_partial_files(run)
        session.report_earlier(context.reporter)
        if (run / "metrics.json").exists():  # the test split was scored: scoring it twice would have to be counted
            return finish_run(run, read_json(run / "metrics.json"), context, session.usage, light=light)
        with open_experiment_log(run, context) as context:
            return _train_run(run, context, session, resume=True, light=light)


def evaluate(run: Path | str, context: Context) -> Run:
    """Score a finished run on its own test split again, which it counts, and return it."""
    run = Path(run)
    with run_lock(run):
        metrics = rescore_test_split(run, context) | {"findings": count_run_findings(run).facts()}
        write_results(run, metrics, context)
    return Run(run, metrics)


def _train_run(run: Path, context: Context, session: RunSession, *, resume: bool = False, light: bool = False) -> Run:
    """Train, export, test and report what a run folder describes."""
    task = record_engine(load_task(run, context, resume=resume))

    # ---- Model: trained, calibrated on validation, exported, verified ----------------------------------------------
    folds = cross_validate(task) if task.recipe.data.folds else []
    trained, model = train_and_finalize(task)
    run_folder.update_environment(run, trained.notes)
    if not light:
        with context.timer.stage("lessons"):
            write_diagnostics(task, trained)

    # ---- Test: what the exported graph answers, proven on files through the predictor that users get -----------------
    predictions = concat_folds(folds) if folds else test_predictions(task, trained, model)
    with context.timer.stage("evaluate"):
        metrics = score_predictions(run, predictions, task.pictures, task.recipe, context)
        if folds:  # every picture was tested; the final model's predictions for some of them are no second test
            metrics |= {"split": "folds", "folds": fold_scores(folds, task.pictures, model.classes)}
        else:
            predictions = pl.concat([predictions, predict_val_split(task.pictures, trained, model)])
        table.write(predictions, run / "predictions.parquet")

    # ---- Report ----------------------------------------------------------------------------------------------------
    metrics |= {"test_scored": 1, "overfitting": describe_fit(task.recipe, trained.history)}
    metrics |= {"temperature": model.calibration.temperature} | ({} if light else measure_group_scores(task, trained))
    context.experiment_log.log_test(metrics)
    return finish_run(run, metrics, context, session.usage, light=light)
