"""Bounding boxes, and the part of a picture that a model looks at for a box.

A box is a rectangle as an annotation or a detector gives it. The region of a box is what is cut out: the box with a
margin, in whole pixels of the picture.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

BoxUnit = Literal["fraction", "pixels"]
BOX_UNITS: tuple[BoxUnit, ...] = ("fraction", "pixels")
BOX_FIELDS = ("box_left", "box_top", "box_width", "box_height", "box_unit", "box_confidence")
MARGIN_FRACTION = 0.1  # of the longer side of the box, added at each side
MIN_SIDE = 32  # pixels of a region, if the picture has as many
TOLERANCE = 0.02  # of the width or height, by which a box may reach beyond the picture: it is cut off there
PIXELS_FROM = 2.0  # a fraction is at most 1, and hardly beyond with a rounding error
_REFERENCE = re.compile(r"(.+)#xywh=(\d+),(\d+),(\d+),(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of an upright picture: its left upper corner, width and height.

    unit: "fraction" of the width and height of the picture, or "pixels" of the picture at full scale. confidence: of
    the detector that drew it, 0 to 1, None for another box; it is no part of what makes two boxes equal.
    """

    left: float
    top: float
    width: float
    height: float
    unit: BoxUnit = "fraction"
    confidence: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the numbers and the unit as one text, for `parse_box`."""
        return f"{self.left!r},{self.top!r},{self.width!r},{self.height!r},{self.unit}"


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of an upright picture in whole pixels at full scale, inside the picture."""

    left: int
    top: int
    width: int
    height: int


Part = Box | Region


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a picture file, that is looked at instead of the whole picture."""

    path: Path
    part: Part


PictureFile = Path | Crop  # a file, or a part of one


def box_fields(box: Box | None) -> dict[str, float | str | None]:
    """Return the box as the columns `BOX_FIELDS`, None in each without a box, and for what is no finite number."""
    values = {name: None if box is None else getattr(box, name.removeprefix("box_")) for name in BOX_FIELDS}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def pop_box(values: dict[str, Any]) -> Box | None:
    """Return the box of the columns `BOX_FIELDS`, None without one, and remove them from the values."""
    *numbers, unit, confidence = [values.pop(name, None) for name in BOX_FIELDS]
    if all(number is None for number in numbers):
        return None
    left, top, width, height = (math.nan if number is None else float(number) for number in numbers)
    return Box(left, top, width, height, unit, confidence)


def parse_box(text: str) -> Box:
    """Return the box of a text that `str(box)` gave."""
    *numbers, unit = text.split(",")
    left, top, width, height = map(float, numbers)
    return Box(left, top, width, height, "pixels" if unit == "pixels" else "fraction")


def find_region(part: Part, width: int, height: int) -> Region:
    """Return the region of a part of a picture of this size: of a box with its margin, clipped to the picture.

    Raises ValueError, with the reason as a phrase, for a box that is not in the picture.
    """
    if isinstance(part, Region):
        if part.left + part.width > width or part.top + part.height > height:
            raise ValueError(f"lies outside the picture of {width:,} x {height:,} pixels")
        return part
    left, top, across, down = _pixels(part, width, height)
    _check_inside((left, top, across, down), width, height)
    margin = MARGIN_FRACTION * max(across, down)
    first, last = _span(left - margin, left + across + margin, width)
    upper, lower = _span(top - margin, top + down + margin, height)
    return Region(first, upper, last - first, lower - upper)


def content_key(file_sha256: str, region: Region | None) -> str:
    """Return the key of what a row shows: the digest of its file, or one of the file and the region in it."""
    if region is None:
        return file_sha256
    text = f"{file_sha256} {region.left} {region.top} {region.width} {region.height}"
    return hashlib.sha256(text.encode()).hexdigest()


def path_of(file: PictureFile) -> Path:
    """Return the path of a file or of the file of a crop."""
    return file.path if isinstance(file, Crop) else file


def format_reference(path: str, region: Region | None) -> str:
    """Return a path with the region as a fragment, as in the W3C's Media Fragments URI.

    >>> format_reference("fox.jpg", Region(10, 20, 300, 200))
    'fox.jpg#xywh=10,20,300,200'
    """
    if region is None:
        return path
    return f"{path}#xywh={region.left},{region.top},{region.width},{region.height}"


def parse_reference(text: str) -> PictureFile:
    """Return the file or crop of a text that `format_reference` gave; a file of just that name comes first."""
    match = _REFERENCE.fullmatch(text)
    if match is None or Path(text).exists():
        return Path(text)
    left, top, width, height = map(int, match.groups()[1:])
    return Crop(Path(match[1]), Region(left, top, width, height))


def _pixels(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    numbers = box.left, box.top, box.width, box.height
    if not all(map(math.isfinite, numbers)):
        raise ValueError("is not four numbers")
    if box.width <= 0 or box.height <= 0:
        raise ValueError("has no area")
    if box.unit == "pixels":
        return numbers
    if max(numbers) > PIXELS_FROM:
        raise ValueError("is in pixels, where fractions of the width and height are expected")
    return box.left * width, box.top * height, box.width * width, box.height * height


def _check_inside(numbers: tuple[float, float, float, float], width: int, height: int) -> None:
    """Raise ValueError if the box lies outside the picture, or reaches further beyond it than `TOLERANCE`."""
    left, top, across, down = numbers
    reach = max(-left / width, (left + across) / width - 1, -top / height, (top + down) / height - 1)
    if left >= width or top >= height or left + across <= 0 or top + down <= 0:
        raise ValueError(f"lies outside the picture of {width:,} x {height:,} pixels")
    if reach > TOLERANCE:
        raise ValueError(f"reaches beyond the picture of {width:,} x {height:,} pixels")


def _span(start: float, end: float, limit: int) -> tuple[int, int]:
    """Return the first pixel and the one after the last, within 0 to `limit`, at least `MIN_SIDE` apart if it is."""
    first, last, least = max(0, math.floor(start)), min(limit, math.ceil(end)), min(MIN_SIDE, limit)
    if last - first < least:
        first = min(max(0, round((start + end - least) / 2)), limit - least)
        last = first + least
    return first, last
