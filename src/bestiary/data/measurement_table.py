"""The table of measurements: a column for each field of `ImageMeasurements`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

import polars as pl

from bestiary.data.measure import ImageMeasurements

_TYPES: dict[str, Any] = {"int": pl.Int64, "float": pl.Float64, "str": pl.String, "bool": pl.Boolean}
_TYPES["Packed"] = pl.Binary
KEY = ["path", "box"]  # of a measurement
MEASUREMENT_COLUMNS = {f.name: _TYPES[str(f.type).removesuffix(" | None")] for f in fields(ImageMeasurements)}


def make_table(measurements: Iterable[ImageMeasurements]) -> pl.DataFrame:
    """Return a row for each measurement."""
    return pl.DataFrame([asdict(row) for row in measurements], schema=MEASUREMENT_COLUMNS)
