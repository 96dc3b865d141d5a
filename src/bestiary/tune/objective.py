"""How good a recipe is on pictures that it did not learn from, test pictures apart: what trials are compared by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import run_folder
from bestiary.array_types import Float32s, Ints
from bestiary.context import Context
from bestiary.data.split import SplitItem, stratified_group_folds_by_content, stratified_group_split_unchecked
from bestiary.errors import RecipeError, SourceError
from bestiary.models.features import LabelledFeatures, load_stacked, split_precisions
from bestiary.models.logistic_regression import linear_logits
from bestiary.quick_metrics import calibrated_loss, macro_f1
from bestiary.recipe import ResolvedRecipe
from bestiary.training.methods import train_for_logits
from bestiary.training.probe import candidate_c_values, fit_head, fit_probe
from bestiary.training.task import TrainingTask, make_task

SEARCH_SPLIT = (
    "kept"  # the column with the split of the search itself, which decides in what precision features are kept
)
SMALL_PICTURES, AUTO_FOLDS = 200, 5  # with fewer validation pictures the search chooses by so many inner folds

LOSS_WEIGHT = 1e-3

History = list[dict[str, Any]]
EpochCallback = Callable[
    [int, History], None
]  # told of the division, from 1, and its epochs so far, before each further epoch


@dataclass(frozen=True)
class TrialScore:
    """What a recipe is chosen by: macro-F1 first, then the loss at the best temperature; and what fitting told."""

    macro_f1: float
    loss: float
    strength: float | None = None  # C of the probe's head, where one was chosen of several

    @property
    def value(self) -> float:
        """What the sampler learns from: macro-F1, in which the loss only tells equal ones apart."""
        return self.macro_f1 - LOSS_WEIGHT * self.loss

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better."""
        return self.macro_f1, -self.loss


@dataclass(frozen=True)
class PrunableTask(TrainingTask):
    """A task whose epochs are watched."""

    report_epoch: Callable[[History], None] = lambda history: None

    def has_time_for_epoch(self, epoch_seconds: float) -> bool:
        """Return whether there is time for another epoch, after showing those before it."""
        self.report_epoch(run_folder.read_history(self.run))
        return super().has_time_for_epoch(epoch_seconds)


def count_inner_folds(requested: int | None, pictures: pl.DataFrame) -> int:
    """Return how many inner folds a search chooses by, 0 for the validation split; None leaves it to us.

    Raises SourceError if the validation split has fewer pictures than there are classes, or a class too few for folds.
    """
    used = pictures.filter(pl.col("split").is_in(["train", "val"]))
    validation = pictures.filter(pl.col("split") == "val").height
    folds = (AUTO_FOLDS if validation < SMALL_PICTURES else 0) if requested is None else requested
    if folds:
        label, fewest = used.group_by("label").agg(pl.col("group").n_unique()).sort("group", "label").row(0)
        if fewest < 2:
            raise SourceError(
                f'Class "{label}" has {fewest} picture to train and validate; inner folds need 2 different ones. Add'
                " pictures, or leave the class out with --classes."
            )
        return min(folds, int(fewest))
    classes = used["label"].n_unique()
    if validation < classes:
        raise SourceError(
            f"There are {validation} validation pictures for {classes} classes: a choice among recipes would be luck."
            " Validate with more pictures, or choose by inner folds of training and validation: --inner-folds 5."
        )
    return 0


def inner_splits(pictures: pl.DataFrame, folds: int, *, seed: int) -> list[pl.DataFrame]:
    """Return the pictures as trials see them: once, or once for each inner fold of training and validation."""
    marked = pictures.with_columns(pl.col("split").alias(SEARCH_SPLIT))
    if not folds:
        return [marked]
    learned = marked.filter(pl.col("split").is_in(["train", "val"]))
    place = pl.DataFrame(
        {
            "row_id": learned["row_id"],
            "fold": stratified_group_folds_by_content(_items(learned), folds=folds, seed=seed),
        },
        schema_overrides={"row_id": marked.schema["row_id"]},
    )
    dealt = marked.join(place, on="row_id", how="left", maintain_order="left")
    own = pl.when(pl.col("fold").is_null()).then("split")
    return [
        dealt.with_columns(split=own.when(pl.col("fold") == fold).then(pl.lit("val")).otherwise(pl.lit("train"))).drop(
            "fold"
        )
        for fold in range(folds)
    ]


def resample_validation(pictures: pl.DataFrame, folds: int, *, seed: int) -> pl.DataFrame:
    """Return the pictures with another validation part, as large as the first, dealt from what trials learned from.

    The pictures that the search chose by go to training; where it chose by inner folds, no picture is left that played
    no part, and all are dealt anew.
    """
    marked = pictures.with_columns(pl.col("split").alias(SEARCH_SPLIT))
    validation = marked.filter(pl.col("split") == "val").height
    from_ = marked.filter(pl.col("split").is_in(["train", "val"] if folds else ["train"]))
    parts = stratified_group_split_unchecked(_items(from_), {"val": min(0.5, validation / from_.height)}, seed=seed)
    dealt = pl.DataFrame({"row_id": from_["row_id"], "own": parts}, schema_overrides={"own": pl.String})
    joined = marked.join(dealt, on="row_id", how="left", maintain_order="left")
    back = pl.when(pl.col("split") == "val").then(pl.lit("train")).otherwise("split")
    return joined.with_columns(split=pl.coalesce("own", back)).drop("own")


def evaluate_recipe(
    recipe: ResolvedRecipe,
    splits: Sequence[pl.DataFrame],
    folder: Path,
    context: Context,
    *,
    report_epoch: EpochCallback = lambda division, history: None,
    resume: bool = False,
) -> TrialScore:
    """Return how good a resolved recipe is on the validation pictures of all divisions together.

    place: a folder for what training leaves behind. watch: may raise to end it. Raises RecipeError where training does.
    """
    logits, labels, strength = list[Float32s](), list[Ints](), None
    for number, pictures in enumerate(splits, start=1):
        own = folder / str(number)
        own.mkdir(parents=True, exist_ok=True)
        task = _make_prunable(make_task(own, recipe, pictures, context, resume=resume), number, report_epoch)
        found, strength = _logits(task)
        logits.append(found)
        labels.append(task.split("val").labels)
    whole, truth = np.concatenate(logits), np.concatenate(labels)
    if not np.isfinite(whole).all():
        raise RecipeError("What was learned gives answers that are no numbers. Lower train.learning_rate.")
    f1 = macro_f1(truth, whole.argmax(axis=1), whole.shape[1])
    return TrialScore(f1, calibrated_loss(whole, truth), strength)


def _logits(task: TrainingTask) -> tuple[Float32s, float | None]:
    """Return what a model of this task says of its validation pictures, and the strength that was chosen."""
    if task.recipe.model.method != "probe":
        return train_for_logits(task), None
    if task.recipe.train.balance == "oversample" or (task.pictures["split"] == task.pictures[SEARCH_SPLIT]).all():
        probe = fit_probe(task)
        head, history, val = probe.head, probe.history, probe.val
    else:
        train, val = _features_as_cached(task)
        strengths, balance = candidate_c_values(task.recipe, len(train.labels)), task.recipe.train.balance
        head, history = fit_head(train, val, len(task.classes), c_values=strengths, balance=balance)
    chosen = next(line["regularisation"] for line in history if line.get("chosen"))
    return linear_logits(val.features, head.weight, head.bias), chosen


def _features_as_cached(task: TrainingTask) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Return the features of both parts in the precision they are kept in: pictures that change sides cost nothing."""
    caches = {split: task.feature_cache(precision) for split, precision in split_precisions().items()}
    result = []
    for split in ("train", "val"):
        rows = task.pictures.filter(pl.col("split") == split).select(SEARCH_SPLIT, "sha256")
        features = load_stacked([(caches[search_split], key) for search_split, key in rows.iter_rows()])
        result.append(LabelledFeatures(features, task.split(split).labels))
    return result[0], result[1]


def _make_prunable(task: TrainingTask, number: int, report_epoch: EpochCallback) -> PrunableTask:
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    return PrunableTask(**values, report_epoch=lambda history: report_epoch(number, history))


def _items(pictures: pl.DataFrame) -> list[SplitItem]:
    return [SplitItem(*row) for row in pictures.select("sha256", "label", "group").iter_rows()]
