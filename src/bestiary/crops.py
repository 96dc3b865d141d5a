"""Crops: several parts of one picture, which is decoded once, no further reduced than its smallest part needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from bestiary.box import Part, PictureFile, Region, find_region
from bestiary.decode_rules import RULES, DecodeRules
from bestiary.errors import PictureError
from bestiary.jpeg import JPEG_START, side_for_parts
from bestiary.orientation import upright_size
from bestiary.picture import LIMITS, NAMELESS, DecodedPicture, DecodeLimits, open_image, open_picture, read_bytes

BOX = "box"  # check of a box that is not in its picture
PartSide = Callable[[int, int], int]  # the side that a part of this width and height must keep


def open_for_parts(
    source: Path | bytes, parts: Sequence[Part | None], side: PartSide, limits: DecodeLimits, rules: DecodeRules
) -> DecodedPicture:
    """Return the picture, perhaps at a reduced scale at which no part is smaller than `side` asks for.

    parts: None is the whole picture. Raises PictureError as `open_picture` does.
    """

    def choose_side(width: int, height: int) -> int:
        sizes = [_part_size(part, width, height) for part in parts]
        return side_for_parts(width, height, [(*size, side(*size)) for size in sizes if size is not None])

    return open_picture(source, at_least=choose_side, limits=limits, rules=rules)


def part_region(picture: DecodedPicture, part: Part | None, name: str = NAMELESS) -> Region | None:
    """Return the region of a part of a picture, None for the whole picture.

    Raises PictureError for a box that is not in the picture.
    """
    if part is None:
        return None
    try:
        return find_region(part, picture.width, picture.height)
    except ValueError as error:
        raise PictureError(f"The box {part} of {name} {error}.", check=BOX) from None


def cut_region(picture: DecodedPicture, region: Region | None) -> Image.Image:
    """Return the pixels of a region, RGB, at the scale at which the picture was decoded."""
    if region is None:
        return picture.image
    across, down = picture.image.width / picture.width, picture.image.height / picture.height
    left, top = round(region.left * across), round(region.top * down)
    end, bottom = round((region.left + region.width) * across), round((region.top + region.height) * down)
    return picture.image.crop((left, top, max(end, left + 1), max(bottom, top + 1)))


def decode_file(
    file: PictureFile, at_least: int, limits: DecodeLimits = LIMITS, rules: DecodeRules = RULES
) -> Image.Image:
    """Return a file or its crop upright in RGB, perhaps reduced, with no side below `at_least` because of that.

    Raises PictureError as `open_picture` does, and for a box that is not in the picture.
    """
    if isinstance(file, Path):
        return open_picture(file, at_least=at_least, limits=limits, rules=rules).image
    picture = open_for_parts(file.path, [file.part], lambda *size: min(at_least, *size), limits, rules)
    return cut_region(picture, part_region(picture, file.part, str(file.path)))


def read_upright_size(path: Path) -> tuple[int, int]:
    """Return width and height of an upright picture at full scale; of a JPEG, no pixels are decoded.

    Raises PictureError as `open_picture` does.
    """
    content = read_bytes(path)
    if content.startswith(JPEG_START):
        with contextlib.suppress(OSError), open_image(content) as image:
            return upright_size(image)
    picture = open_picture(content)
    return picture.width, picture.height


def _part_size(part: Part | None, width: int, height: int) -> tuple[int, int] | None:
    """Return width and height of a part in pixels at full scale; None: the box is not in the picture."""
    if part is None:
        return width, height
    try:
        region = find_region(part, width, height)
    except ValueError:
        return None
    return region.width, region.height
