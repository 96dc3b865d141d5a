"""Thumbnails: small copies of pictures as `data:` addresses that a page can hold."""

from __future__ import annotations

import base64
import io

from PIL import Image

from bestiary.box import PictureFile
from bestiary.crops import decode_file
from bestiary.errors import PictureError

LARGEST_BYTES = 40 * 1024
# Tried in order until a copy fits: (factor of the requested side, JPEG quality). Only noise fails the first.
ATTEMPTS = ((1.0, 80), (1.0, 60), (0.6, 60), (0.3, 50))


def thumbnail_data_uri(file: PictureFile, side: int = 160, *, largest_bytes: int = LARGEST_BYTES) -> str | None:
    """Return the picture as a `data:` address of a JPEG, or None if it is missing or cannot be read.

    The longer side has at most `side` pixels, small pictures keep their size. At most `largest_bytes` before
    base64 (sides of 300 and less keep within 10 KiB), so that the size of a page with many pictures is bounded.
    """
    try:
        picture = decode_file(file, side)
    except (OSError, PictureError):
        return None
    return small_data_uri(picture, side, largest_bytes=largest_bytes)


def small_data_uri(picture: Image.Image, side: int, *, largest_bytes: int = LARGEST_BYTES) -> str:
    """Return an RGB picture as a `data:` address of a JPEG within these sizes."""
    for factor, quality in ATTEMPTS:
        encoded = jpeg_copy(picture, round(side * factor), quality)
        if len(encoded) <= largest_bytes:
            break
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")


def jpeg_copy(picture: Image.Image, side: int, quality: int) -> bytes:
    """Return an RGB picture as a JPEG without metadata whose longer side has at most `side` pixels."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
