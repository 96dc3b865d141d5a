"""The parquet file of `bestiary embed`: features, nearest training pictures, and a two-dimensional map."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary.array_types import Float32s
from bestiary.context import Context
from bestiary.errors import InputError, MachineError, SourceError
from bestiary.files import atomic_path
from bestiary.inference.embedder import ROWS_AT_ONCE, EmbeddedRows, Embedder, TrainingIndex
from bestiary.preprocess import Source
from bestiary.text import printable

MAP_SAMPLE = 4_096  # pictures that the map is fitted on, evenly spaced: memory stays the same for any number
NEAREST = pl.List(pl.Struct({"path": pl.String, "label": pl.String, "similarity": pl.Float32}))


@dataclass(frozen=True)
class EmbeddingOptions:
    """What to add to the features: the number of nearest training pictures, and a map."""

    nearest: int = 0
    with_map: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for a negative number."""
        if self.nearest < 0:
            raise InputError(f"The number of nearest training pictures is {self.nearest}; expected 0 or more.")


@dataclass(frozen=True)
class EmbeddingCounts:
    """The number of pictures, of those that could not be read, and of channels; the variance that the map explains."""

    pictures: int
    unreadable: int
    channels: int
    explained_variance: float | None


def write_embeddings(
    run: Path, sources: Iterable[Source | str], out: Path, options: EmbeddingOptions, context: Context
) -> EmbeddingCounts:
    """Write the features of pictures by a run's network into a parquet file, in constant memory.

    Columns: `path`, `error`, `features` (float32, fixed length); with `nearest` a list of `path`, `label`,
    `similarity`; with a map `x` and `y` (float32). Raises RunError as `Embedder` does, SourceError if no picture can be
    read, MachineError if the file cannot be written.
    """
    embedder = Embedder(run, context)
    index = embedder.training_index() if options.nearest else None
    total = len(sources) if isinstance(sources, Sequence) else None
    with _parts_folder(out) as folder:
        pictures, unreadable, parts = 0, 0, list[Path]()
        with context.reporter.progress("Computing features", total) as advance:
            for rows in embedder.iter_rows(sources):
                parts.append(folder / f"{len(parts):09}.parquet")
                _make_frame(rows, index, options.nearest).write_parquet(parts[-1])
                pictures, unreadable = pictures + len(rows.paths), unreadable + sum(map(bool, rows.errors))
                advance(len(rows.paths))
        if pictures == unreadable:
            raise SourceError(f"None of the {pictures:,} pictures could be read.{_first_error(parts)}")
        explained = _add_map(parts, pictures - unreadable) if options.with_map else None
        with atomic_path(out) as temporary:
            # By default polars reads the parts ahead: 1 GB for 64 of them; so it takes 0.1 GB for any number.
            table = pl.scan_parquet(parts, glob=False, parallel="none", low_memory=True)
            table.sink_parquet(temporary, row_group_size=ROWS_AT_ONCE, maintain_order=True)
    return EmbeddingCounts(pictures, unreadable, embedder.channels, explained)


def _make_frame(rows: EmbeddedRows, index: TrainingIndex | None, nearest: int) -> pl.DataFrame:
    paths = [None if path is None else printable(path) for path in rows.paths]
    frame = pl.DataFrame({"path": paths, "error": rows.errors}, schema={"path": pl.String, "error": pl.String})
    features = pl.Series("features", rows.features, dtype=pl.Array(pl.Float32, rows.features.shape[1]))
    is_read = pl.col("error").is_null()
    frame = frame.with_columns(features).with_columns(features=pl.when(is_read).then("features"))
    if index is None:
        return frame
    listed = pl.Series("nearest", _list_nearest(rows, index, nearest), dtype=NEAREST)
    return frame.with_columns(listed).with_columns(nearest=pl.when(is_read).then("nearest"))


def _list_nearest(rows: EmbeddedRows, index: TrainingIndex, nearest: int) -> list[list[dict[str, Any]]]:
    numbers, similarities = index.find_nearest(rows.features, nearest)
    paths, labels = index.pictures["path"].to_list(), index.pictures["label"].to_list()
    return [
        [
            {"path": paths[number], "label": labels[number], "similarity": float(similarity)}
            for number, similarity in zip(*pair, strict=True)
        ]
        for pair in zip(numbers.tolist(), similarities.tolist(), strict=True)
    ]


def _add_map(parts: Sequence[Path], readable: int) -> float:
    """Add `x` and `y` to the parts, the first two principal components; return the variance that they explain."""
    from sklearn.decomposition import PCA

    if readable < 2:
        raise SourceError("A map needs two readable pictures or more; there is one.")
    every = -(-readable // MAP_SAMPLE)
    components = PCA(2, svd_solver="covariance_eigh").fit(np.concatenate(list(_iter_sample(parts, every))))
    for part in parts:
        frame = pl.read_parquet(part, glob=False, memory_map=False)
        is_read = frame["error"].is_null()
        places = np.full((frame.height, 2), np.nan)
        if is_read.any():
            places[is_read.to_numpy()] = components.transform(_features(frame.filter(is_read)))
        columns = {name: pl.Series(places[:, axis], dtype=pl.Float32) for axis, name in enumerate("xy")}
        frame.with_columns(**columns).with_columns(pl.col("x", "y").fill_nan(None)).write_parquet(part)
    return float(components.explained_variance_ratio_.sum())


def _iter_sample(parts: Iterable[Path], every: int) -> Iterator[Float32s]:
    """Yield the features of each `every`-th readable picture, float32 (n, channels)."""
    before = 0
    for part in parts:
        rows = _features(pl.read_parquet(part, glob=False, memory_map=False).drop_nulls("features"))
        yield rows[-before % every :: every]
        before += len(rows)


def _features(frame: pl.DataFrame) -> Float32s:
    return np.asarray(frame["features"].to_numpy(), np.float32)


def _first_error(parts: Sequence[Path]) -> str:
    return f" The first: {pl.read_parquet(parts[0], glob=False, n_rows=1)['error'][0]}" if parts else ""


@contextlib.contextmanager
def _parts_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside the file; a full disk, or a folder that cannot be written, is a MachineError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:20]}.", dir=out.parent) as name:
            yield Path(name)
    except OSError as error:
        raise MachineError(f"Cannot write {out}: {error.strerror or error}.") from error
    except pl.exceptions.ComputeError as error:
        if "os error" not in str(error):
            raise
        raise MachineError(f"Cannot write {out}: {error}.") from error
