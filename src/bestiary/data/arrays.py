"""Pictures as arrays: image arrays, or rows of numbers (flattened images, as in scikit-learn)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bestiary.array_types import Array, Floats, Pixels
from bestiary.errors import InputError

BEYOND = 0.5  # numbers beyond the range of training by this fraction of it are on another scale
FLAT = 0.1  # of the typical contrast of training: pictures that all have less are on another scale


@dataclass(frozen=True)
class FlatImageShape:
    """The image shape of a row of numbers: height, width and channels, and the numbers for black and white."""

    height: int
    width: int
    channels: int
    black: float
    white: float

    @classmethod
    def of(cls, rows: Array, shape: Sequence[int] | None) -> FlatImageShape:
        """Return the shape of the pictures in rows, (n, numbers).

        shape: (height, width) or (height, width, channels). Without it, a row is a square grey or RGB picture if its
        length allows, else a single line of pixels. Bytes range from 0 to 255, other numbers from the minimum to the
        maximum of these rows. Raises InputError if the shape does not match the length.
        """
        numbers = rows.shape[1]
        height, width, channels = _guess_shape(numbers) if shape is None else _check_shape(shape, numbers)
        if rows.dtype == np.uint8:
            return cls(height, width, channels, 0.0, 255.0)
        return cls(height, width, channels, float(rows.min()), float(rows.max()))

    def picture(self, row: Array) -> Pixels:
        """Return a row of numbers as uint8 (height, width, 3), clipped to the range from black to white."""
        span = self.white - self.black or 1.0
        scaled = np.clip((row.astype(np.float64) - self.black) / span, 0.0, 1.0) * 255.0
        return to_rgb(np.rint(scaled).astype(np.uint8).reshape(self.height, self.width, self.channels))


@dataclass(frozen=True)
class NumberRange:
    """The range of the numbers in arrays of pictures, and the contrast of a typical picture: maximum minus minimum.

    is_bytes: whether they are bytes from 0 to 255, so that other bytes are on the same scale; unless all are 0 or 1.
    """

    low: float
    high: float
    contrast: float
    is_bytes: bool = False

    @classmethod
    def of(cls, pictures: Array) -> NumberRange:
        """Return the range of pictures, (n, ...): that of bytes, unless they are all small, else as observed."""
        contrasts = _contrasts(pictures)
        typical = float(np.median(contrasts[contrasts > 0])) if (contrasts > 0).any() else 0.0
        if pictures.dtype == np.uint8 and pictures.max() > FLAT * 255:
            return cls(0.0, 255.0, typical, is_bytes=True)
        return cls(float(pictures.min()), float(pictures.max()), typical)

    def describe_mismatch(self, pictures: Array) -> str:
        """Return how the numbers of other pictures, (n, ...), are on another scale; empty if they are not.

        They are if one lies beyond the range by more than half of it, or if the contrast of every picture is less than
        a tenth of the typical one; not if both are bytes, as those of pictures in fog. A picture of one colour has no
        contrast and does not count.

        >>> trained = NumberRange(0, 255, 200)
        >>> trained.describe_mismatch(np.array([[0, 10], [3, 250]])), trained.describe_mismatch(np.array([[0, 0.9]]))
        ('', 'The numbers range from 0 to 0.9; those of training from 0 to 255.')
        """
        low, high, span = float(pictures.min()), float(pictures.max()), self.high - self.low
        contrasts = _contrasts(pictures)
        contrasts = contrasts[contrasts > 0]
        is_beyond = low < self.low - BEYOND * span or high > self.high + BEYOND * span
        is_same_scale = self.is_bytes and pictures.dtype == np.uint8 and high > 1
        is_flat = not is_same_scale and bool(contrasts.size) and float(contrasts.max()) < FLAT * self.contrast
        if not is_beyond and not is_flat:
            return ""
        return f"The numbers range from {low:g} to {high:g}; those of training from {self.low:g} to {self.high:g}."


def _contrasts(pictures: Array) -> Floats:
    """Return the maximum minus the minimum of each picture, float64 (n,)."""
    flat = pictures.reshape(len(pictures), -1)
    contrasts: Floats = flat.max(axis=1).astype(np.float64) - flat.min(axis=1).astype(np.float64)
    return contrasts


RowShape = FlatImageShape  # its name in pickles from before November 2026


def to_rgb(picture: Pixels) -> Pixels:
    """Return uint8 (height, width, 3) of a picture (height, width), (height, width, 1) or (height, width, 3)."""
    channels = picture[:, :, None] if picture.ndim == 2 else picture
    return np.ascontiguousarray(np.broadcast_to(channels, (*picture.shape[:2], 3)))


def check_image_array(pictures: Array) -> Pixels:
    """Return the array, or raise InputError unless it is uint8 (n, height, width) or (n, height, width, 3)."""
    has_image_shape = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] in (1, 3))
    if pictures.dtype != np.uint8 or 0 in pictures.shape or not has_image_shape:
        raise InputError(
            f"The array is {pictures.dtype} of shape {pictures.shape}; expected pictures as uint8 (n, height, width, 3)"
            " or (n, height, width), rows of numbers (n, height * width), or paths."
        )
    return pictures


def write_png_files(pictures: Iterable[Pixels], folder: Path) -> list[Path]:
    """Write pictures, uint8 (height, width, 3), as PNG files, which are lossless; return their paths, in order."""
    folder.mkdir(parents=True)
    paths: list[Path] = []
    for picture in pictures:
        paths.append(folder / f"{len(paths):07}.png")
        Image.fromarray(picture).save(paths[-1], "PNG", compress_level=1)
    return paths


def _guess_shape(numbers: int) -> tuple[int, int, int]:
    for channels in (1, 3):
        side = math.isqrt(numbers // channels)
        if side * side * channels == numbers:
            return side, side, channels
    return 1, numbers, 1


def _check_shape(shape: Sequence[int], numbers: int) -> tuple[int, int, int]:
    sizes = tuple(shape)
    if len(sizes) not in (2, 3) or math.prod(sizes) != numbers or sizes[2:] not in ((), (1,), (3,)):
        raise InputError(
            f"picture_shape = {sizes} does not match rows of {numbers} numbers; expected (height, width) or"
            " (height, width, 3), whose product is the length of a row."
        )
    return sizes[0], sizes[1], sizes[2] if len(sizes) == 3 else 1
