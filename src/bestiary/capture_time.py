"""Time at which a picture was taken, by its EXIF: of the camera, never of the file."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime, time
from typing import Any

from PIL import ExifTags, Image

_Tag = ExifTags.Base
# The date, its fraction of a second and its offset from UTC: of taking the picture, else of digitising it.
TAGS = (
    (_Tag.DateTimeOriginal, _Tag.SubsecTimeOriginal, _Tag.OffsetTimeOriginal),
    (_Tag.DateTimeDigitized, _Tag.SubsecTimeDigitized, _Tag.OffsetTimeDigitized),
)
DATE = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d):(\d\d)", re.ASCII)
FRACTION = re.compile(r"\d+", re.ASCII)
OFFSET = re.compile(r"[+-]\d\d:\d\d", re.ASCII)
FRACTION_DIGITS = 6
# Where clocks start, of a Mac, of Unix, of FAT file systems, of many cameras: the time of a clock that was not set.
UNSET_CLOCKS = tuple(f"{year}-01-01T00:00:00" for year in (1904, 1970, 1980, 2000))
PADDING = " \t\r\n\0"  # cameras fill a field of fixed length


def read_capture_time(exif: Image.Exif | None) -> str | None:
    """Return when a picture was taken, as in `2026-05-14T17:14:52.25+02:00` (ISO 8601), or None.

    From DateTimeOriginal, else DateTimeDigitized. The fraction of a second and the offset from UTC are there if EXIF
    has them: without an offset, the time is that of the camera's clock. A value that is no date, such as
    `0000:00:00 00:00:00`, counts as missing.
    """
    if exif is None:
        return None
    with contextlib.suppress(Exception):  # a damaged EXIF block raises anything, and only means that there is no time
        fields = exif.get_ifd(ExifTags.IFD.Exif)
        for date, fraction, offset in TAGS:
            if (text := _read_date(fields.get(date))) is not None:
                return text + _read_fraction(fields.get(fraction)) + _read_offset(fields.get(offset))
    return None


def _read_date(value: Any) -> str | None:
    match = DATE.fullmatch(_strip_padding(value))
    if match is None:
        return None
    try:
        return datetime(*map(int, match.groups())).isoformat()  # type: ignore[arg-type]
    except ValueError:  # no such day or hour
        return None


def _read_fraction(value: Any) -> str:
    digits = _strip_padding(value)
    return f".{digits[:FRACTION_DIGITS]}" if FRACTION.fullmatch(digits) else ""


def _read_offset(value: Any) -> str:
    text = _strip_padding(value)
    if text == "Z":
        return "+00:00"
    with contextlib.suppress(ValueError):
        if OFFSET.fullmatch(text) and time.fromisoformat(f"00:00{text}"):
            return text
    return ""


def _strip_padding(value: Any) -> str:
    """Return a text without padding; empty for a value of another type."""
    return value.strip(PADDING) if isinstance(value, str) else ""
