"""Times of pictures, as tables write them, in ISO 8601."""

from __future__ import annotations

import polars as pl

TIME = r"^(\d{4})[-:/.](\d{2})[-:/.](\d{2})(?:[T ]+(\d{2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?)?\s*(Z|[+-]\d{2}:?\d{2})?$"


def parse_times(texts: pl.Series, column: str) -> tuple[pl.Series, list[str]]:
    """Return times as ISO 8601, null where they are not understood, and a note about those."""
    parts = texts.str.strip_chars()
    clock = parts.str.replace(TIME, "${1}-${2}-${3}T${4}:${5}:${6}${7}")
    clock = clock.str.replace("T::", "T00:00:").str.replace(r":(Z|[+-]\d{2}:?\d{2})?$", ":00${1}")
    plain = clock.str.slice(0, 19).str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False)
    times = clock.set(plain.is_null(), None).alias("time")
    failed = texts.filter(times.is_null() & texts.is_not_null())
    if not failed.len():
        return times, []
    return times, [
        f'{failed.len():,} times of the column "{column}" are not understood and not used, for example "{failed[0]}".'
        " Expected 2026-07-31 12:30:00, or 2026:07:31 12:30:00 as cameras write it."
    ]
