"""Bounding boxes, and the part of a picture that a model looks at for a box.

A box is a rectangle as an annotation or a detector gives it. The region of a box is what is cut out: the box with a
margin, in whole pixels of the picture.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

BoxUnit = Literal["fraction", "pixels"]
BOX_UNITS: tuple[BoxUnit, ...] = ("fraction", "pixels")
BOX_FIELDS = ("box_left", "box_top", "box_width", "box_height", "box_unit", "box_confidence")
BOX_PICTURE_SIZE = "box_picture_size"  # in JSON lines, of a box whose source names the size of the picture
MARGIN_FRACTION = 0.1  # of the longer side of the box, added at each side
MAX_SIDE = 2**31  # pixels of a picture whose size a source names; what is larger is no size
MIN_SIDE = 32  # pixels of a region, if the picture has as many
TOLERANCE = 0.02  # of the width or height, by which a box may reach beyond the picture: it is cut off there
PIXELS_FROM = 2.0  # a fraction is at most 1, and hardly beyond with a rounding error
ROUNDING = 1e-6  # pixels: a fraction times a width is hardly ever a whole number, where a box in pixels is
TURNED = (5, 6, 7, 8)  # EXIF orientations of pictures whose width is the height of what is stored
_REFERENCE = re.compile(r"(.+)#xywh=(\d+),(\d+),(\d+),(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of an upright picture: its left upper corner, width and height.

    unit: "fraction" of the width and height of the picture, or "pixels" of the picture at full scale. picture_size:
    width and height of the picture that the box is of, if its source names them; the file may be a smaller copy of it,
    or be stored so while its EXIF orientation shows it turned. None: those of the upright file. confidence: of the
    detector that drew it, 0 to 1, None for another box; it is no part of what makes two boxes equal.
    """

    left: float
    top: float
    width: float
    height: float
    unit: BoxUnit = "fraction"
    picture_size: tuple[int, int] | None = None
    confidence: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the numbers and the unit as one text, for `parse_box`."""
        text = f"{self.left!r},{self.top!r},{self.width!r},{self.height!r},{self.unit}"
        return text if self.picture_size is None else f"{text},{self.picture_size[0]},{self.picture_size[1]}"


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


class StoredPicture(ABC):
    """A picture that is no file of this computer, but an object in a bucket, for example: read when it is decoded."""

    name: str  # a URI, or another text that identifies it

    @property
    @abstractmethod
    def state(self) -> list[int | str]:
        """How it was when it was listed: its size in bytes, and a text that changes with its content."""

    @abstractmethod
    def read(self, max_bytes: int) -> bytes:
        """Return its bytes. Raises PictureError, with its name, if it cannot be read or has more than `max_bytes`."""


PictureFile = Path | Crop | StoredPicture  # a file, a part of one, or what stands for a file


def box_fields(box: Box | None) -> dict[str, float | str | None]:
    """Return the box as the columns `BOX_FIELDS`, None in each without a box, and for what is no finite number."""
    values = {name: None if box is None else getattr(box, name.removeprefix("box_")) for name in BOX_FIELDS}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def pop_box(values: dict[str, Any]) -> Box | None:
    """Return the box of the columns `BOX_FIELDS`, None without one, and remove them from the values."""
    *numbers, unit, confidence = [values.pop(name, None) for name in BOX_FIELDS]
    size = values.pop(BOX_PICTURE_SIZE, None)
    if all(number is None for number in numbers):
        return None
    left, top, width, height = (math.nan if number is None else float(number) for number in numbers)
    return Box(left, top, width, height, unit, size and (size[0], size[1]), confidence)


def parse_box(text: str) -> Box:
    """Return the box of a text that `str(box)` gave."""
    *numbers, unit = text.split(",")[:5]
    left, top, width, height = map(float, numbers)
    across, down = [int(side) for side in text.split(",")[5:]] or (0, 0)
    size = (across, down) if across else None
    return Box(left, top, width, height, "pixels" if unit == "pixels" else "fraction", size)


def find_region(part: Part, width: int, height: int, orientation: int = 1) -> Region:
    """Return the region of a part of an upright picture of this size: of a box with its margin, clipped to the picture.

    orientation: by EXIF, that the picture was turned upright from. Raises ValueError, with the reason as a phrase, for
    a box that is not in the picture.
    """
    if isinstance(part, Region):
        if part.left + part.width > width or part.top + part.height > height:
            raise ValueError(f"lies outside the picture of {width:,} x {height:,} pixels")
        return part
    left, top, across, down = convert_box(part, width, height, orientation)
    _check_inside((left, top, across, down), width, height)
    margin = MARGIN_FRACTION * max(across, down)
    first, last = _span(left - margin, left + across + margin, width)
    upper, lower = _span(top - margin, top + down + margin, height)
    return Region(first, upper, last - first, lower - upper)


def convert_box(box: Box, width: int, height: int, orientation: int = 1) -> tuple[float, float, float, float]:
    """Return left, top, width and height of a box in pixels of an upright picture of this size, perhaps beyond it.

    orientation: by EXIF, that the picture was turned upright from. Raises ValueError, with the reason as a phrase, for
    a box of no area or of the other unit, and for one of a picture of another shape.
    """
    numbers = box.left, box.top, box.width, box.height
    if not all(map(math.isfinite, numbers)):
        raise ValueError("is not four numbers")
    if box.width <= 0 or box.height <= 0:
        raise ValueError("has no area")
    if box.unit == "fraction" and max(numbers) > PIXELS_FROM:
        raise ValueError("is in pixels, where fractions of the width and height are expected")
    if box.unit == "pixels" and max(numbers) <= 1:
        raise ValueError("is in fractions of the width and height, where pixels are expected")
    across, down = box.picture_size or (width, height)
    if box.unit == "fraction":
        numbers = box.left * across, box.top * down, box.width * across, box.height * down
    if not _have_same_shape((across, down), (width, height)):
        if orientation not in TURNED or not _have_same_shape((down, across), (width, height)):
            raise ValueError(
                f"is of a picture of {across:,} x {down:,} pixels, and the file has {width:,} x {height:,}: it is no"
                " copy of it in another size"
            )
        numbers, across, down = _turn_upright(numbers, across, down, orientation), down, across
    if (across, down) == (width, height):
        return numbers
    left, top, wide, high = numbers
    return left * width / across, top * height / down, wide * width / across, high * height / down


def content_key(file_sha256: str, region: Region | None) -> str:
    """Return the key of what a row shows: the digest of its file, or one of the file and the region in it."""
    if region is None:
        return file_sha256
    text = f"{file_sha256} {region.left} {region.top} {region.width} {region.height}"
    return hashlib.sha256(text.encode()).hexdigest()


def path_of(file: PictureFile) -> Path:
    """Return the path of a file or of the file of a crop; of a stored picture a path that does not exist."""
    if isinstance(file, StoredPicture):
        return Path(file.name)
    return file.path if isinstance(file, Crop) else file


def name_of(file: PictureFile) -> str:
    """Return the path of a file or of the file of a crop, or the name of a stored picture, as text."""
    return file.name if isinstance(file, StoredPicture) else str(path_of(file))


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


def _have_same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Return whether one of two sizes, width and height, is the other scaled, to within a pixel."""
    return abs(first[0] * second[1] - first[1] * second[0]) <= first[0] + first[1]


def _turn_upright(
    numbers: tuple[float, float, float, float], across: int, down: int, orientation: int
) -> tuple[float, float, float, float]:
    """Return the numbers of a box of the picture as it is stored, across x down pixels, in the upright picture."""
    left, top, wide, high = numbers
    upright_left = top if orientation in (5, 8) else down - top - high
    upright_top = left if orientation in (5, 6) else across - left - wide
    return upright_left, upright_top, high, wide


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
    first, last = max(0, math.floor(start + ROUNDING)), min(limit, math.ceil(end - ROUNDING))
    least = min(MIN_SIDE, limit)
    if last - first < least:
        first = min(max(0, round((start + end - least) / 2)), limit - least)
        last = first + least
    return first, last
