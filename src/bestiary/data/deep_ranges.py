"""Range of deep samples in a collection: all its pictures of more than 8 bits are scaled from the same values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Floats
from bestiary.context import Context
from bestiary.data.scan import KEY, MEASUREMENT_COLUMNS, cache_path, measure_files
from bestiary.decode_rules import FIRST_VERSION, DecodeRules, SampleRange
from bestiary.depth import choose_range, find_usual_range
from bestiary.picture import DecodeLimits

OUTLIERS = 0.01  # fraction of the pictures at either end whose extremes do not count, rounded down
STEPS = 16  # a range is rounded outwards by less than this part of it, so that few other pictures change nothing


@dataclass(frozen=True)
class CollectionRange:
    """The samples of one type in a collection: how many pictures, between which values, scaled from which range."""

    sample_type: str
    pictures: int
    low: float
    high: float
    ends: SampleRange


def collection_rules(pictures: pl.DataFrame) -> DecodeRules:
    """Return the rules of decoding for a model that is trained on these rows of the picture table.

    A table without the columns of `table.DEPTH` is of a run that began with the first version of decoding.
    """
    if not set(table.DEPTH) <= set(pictures.columns):
        return DecodeRules(FIRST_VERSION)
    ranges = iter_collection_ranges(pictures)
    return DecodeRules(deep_ranges=tuple((line.sample_type, *line.ends) for line in ranges))


def iter_collection_ranges(pictures: pl.DataFrame) -> Iterator[CollectionRange]:
    """Yield the range of each sample type, of the readable pictures whose files do not name one, ordered by type."""
    deep = pictures.filter(pl.col("deep_low").is_not_null() & pl.col("error").is_null())
    for (sample_type,), rows in deep.sort("sample_type").group_by("sample_type", maintain_order=True):
        low = float(np.quantile(_values(rows["deep_low"]), OUTLIERS, method="lower"))
        high = float(np.quantile(_values(rows["deep_high"]), 1 - OUTLIERS, method="higher"))
        yield CollectionRange(str(sample_type), rows.height, low, high, _choose_rounded(low, high, str(sample_type)))


def measure_in_collection_range(pictures: pl.DataFrame, limits: DecodeLimits, context: Context) -> pl.DataFrame:
    """Return the scanned pictures, deep ones measured as a model sees them: scaled from the range of the collection.

    They were scanned one by one, each scaled from its own range; a dark one among bright ones did not look dark. The
    second measurements are cached as those of the scan are, apart for each set of ranges.
    """
    rules = collection_rules(pictures)
    paths = [
        path
        for path, low, high, sample_type in _iter_deep(pictures)
        if choose_range(low, high, sample_type) != rules.find_range(sample_type)
    ]
    if not paths:
        return pictures
    columns = [name for name in pictures.columns if name in MEASUREMENT_COLUMNS]
    files = pictures.filter(pl.col("path").is_in(paths)).select(*KEY, "sha256").unique(KEY, maintain_order=True)
    memory = cache_path(pictures, limits, context, rules)
    title = "Reading pictures of more than 8 bits in one range"
    measured = measure_files(files, memory, limits, context, rules=rules, title=title).select(columns)
    is_measured = pl.col("path").is_in(measured["path"].implode())
    listed = pictures.filter(is_measured).select(*KEY, *(name for name in pictures.columns if name not in columns))
    again = listed.join(measured, on=KEY, how="left", maintain_order="left").select(pictures.columns)
    return pl.concat([pictures.filter(~is_measured), again]).sort("row_id")


def _iter_deep(pictures: pl.DataFrame) -> Iterator[tuple[str, float, float, str]]:
    """Yield path, extremes and type of the samples of the readable pictures whose files do not name their range."""
    deep = pictures.filter(pl.col("deep_low").is_not_null() & pl.col("error").is_null())
    yield from deep.select("path", "deep_low", "deep_high", "sample_type").iter_rows()


def _values(column: pl.Series) -> Floats:
    values: Floats = column.to_numpy()
    return values


def _choose_rounded(low: float, high: float, sample_type: str) -> SampleRange:
    """Return the range to scale from: a usual one as it is, that of the values themselves rounded outwards."""
    ends = choose_range(low, high, sample_type)
    if find_usual_range(low, high, sample_type) is not None or high <= low:
        return ends
    step = 2.0 ** math.floor(math.log2((high - low) / STEPS))
    return math.floor(low / step) * step, math.ceil(high / step) * step
