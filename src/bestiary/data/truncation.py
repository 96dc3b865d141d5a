"""How much of a picture is missing where its file ends too early."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image

from bestiary.picture import FORMATS

DOWNWARDS = {"JPEG", "MPO", "PNG", "PPM", "TIFF"}  # stored row by row, the upper edge first
EITHER_WAY = {"BMP", "TGA"}  # row by row, the lower edge first as a rule


def missing_share(content: bytes) -> float | None:
    """Return the share of rows that a truncated picture lacks, in 0..1, or None where that cannot be told.

    It cannot where the whole picture is stored in ever finer passes (progressive JPEG, interlaced PNG). What the
    decoder did not reach is zero in all channels: rows at the edge where the file ends that are so count as missing.
    """
    with contextlib.suppress(Exception):  # whatever a decoder of damaged files stumbles over: then nothing is told
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        with contextlib.suppress(OSError):
            image.load()
        image.tile = []  # nothing is left to decode: what is there can be read
        if image.format in DOWNWARDS | EITHER_WAY:
            return _empty_edge(np.asarray(image), either=image.format in EITHER_WAY)
    return None


def _empty_edge(pixels: np.ndarray, *, either: bool) -> float | None:
    filled = np.flatnonzero(pixels.reshape(len(pixels), -1).any(axis=1))
    if not len(filled):
        return None
    above, below = int(filled[0]), len(pixels) - 1 - int(filled[-1])
    missing = max(above, below) if either else below
    return missing / len(pixels) if missing else None
