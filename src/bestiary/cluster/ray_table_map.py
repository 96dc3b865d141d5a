"""Mapping of a function over the rows of a table by Ray Data: one result for each row, also after workers die."""

from __future__ import annotations

import io
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from bestiary.cluster.chunks import choose_chunk_rows
from bestiary.cluster.connection import Cluster, connect, describe_ray_error, import_ray
from bestiary.cluster.messages import start_actor
from bestiary.cluster.quiet import quiet_data
from bestiary.errors import MachineError
from bestiary.progress import Reporter
from bestiary.table_map import NODE, TableFunction

POSITION, ATTEMPTS = "_position", "_attempts"  # of a row in the table that is mapped; of a task that was given up
ROW_MULTIPLE = 32  # of the rows of a chunk, which a task of Ray computes
MAX_ATTEMPTS = 8  # of a task. Ray Data itself begins one again without end if its workers die: one picture may kill all

Bools = np.ndarray[Any, np.dtype[np.bool_]]


class RayTableMap:
    """A map over the rows of tables on a connected cluster, one task for each processor at a time."""

    def __init__(self, cluster: Cluster) -> None:
        """Use this cluster, which stays connected."""
        self.cluster = cluster
        self._attempts: Any = None

    def iter_mapped(
        self, function: TableFunction, rows: pl.DataFrame, *, whole_files: bool = False
    ) -> Iterator[pl.DataFrame]:
        """Yield the results as `TableMap.iter_mapped` does; rows whose worker died are computed again by another."""
        ray = import_ray()
        size = choose_chunk_rows(rows.height, self.cluster.cpus, ROW_MULTIPLE)
        tables = [
            table.to_arrow()
            for table in iter_table_chunks(rows.with_row_index(POSITION), size, whole_files=whole_files)
        ]
        if not tables:
            return
        self._attempts = self._attempts or start_actor(_AttemptCounter, max_restarts=-1, max_task_retries=-1)
        job = _Job(ray.put(function), self._attempts, MAX_ATTEMPTS)
        batches = _iter_remotely(tables, job) if ray.util.client.ray.is_connected() else _iter_results(tables, job)
        del tables
        is_open = np.ones(rows.height, bool)
        try:
            for batch in batches:
                if ATTEMPTS in batch.column_names:
                    raise _deadly_rows_error(rows["path"].gather(batch[POSITION].to_numpy()))
                yield _take_results(batch, is_open)
        except ray.exceptions.RayTaskError:  # a bug, with its traceback
            raise
        except ray.exceptions.RayError as error:
            raise _lost_rows_error(error, int(is_open.sum()), rows.height) from None
        if is_open.any():
            raise RuntimeError(f"Ray Data has lost {is_open.sum():,} of {rows.height:,} rows.")


@dataclass(frozen=True)
class _Job:
    """What each task of a mapping needs: references of the function and of an _AttemptCounter, the most attempts."""

    function: Any
    attempts: Any
    most_attempts: int


def _iter_results(tables: Sequence[Any], job: _Job) -> Iterator[Any]:
    """Yield the results of tables of Arrow, in any order, computed by Ray Data: a table is a task."""
    import ray.data

    dataset = ray.data.from_arrow(list(tables)).map_batches(
        _apply, batch_size=None, batch_format="pyarrow", fn_kwargs={"job": job}, num_cpus=1
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


def _iter_remotely(tables: Sequence[Any], job: _Job) -> Iterator[Any]:
    """Yield the results as `_iter_results` does, from a process of the cluster: Ray Data cannot work through ray://."""
    ray = import_ray()
    driver = ray.remote(num_cpus=0)(_Driver).remote(tables, job)
    while (batch := ray.get(driver.get_next.remote())) is not None:
        yield batch


class _Driver:
    """Iterates results; an actor of the cluster."""

    def __init__(self, tables: Sequence[Any], job: _Job) -> None:
        self._results = _iter_results(tables, job)

    def get_next(self) -> Any:
        """Return some results, None at the end."""
        with quiet_data():
            return next(self._results, None)


class _AttemptCounter:
    """Counts how often each task was begun; an actor of the cluster."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()

    def count_attempt(self, task: tuple[str, int]) -> int:
        """Return the number of this attempt, from 1."""
        self.counts[task] += 1
        return self.counts[task]


@contextmanager
def open_table_map(
    address: str | None, *, threads: int | None = None, reporter: Reporter | None = None
) -> Iterator[RayTableMap | None]:
    """Connect to the cluster at an address, and map by it for the length of a `with` block; None without an address.

    threads: processors that "local" may use. Raises as `connect` does.
    """
    if address is None:
        yield None
        return
    with connect(address, threads=threads, reporter=reporter) as cluster, quiet_data():
        yield RayTableMap(cluster)


def iter_table_chunks(rows: pl.DataFrame, size: int, *, whole_files: bool) -> Iterator[pl.DataFrame]:
    """Yield chunks of a table, of `size` rows; whole_files: of more where rows of one `path` follow one another."""
    if not whole_files:
        yield from rows.iter_slices(size)
        return
    is_new = rows.select((pl.col("path") != pl.col("path").shift()).fill_null(value=True)).to_series()
    starts = np.append(np.flatnonzero(is_new.to_numpy()), rows.height)
    start = 0
    while start < rows.height:
        end = int(starts[np.searchsorted(starts, min(start + size, rows.height))])
        yield rows[start:end]
        start = end


def _apply(batch: Any, job: _Job) -> Any:
    """Return the results of a table of Arrow, with their positions and the name of this node.

    A table whose workers have died too often has none: its positions come back with ATTEMPTS.
    """
    rows = pl.from_arrow(batch)
    assert isinstance(rows, pl.DataFrame)
    task = job.function.hex(), int(rows[POSITION][0])
    if (count := import_ray().get(job.attempts.count_attempt.remote(task))) > job.most_attempts:
        return rows.select(POSITION, pl.lit(count).alias(ATTEMPTS)).to_arrow()
    results = _load_function(job.function)(rows.drop(POSITION))
    return results.with_columns(rows[POSITION], pl.lit(platform.node()).alias(NODE)).to_arrow()


@lru_cache(maxsize=1)
def _load_function(reference: Any) -> TableFunction:
    """Return the function, once in a process: it may load a network for its work."""
    function: TableFunction = import_ray().get(reference)
    return function


def _take_results(batch: Any, is_open: Bools) -> pl.DataFrame:
    """Return the results of a table of Arrow that have not arrived yet, and note that they have.

    They are copied: what refers to Ray's shared memory cannot be freed there while a collection is worked on.
    """
    import pyarrow

    buffer = io.BytesIO()
    with pyarrow.ipc.new_stream(buffer, batch.schema) as writer:
        writer.write_table(batch)
    buffer.seek(0)
    results = pl.read_ipc_stream(buffer)
    positions = results[POSITION].to_numpy()
    is_first = is_open[positions]
    is_open[positions] = False
    return results.filter(pl.Series(is_first)).drop(POSITION)


def _deadly_rows_error(names: pl.Series) -> MachineError:
    return MachineError(
        f"{MAX_ATTEMPTS} workers of the cluster have died over the same {len(names):,} files, from {names[0]} to"
        f" {names[-1]}. One of them may need more memory than a node has, or crash its decoder: leave it out. What was"
        " computed is kept: the same command goes on."
    )


def _lost_rows_error(error: Exception, count: int, total: int) -> MachineError:
    reason = describe_ray_error(error)
    return MachineError(
        f"The cluster did not finish {count:,} of {total:,} rows: {reason}. What was computed is kept: the same command"
        " goes on."
    )
