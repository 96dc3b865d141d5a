"""Range of deep samples in a collection: all its pictures of more than 8 bits are scaled from the same values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Floats
from bestiary.decode_rules import FIRST_VERSION, DecodeRules, SampleRange
from bestiary.depth import choose_range

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
        ends = _round_outwards(choose_range(low, high, str(sample_type)), low, high)
        yield CollectionRange(str(sample_type), rows.height, low, high, ends)


def _values(column: pl.Series) -> Floats:
    values: Floats = column.to_numpy()
    return values


def _round_outwards(ends: SampleRange, low: float, high: float) -> SampleRange:
    """Return the range with rounded ends if it is that of the values themselves, not a usual one."""
    if ends != (low, high):
        return ends
    step = 2.0 ** math.floor(math.log2((high - low) / STEPS))
    return math.floor(low / step) * step, math.ceil(high / step) * step
