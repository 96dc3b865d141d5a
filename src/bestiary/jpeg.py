"""JPEG: opening, counting its scans, and the scale that it is decoded at."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable

from PIL import ImageFile, JpegImagePlugin, UnidentifiedImageError

# Decompression-bomb limit: a JPEG of a few hundred KB can repeat its scans for minutes of decoding; programs write
# up to about twenty.
MAX_SCANS = 100
JPEG_START, SCAN, JPEG_END = b"\xff\xd8\xff", 0xDA, 0xD9
JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # markers with a length field, and the end
# The model's input must not depend on how a picture is passed, so a JPEG is decoded in full, as Pillow and any other
# program does. Only where that takes much longer and changes little is it reduced, to five times the input or more: on
# noisy photographs of 6 to 12 million pixels, probabilities then differ by 0.002 on average and 0.03 at most. Smaller
# inputs than STEADY_INPUT react to single levels of the pixels: 0.12 at 64 pixels, however large the reduced picture.
REDUCED_SIDES, STEADY_INPUT, FULL_PIXELS = 5, 160, 25_000_000
SCALES = (8, 4, 2)  # that the decoder divides the sides of a JPEG by

# The side to keep, from width and height of the upright picture and the EXIF orientation that it was turned from.
ChooseSide = Callable[[int, int, int], int]


def open_jpeg(content: bytes) -> ImageFile.ImageFile:
    """Return the opened JPEG, whatever its size: Pillow's limit on pixels is for the full scale.

    Raises UnidentifiedImageError.
    """
    try:
        return JpegImagePlugin.jpeg_factory(io.BytesIO(content))
    except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error) as error:  # as in Image.open
        raise UnidentifiedImageError(str(error)) from None


def reduced_side(width: int, height: int, input_size: int) -> int:
    """Return the side, in pixels, that a JPEG of this size must keep when it is decoded for a model's input.

    Pictures of more than `FULL_PIXELS` are decoded at a reduced scale for any input.
    """
    short = min(width, height)
    side = REDUCED_SIDES * input_size if input_size >= STEADY_INPUT else short
    scale = 1
    while width * height > FULL_PIXELS * scale**2:
        scale *= 2
    return max(input_size, min(side, short // scale))


def part_scale(width: int, height: int, side: int) -> int:
    """Return what the sides of a JPEG may be divided by so that a part of this size keeps `side` pixels a side."""
    largest = min(width, height) // max(1, side)
    return next((factor for factor in SCALES if factor <= largest), 1)


def has_more_scans(content: bytes, limit: int) -> bool:
    """Return whether a JPEG has more than `limit` scans; walks the markers, as image data may contain 0xFFDA."""
    if content.count(bytes([0xFF, SCAN])) <= limit:
        return False
    offset, scans = 2, 0
    while (marker := JPEG_MARKER.search(content, offset)) and marker[1][0] != JPEG_END:
        scans += marker[1][0] == SCAN
        if scans > limit:
            return True
        offset = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return False
