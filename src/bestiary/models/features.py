"""Feature extraction: features of a frozen, pretrained backbone, computed once and cached on disk. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from bestiary.array_types import Float32s, Ints, Pixels
from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.feature_matrix import FeatureMatrix, load_features
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.box import PictureFile
from bestiary.context import Context
from bestiary.errors import RunError
from bestiary.machine import disable_malloc_trim
from bestiary.models.backbone import Backbone
from bestiary.models.engine import Engine, EngineChoice, Precision, make_engine
from bestiary.models.engine_choice import choose_engine, find_record, recorded_batch_size
from bestiary.models.onnx_surgery import add_global_pool
from bestiary.preprocess import Preprocessing, VerifiedFile
from bestiary.table_map import TableMap


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (n, channels) with the position of each picture's class, int64 (n,).

    weights: how much each row counts, float32 (n,); None for 1 each.
    """

    features: FeatureMatrix
    labels: Ints
    weights: Float32s | None = None


def split_precisions(training: Precision) -> dict[str, Precision]:
    """Return the precision of a probe's features by split.

    Validation and test features are float32, computed and stored, as in the exported graph: the head is chosen,
    calibrated and tested on what users get.
    """
    return {"train": training, "val": "float32", "test": "float32"}


def has_features(cache: Path) -> bool:
    """Return whether the cache folder contains features of any backbone."""
    return (cache / "features").exists()


class FeatureView(TypedDict, total=False):
    """The fields of a `FeatureCache` that say which view of the pictures it holds; none: the pictures themselves."""

    mirrored: bool
    quarter_turns: int


def view_images(images: Pixels, *, mirrored: bool = False, quarter_turns: int = 0) -> Pixels:
    """Return a view of pictures, uint8 (n, size, size, 3), as the fields of `FeatureView` say."""
    flipped = images[:, :, ::-1] if mirrored else images
    return np.ascontiguousarray(np.rot90(flipped, quarter_turns, (1, 2)))


@dataclass(frozen=True)
class FeatureCache:
    """Feature cache: (channels,) per picture, the mean of the backbone's feature maps, by the file's SHA-256.

    float32 features are stored as they are: a head may magnify the rounding to float16 where pictures differ little.
    bfloat16 features are stored as float16, which is more precise. mirrored: features of the mirror images;
    quarter_turns: of the pictures turned counter-clockwise by so many times 90 degrees. `context` needs a cache folder.
    Nothing is read, written or built before it is needed.
    """

    backbone: Backbone
    preprocess: Preprocessing
    precision: Precision
    context: Context
    mirrored: bool = field(default=False, kw_only=True)
    quarter_turns: int = field(default=0, kw_only=True)

    @property
    def channels(self) -> int:
        """The length of a feature vector."""
        return self.backbone.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored values, which rounds no further than the computation does."""
        return np.dtype(np.float32 if self.precision == "float32" else np.float16)

    @cached_property
    def graph(self) -> Path:
        """The backbone graph, built if the cache lacks it; raises as `Backbone.cached_graph` does."""
        return self.backbone.cached_graph(self.context.require_cache(), self.preprocess.size)

    @cached_property
    def engine_choice(self) -> EngineChoice:
        """The engine, with the precision of training features. Raises as `choose_engine` does."""
        return choose_engine(self.graph, self.preprocess.size, self.context)

    @property
    def recorded_speed(self) -> float | None:
        """Pictures a second and core of the engine in this precision, measured on this computer; None if unmeasured."""
        record = find_record(self.graph, self.context)
        if record is None:
            return None
        choice = replace(self.engine_choice, precision=self.precision)
        speeds = {entry.choice: entry.pictures_per_second for entry in record.measurements if not entry.error}
        return speeds.get(choice)

    @cached_property
    def store(self) -> ArrayCache:
        """The arrays on disk, as of the first use."""
        view = "-mirrored" * self.mirrored + f"-turned-{90 * self.quarter_turns}" * (self.quarter_turns > 0)
        # Until November 2026 float32 features were stored as float16, in folders without "-unrounded".
        version = self.preprocess.rules.cache_name + "-unrounded" * (self.dtype == np.float32)
        name = f"{self.graph.stem}-{self.preprocess.fit}-{self.precision}{view}-{version}"
        return ArrayCache(self.context.require_cache() / "features" / name, (self.channels,), self.dtype)

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Return the positions of the keys without features; of equal keys only the first."""
        return self.store.missing_keys(keys)

    def fill(self, paths: Sequence[PictureFile], keys: Sequence[str]) -> None:
        """Compute the missing features of these files, on the cluster of the context or here; `keys`: their SHA-256.

        Raises SourceError if a file cannot be read any more, or has other content; RunError for features that are NaN;
        MachineError if a node of the cluster cannot compute them.
        """
        missing = self.missing(keys)
        if not missing:
            return
        files = [VerifiedFile.of(paths[row], keys[row]) for row in missing]
        cluster = self.context.cluster
        computed = self._compute_locally(files) if cluster is None else self._compute_on_cluster(files, cluster)
        progress = self.context.reporter.progress("Computing features", len(missing))
        with progress as advance, self.store.writer() as segment:
            for names, rows in computed:
                with np.errstate(over="ignore"):  # what is too large for 16 bits is refused
                    stored = rows.astype(self.dtype, copy=False)
                self._check_finite(stored, names[0])
                segment.append([file.sha256 for file in names], stored)
                advance(len(stored))

    def _compute_locally(self, files: Sequence[VerifiedFile]) -> Iterator[tuple[Sequence[VerifiedFile], Float32s]]:
        """Yield some of the files with their features (n, channels), in order."""
        engine, start = self.load_engine(), 0
        batches = iter_pixel_batches(files, self.preprocess, threads=self.context.threads, batch_size=engine.batch_size)
        for outputs in engine.stream(map(self.view, batches)):
            rows = outputs["features"]
            yield files[start : start + len(rows)], rows
            start += len(rows)

    def _compute_on_cluster(
        self, files: Sequence[VerifiedFile], cluster: TableMap
    ) -> Iterator[tuple[Sequence[VerifiedFile], Float32s]]:
        """Yield some of the files with their features (n, channels), in any order."""
        from bestiary.models.cluster_features import ComputeFeatures, iter_features

        choice = replace(self.engine_choice, precision=self.precision)
        view: FeatureView = {"mirrored": self.mirrored, "quarter_turns": self.quarter_turns}
        compute = ComputeFeatures(add_global_pool(self.graph), choice, self.preprocess, view)
        yield from iter_features(files, compute, cluster, self.context)

    def view(self, images: Pixels) -> Pixels:
        """Return the view of pictures, uint8 (n, size, size, 3), that this cache holds the features of."""
        return view_images(images, mirrored=self.mirrored, quarter_turns=self.quarter_turns)

    def load(self, keys: Sequence[str]) -> FeatureMatrix:
        """Return cached features (n, channels). Raises as `load_features` does."""
        return load_features([(self.store, key) for key in keys])

    def features(self, paths: Sequence[PictureFile], keys: Sequence[str]) -> FeatureMatrix:
        """Return the features (n, channels) of these files, computed where they are missing. Raises as `fill` does."""
        disable_malloc_trim()
        self.fill(paths, keys)
        return self.load(keys)

    def _check_finite(self, rows: Float32s, first: VerifiedFile) -> None:
        """Raise RunError if there is a value that is NaN, or too large for the type that is stored."""
        if np.isfinite(rows).all():
            return
        half = "" if self.dtype == np.float32 else ", or too large for 16 bits: --set features.precision=float32 helps"
        raise RunError(
            f'The backbone "{self.backbone.name}" gives features that are NaN or infinite{half}, for {first.path} or'
            f" one of the {len(rows) - 1} pictures after it. Choose another backbone."
        )

    def load_engine(self) -> Engine:
        """Return the engine that computes the output `features` from pictures."""
        choice = replace(self.engine_choice, precision=self.precision)
        batch_size = recorded_batch_size(choice, self.graph, self.context.require_cache())
        threads, reporter = self.context.threads, self.context.reporter
        return make_engine(
            choice, add_global_pool(self.graph), threads=threads, reporter=reporter, batch_size=batch_size
        )


def training_feature_cache(backbone: Backbone, preprocess: Preprocessing, context: Context) -> FeatureCache:
    """Return the feature cache of training pictures, in the precision that is fastest on this computer."""
    cache = FeatureCache(backbone, preprocess, "float32", context)
    return replace(cache, precision=cache.engine_choice.precision)


def features_by_split(
    cache: FeatureCache, paths: Sequence[PictureFile], keys: Sequence[str], splits: Sequence[str]
) -> FeatureMatrix:
    """Return the features (n, channels) of pictures, each in the precision of its split, computed where missing.

    cache: of the backbone, in any precision. A picture then goes through the backbone once for the label check,
    training and evaluation. Raises as `FeatureCache.fill` does.
    """
    disable_malloc_trim()
    precisions = split_precisions(cache.engine_choice.precision)
    caches = {precision: replace(cache, precision=precision) for precision in precisions.values()}
    for precision, own in caches.items():
        rows = [row for row, split in enumerate(splits) if precisions[split] == precision]
        own.fill([paths[row] for row in rows], [keys[row] for row in rows])
    return load_stacked([(caches[precisions[split]], key) for split, key in zip(splits, keys, strict=True)])


def load_stacked(rows: Sequence[tuple[FeatureCache, str]]) -> FeatureMatrix:
    """Return the features (n, channels) of one key in each cache, in this order, such as pictures and mirror images."""
    return load_features([(cache.store, key) for cache, key in rows])
