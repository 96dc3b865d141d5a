"""Preprocessing of a picture for a model: decode, resize, verify that the file is unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bestiary.array_types import Pixels
from bestiary.decode_rules import RULES, DecodeRules
from bestiary.errors import PictureError, SourceError
from bestiary.files import cache_folder
from bestiary.picture import (
    LIMITS,
    DecodeLimits,
    Fit,
    load,
    message_with_filename,
    read_bytes,
    resize_to_square,
    to_upright_rgb,
)

FORGOTTEN = Path("inspections", "forgotten")  # in the cache: an empty file for each wrong measurement


@dataclass(frozen=True)
class VerifiedFile:
    """A picture file that must not change during a run: caches are keyed by the SHA-256 of its content."""

    path: Path
    sha256: str

    def content(self, limits: DecodeLimits) -> bytes:
        """Return the bytes of the file; raises SourceError if it was changed, PictureError if it cannot be read."""
        content = read_bytes(self.path, limits)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            forget_measurement(self.path)
            raise SourceError(
                f"{self.path} was changed after it was measured. Do not change the pictures during a run. Restore the"
                " file, or train again: it will be measured again."
            )
        return content


def forget_measurement(path: Path) -> None:
    """Mark the cached measurement of a file as wrong: its content is another, whatever the file system says."""
    marker = _forgotten_marker(path)
    with contextlib.suppress(OSError):  # without a cache there is no measurement to forget
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def find_forgotten(paths: Sequence[str]) -> list[str]:
    """Return those of the paths that `forget_measurement` has marked."""
    folder = cache_folder() / FORGOTTEN
    try:
        names = {marker.name for marker in folder.iterdir()}
    except OSError:
        return []
    return [path for path in paths if names and _forgotten_marker(Path(path)).name in names]


def remove_forgotten_marks(paths: Sequence[str]) -> None:
    """Remove the marks of `forget_measurement`: the files have been measured again."""
    for path in paths:
        with contextlib.suppress(OSError):
            _forgotten_marker(Path(path)).unlink()


def _forgotten_marker(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    return cache_folder() / FORGOTTEN / digest[:32]


Source = Path | bytes | VerifiedFile | Pixels | Image.Image
KINDS = (Path, bytes, VerifiedFile, np.ndarray, Image.Image)


@dataclass(frozen=True)
class Preprocessing:
    """The input size of a model, and how pictures are decoded and resized to it."""

    size: int
    fit: Fit = "squash"
    limits: DecodeLimits = LIMITS
    rules: DecodeRules = RULES

    def load_pixels(self, source: Source) -> Pixels:
        """Return the picture as uint8 (size, size, 3); an array is uint8 RGB of any size, in sRGB.

        Raises PictureError if it cannot be decoded, SourceError for a VerifiedFile that was changed.
        """
        if isinstance(source, Image.Image):
            source = to_upright_rgb(source, self.limits, self.rules)
        if isinstance(source, np.ndarray):
            return self._resize_array(source)
        if not isinstance(source, VerifiedFile):
            return self._load(source)
        try:
            return self._load(source.content(self.limits))
        except PictureError as error:
            raise PictureError(message_with_filename(error, str(source.path)), check=error.check) from None

    def _load(self, source: Path | bytes) -> Pixels:
        return load(source, self.size, self.fit, limits=self.limits, rules=self.rules)

    def _resize_array(self, pixels: Pixels) -> Pixels:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype != np.uint8:
            raise PictureError(
                f"An array is {pixels.dtype} of shape {pixels.shape}; expected uint8 (height, width, 3), RGB.",
                check="unreadable",
            )
        is_resized = pixels.shape[:2] == (self.size, self.size)
        return pixels if is_resized else resize_to_square(pixels, self.size, self.fit)
