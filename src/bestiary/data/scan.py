"""From a listing to the picture table: every file measured once, in parallel, and remembered."""

from __future__ import annotations

import hashlib
import io
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.data.measure import ImageMeasurements, measure_file
from bestiary.data.sources import PictureList, UnreadableFile
from bestiary.errors import MachineError
from bestiary.files import atomic_path
from bestiary.picture import DecodeLimits
from bestiary.progress import Reporter

MEASUREMENT_VERSION = 3
DIGEST_BYTES = 32
FILES_AT_ONCE = 32
ROWS_AT_ONCE, GROUP_ROWS = 512, 8_192  # of a table; of what is compressed at once
KEEP_EVERY_SECONDS = 30.0  # a process that is killed loses no more measurements than this
_TYPES: dict[str, Any] = {
    "int": pl.Int64,
    "float": pl.Float64,
    "str": pl.String,
    "bool": pl.Boolean,
    "Packed": pl.Binary,
}
MEASUREMENT_COLUMNS = {f.name: _TYPES[str(f.type).removesuffix(" | None")] for f in fields(ImageMeasurements)}


def scan_pictures(
    listing: PictureList, limits: DecodeLimits, *, threads: int, cache: Path | None, reporter: Reporter
) -> pl.DataFrame:
    """Return one row per listed file, sorted by path: `row_id, label, given_split` and the columns of `ImageMeasurements`.

    Files are measured by `threads` worker processes. Measurements are kept in the `cache` folder and used again for
    files whose path, size and time of change are the same. A file that cannot be used is a row with `error`; those
    that could not even be listed come last.
    """
    listed = pl.DataFrame(
        [
            *((str(picture.path.absolute()), picture.label, picture.split) for picture in listing.pictures),
            *((one.path, one.label, None) for one in listing.unusable),
        ],
        schema={"path": pl.String, "label": pl.String, "given_split": pl.String},
        orient="row",
    ).with_row_index("row_id")
    memory = None if cache is None else cache / "inspections" / f"{_memory_key(listed, limits)}.measured"
    remembered = _load_cached(memory)
    lost = pl.DataFrame([asdict(_unreadable_measurements(one)) for one in listing.unusable], schema=MEASUREMENT_COLUMNS)
    known = pl.concat([_drop_stale(remembered, listed["path"].unique()), lost.unique("path")])
    missing = listed["path"].unique(maintain_order=True).filter(~_is_measured(listed["path"], known)).to_list()
    others = remembered.filter(~pl.col("path").is_in(listed["path"].implode()))
    found, kept = pl.DataFrame(schema=MEASUREMENT_COLUMNS), time.monotonic()
    for part in _iter_tables(_measure_all(missing, limits, threads, reporter)):
        found = pl.concat([found, part])
        if memory is not None and (found.height == len(missing) or time.monotonic() - kept > KEEP_EVERY_SECONDS):
            _save_cached(pl.concat([others, known, found]), memory)
            kept = time.monotonic()
    return listed.join(pl.concat([known, found]), on="path", how="left", maintain_order="left")


def _unreadable_measurements(file: UnreadableFile) -> ImageMeasurements:
    return ImageMeasurements(file.path, check="unreadable", error=f"{file.path} cannot be used. {file.reason}")


def _is_measured(paths: pl.Series, measurements: pl.DataFrame) -> pl.Series:
    return paths.unique(maintain_order=True).is_in(measurements["path"].implode())


def _memory_key(listed: pl.DataFrame, limits: DecodeLimits) -> str:
    folder = str(Path(listed["path"][0]).parent.parent)
    return hashlib.sha256(f"{MEASUREMENT_VERSION} {limits} {folder}".encode()).hexdigest()[:20]


def _load_cached(memory: Path | None) -> pl.DataFrame:
    nothing = pl.DataFrame(schema=MEASUREMENT_COLUMNS)
    if memory is None:
        return nothing
    try:
        with memory.open("rb") as file:
            digest, content = file.read(DIGEST_BYTES), file.read()
        if hashlib.sha256(content).digest() != digest:
            return nothing
        return pl.read_parquet(content).select(list(MEASUREMENT_COLUMNS))
    except (OSError, pl.exceptions.PolarsError):  # a damaged memory is only a memory: everything is measured again
        return nothing


def _save_cached(measurements: pl.DataFrame, memory: Path) -> None:
    """Keep measurements as parquet after its SHA-256: of 150 scrambled parquet files, 59 were read as if whole."""
    measurements.write_parquet(buffer := io.BytesIO(), row_group_size=GROUP_ROWS)
    try:
        with atomic_path(memory) as temporary, temporary.open("wb") as file, buffer.getbuffer() as content:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
    except MachineError as error:
        raise MachineError(
            f"{error} This is the cache of what was measured; BESTIARY_CACHE may name a folder on another disk."
        ) from error


def _drop_stale(measurements: pl.DataFrame, paths: pl.Series) -> pl.DataFrame:
    measurements = measurements.filter(pl.col("path").is_in(paths.implode()) & pl.col("error").is_null())
    return measurements.filter(
        pl.Series([_unchanged(row) for row in measurements.iter_rows(named=True)], dtype=pl.Boolean)
    )


def _iter_tables(measurements: Iterable[ImageMeasurements]) -> Iterator[pl.DataFrame]:
    """Yield the measurements as tables of some hundred rows: objects take ten times the memory."""
    files = iter(measurements)
    while part := [asdict(one) for one in itertools.islice(files, ROWS_AT_ONCE)]:
        yield pl.DataFrame(part, schema=MEASUREMENT_COLUMNS)


def _unchanged(row: dict[str, Any]) -> bool:
    try:
        stat = Path(row["path"]).stat()
    except OSError:
        return False
    return bool(stat.st_size == row["bytes"] and stat.st_mtime_ns == row["mtime_ns"])


def _measure_all(
    paths: Sequence[str], limits: DecodeLimits, threads: int, reporter: Reporter
) -> Iterator[ImageMeasurements]:
    if not paths:
        return
    from joblib import Parallel, delayed

    workers = 1 if len(paths) < 2 * FILES_AT_ONCE else threads
    parallel = Parallel(n_jobs=workers, return_as="generator", batch_size=FILES_AT_ONCE, pre_dispatch="4*n_jobs")
    with reporter.progress("Reading pictures", len(paths)) as advance:
        for found in parallel(delayed(measure_file)(Path(path), limits) for path in paths):
            advance(1)
            yield found
