"""From a task to a sealed model, and from the model to its scores: the same for a run and for each fold of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from bestiary.evaluation.predictions import predict_table, prediction_table, score_table
from bestiary.evaluation.reliability import calibration_metrics
from bestiary.evaluation.slices import find_weak_slices
from bestiary.export.finalize import FinalModel, predict_validation
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.machine import trim_memory
from bestiary.profiling import StageTimer
from bestiary.progress import Reporter
from bestiary.recipe import Recipe
from bestiary.run_folder import read_pictures
from bestiary.training.task import TrainedModel


def predict_val_split(pictures: pl.DataFrame, learned: TrainedModel, model: FinalModel) -> pl.DataFrame:
    """Return the prediction table of the validation pictures."""
    val = pictures.filter(pl.col("split") == "val")
    answers = predict_validation(model, learned.val_logits, learned.val_features)
    return prediction_table(val, answers, model.classes)


def predict_test_split(run: Path, *, threads: int, clock: StageTimer, reporter: Reporter) -> pl.DataFrame:
    """Return the prediction table of the test pictures of a run folder, or of a fold in it."""
    with clock.stage("evaluate"):
        test = read_pictures(run).filter(pl.col("split") == "test")
        predictions = predict_table(Predictor(run, threads=threads, engine="fastest"), test, reporter)
    trim_memory()
    return predictions


def score_predictions(run: Path, predictions: pl.DataFrame, pictures: pl.DataFrame, recipe: Recipe) -> dict[str, Any]:
    """Return the metrics of test predictions, with intervals from resampling groups of duplicates."""
    bundle = read_bundle(run)
    groups = predictions.join(pictures.select("row_id", "group"), on="row_id", how="left", maintain_order="left")[
        "group"
    ]
    metrics = score_table(
        predictions,
        groups.to_numpy(),
        bundle.classes,
        threshold=bundle.threshold,
        resamples=recipe.evaluate.resamples,
        seed=recipe.seed,
    )
    found = {
        "split": "test",
        **metrics,
        **split_leakage(predictions, pictures),
        **calibration_metrics(predictions, groups.to_numpy(), bundle, folds=recipe.data.folds, seed=recipe.seed),
        "slices": find_weak_slices(predictions, pictures),
    }
    trim_memory()
    return found


def split_leakage(predictions: pl.DataFrame, pictures: pl.DataFrame) -> dict[str, Any]:
    """Return `{"leaks": …}` for metrics.json if test pictures have duplicates in training or validation, else nothing.

    predictions: of the test pictures, `row_id, label, predict_table`; shown: the pictures with `group` and `split`.
    """
    seen = pictures.filter(pl.col("split").is_in(["train", "val"]))["group"].unique()
    tested = predictions.join(pictures.select("row_id", "group"), on="row_id", how="left", maintain_order="left")
    leaked, right = tested["group"].is_in(seen.implode()), tested["label"] == tested["predicted"]
    if (
        not leaked.any() or "fold" in pictures.columns
    ):  # with folds, training pictures of one model are tested by another
        return {}
    count, clean = int(leaked.sum()), tested.height - int(leaked.sum())
    accuracy = int((right & ~leaked).sum()) / clean if clean else None
    note = (
        f"The split that came with the pictures leaks: {count:,} of {tested.height:,} test pictures"
        f" ({100 * count / tested.height:.1f} %) show the same as a picture in training or validation, so these scores"
        " are too good."
    )
    if accuracy is not None:
        note += f" Accuracy over the other {clean:,}: {accuracy:.3f}."
    return {"leaks": {"test pictures": count, "accuracy without them": accuracy, "note": note}}
