"""The time at which a picture was taken, from drawn files of each format that carries EXIF."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, TiffImagePlugin

from bestiary.capture_time import read_capture_time
from bestiary.data.measure import measure_file
from bestiary.picture import LIMITS, open_picture

Tag = ExifTags.Base
NOON = "2026:05:14 12:00:00"


def exif_with(fields: Mapping[int, Any]) -> Image.Exif:
    exif = Image.Exif()
    exif[Tag.Make] = "a camera"
    exif.get_ifd(ExifTags.IFD.Exif).update(fields)
    return exif


def taken(fields: Mapping[int, Any], form: str = "JPEG") -> str | None:
    """The time in a drawn picture file with these EXIF fields."""
    stream = io.BytesIO()
    if form == "TIFF":  # Pillow writes no EXIF folder of an `Exif` into it
        options: dict[str, Any] = {"tiffinfo": (tags := TiffImagePlugin.ImageFileDirectory_v2())}
        tags[ExifTags.IFD.Exif] = dict(fields)
    else:
        options = {"exif": exif_with(fields)}
    Image.new("RGB", (20, 10), "red").save(stream, form, **options)
    return read_capture_time(open_picture(stream.getvalue()).exif)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_time_is_read_from_every_format_that_has_exif(form: str) -> None:
    assert taken({Tag.DateTimeOriginal: NOON}, form) == "2026-05-14T12:00:00"
    assert taken({}, form) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({Tag.SubsecTimeOriginal: "07"}, "2026-05-14T12:00:00.07"),
        ({Tag.SubsecTimeOriginal: "123456789"}, "2026-05-14T12:00:00.123456"),
        ({Tag.SubsecTimeOriginal: "  "}, "2026-05-14T12:00:00"),
        ({Tag.OffsetTimeOriginal: "-03:30"}, "2026-05-14T12:00:00-03:30"),
        ({Tag.OffsetTimeOriginal: "Z"}, "2026-05-14T12:00:00+00:00"),
        ({Tag.OffsetTimeOriginal: "+99:00"}, "2026-05-14T12:00:00"),
        ({Tag.OffsetTimeOriginal: "   :  "}, "2026-05-14T12:00:00"),
        ({Tag.OffsetTimeDigitized: "+02:00", Tag.OffsetTime: "+02:00"}, "2026-05-14T12:00:00"),
        ({Tag.SubsecTimeOriginal: "5", Tag.OffsetTimeOriginal: "+05:45"}, "2026-05-14T12:00:00.5+05:45"),
        ({Tag.DateTimeDigitized: "2001:01:01 01:01:01"}, "2026-05-14T12:00:00"),
    ],
)
def test_the_fraction_and_the_offset_are_those_of_the_same_date(fields: Mapping[int, Any], expected: str) -> None:
    assert taken({Tag.DateTimeOriginal: NOON, **fields}) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("0000:00:00 00:00:00", "    :  :     :  :  ", "", "yesterday", "2026:05:14"),
        *("2026:02:30 12:00:00", "2026:05:14 24:00:00", "2026:05:14 12:00:60", "٢٠٢٦:05:14 12:00:00"),
    ],
)
def test_a_value_that_is_no_date_is_no_time(value: str) -> None:
    assert taken({Tag.DateTimeOriginal: value.encode()}) is None
    digitised: dict[int, Any] = {Tag.DateTimeDigitized: NOON, Tag.OffsetTimeDigitized: "+02:00"}
    digitised[Tag.OffsetTimeOriginal] = "+09:00"
    assert taken({Tag.DateTimeOriginal: value.encode(), **digitised}) == "2026-05-14T12:00:00+02:00"


@pytest.mark.parametrize("value", [7, (1, 2), 1.5, b"\xff\xfe\x00"])
def test_a_value_of_another_type_is_no_time(value: Any) -> None:
    assert read_capture_time(exif_with({Tag.DateTimeOriginal: value})) is None


@pytest.mark.parametrize("value", [NOON + "\0", NOON + " ", "2026-05-14 12:00:00", "2026-05-14T12:00:00"])
def test_padding_and_dashes_of_cameras_are_read(value: str) -> None:
    assert read_capture_time(exif_with({Tag.DateTimeOriginal: value})) == "2026-05-14T12:00:00"


def test_neither_the_time_of_the_file_nor_that_of_its_last_change_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[Tag.DateTime] = NOON  # when an editor changed it
    Image.new("RGB", (20, 10)).save(path := tmp_path / "a.jpg", exif=exif)
    os.utime(path, (1e9, 1e9))
    assert measure_file(path, LIMITS).taken is None


def test_a_measured_picture_has_its_time(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(path := tmp_path / "a.jpg", exif=exif_with({Tag.DateTimeOriginal: NOON}))
    assert measure_file(path, LIMITS).taken == "2026-05-14T12:00:00"


def test_damaged_exif_costs_neither_the_picture_nor_raises(tmp_path: Path) -> None:
    whole = exif_with({Tag.DateTimeOriginal: NOON, Tag.OffsetTimeOriginal: "+02:00"}).tobytes()
    for cut in range(6, len(whole), 5):
        Image.new("RGB", (20, 10)).save(path := tmp_path / "a.jpg", exif=whole[:cut])
        measured = measure_file(path, LIMITS)
        assert measured.error is None
        assert measured.taken in {None, "2026-05-14T12:00:00", "2026-05-14T12:00:00+02:00"}


@given(st.binary(max_size=60))
def test_any_bytes_for_a_date_are_a_time_or_none(value: bytes) -> None:
    time = read_capture_time(exif_with({Tag.DateTimeOriginal: value.decode("latin-1")}))
    assert time is None or time[4] == time[7] == "-"
