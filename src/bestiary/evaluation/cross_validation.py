"""Cross-validation: a model for each fold, every picture tested once by a model that did not learn from it.

Each fold has a folder of its own inside the run, laid out as a run is; a fold that is finished is not trained again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import polars as pl

from bestiary import run_folder, table
from bestiary.data.assign_splits import count_groups_per_class, select_fold
from bestiary.evaluation.predictions import label_indices
from bestiary.files import write_text
from bestiary.progress import Reporter
from bestiary.quick_metrics import macro_f1
from bestiary.recipe import Recipe, write_toml

FOLDS, DONE = "folds", "predictions.parquet"
# What a fold needs no more when its pictures are scored: the models of the folds do not ship.
OF_THE_MODEL = ("bundle.json", "model.onnx", "model.safetensors")


def cross_validate(
    run: Path, recipe: Recipe, pictures: pl.DataFrame, score: Callable[[Path], pl.DataFrame], *, reporter: Reporter
) -> list[pl.DataFrame]:
    """Return the prediction table of each fold's test pictures.

    recipe: resolved; shown: the pictures with their `fold`; score: trains on the fold in a folder and returns what its
    model says of the fold's test pictures.
    """
    folds = recipe.data.folds
    if rare := classes_with_few_groups(pictures, folds):
        named = ", ".join(f"{label} ({groups})" for label, groups in rare.items())
        reporter.info(f"Fewer different pictures than folds: {named}. Some of the {folds} folds test none of them.")
    tables = []
    for number in range(1, folds + 1):
        place = run / FOLDS / str(number)
        if not (place / DONE).exists():
            _prepare_fold(place, recipe, select_fold(pictures, number, recipe.data, seed=recipe.seed))
            table.write(score(place), place / DONE)
            _remove_model_files(place)
        tables.append(table.read(place / DONE, table.PREDICTIONS))
        right = (tables[-1]["label"] == tables[-1]["predicted"]).sum()
        reporter.info(f"Fold {number} of {folds}: {right:,} of {tables[-1].height:,} test pictures right.")
    return tables


def classes_with_few_groups(pictures: pl.DataFrame, folds: int) -> dict[str, int]:
    """Return the classes with fewer groups of duplicates than folds, and how many they have."""
    return {label: groups for label, groups in count_groups_per_class(pictures).items() if groups < folds}


def concat_folds(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the predictions of all folds as one table, in the order of the pictures."""
    return pl.concat(tables).sort("row_id")


def fold_scores(tables: Sequence[pl.DataFrame], pictures: pl.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Return what `metrics.json` says of the folds: how many, what they learnt from, mean and spread of their scores.

    macro_f1 is over the classes that occur in a fold. sd: standard deviation over the folds.
    """
    folds = len(tables)
    truths = [label_indices(one, classes) for one in tables]
    named = [label_indices(one.select(label="predicted"), classes) for one in tables]
    scores = {
        "accuracy": [float((truth == said).mean()) for truth, said in zip(truths, named, strict=True)],
        "macro_f1": [macro_f1(truth, said, len(classes)) for truth, said in zip(truths, named, strict=True)],
    }
    summary = {name: {"mean": mean(values), "sd": stdev(values), "values": values} for name, values in scores.items()}
    low, high = min(scores["accuracy"]), max(scores["accuracy"])
    note = (
        f"These scores are cross-validated estimates: {folds} models, each trained without one of {folds} folds, that"
        f" is on {folds - 1}/{folds} of the pictures less a validation part, were scored on the fold they had not seen."
        " The model that ships"
        " was trained in the same way on all folds, and has no test pictures of its own. Accuracy by fold:"
        f" {low:.3f} to {high:.3f}."
    )
    return {
        "k": folds,
        **summary,
        "classes not in every fold": list(classes_with_few_groups(pictures, folds)),
        "note": note,
    }


def _prepare_fold(folder: Path, recipe: Recipe, pictures: pl.DataFrame) -> None:
    """Write what a run begins with into the folder of a fold."""
    asked = recipe.overrides()
    asked["data"] = {key: value for key, value in asked["data"].items() if key != FOLDS}
    write_text(folder / "asked.toml", write_toml(asked))
    write_text(folder / "resolved.toml", run_folder.load_recipe(folder).resolve().toml())
    table.write(pictures, folder / "pictures.parquet")


def _remove_model_files(folder: Path) -> None:
    for name in OF_THE_MODEL:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
