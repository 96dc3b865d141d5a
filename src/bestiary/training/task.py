"""Training tasks: what every method receives, and the trained model that it returns."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import polars as pl

from bestiary import table
from bestiary.array_types import Float32s, Ints, Pixels
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.box import PictureFile
from bestiary.class_thresholds import check_threshold_classes
from bestiary.context import Context
from bestiary.costs import check_cost_labels
from bestiary.data.deep_ranges import collection_rules
from bestiary.errors import RunError
from bestiary.models.backbone import Backbone
from bestiary.models.backbones import recipe_backbone, teacher_backbone, uses_features
from bestiary.models.engine import EngineChoice, Precision
from bestiary.models.engine_choice import explain_impossible
from bestiary.models.features import FeatureCache, FeatureView, split_precisions, training_feature_cache
from bestiary.models.head import Head
from bestiary.models.ood import PrincipalSubspace
from bestiary.preprocess import Preprocessing
from bestiary.recipe import ResolvedRecipe
from bestiary.recipe_sections import FeaturesConfig
from bestiary.run_folder import (
    load_resolved_recipe,
    read_environment,
    read_pictures,
    record_features,
    recorded_features,
    update_environment,
)

if TYPE_CHECKING:
    import onnx

WEIGHTS_KEY = "weights of the backbone"
FEATURES_KEY, TEACHER_KEY = "features", "features of the teacher"  # in environment.json


@dataclass(frozen=True)
class SplitData:
    """The pictures of one split: files or crops, their SHA-256, and class indices, int64 (n,)."""

    paths: Sequence[PictureFile]
    keys: list[str]
    labels: Ints

    def take(self, rows: Ints) -> SplitData:
        """Return the pictures at these indices."""
        return SplitData([self.paths[row] for row in rows], [self.keys[row] for row in rows], self.labels[rows])


@dataclass(frozen=True)
class TrainingTask:
    """A training task: pictures (`path, sha256, label, split`), the resolved recipe, and the run folder to write to."""

    recipe: ResolvedRecipe
    pictures: pl.DataFrame
    classes: tuple[str, ...]
    preprocess: Preprocessing
    run: Path
    context: Context
    resume: bool = False

    @property
    def cache(self) -> Path:
        """The cache folder."""
        return self.context.require_cache()

    def has_time_for_epoch(self, epoch_seconds: float) -> bool:
        """Return whether an epoch of so many seconds ends before the deadline."""
        return self.context.has_time_for(epoch_seconds)

    @property
    def uses_features(self) -> bool:
        """Whether the features of its backbone are computed: for a probe, which fine-tuning starts from if bundled."""
        return uses_features(self.recipe)

    @cached_property
    def backbone(self) -> Backbone:
        """The pretrained backbone of the recipe. Raises as `backbone_by_name` does."""
        return recipe_backbone(self.recipe, self.cache, self.preprocess.size)

    @cached_property
    def engine_choice(self) -> EngineChoice:
        """The engine of the backbone's features, with their precision for training. Raises as `choose_engine` does."""
        return self.feature_cache("float32").engine_choice

    @property
    def split_precisions(self) -> dict[str, Precision]:
        """The precision of features by split: see `features.split_precisions`."""
        return split_precisions(self.engine_choice.precision)

    def feature_cache(self, precision: Precision, **view: Unpack[FeatureView]) -> FeatureCache:
        """Return the feature cache of the recipe's backbone: of the pictures, or of a view of them."""
        return FeatureCache(self.backbone, self.preprocess, precision, self.context, **view)

    def fill_features(self, pictures: SplitData, precision: Precision, **view: Unpack[FeatureView]) -> FeatureCache:
        """Return the feature cache with the features of these pictures, computed where they are missing."""
        cache = self.feature_cache(precision, **view)
        with self.context.timer.stage("cache"):
            cache.fill(pictures.paths, pictures.keys)
        return cache

    def teacher_cache(self) -> FeatureCache | None:
        """Return the cache of the features that a network learns beside the classes; None without a teacher."""
        if (teacher := teacher_backbone(self.recipe)) is None:
            return None
        return training_feature_cache(teacher, replace(self.preprocess, size=teacher.facts.size), self.context)

    def choose_features(self) -> FeaturesConfig:
        """Return the settings of features with the engine and precision that this computer computes them by.

        Other processes of the job take them, so that all have the same features; those of the context without any.
        Raises as `choose_engine` does.
        """
        cache = self.feature_cache("float32") if self.uses_features else self.teacher_cache()
        return self.context.features if cache is None else FeaturesConfig(**asdict(cache.engine_choice))

    def split(self, split: str) -> SplitData:
        """Return the pictures of one split."""
        rows = self.pictures.filter(pl.col("split") == split)
        labels = table.label_indices(rows["label"], self.classes)
        return SplitData(table.list_files(rows), rows["sha256"].to_list(), labels)


@dataclass(frozen=True)
class SplitOutputs:
    """A probe's outputs for the pictures of a split, in its order: logits float32 (n, classes), features (n, channels).

    `verify_parity` proves that the exported graph gives the same from the files.
    """

    logits: Float32s
    features: FeatureMatrix


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: backbone graph and head, and the float32 logits of the validation pictures.

    reference_network: the trained network in float32: images uint8 (n, size, size, 3) to logits (n, classes); the
    exported graph is compared with it. notes: facts for the environment file. val_features (n, channels) and the
    subspace of the training features give the in-distribution score; without them it comes from the logits alone.
    test: the outputs for the test pictures, of a method that has them; others are tested from the files.
    """

    backbone_graph: onnx.ModelProto
    head: Head
    history: list[dict[str, Any]]
    val_logits: Float32s
    reference_network: Callable[[Pixels], Float32s]
    notes: dict[str, Any]
    val_features: FeatureMatrix | None = None
    subspace: PrincipalSubspace | None = None
    test: SplitOutputs | None = None


def load_task(run: Path, context: Context, *, resume: bool = False) -> TrainingTask:
    """Return the task that a run folder describes. Raises as `load_resolved_recipe` and `read_pictures` do."""
    recipe = load_resolved_recipe(run)
    context = replace(context, features=recorded_features(run, _features_key(recipe)))
    return make_task(run, recipe, read_pictures(run), context, resume=resume)


def record_engine(task: TrainingTask) -> TrainingTask:
    """Return the task with the engine and precision of its features chosen, and record them in `environment.json`.

    A resumed run then computes the same features, even if another engine has become the fastest since. Raises RunError
    if this computer cannot compute what the run has recorded.
    """
    if not task.uses_features and teacher_backbone(task.recipe) is None:
        return task
    if task.uses_features:
        _check_same_weights(task)
    recorded, key = task.context.features, _features_key(task.recipe)
    if key in read_environment(task.run) and (reason := explain_impossible(recorded)):
        recipe = shlex.quote(str(task.run / "asked.toml"))
        raise RunError(
            f"The features of {task.run} were computed with {recorded.engine} in {recorded.precision} on"
            f" {recorded.device}, which this computer cannot do: {reason}. Resume it on a computer like the first, or"
            f" train again with its recipe: bestiary train PICTURES --recipe {recipe}"
        )
    features = task.choose_features()
    record_features(task.run, features, key)
    return replace(task, context=replace(task.context, features=features))


def _features_key(recipe: ResolvedRecipe) -> str:
    """Return the name by which a run records its features: those of the label check may be other ones of a teacher."""
    return FEATURES_KEY if teacher_backbone(recipe) is None else TEACHER_KEY


def _check_same_weights(task: TrainingTask) -> None:
    """Record the digest of the backbone's weights; raises RunError if a resumed run has recorded another."""
    now, before = task.backbone.facts.weights.sha256, read_environment(task.run).get(WEIGHTS_KEY)
    if before is None:
        update_environment(task.run, {WEIGHTS_KEY: now})
    elif now != before:
        raise RunError(
            f"The weights of {task.backbone.name} have the SHA-256 {now[:16]}…; when {task.run} began, they had"
            f" {before[:16]}…. Restore the file, or train again."
        )


def make_task(
    run: Path, recipe: ResolvedRecipe, pictures: pl.DataFrame, context: Context, *, resume: bool = False
) -> TrainingTask:
    """Return the task of training on pictures that have a `split`.

    Raises RecipeError for costs or thresholds of unknown classes.
    """
    classes = tuple(sorted(pictures.filter(pl.col("split") == "train")["label"].unique()))
    check_cost_labels(recipe.evaluate.costs, classes)
    check_threshold_classes(recipe.evaluate.thresholds, classes)
    train = pictures.filter(pl.col("split") == "train")
    preprocess = replace(recipe.preprocessing, rules=collection_rules(train))
    return TrainingTask(recipe, pictures, classes, preprocess, run, context, resume)
