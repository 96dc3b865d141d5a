"""How much of a picture is missing where its file ends too early."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image

from bestiary.picture import FORMATS

ROW_BY_ROW = {"JPEG", "MPO", "PNG", "BMP", "PPM", "TIFF", "TGA"}  # stored from one edge to the other


def missing_share(content: bytes) -> float | None:
    """Return the share of rows that a truncated picture lacks, in 0..1, or None where that cannot be told.

    It cannot where the whole picture is stored in ever finer passes (progressive JPEG, interlaced PNG). What the
    decoder did not reach is zero in all channels: rows at the edge that are so count as missing.
    """
    with contextlib.suppress(Exception):  # whatever a decoder of damaged files stumbles over: then nothing is told
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        with contextlib.suppress(OSError):
            image.load()
        image.tile = []  # nothing is left to decode: what is there can be read
        if image.format in ROW_BY_ROW:
            return _empty_edge(np.asarray(image))
    return None


def _empty_edge(pixels: np.ndarray) -> float | None:
    filled = np.flatnonzero(pixels.reshape(len(pixels), -1).any(axis=1))
    if not len(filled):
        return None
    missing = max(int(filled[0]), len(pixels) - 1 - int(filled[-1]))
    return missing / len(pixels) if missing else None
