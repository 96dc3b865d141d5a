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
from bestiary.box import Crop, PictureFile, Region, StoredPicture, content_key, path_of
from bestiary.crops import cut_parts
from bestiary.decode_rules import RULES, DecodeRules
from bestiary.errors import PictureError, SourceError
from bestiary.files import cache_folder
from bestiary.jpeg import reduced_side
from bestiary.picture import (
    LIMITS,
    DecodeLimits,
    Fit,
    load,
    message_with_filename,
    read_bytes,
    resize_image_to_square,
    resize_to_square,
    to_upright_rgb,
)

FORGOTTEN = Path("inspections", "forgotten")  # in the cache: an empty file for each wrong measurement


@dataclass(frozen=True)
class VerifiedFile:
    """A picture file that must not change during a run: caches are keyed by the SHA-256 of its content.

    region: that is looked at, None for the whole picture; then `sha256` is the key of that region (`box.content_key`).
    """

    path: Path
    sha256: str
    region: Region | None = None

    @classmethod
    def of(cls, file: PictureFile, sha256: str) -> VerifiedFile:
        """Return the verified file of a path, or of a crop, whose region must be in pixels."""
        if not isinstance(file, Crop):
            return cls(path_of(file), sha256)
        assert isinstance(file.part, Region), "a measured crop has a region in pixels"
        return cls(file.path, sha256, file.part)

    def content(self, limits: DecodeLimits) -> bytes:
        """Return the bytes of the file; raises SourceError if it was changed, PictureError if it cannot be read."""
        content = read_bytes(self.path, limits)
        self.check(hashlib.sha256(content).hexdigest())
        return content

    def is_unchanged(self, content: bytes) -> bool:
        """Return whether these bytes of the file are those that were measured."""
        return content_key(hashlib.sha256(content).hexdigest(), self.region) == self.sha256

    def check(self, file_sha256: str) -> None:
        """Raise SourceError if the file, of this digest now, was changed."""
        if content_key(file_sha256, self.region) != self.sha256:
            forget_measurement(self.path)
            raise SourceError(
                f"{self.path} was changed after it was measured. Do not change the pictures during a run. Restore the"
                " file, or train again: it will be measured again."
            )


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


def cropped_path(source: Source) -> Path | None:
    """Return the file of a source that is a part of one, None for any other source."""
    if isinstance(source, VerifiedFile):
        return None if source.region is None else source.path
    return source.path if isinstance(source, Crop) else None


def _region(source: Source) -> Region | None:
    return source.region if isinstance(source, VerifiedFile) else None


Source = Path | Crop | StoredPicture | bytes | VerifiedFile | Pixels | Image.Image
KINDS = (Path, Crop, StoredPicture, bytes, VerifiedFile, np.ndarray, Image.Image)


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
        if (path := cropped_path(source)) is not None:
            [pixels] = self.load_parts(path, [source])
            if isinstance(pixels, PictureError):
                raise pixels
            return pixels
        assert not isinstance(source, Crop)
        if isinstance(source, StoredPicture):
            content = source.read(self.limits.max_bytes)
            try:
                return self._load(content)
            except PictureError as error:
                raise PictureError(message_with_filename(error, source.name), check=error.check) from None
        if not isinstance(source, VerifiedFile):
            return self._load(source)
        try:
            return self._load(source.content(self.limits))
        except PictureError as error:
            raise PictureError(message_with_filename(error, str(source.path)), check=error.check) from None

    def load_parts(self, path: Path, sources: Sequence[Source]) -> list[Pixels | PictureError]:
        """Return uint8 (size, size, 3) of each part of one file, which is read once, or why it has none.

        sources: with this `cropped_path`. Raises SourceError for a VerifiedFile that was changed.
        """
        parts = [source.part if isinstance(source, Crop) else _region(source) for source in sources]
        try:
            content = read_bytes(path, self.limits)
            verified = [source for source in sources if isinstance(source, VerifiedFile)]
            digest = hashlib.sha256(content).hexdigest() if verified else ""
            for file in verified:
                file.check(digest)
        except PictureError as error:
            named = PictureError(message_with_filename(error, str(path)), check=error.check)
            return [named for _ in sources]
        images = cut_parts(content, parts, self._least_side, self.limits, self.rules, str(path))
        return [image if isinstance(image, PictureError) else self._resize(image) for image in images]

    def _resize(self, image: Image.Image) -> Pixels:
        return np.asarray(resize_image_to_square(image, self.size, self.fit))

    def _least_side(self, width: int, height: int) -> int:
        return reduced_side(width, height, self.size)

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
