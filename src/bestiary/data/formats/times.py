"""Times of pictures as ISO 8601 text, and as instants where they are compared."""

from __future__ import annotations

import polars as pl

_ISO = r"^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2})(:\d{2})?(\.\d+)?\s*(Z|z|[+-]\d{2}(?::?\d{2})?)?$"
_ISO_DATE = r"^\d{4}-\d{2}-\d{2}$"
# As spreadsheets write them: month first, as in exports of Wildlife Insights and as dateutil reads them, unless a time
# of the same column can only be read with the day first.
_MONTH_FIRST = (
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%y %H:%M:%S",
    "%m/%d/%y %H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
)
_DAY_FIRST = tuple(pattern.replace("%m/%d", "%d/%m") for pattern in _MONTH_FIRST)
# Those of EXIF, of spreadsheets, of Timelapse, and with dots, where the day is always first.
_UNAMBIGUOUS = (
    "%Y:%m:%d %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%d-%b-%Y %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%y %H:%M:%S",
    "%d.%m.%y %H:%M",
)
_WRITTEN = "%Y-%m-%dT%H:%M:%S"


def format_times(texts: pl.Series) -> tuple[pl.Series, list[str]]:
    """Return times as ISO 8601 with the offset that they have, null where they cannot be read, and notes about that.

    A date without a time stays a date. Without a time zone, none is added.
    """
    text = pl.when(pl.col("text") != "").then("text")
    frame = pl.DataFrame({"text": texts.str.strip_chars()}).with_row_index("row").with_columns(text)
    frame = frame.with_columns(time=_iso_text())
    # A dozen patterns are not tried on a million times that are ISO 8601.
    is_read = pl.col("time").is_not_null() | pl.col("text").is_null()
    others = frame.filter(~is_read).with_columns(time=_parse(_UNAMBIGUOUS))
    if not others.height:
        return frame["time"].alias(texts.name), []
    others, order = _read_slashes(others)
    read_others = others.select("row", time=pl.coalesce("time", "read"))
    times = pl.concat([frame.filter(is_read).select("row", "time"), read_others]).sort("row")
    return times["time"].alias(texts.name), _describe_times(others, order)


def _read_slashes(others: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Return the times with `read`, those with slashes as ISO 8601, and whether the month or the day was first.

    The day is first if a time can only be read so, and all of them can.
    """
    rest = pl.col("time").is_null()
    others = others.with_columns(
        month=pl.when(rest).then(_parse(_MONTH_FIRST)), day=pl.when(rest).then(_parse(_DAY_FIRST))
    )
    only_day = others["month"].is_null() & others["day"].is_not_null()
    only_month = others["day"].is_null() & others["month"].is_not_null()
    order = "day" if only_day.any() and not only_month.any() else "month"
    return others.with_columns(read=order), order


def _describe_times(others: pl.DataFrame, order: str) -> list[str]:
    notes = []
    by_order = others.filter(pl.col("read").is_not_null())
    if n := by_order.height:
        text, time = by_order.select("text", "read").row(0)
        notes.append(f"{n:,} time{'s were' if n > 1 else ' was'} read with the {order} first: {text} as {time}.")
    unread = others.filter(pl.col("time").is_null() & pl.col("read").is_null())
    if unread.height:
        n, text = unread.height, unread["text"][0]
        counted = f'{n:,} time{"s" * (n > 1)} cannot be read, such as "{text}", and count{"s" * (n == 1)} as missing.'
        notes.append(f"{counted} Expected ISO 8601: 2026-05-31 08:25:38.")
    return notes


def parse_instants(times: pl.Series) -> tuple[pl.Series, set[bool]]:
    """Return ISO 8601 times as UTC (naive datetimes), and whether they have an offset: both if some have and some not.

    Times without an offset stay as they are. A date is its first moment.
    """
    frame = parse_times(times)
    date = times.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    frame = frame.with_columns(local=pl.col("local").fill_null(date))
    instants = frame.select(pl.col("local") - pl.duration(minutes=pl.col("offset").fill_null(0))).to_series()
    return instants, set(frame.filter(pl.col("local").is_not_null())["offset"].is_not_null())


def parse_times(texts: pl.Series) -> pl.DataFrame:
    """Return ISO 8601 times as `local` (naive datetime) and `offset` (minutes; null: without one).

    Both are null for a text that is no time, such as a date alone.
    """
    frame = pl.DataFrame({"text": texts.str.strip_chars()})
    date, minutes, seconds, fraction, zone = (pl.col("text").str.extract(_ISO, i) for i in range(1, 6))
    local = date + "T" + minutes + seconds.fill_null(":00") + fraction.fill_null("")
    digits = zone.str.to_uppercase().str.replace(":", "", literal=True).str.replace("Z", "+0000", literal=True)
    hours, rest = digits.str.slice(1, 2).cast(pl.Int32), digits.str.slice(3, 2).cast(pl.Int32, strict=False)
    size = 60 * hours + rest.fill_null(0)
    frame = frame.select(
        local=local.str.to_datetime(f"{_WRITTEN}%.f", strict=False, time_unit="us"),
        offset=pl.when(digits.str.starts_with("-")).then(-size).otherwise(size),
    )
    return frame.with_columns(offset=pl.when(pl.col("local").is_not_null()).then("offset"))


def _parse(patterns: tuple[str, ...]) -> pl.Expr:
    times = [pl.col("text").str.to_datetime(pattern, strict=False) for pattern in patterns]
    # %Y reads "5/5/19" as the year 5 or 19; another pattern reads it as 2019.
    return pl.coalesce(*[pl.when(time.dt.year() >= 1900).then(time) for time in times]).dt.strftime(_WRITTEN)


def _iso_text() -> pl.Expr:
    date, minutes, seconds, fraction, offset = (pl.col("text").str.extract(_ISO, i) for i in range(1, 6))
    local = date + "T" + minutes + seconds.fill_null(":00") + fraction.fill_null("")
    is_time = local.str.to_datetime(f"{_WRITTEN}%.f", strict=False).is_not_null()
    colon = offset.str.to_uppercase().str.replace(r"^([+-]\d{2})(\d{2})$", "${1}:${2}")
    colon = colon.str.replace(r"^([+-]\d{2})$", "${1}:00")
    is_date = (
        pl.col("text").str.contains(_ISO_DATE) & pl.col("text").str.to_date("%Y-%m-%d", strict=False).is_not_null()
    )
    return pl.when(is_time).then(local + colon.fill_null("")).when(is_date).then("text")
