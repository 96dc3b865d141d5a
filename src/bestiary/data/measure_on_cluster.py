"""Measures pictures on the nodes of a cluster, which read them at the same paths as this computer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import polars as pl

from bestiary.data.measure import measure_boxes
from bestiary.data.measurement_table import KEY, MEASUREMENT_COLUMNS, make_table
from bestiary.decode_rules import DecodeRules
from bestiary.picture import DecodeLimits
from bestiary.progress import Reporter
from bestiary.table_map import NODE, TableMap, unshared_file_error


@dataclass(frozen=True)
class MeasureFiles:
    """Measures the files of a table with the columns `path` and `box`: what a worker on a node runs."""

    limits: DecodeLimits
    rules: DecodeRules

    def __call__(self, files: pl.DataFrame, /) -> pl.DataFrame:
        """Return the measurements of the rows; a file is decoded once for boxes that follow one another."""
        by_path = itertools.groupby(files.select(KEY).rows(), itemgetter(0))
        measured = (
            measure_boxes(Path(path), [box for _, box in rows], self.limits, self.rules) for path, rows in by_path
        )
        return make_table(itertools.chain.from_iterable(measured))


def iter_measured_tables(
    files: pl.DataFrame, cluster: TableMap, limits: DecodeLimits, rules: DecodeRules, reporter: Reporter, title: str
) -> Iterator[pl.DataFrame]:
    """Yield the measurements of the files, columns `path` and `box`, as tables of some rows, in any order.

    Raises MachineError if a node cannot read a file that this computer can.
    """
    if not files.height:
        return
    measure = MeasureFiles(limits, rules)
    together = files.select(KEY).group_by("path", maintain_order=True).agg("box").explode("box", empty_as_null=False)
    with reporter.progress(title, files.height) as advance:
        for rows in cluster.iter_mapped(measure, together, whole_files=True):
            advance(rows.height)
            yield _measure_unread(rows, measure)


def _measure_unread(rows: pl.DataFrame, measure: MeasureFiles) -> pl.DataFrame:
    """Return the measurements, those of files that were not read measured by this computer."""
    measured, is_unread = rows.select(list(MEASUREMENT_COLUMNS)), rows["file_sha256"] == ""
    if not is_unread.any():
        return measured
    unread = rows.filter(is_unread)
    again = measure(unread)
    for (path, error, node), digest in zip(
        unread.select("path", "error", NODE).iter_rows(), again["file_sha256"], strict=True
    ):
        if digest:
            raise unshared_file_error(node, path, error)
    return pl.concat([measured.filter(~is_unread), again])
