"""Scans listed pictures into the picture table: every file is measured once, in parallel, and cached."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from bestiary.context import Context
from bestiary.data.measure import INODE_MASK, ImageMeasurements, measure_boxes, measure_file
from bestiary.data.measure_on_cluster import iter_measured_tables
from bestiary.data.measurement_table import KEY, MEASUREMENT_COLUMNS, make_table
from bestiary.data.sources import PictureList
from bestiary.decode_rules import RULES, DecodeRules
from bestiary.errors import MachineError, UserError
from bestiary.files import atomic_path
from bestiary.picture import DecodeLimits
from bestiary.preprocess import find_forgotten, remove_forgotten_marks

MEASUREMENT_VERSION = 6
DIGEST_BYTES = 32
FILES_AT_ONCE = 32
ROWS_AT_ONCE, GROUP_ROWS = 512, 8_192  # rows per table in memory; rows compressed together on disk
# A killed process loses no more measurements than these seconds, or than ten times what writing all of them takes: a
# million are a gigabyte, and written every 30 seconds they would take longer than measuring.
SAVE_EVERY_SECONDS, SAVE_EVERY_SAVES = 30.0, 10
LISTED_COLUMNS = ("path", "box", "label", "given_split", "given_group", "site", "time")


def scan_pictures(listing: PictureList, limits: DecodeLimits, context: Context) -> pl.DataFrame:
    """Return one row per listed file, sorted by path: `row_id`, LISTED_COLUMNS, those of `ImageMeasurements`.

    Files are measured by worker processes, or on the cluster of the context. Measurements are kept in `context.cache`
    and reused for files whose path, size, inode and times of modification and of change of status are as before: of two
    files that were swapped, or a copy with the old time put in place of a file, nothing is reused; nor of a file that
    failed `VerifiedFile`. An unusable file is a row with `error`; files that could not be listed come last.
    """
    listed = _listed_files(listing)
    unlisted = [
        asdict(ImageMeasurements(file.path, check="unreadable", error=f"{file.path} cannot be used. {file.reason}"))
        for file in listing.unusable
    ]
    unreadable = pl.DataFrame(unlisted, schema=MEASUREMENT_COLUMNS).unique("path")
    files = (
        listed.select(KEY).unique(maintain_order=True).join(unreadable, on="path", how="anti", maintain_order="left")
    )
    measured = measure_files(files, cache_path(listed, limits, context), limits, context, is_stage=True)
    return listed.join(pl.concat([measured, unreadable]), on=KEY, how="left", maintain_order="left")


def unmeasured_paths(listing: PictureList, limits: DecodeLimits, context: Context) -> list[Path]:
    """Return the files that the cache of measurements lacks; whether the others have changed is not looked at."""
    listed = _listed_files(listing).head(len(listing.pictures))
    cached = _load_cached(cache_path(listed, limits, context)).select(KEY)
    return [
        Path(path)
        for path in listed.join(cached, on=KEY, how="anti", maintain_order="left")["path"].unique(maintain_order=True)
    ]


def _listed_files(listing: PictureList) -> pl.DataFrame:
    """Return the table of listed files, some hundred rows at a time: as tuples, a million take a gigabyte."""
    rows = itertools.chain(
        (
            (str(p.path.absolute()), str(p.box or ""), p.label, p.split, p.group, p.site, p.time)
            for p in listing.pictures
        ),
        ((file.path, "", file.label, None, None, None, None) for file in listing.unusable),
    )
    schema = dict.fromkeys(LISTED_COLUMNS, pl.String)
    tables = [pl.DataFrame(schema=schema)]
    while chunk := list(itertools.islice(rows, GROUP_ROWS)):
        tables.append(pl.DataFrame(chunk, schema=schema, orient="row"))
    return pl.concat(tables, rechunk=True).with_row_index("row_id")


def measure_files(
    files: pl.DataFrame,
    memory: Path | None,
    limits: DecodeLimits,
    context: Context,
    *,
    rules: DecodeRules = RULES,
    title: str = "Reading pictures",
    is_stage: bool = False,
) -> pl.DataFrame:
    """Return the measurements of files, columns of `ImageMeasurements`, in any order; `title` names the progress.

    is_stage: whether a line says so if there is nothing to measure; a stage without one would seem to be left out.
    files: columns `path` and `box`, each pair once; if there is a `sha256` too, only a file with that content is taken
    from the cache. memory: file of the cache, which keeps the measurements of further files; None: nothing is cached.
    """
    forgotten = find_forgotten(files["path"].to_list())
    cached = _load_cached(memory)
    cached = cached.filter(~pl.col("path").is_in(forgotten))
    measured = _drop_stale(cached.join(files, on=files.columns, how="semi", maintain_order="left"))
    missing = files.join(measured, on=KEY, how="anti", maintain_order="left").select(KEY)
    unrelated = cached.join(files, on=KEY, how="anti", maintain_order="left")
    if measured.height:
        title = f"{title} that are new or changed"
    if is_stage and not missing.height:
        with context.reporter.progress(title, 0):
            pass
    new, count, next_save = [pl.DataFrame(schema=MEASUREMENT_COLUMNS)], 0, time.monotonic() + SAVE_EVERY_SECONDS
    if context.cluster is None:
        tables = _iter_tables(_measure_all(missing, limits, context, rules, title))
    else:
        tables = iter_measured_tables(missing, context.cluster, limits, rules, context.reporter, title)
    try:
        for measurements in tables:
            new.append(measurements)
            count += measurements.height
            if memory is not None and (count == missing.height or time.monotonic() > next_save):
                started = time.monotonic()
                _save_cached(pl.concat([unrelated, measured, *new]), memory)
                saved = time.monotonic()
                next_save = saved + max(SAVE_EVERY_SECONDS, SAVE_EVERY_SAVES * (saved - started))
    except (UserError, KeyboardInterrupt):  # their messages say that what was measured is cached
        if memory is not None and count:
            with contextlib.suppress(MachineError):  # a full disk is the error already
                _save_cached(pl.concat([unrelated, measured, *new]), memory)
        raise
    if memory is not None:
        remove_forgotten_marks(forgotten)
    return pl.concat([measured, *new])


def cache_path(listed: pl.DataFrame, limits: DecodeLimits, context: Context, rules: DecodeRules = RULES) -> Path | None:
    """Return the file that caches the measurements of a dataset by these rules, or None without a cache."""
    suffix = "" if rules == RULES else f"-{rules.cache_name}"
    return context.cache and context.cache / "inspections" / f"{_memory_key(listed, limits)}{suffix}.measured"


def _memory_key(listed: pl.DataFrame, limits: DecodeLimits) -> str:
    """Return the cache key of a dataset. The text says `Limits`, a former name, so that existing caches stay valid."""
    text = f"Limits(max_bytes={limits.max_bytes}, max_pixels={limits.max_pixels})"
    folder = Path(listed["path"][0]).parent.parent
    return hashlib.sha256(f"{MEASUREMENT_VERSION} {text} {folder}".encode()).hexdigest()[:20]


def _load_cached(memory: Path | None) -> pl.DataFrame:
    """Return the cached measurements; none if the cache is missing or damaged, so that all files are measured again."""
    if memory is not None:
        with contextlib.suppress(OSError, pl.exceptions.PolarsError), memory.open("rb") as file:
            digest, content = file.read(DIGEST_BYTES), file.read()
            if hashlib.sha256(content).digest() == digest:
                return pl.read_parquet(content).select(list(MEASUREMENT_COLUMNS))
    return pl.DataFrame(schema=MEASUREMENT_COLUMNS)


def _save_cached(measurements: pl.DataFrame, memory: Path) -> None:
    """Write measurements as parquet after its SHA-256: polars read 59 of 150 scrambled parquet files without error."""
    try:
        with atomic_path(memory) as temporary, temporary.open("w+b") as file:
            file.write(bytes(DIGEST_BYTES))
            _write_parquet(measurements, file)  # not in memory: of a million pictures it is a gigabyte
            file.seek(DIGEST_BYTES)
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            file.write(digest)
    except MachineError as error:
        raise MachineError(
            f"{error} This is the cache of measurements; set BESTIARY_CACHE to a folder on another disk."
        ) from error


def _write_parquet(measurements: pl.DataFrame, file: BinaryIO) -> None:
    """Write parquet at the position of an open file; raises OSError, as for a full disk."""
    try:
        measurements.write_parquet(file, row_group_size=GROUP_ROWS)
    except pl.exceptions.ComputeError as error:
        raise OSError(str(error)) from error


def _drop_stale(measurements: pl.DataFrame) -> pl.DataFrame:
    """Return the measurements without errors whose files have not changed since."""
    measurements = measurements.filter(pl.col("error").is_null())
    is_current = [_is_current(row) for row in measurements.iter_rows(named=True)]
    return measurements.filter(pl.Series(is_current, dtype=pl.Boolean))


def _is_current(row: dict[str, Any]) -> bool:
    try:
        stat = Path(row["path"]).stat()
    except OSError:
        return False
    identity = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino & INODE_MASK
    return identity == (row["bytes"], row["mtime_ns"], row["ctime_ns"], row["inode"])


def _iter_tables(measurements: Iterable[ImageMeasurements]) -> Iterator[pl.DataFrame]:
    """Yield the measurements as tables of some hundred rows: objects take ten times the memory."""
    files = iter(measurements)
    while rows := list(itertools.islice(files, ROWS_AT_ONCE)):
        yield make_table(rows)


def _measure_all(
    files: pl.DataFrame, limits: DecodeLimits, context: Context, rules: DecodeRules, title: str
) -> Iterator[ImageMeasurements]:
    """Yield the measurement of each path and box; each file is decoded once for all its boxes."""
    if not files.height:
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    by_path = files.group_by("path", maintain_order=True).agg("box").rows()
    workers = 1 if len(by_path) < 2 * FILES_AT_ONCE else context.threads
    parallel = Parallel(n_jobs=workers, return_as="generator", batch_size=FILES_AT_ONCE, pre_dispatch="4*n_jobs")
    with context.reporter.progress(title, files.height) as advance:
        calls = (
            delayed(measure_file)(Path(path), limits, rules)
            if boxes == [""]
            else delayed(measure_boxes)(Path(path), boxes, limits, rules)
            for path, boxes in by_path
        )
        for result in parallel(calls):
            measured = result if isinstance(result, list) else [result]
            advance(len(measured))
            yield from measured
    if workers > 1:  # they would wait five minutes for more work, with some 45 MB each
        get_reusable_executor(reuse=True).shutdown(wait=False)
