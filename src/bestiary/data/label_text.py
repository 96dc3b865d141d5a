"""Labels as text: a number has one spelling, in whatever type of column it is stored."""

from __future__ import annotations

import re
from decimal import Decimal

import polars as pl

MAX_EXACT = 2**53  # whole floating-point numbers below are exact
ZERO_FRACTION = r"\.0+$"
_DECIMALS = re.compile(r"\s*[+-]?\d+\.\d+\s*")


def format_labels(labels: pl.Series) -> pl.Series:
    """Return labels as text: a number has the same label in whatever type of column it is stored.

    Whole numbers have no decimals: a column of whole numbers with a gap becomes floating-point, and a CSV of it has
    1.0 in every row. A CSV that has 1.0 and 1.00 keeps all its labels as they are: they are two, as 1.1 and 1.10 are.
    Truth values are true and false: a CSV has True or TRUE, depending on what wrote it. A date with the time 00:00:00
    is that date. NaN becomes null.
    """
    kind = labels.dtype
    if kind.is_float():
        numbers = labels.fill_nan(None)
        is_whole = (numbers.abs() < MAX_EXACT) & (numbers == numbers.round())
        whole = numbers.set(~is_whole.fill_null(False), 0.0).cast(pl.Int64).cast(pl.String)
        return whole.zip_with(is_whole.fill_null(False), numbers.cast(pl.String))
    if kind.is_decimal():
        return pl.Series(labels.name, [_format_decimal(value) for value in labels], pl.String)
    if isinstance(kind, pl.Datetime) and labels.dt.time().drop_nulls().cast(pl.Int64).sum() == 0:
        return labels.dt.date().cast(pl.String)
    texts = labels.cast(pl.String)
    if kind == pl.String and set(texts.unique().str.strip_chars().str.to_lowercase().drop_nulls()) <= {
        "true",
        "false",
        "",
    }:
        return texts.str.to_lowercase()
    if kind == pl.String and all(_DECIMALS.fullmatch(text) for text in texts.unique().drop_nulls() if text):
        stripped = texts.str.strip_chars()
        whole = stripped.str.replace(ZERO_FRACTION, "")
        return whole if whole.n_unique() == stripped.n_unique() else stripped
    return texts


def _format_decimal(value: Decimal | None) -> str | None:
    return None if value is None else f"{value.normalize() + 0:f}"
