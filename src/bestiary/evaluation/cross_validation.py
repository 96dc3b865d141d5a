"""Cross-validation: one model for each fold; each picture is tested once, by a model not trained on it.

Each fold has its own folder inside the run, laid out like a run folder. A finished fold is not trained again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import polars as pl

from bestiary import run_folder, table
from bestiary.data.assign_splits import count_groups_per_class, select_fold
from bestiary.evaluation.evaluate import test_predictions
from bestiary.export.finalize import train_and_finalize
from bestiary.files import write_text
from bestiary.quick_metrics import macro_f1
from bestiary.recipe import ResolvedRecipe
from bestiary.recipe_files import write_toml
from bestiary.training.task import TrainingTask, load_task

FOLDS, DONE = "folds", "predictions.parquet"
# Removed after a fold is scored: the models of the folds do not ship.
MODEL_FILES = ("bundle.json", "model.onnx", "model.safetensors")


def cross_validate(task: TrainingTask) -> list[pl.DataFrame]:
    """Train and test a model for each fold; return the prediction table of each fold's test pictures.

    task: of the run, its pictures with their `fold`. The folds and the final model share the time of a budget equally.
    """
    run, recipe, pictures, reporter = task.run, task.recipe, task.pictures, task.context.reporter
    folds = recipe.data.folds
    if rare := classes_with_few_groups(pictures, folds):
        names = ", ".join(f"{label} ({groups})" for label, groups in rare.items())
        reporter.info(
            f"Classes with fewer distinct pictures than folds: {names}. Some folds do not test these classes."
        )
    tables = []
    for fold in range(1, folds + 1):
        folder = run / FOLDS / str(fold)
        if not (folder / DONE).exists():
            context = task.context.split_deadline(folds + 2 - fold)
            fold_recipe = recipe.model_copy(update={"features": context.features})  # as the run has recorded
            _prepare_fold(folder, fold_recipe, select_fold(pictures, fold, recipe.data, seed=recipe.seed))
            fold_task = load_task(folder, context, resume=task.resume)
            table.write(test_predictions(fold_task, *train_and_finalize(fold_task)), folder / DONE)
            for name in MODEL_FILES:
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        tables.append(table.read(folder / DONE, table.PREDICTIONS))
        correct = (tables[-1]["label"] == tables[-1]["predicted"]).sum()
        reporter.info(f"Fold {fold} of {folds}: {correct:,} of {tables[-1].height:,} test pictures correct.")
    return tables


def classes_with_few_groups(pictures: pl.DataFrame, folds: int) -> dict[str, int]:
    """Return the classes with fewer groups of duplicates than folds, with the number of their groups."""
    return {label: groups for label, groups in count_groups_per_class(pictures).items() if groups < folds}


def concat_folds(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the predictions of all folds as one table, in the order of the pictures."""
    return pl.concat(tables).sort("row_id")


def fold_scores(tables: Sequence[pl.DataFrame], pictures: pl.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Return the fold part of `metrics.json`: number of folds, mean, standard deviation and values of each metric.

    macro_f1 is over the classes that occur in a fold. sd: over the folds.
    """
    folds = len(tables)
    pairs = [[table.label_indices(fold[column], classes) for column in ("label", "predicted")] for fold in tables]
    scores = {
        "accuracy": [float((y_true == y_pred).mean()) for y_true, y_pred in pairs],
        "macro_f1": [macro_f1(y_true, y_pred, len(classes)) for y_true, y_pred in pairs],
    }
    low, high = min(scores["accuracy"]), max(scores["accuracy"])
    return {
        "k": folds,
        **{name: {"mean": mean(values), "sd": stdev(values), "values": values} for name, values in scores.items()},
        "classes not in every fold": list(classes_with_few_groups(pictures, folds)),
        "note": (
            f"These scores are cross-validated estimates: each of {folds} models was trained on {folds - 1}/{folds} of"
            " the pictures, minus a validation split, and tested on the remaining fold. The final model was trained in"
            " the same way on all folds, and has no test pictures of its own. Accuracy by fold:"
            f" {low:.3f} to {high:.3f}."
        ),
    }


def _prepare_fold(folder: Path, recipe: ResolvedRecipe, pictures: pl.DataFrame) -> None:
    """Write the files that a run starts from into the folder of a fold."""
    overrides = recipe.overrides()
    overrides["data"] = {key: value for key, value in overrides["data"].items() if key != FOLDS}
    write_text(folder / "asked.toml", write_toml(overrides))
    write_text(folder / "resolved.toml", run_folder.load_recipe(folder).resolve().toml())
    table.write(pictures, folder / "pictures.parquet")
