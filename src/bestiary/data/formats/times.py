"""Times of pictures as ISO 8601 text, and as instants where they are compared."""

from __future__ import annotations

import polars as pl

_ISO = r"^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2})(:\d{2})?(\.\d+)?\s*(Z|z|[+-]\d{2}:?\d{2})?$"
_ISO_DATE = r"^\d{4}-\d{2}-\d{2}$"
_OFFSET = r"(?:T.*)(Z|[+-]\d{2}:\d{2})$"
# As spreadsheets write them: month first, as in exports of Wildlife Insights and as dateutil reads them.
_SLASHES = (
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%y %H:%M:%S",
    "%m/%d/%y %H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
)
# Those of EXIF, of spreadsheets, and of Timelapse.
_UNAMBIGUOUS = ("%Y:%m:%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%d-%b-%Y %H:%M:%S")
_WRITTEN = "%Y-%m-%dT%H:%M:%S"


def format_times(texts: pl.Series) -> tuple[pl.Series, list[str]]:
    """Return times as ISO 8601 with the offset that they have, null where they cannot be read, and notes about that.

    A date without a time stays a date. Without a time zone, none is added.
    """
    frame = pl.DataFrame({"text": texts.str.strip_chars()}).with_columns(
        pl.when(pl.col("text") != "").then("text").alias("text")
    )
    # Without the guards, %Y reads "5/5/19" as the year 5 or 19.
    slashes = pl.coalesce(*[_after_1900(pl.col("text").str.to_datetime(form, strict=False)) for form in _SLASHES])
    written = pl.coalesce(*[_after_1900(pl.col("text").str.to_datetime(form, strict=False)) for form in _UNAMBIGUOUS])
    frame = frame.with_columns(
        iso=_iso_text(),
        unambiguous=written.dt.strftime(_WRITTEN),
        slashes=slashes.dt.strftime(_WRITTEN),
    ).with_columns(time=pl.coalesce("iso", "unambiguous", "slashes"))
    notes = []
    month_first = frame.filter(pl.col("time") == pl.col("slashes"))
    if month_first.height:
        notes.append(
            f"{month_first.height:,} times were read with the month first: {month_first['text'][0]} as"
            f" {month_first['time'][0]}."
        )
    unread = frame.filter(pl.col("time").is_null() & pl.col("text").is_not_null())
    if unread.height:
        notes.append(f'{unread.height:,} times cannot be read, such as "{unread["text"][0]}": they count as missing.')
    return frame["time"].alias(texts.name), notes


def parse_instants(times: pl.Series) -> tuple[pl.Series, set[bool]]:
    """Return ISO 8601 times as UTC (naive datetimes), and whether they have an offset: both if some have and some not.

    Times without an offset stay as they are. A date is its first moment.
    """
    offset = pl.col("time").str.extract(_OFFSET, 1)
    signed = offset.str.replace("Z", "+00:00", literal=True)
    minutes = signed.str.slice(1, 2).cast(pl.Int64) * 60 + signed.str.slice(4, 2).cast(pl.Int64)
    minutes = pl.when(signed.str.starts_with("-")).then(-minutes).otherwise(minutes).fill_null(0)
    local = pl.coalesce(
        pl.col("time").str.replace(r"(Z|[+-]\d{2}:\d{2})$", "").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False),
        pl.col("time").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
    )
    frame = pl.DataFrame({"time": times}).select(
        instant=local.cast(pl.Datetime("us")) - pl.duration(minutes=minutes), offset=offset
    )
    has_offset = frame.filter(pl.col("instant").is_not_null())["offset"].is_not_null()
    return frame["instant"], set(has_offset)


def _after_1900(time: pl.Expr) -> pl.Expr:
    return pl.when(time.dt.year() >= 1900).then(time)


def _iso_text() -> pl.Expr:
    date, minutes, seconds, fraction, offset = (pl.col("text").str.extract(_ISO, i) for i in range(1, 6))
    local = date + "T" + minutes + seconds.fill_null(":00") + fraction.fill_null("")
    is_time = local.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False).is_not_null()
    colon = offset.str.to_uppercase().str.replace(r"^([+-]\d{2})(\d{2})$", "${1}:${2}")
    is_date = (
        pl.col("text").str.contains(_ISO_DATE) & pl.col("text").str.to_date("%Y-%m-%d", strict=False).is_not_null()
    )
    return pl.when(is_time).then(local + colon.fill_null("")).when(is_date).then("text")
