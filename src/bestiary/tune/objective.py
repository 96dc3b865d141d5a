"""Objective of a search: the validation score of a recipe, on the validation split or on inner folds, never on test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import run_folder
from bestiary.array_types import Float32s, Ints
from bestiary.context import Context
from bestiary.data.split import SplitItem, stratified_group_folds_by_content, stratified_group_split_unchecked
from bestiary.errors import RecipeError, SourceError
from bestiary.models.features import LabelledFeatures, load_stacked
from bestiary.models.logistic_regression import linear_logits
from bestiary.quick_metrics import calibrated_loss, macro_f1
from bestiary.recipe import ResolvedRecipe
from bestiary.training.methods import train_for_logits
from bestiary.training.probe import candidate_c_values, fit_head, fit_probe
from bestiary.training.task import TrainingTask, make_task

SEARCH_SPLIT = "search_split"  # column with the split of the search itself, which decides the precision of features
SMALL_PICTURES, AUTO_FOLDS = 200, 5  # with fewer validation pictures the search validates by so many inner folds
LOSS_WEIGHT = 1e-3

History = list[dict[str, Any]]
EpochCallback = Callable[[int, History], None]  # called before each epoch with the split, from 1, and its epochs so far


@dataclass(frozen=True)
class TrialScore:
    """The score that recipes are chosen by: macro-F1 first, then the loss at the best temperature."""

    macro_f1: float
    loss: float
    strength: float | None = None  # C of the probe's head, where one was chosen of several

    @property
    def value(self) -> float:
        """The value that the sampler maximises: macro-F1, with the loss as a tie-breaker."""
        return self.macro_f1 - LOSS_WEIGHT * self.loss

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better."""
        return self.macro_f1, -self.loss


@dataclass(frozen=True)
class PrunableTask(TrainingTask):
    """A training task that reports its epochs; the callback may raise to stop it."""

    report_epoch: Callable[[History], None] = lambda history: None

    def has_time_for_epoch(self, epoch_seconds: float) -> bool:
        """Report the epochs so far; return whether there is time for another one."""
        self.report_epoch(run_folder.read_history(self.run))
        return super().has_time_for_epoch(epoch_seconds)


def count_inner_folds(requested: int | None, pictures: pl.DataFrame) -> int:
    """Return the number of inner folds, 0 for the validation split; None decides by the size of that split.

    Raises SourceError if the validation split has fewer pictures than there are classes, or a class too few for folds.
    """
    used = pictures.filter(pl.col("split").is_in(["train", "val"]))
    validation = pictures.filter(pl.col("split") == "val").height
    folds = (AUTO_FOLDS if validation < SMALL_PICTURES else 0) if requested is None else requested
    if folds:
        label, fewest = used.group_by("label").agg(pl.col("group").n_unique()).sort("group", "label").row(0)
        if fewest < 2:
            raise SourceError(
                f'Class "{label}" has {fewest} picture for training and validation; inner folds need 2 different ones.'
                " Add pictures, or leave the class out with --classes."
            )
        return min(folds, int(fewest))
    classes = used["label"].n_unique()
    if validation < classes:
        raise SourceError(
            f"There are {validation} validation pictures for {classes} classes: too few to compare recipes. Enlarge the"
            " validation split, or validate by inner folds of training and validation: --inner-folds 5."
        )
    return 0


def inner_splits(pictures: pl.DataFrame, folds: int, *, seed: int) -> list[pl.DataFrame]:
    """Return the pictures with the splits of a trial: one, or one for each inner fold of training and validation."""
    marked = pictures.with_columns(pl.col("split").alias(SEARCH_SPLIT))
    if not folds:
        return [marked]
    used = marked.filter(pl.col("split").is_in(["train", "val"]))
    fold_numbers = stratified_group_folds_by_content(_items(used), folds=folds, seed=seed)
    numbered = marked.join(
        used.select("row_id", pl.Series("fold", fold_numbers)), on="row_id", how="left", maintain_order="left"
    )
    test = pl.when(pl.col("fold").is_null()).then("split")
    splits = [test.when(pl.col("fold") == fold).then(pl.lit("val")).otherwise(pl.lit("train")) for fold in range(folds)]
    return [numbered.with_columns(split=split).drop("fold") for split in splits]


def resample_validation(pictures: pl.DataFrame, folds: int, *, seed: int) -> pl.DataFrame:
    """Return the pictures with another validation split of the same size, drawn from the training pictures of trials.

    The validation pictures of the search go to training. With inner folds every picture took part in the choice, and
    the new split is drawn from all.
    """
    marked = pictures.with_columns(pl.col("split").alias(SEARCH_SPLIT))
    validation = marked.filter(pl.col("split") == "val").height
    pool = marked.filter(pl.col("split").is_in(["train", "val"] if folds else ["train"]))
    drawn = stratified_group_split_unchecked(_items(pool), {"val": min(0.5, validation / pool.height)}, seed=seed)
    new_splits = pool.select("row_id", pl.Series("drawn", drawn, pl.String))
    joined = marked.join(new_splits, on="row_id", how="left", maintain_order="left")
    rest = pl.when(pl.col("split") == "val").then(pl.lit("train")).otherwise("split")
    return joined.with_columns(split=pl.coalesce("drawn", rest)).drop("drawn")


def evaluate_recipe(
    recipe: ResolvedRecipe,
    splits: Sequence[pl.DataFrame],
    folder: Path,
    context: Context,
    *,
    report_epoch: EpochCallback = lambda split, history: None,
    resume: bool = False,
) -> TrialScore:
    """Return the score of a recipe on the validation pictures of all splits together.

    folder: for checkpoints. report_epoch: may raise to stop training. Raises RecipeError where training does.
    """
    logits, labels, strength = list[Float32s](), list[Ints](), None
    for number, pictures in enumerate(splits, start=1):
        run = folder / str(number)
        run.mkdir(parents=True, exist_ok=True)
        task = make_task(run, recipe, pictures, context, resume=resume)
        val_logits, strength = _val_logits(PrunableTask(**vars(task), report_epoch=partial(report_epoch, number)))
        logits.append(val_logits)
        labels.append(task.split("val").labels)
    all_logits, y_true = np.concatenate(logits), np.concatenate(labels)
    if not np.isfinite(all_logits).all():
        raise RecipeError("Predictions contain NaN or infinity: training diverged. Lower train.learning_rate.")
    f1 = macro_f1(y_true, all_logits.argmax(axis=1), all_logits.shape[1])
    return TrialScore(f1, calibrated_loss(all_logits, y_true), strength)


def _val_logits(task: TrainingTask) -> tuple[Float32s, float | None]:
    """Train; return the logits of the validation pictures, and the chosen C of a probe."""
    if task.recipe.model.method != "probe":
        return train_for_logits(task), None
    is_cached = task.recipe.train.balance != "oversample" and task.recipe.probe.views == "none"
    if not is_cached or (task.pictures["split"] == task.pictures[SEARCH_SPLIT]).all():
        probe = fit_probe(task)
        head, history, val = probe.head, probe.history, probe.val
    else:
        train, val = _cached_features(task, "train"), _cached_features(task, "val")
        c_values, balance = candidate_c_values(task.recipe, len(train.labels)), task.recipe.train.balance
        head, history = fit_head(train, val, len(task.classes), c_values=c_values, balance=balance)
    chosen = next(line["regularisation"] for line in history if line.get("chosen"))
    return linear_logits(val.features, head.weight, head.bias), chosen


def _cached_features(task: TrainingTask, split: str) -> LabelledFeatures:
    """Return features in the precision of the search's own split: a picture that changes splits needs no new ones."""
    caches = {name: task.feature_cache(precision) for name, precision in task.split_precisions.items()}
    rows = task.pictures.filter(pl.col("split") == split).select(SEARCH_SPLIT, "sha256")
    features = load_stacked([(caches[search_split], key) for search_split, key in rows.iter_rows()])
    return LabelledFeatures(features, task.split(split).labels)


def _items(pictures: pl.DataFrame) -> list[SplitItem]:
    return [SplitItem(*row) for row in pictures.select("sha256", "label", "group").iter_rows()]
