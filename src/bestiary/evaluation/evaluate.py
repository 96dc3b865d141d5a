"""Evaluation of a finished model on its validation and test splits, for a run and for each fold of cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import table
from bestiary.context import Context
from bestiary.errors import RunError
from bestiary.evaluation.decision import decision_metrics
from bestiary.evaluation.event_answers import score_events
from bestiary.evaluation.predictions import (
    class_probabilities,
    join_pictures,
    predict_table,
    prediction_table,
    score_table,
)
from bestiary.evaluation.reliability import calibration_metrics
from bestiary.evaluation.slices import find_weak_slices
from bestiary.evaluation.threshold_metrics import threshold_metrics
from bestiary.export.finalize import FinalModel, predict_from_outputs
from bestiary.export.parity import check_probabilities, record_all_proven
from bestiary.files import read_json
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.machine import trim_memory
from bestiary.recipe import ResolvedRecipe
from bestiary.run_folder import load_resolved_recipe, read_pictures
from bestiary.training.task import TrainedModel, TrainingTask


def predict_val_split(pictures: pl.DataFrame, trained: TrainedModel, model: FinalModel) -> pl.DataFrame:
    """Return the prediction table of the validation pictures."""
    val = pictures.filter(pl.col("split") == "val")
    return prediction_table(val, predict_from_outputs(model, trained.val_logits, trained.val_features), model.classes)


def test_predictions(task: TrainingTask, trained: TrainedModel, model: FinalModel) -> pl.DataFrame:
    """Return the prediction table of the test pictures of a run or a fold that was just trained.

    A probe's come from its features, which each picture went through the backbone for once: `verify_parity` has proven
    that the exported graph gives them from the files. With `evaluate.prove` "all", and for other methods, each picture
    is predicted from its file; raises IntegrityError if one of a probe then differs.
    """
    test, context = trained.test, task.context
    if test is None:
        return predict_test_split(task.run, context)
    pictures = task.pictures.filter(pl.col("split") == "test")
    predictions = prediction_table(pictures, predict_from_outputs(model, test.logits, test.features), model.classes)
    if task.recipe.evaluate.prove == "sample":
        return predictions.sort("row_id")
    from_files, predictions = predict_test_split(task.run, context), predictions.sort("row_id")
    actual, expected = (class_probabilities(part, model.classes) for part in (from_files, predictions))
    difference = check_probabilities(actual, expected, "the fastest engine", "the scores")
    answers = [part.select("predicted", "unknown").rows() for part in (from_files, predictions)]
    ties = sum(first != second for first, second in zip(*answers, strict=True))
    record_all_proven(task.run, from_files.height, {"all test pictures": difference}, ties)
    return from_files


def predict_test_split(run: Path, context: Context) -> pl.DataFrame:
    """Return the prediction table of the test pictures of a run folder or of a fold's folder."""
    with context.timer.stage("evaluate"):
        test = read_pictures(run).filter(pl.col("split") == "test").sort("row_id")
        device = context.features.device
        predictor = Predictor(run, threads=context.threads, engine="fastest", device=device, reporter=context.reporter)
        predictions = predict_table(predictor, test, context.reporter)
    trim_memory()
    return predictions


def rescore_test_split(run: Path, context: Context) -> dict[str, Any]:
    """Predict and score the test split of a finished run again; return its metrics, with the evaluation counted.

    Rewrites the test rows of `predictions.parquet`. Raises RunError for a cross-validated run.
    """
    recipe, metrics = load_resolved_recipe(run), read_json(run / "metrics.json")
    if recipe.data.folds:
        raise RunError(
            f"{run} was cross-validated: it has no test split of its own, and each picture was scored by a model that"
            " was not trained on it. Score it on other labelled pictures."
        )
    old = table.read(run / "predictions.parquet", table.PREDICTIONS)
    predictions = predict_test_split(run, context)
    metrics |= score_predictions(run, predictions, read_pictures(run), recipe, context)
    table.write(pl.concat([predictions, old.filter(pl.col("split") != "test")]), run / "predictions.parquet")
    return metrics | {"test_scored": metrics.get("test_scored", 1) + 1}


def score_predictions(
    run: Path, predictions: pl.DataFrame, pictures: pl.DataFrame, recipe: ResolvedRecipe, context: Context
) -> dict[str, Any]:
    """Return the metrics of test predictions, with intervals over groups of duplicates."""
    bundle, seed, resamples = read_bundle(run), recipe.seed, recipe.evaluate.resamples
    groups = join_pictures(predictions, pictures, "group")["group"].to_numpy()
    parts: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: score_table(predictions, groups, bundle, resamples=resamples, seed=seed),
        lambda: decision_metrics(predictions, groups, bundle, resamples=resamples, seed=seed),
        lambda: threshold_metrics(predictions, groups, bundle, folds=recipe.data.folds),
        lambda: split_leakage(predictions, pictures),
        lambda: calibration_metrics(predictions, groups, bundle, folds=recipe.data.folds, seed=seed),
        lambda: score_events(predictions, pictures, bundle, recipe.data),
        lambda: {"slices": find_weak_slices(predictions, pictures)},
    )
    metrics: dict[str, Any] = {"split": "test"}
    with context.reporter.progress("Computing metrics", len(parts)) as advance:
        for compute in parts:
            metrics |= compute()
            advance(1)
    trim_memory()
    return metrics


def split_leakage(predictions: pl.DataFrame, pictures: pl.DataFrame) -> dict[str, Any]:
    """Return `{"leaks": …}` for metrics.json if test pictures have duplicates in training or validation, else nothing.

    predictions: of the test pictures, `row_id, label, predicted`; pictures: with `group` and `split`. Pictures that
    only share a given group or site are no duplicates; the notices of the audit name those. In cross-validation the
    result is empty, because the model of one fold trains on the test pictures of another.
    """
    if "fold" in pictures.columns:
        return {}
    leaked = _is_in_training(predictions, table.with_duplicate_groups(pictures))
    if not leaked.any():
        return {}
    n, count = predictions.height, int(leaked.sum())
    correct = int(((predictions["label"] == predictions["predicted"]) & ~leaked).sum())
    accuracy = correct / (n - count) if n > count else None
    is_drawn = not _is_in_training(predictions, pictures).any()  # no group is divided; see `joined_groups`
    cause = (
        "The split does not keep near-duplicates at different sites together" if is_drawn else "The given split leaks"
    )
    note = (
        f"{cause}: {count:,} of {n:,} test pictures ({100 * count / n:.1f} %) are"
        " duplicates of training or validation pictures, so these metrics are too optimistic."
    )
    if accuracy is not None:
        note += f" Accuracy on the other {n - count:,}: {accuracy:.3f}."
    return {"leaks": {"test pictures": count, "accuracy without them": accuracy, "note": note}}


def _is_in_training(predictions: pl.DataFrame, pictures: pl.DataFrame) -> pl.Series:
    """Return for each test picture whether its `group` has training or validation pictures, bool (n,)."""
    seen = pictures.filter(pl.col("split").is_in(["train", "val"]))["group"].unique()
    return join_pictures(predictions, pictures, "group")["group"].is_in(seen.implode())
