"""What every method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from bestiary import run_folder, table
from bestiary.array_types import Float32s, Ints, Pixels
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.context import Context
from bestiary.files import cache_folder
from bestiary.models.engine import Precision
from bestiary.models.features import FeatureCache
from bestiary.models.head import Head
from bestiary.models.ood import PrincipalSubspace
from bestiary.preprocess import Preprocessing
from bestiary.profiling import StageTimer
from bestiary.progress import Reporter
from bestiary.recipe import ResolvedRecipe
from bestiary.run_folder import read_pictures

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class SplitData:
    """The pictures of one split: where they are, what they contain, and the position of their class."""

    paths: list[Path]
    keys: list[str]
    labels: Ints

    def take(self, rows: Ints) -> SplitData:
        """Return the pictures at these positions."""
        return SplitData([self.paths[at] for at in rows], [self.keys[at] for at in rows], self.labels[rows])


@dataclass(frozen=True)
class TrainingTask:
    """A learning problem: pictures (`path, sha256, label, split`) with their split, and the recipe, resolved."""

    recipe: ResolvedRecipe
    pictures: pl.DataFrame
    classes: tuple[str, ...]
    preprocess: Preprocessing
    run: Path
    cache: Path
    threads: int
    reporter: Reporter
    clock: StageTimer = field(default_factory=StageTimer)
    resume: bool = False
    deadline_seconds: float | None = None  # on the clock: when training must end so that the budget is kept

    def has_time_for_epoch(self, epoch_seconds: float) -> bool:
        """Return whether an epoch that takes so long still fits before the deadline."""
        return self.deadline_seconds is None or self.clock.total + epoch_seconds <= self.deadline_seconds

    @property
    def context(self) -> Context:
        """Threads, reporter, cache, timer and deadline."""
        return Context(self.threads, self.reporter, self.cache, self.clock, self.deadline_seconds)

    def feature_cache(self, precision: Precision, *, mirrored: bool = False) -> FeatureCache:
        """Return the feature cache of the recipe's backbone."""
        return FeatureCache(self.recipe.model.backbone, self.preprocess, precision, self.context, mirrored=mirrored)

    def fill_features(self, pictures: SplitData, precision: Precision, *, mirrored: bool = False) -> FeatureCache:
        """Return the feature cache with the features of these pictures, computed where they are missing."""
        cache = self.feature_cache(precision, mirrored=mirrored)
        with self.clock.stage("cache"):
            cache.fill(pictures.paths, pictures.keys)
        return cache

    def split(self, split: str) -> SplitData:
        """Return the pictures of one split."""
        rows = self.pictures.filter(pl.col("split") == split)
        labels = table.label_indices(rows["label"], self.classes)
        return SplitData([Path(path) for path in rows["path"]], rows["sha256"].to_list(), labels)


@dataclass(frozen=True)
class TrainedModel:
    """What came out: trunk and head to be sealed, the logits of the validation pictures, in float32.

    reference: the network as it was trained, in float32: images uint8 (n, size, size, 3) to logits (n, classes). The
    sealed graph is held against it. `notes` are facts for the environment file. val_features (n, channels) and
    the subspace of the training features make up familiarity, where there are any; else it is made of logits alone.
    """

    backbone_graph: onnx.ModelProto
    head: Head
    history: list[dict[str, Any]]
    val_logits: Float32s
    reference_network: Callable[[Pixels], Float32s]
    notes: dict[str, Any]
    val_features: FeatureMatrix | None = None
    subspace: PrincipalSubspace | None = None


def load_task(run: Path, threads: int, clock: StageTimer, reporter: Reporter, *, resume: bool) -> TrainingTask:
    """Return what is to be learned, from a run folder."""
    return make_task(
        run, run_folder.load_resolved_recipe(run), read_pictures(run), threads, clock, reporter, resume=resume
    )


def make_task(
    run: Path,
    recipe: ResolvedRecipe,
    pictures: pl.DataFrame,
    threads: int,
    clock: StageTimer,
    reporter: Reporter,
    *,
    resume: bool = False,
    deadline: float | None = None,
) -> TrainingTask:
    """Return what is to be learned from pictures that are split, under a resolved recipe."""
    classes = tuple(sorted(pictures.filter(pl.col("split") == "train")["label"].unique()))
    place = cache_folder()
    return TrainingTask(
        recipe, pictures, classes, recipe.preprocessing, run, place, threads, reporter, clock, resume, deadline
    )
