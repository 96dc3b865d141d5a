"""Crops: several parts of one picture, which is decoded for all of them, no further reduced than they need."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from bestiary.box import Crop, Part, PictureFile, Region, find_region
from bestiary.decode_rules import RULES, DecodeRules
from bestiary.errors import PictureError
from bestiary.jpeg import JPEG_START, part_scale
from bestiary.orientation import read_exif, read_orientation, upright_size
from bestiary.picture import (
    LIMITS,
    NAMELESS,
    DecodedPicture,
    DecodeLimits,
    message_with_filename,
    open_image,
    open_picture,
    read_bytes,
)

BOX = "box"  # check of a box that is not in its picture
PartSide = Callable[[int, int], int]  # the side that a part of this width and height must keep


def open_for_parts(
    source: Path | bytes, parts: Sequence[Part | None], side: PartSide, limits: DecodeLimits, rules: DecodeRules
) -> DecodedPicture:
    """Return the picture, perhaps at a reduced scale at which no part is smaller than `side` asks for.

    parts: None is the whole picture. Raises PictureError as `open_picture` does.
    """

    def choose_side(width: int, height: int, orientation: int) -> int:
        sizes = [_part_size(part, width, height, orientation) for part in parts]
        scale = min((part_scale(*size, side(*size)) for size in sizes if size is not None), default=1)
        return max(1, min(width, height) // scale)

    return open_picture(source, at_least=choose_side, limits=limits, rules=rules)


def cut_parts(
    content: bytes,
    parts: Sequence[Part | None],
    side: PartSide,
    limits: DecodeLimits,
    rules: DecodeRules,
    name: str = NAMELESS,
) -> list[Image.Image | PictureError]:
    """Return the pixels of each part of a picture file, RGB, or why it has none.

    Each part is at the scale that it alone is decoded at: what a model sees of it depends on no other part. The picture
    is decoded once for each scale, and nearly always there is one.
    """
    by_scale: dict[int, list[int]] = defaultdict(list)
    for index, scale in enumerate(_scales(content, parts, side)):
        by_scale[scale].append(index)
    images: dict[int, Image.Image | PictureError] = {}
    for indices in by_scale.values():
        try:
            picture = open_for_parts(content, [parts[index] for index in indices], side, limits, rules)
        except PictureError as error:
            images |= dict.fromkeys(indices, PictureError(message_with_filename(error, name), check=error.check))
            continue
        for index in indices:
            try:
                images[index] = cut_region(picture, part_region(picture, parts[index], name))
            except PictureError as error:
                images[index] = error
    return [images[index] for index in range(len(parts))]


def part_region(picture: DecodedPicture, part: Part | None, name: str = NAMELESS) -> Region | None:
    """Return the region of a part of a picture, None for the whole picture.

    Raises PictureError for a box that is not in the picture.
    """
    if part is None:
        return None
    try:
        return find_region(part, picture.width, picture.height, picture.orientation)
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
    if not isinstance(file, Crop):
        source = file if isinstance(file, Path) else file.read(limits.max_bytes)
        return open_picture(source, at_least=at_least, limits=limits, rules=rules).image
    picture = open_for_parts(file.path, [file.part], lambda *size: min(at_least, *size), limits, rules)
    return cut_region(picture, part_region(picture, file.part, str(file.path)))


def read_upright_size(path: Path) -> tuple[int, int, int]:
    """Return width and height of an upright picture at full scale, and the EXIF orientation that it was turned from.

    Of a JPEG, no pixels are decoded. Raises PictureError as `open_picture` does.
    """
    content = read_bytes(path)
    if (size := _jpeg_size(content)) is not None:
        return size
    picture = open_picture(content)
    return picture.width, picture.height, picture.orientation


def _jpeg_size(content: bytes) -> tuple[int, int, int] | None:
    """Return width, height and orientation of a JPEG from its header; None for another or a damaged file."""
    if content.startswith(JPEG_START):
        with contextlib.suppress(OSError), open_image(content) as image:
            return *upright_size(image), read_orientation(read_exif(image))
    return None


def _scales(content: bytes, parts: Sequence[Part | None], side: PartSide) -> list[int]:
    """Return the scale that each part alone allows a JPEG to be decoded at; 1 for other files."""
    size = _jpeg_size(content)
    sizes = [None if size is None else _part_size(part, *size) for part in parts]
    return [1 if own is None else part_scale(*own, side(*own)) for own in sizes]


def _part_size(part: Part | None, width: int, height: int, orientation: int) -> tuple[int, int] | None:
    """Return width and height of a part in pixels at full scale; None: the box is not in the picture."""
    if part is None:
        return width, height
    try:
        region = find_region(part, width, height, orientation)
    except ValueError:
        return None
    return region.width, region.height
