"""Stand-ins for a cluster, and functions of tables that kill their worker: workers of Ray import this module."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bestiary.cluster.ray_table_map import RayTableMap
from bestiary.context import Context
from bestiary.data.measurement_table import KEY
from bestiary.data.scan import measure_files
from bestiary.picture import LIMITS
from bestiary.table_map import NODE, TableFunction

BOXES = ["", "0.1,0.1,0.4,0.4,fraction", "0.5,0.5,0.4,0.4,fraction", "0.9,0.9,3.0,3.0,fraction"]


@dataclass
class LocalMap:
    """A table map in this process, of a node called n1; `see` changes the rows that it sees, `answer` its results."""

    see: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows
    answer: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows
    seen: list[pl.DataFrame] = field(default_factory=list)

    def iter_mapped(
        self, function: TableFunction, rows: pl.DataFrame, *, whole_files: bool = False
    ) -> Iterator[pl.DataFrame]:
        self.seen.append(rows)
        yield self.answer(function(self.see(rows))).with_columns(pl.lit("n1").alias(NODE))


@dataclass(frozen=True)
class KillOnce:
    """A function whose worker dies over a file, as when it is out of memory: once, or each time without a marker."""

    function: TableFunction
    path: str
    marker: Path | None

    def __call__(self, rows: pl.DataFrame, /) -> pl.DataFrame:
        if self.path in rows["path"].to_list() and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.function(rows)


@dataclass(frozen=True)
class SlowDown:
    """A function that takes its time, and notes in a folder the nodes that run it."""

    function: TableFunction
    folder: Path

    def __call__(self, rows: pl.DataFrame, /) -> pl.DataFrame:
        import ray

        (self.folder / ray.get_runtime_context().get_node_id()).touch()
        time.sleep(0.5)
        return self.function(rows)


def wrap_functions(patch: pytest.MonkeyPatch, wrap: Callable[[TableFunction], TableFunction]) -> list[int]:
    """Let every RayTableMap map a wrapped function; the list that comes back gets the number of rows of each result."""
    original, counts = RayTableMap.iter_mapped, list[int]()

    def iter_wrapped(
        self: RayTableMap, function: TableFunction, rows: pl.DataFrame, *, whole_files: bool = False
    ) -> Iterator[pl.DataFrame]:
        for results in original(self, wrap(function), rows, whole_files=whole_files):
            counts.append(results.height)
            yield results

    patch.setattr(RayTableMap, "iter_mapped", iter_wrapped)
    return counts


def files_of(folder: Path, *, with_boxes: bool = False) -> pl.DataFrame:
    paths = sorted(str(path) for path in folder.glob("*/*") if path.is_file())
    rows = [(path, box) for path in paths for box in (BOXES if with_boxes and path == paths[40] else [""])]
    return pl.DataFrame(rows, schema=KEY, orient="row")


def measured(files: pl.DataFrame, cluster: Any = None, memory: Path | None = None) -> pl.DataFrame:
    return measure_files(files, memory, LIMITS, Context(threads=1, cache=None, cluster=cluster)).sort(KEY)
