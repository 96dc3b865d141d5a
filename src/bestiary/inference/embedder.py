"""Features of pictures by the network of a run: the input of its last layer, computed batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Float32s, Ints, Pixels
from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.decoding import PICTURES_AHEAD, DecodedImage, decode_ahead, iter_batches
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler, load_features
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.context import Context
from bestiary.errors import RunError
from bestiary.inference.bundle import read_bundle
from bestiary.inference.device_choice import load_device_engine
from bestiary.models.engine import run_batch
from bestiary.models.engine_choice import fastest_float32_engine
from bestiary.models.neighbours import unit_rows
from bestiary.models.onnx_surgery import add_features_output
from bestiary.preprocess import Source, VerifiedFile

ROWS_AT_ONCE = 1_024


@dataclass(frozen=True)
class EmbeddedRows:
    """Consecutive pictures: their paths (None: in memory), why some cannot be read, features float32 (n, channels).

    The features of a picture with an error mean nothing.
    """

    paths: list[str | None]
    errors: list[str | None]
    features: Float32s


class Embedder:
    """The network of a run up to its last layer."""

    def __init__(self, run: Path, context: Context) -> None:
        """Load the model. Raises RunError if it is missing or damaged, or an export that has no float32 features."""
        self.run, self._context, self._bundle = run, context, read_bundle(run)
        if self._bundle.precision != "float32" or Path(self._bundle.graph).suffix != ".onnx":
            raise RunError(
                f"{run} is an export in {self._bundle.precision}, which has no features in float32. Give the run that"
                " it was exported from."
            )
        graph = add_features_output(run / self._bundle.graph)
        self._engine = load_device_engine(
            graph,
            self._bundle.size,
            context.features.device,
            partial(fastest_float32_engine, graph, threads=context.threads),
            threads=context.threads,
            reporter=context.reporter,
        )
        size = self._bundle.size
        self._blank = np.zeros((size, size, 3), np.uint8)  # in place of an unreadable picture
        self.channels: int = run_batch(self._engine, self._blank[None])["features"].shape[1]

    def iter_rows(self, sources: Iterable[Source | str]) -> Iterator[EmbeddedRows]:
        """Yield the features of the pictures, in order and in constant memory."""
        paths: deque[str | None] = deque()
        waiting: deque[list[DecodedImage]] = deque()

        def checked_sources() -> Iterator[Source]:
            for source in sources:
                paths.append(str(source) if isinstance(source, str | Path) else None)
                yield Path(source) if isinstance(source, str) else source

        def images() -> Iterator[Pixels]:
            threads, ahead = self._context.threads, max(PICTURES_AHEAD, 2 * self._engine.batch_size)
            decoded = decode_ahead(checked_sources(), self._bundle.preprocess, threads=threads, ahead=ahead)
            for batch in iter_batches(decoded, self._engine.batch_size):
                waiting.append(batch)
                yield np.stack([self._blank if item.pixels is None else item.pixels for item in batch])

        errors, features = list[str | None](), list[Float32s]()
        for outputs in self._engine.stream(images()):
            errors += [None if item.error is None else str(item.error) for item in waiting.popleft()]
            features.append(outputs["features"])
            if len(errors) >= ROWS_AT_ONCE:
                yield EmbeddedRows([paths.popleft() for _ in errors], errors, np.concatenate(features))
                errors, features = [], []
        if errors:
            yield EmbeddedRows([paths.popleft() for _ in errors], errors, np.concatenate(features))

    def training_index(self) -> TrainingIndex:
        """Return the run's training pictures, to find those that a picture resembles.

        Their features are computed once, and cached. Raises RunError if the run has no table of pictures, SourceError
        if a file is missing or was changed.
        """
        pictures = table.read(self.run / "pictures.parquet", table.PICTURES).filter(pl.col("split") == "train")
        keys = pictures["sha256"].to_list()
        store = self._feature_store()
        missing = store.missing_keys(keys)
        paths = table.list_files(pictures)
        files = [VerifiedFile.of(paths[row], keys[row]) for row in missing]
        batches = iter_pixel_batches(
            files, self._bundle.preprocess, threads=self._context.threads, batch_size=self._engine.batch_size
        )
        progress = self._context.reporter.progress("Computing features of training pictures", len(missing))
        if missing:
            with progress as advance, store.writer() as segment:
                start = 0
                for outputs in self._engine.stream(batches):
                    rows = outputs["features"]
                    segment.append([file.sha256 for file in files[start : start + len(rows)]], rows)
                    start += len(rows)
                    advance(len(rows))
        return TrainingIndex(pictures.select("path", "label"), load_features([(store, key) for key in keys]))

    def _feature_store(self) -> ArrayCache:
        rules = self._bundle.preprocess.rules.cache_name
        name = f"run-{self._bundle.graph_sha256[:24]}-{self._bundle.fit}-{rules}"
        return ArrayCache(self._context.require_cache() / "features" / name, (self.channels,), np.float32)


class TrainingIndex:
    """Training pictures by the cosine similarity of their features, standardised by all of them, as in the audit."""

    def __init__(self, pictures: pl.DataFrame, features: FeatureMatrix) -> None:
        """Keep the pictures, `path` and `label`, and their features (n, channels)."""
        self.pictures, self._features = pictures, features
        self._mean, self._scale = fit_scaler(features)

    def find_nearest(self, queries: Float32s, count: int) -> tuple[Ints, Float32s]:
        """Return the rows of the most similar training pictures, and their similarities, both (n, count), best first.

        queries: features (n, channels). Of fewer training pictures than `count` all are returned.
        """
        directions = unit_rows((queries - self._mean) / self._scale)
        rows = np.empty((len(queries), 0), np.int64)
        similarities = np.empty((len(queries), 0), np.float32)
        for start in range(0, len(self._features), ROWS_AT_ONCE):
            chunk = unit_rows((self._features[start : start + ROWS_AT_ONCE] - self._mean) / self._scale)
            numbers = np.broadcast_to(np.arange(start, start + len(chunk)), (len(queries), len(chunk)))
            similarities = np.hstack([similarities, directions @ chunk.T])
            rows = np.hstack([rows, numbers])
            best = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
            rows, similarities = np.take_along_axis(rows, best, axis=1), np.take_along_axis(similarities, best, axis=1)
        return rows, similarities
