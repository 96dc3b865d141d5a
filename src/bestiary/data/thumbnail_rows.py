"""Thumbnails and colours of a table in rows: in memory, or of many pictures on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.array_types import Pixels
from bestiary.batches.feature_matrix import DiskMatrix, FeatureMatrix
from bestiary.data.measure import COLOUR_SIDE, THUMBNAIL_SIDE

MAX_MEMORY_BYTES = 64 * 2**20  # of thumbnails in memory: 65,536 pictures
ROWS_AT_ONCE = 4096

Thumbnails = Pixels | FeatureMatrix  # uint8 (n, 32, 32), or rows of 1,024 on disk


def unpack_thumbnails(packed: Sequence[bytes]) -> Pixels:
    """Return thumbnails as `ImageMeasurements` stores them as uint8 (n, 32, 32)."""
    return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def unpack_colours(packed: Sequence[bytes]) -> Pixels:
    """Return the colours of pictures as `ImageMeasurements` stores them, Cb and Cr, as uint8 (n, 8, 8, 2)."""
    return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 2)


def gather_thumbnails(column: pl.Series, rows: npt.NDArray[np.integer]) -> Thumbnails:
    """Return the thumbnails of these rows, some at a time: a list of all takes as much memory as they do.

    Many are copied to a temporary file, since the table has them in memory already.
    """
    chunks = (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
    pixels = THUMBNAIL_SIDE**2
    if len(rows) * pixels <= MAX_MEMORY_BYTES:
        thumbnails = np.empty((len(rows), THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
        for number, chunk in enumerate(chunks):
            start = number * ROWS_AT_ONCE
            thumbnails[start : start + len(chunk)] = unpack_thumbnails(column.gather(chunk).to_list())
        return thumbnails
    matrix = DiskMatrix(Path(tempfile.gettempdir()), pixels, np.uint8)
    for chunk in chunks:
        matrix.append(unpack_thumbnails(column.gather(chunk).to_list()).reshape(len(chunk), -1))
    return matrix


def gather_colours(column: pl.Series, rows: npt.NDArray[np.integer]) -> Pixels:
    """Return the colours of these rows, uint8 (n, 8, 8, 2), some at a time."""
    colours = np.empty((len(rows), COLOUR_SIDE, COLOUR_SIDE, 2), np.uint8)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chunk = slice(start, start + ROWS_AT_ONCE)
        colours[chunk] = unpack_colours(column.gather(rows[chunk]).to_list())
    return colours


def as_thumbnails(rows: npt.NDArray[np.uint8]) -> Pixels:
    """Return rows of thumbnails as uint8 (n, 32, 32)."""
    return np.asarray(rows, np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
