"""Embedded colour profiles (ICC): pictures in another colour space than sRGB are converted to it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops

if TYPE_CHECKING:
    from PIL import ImageCms

SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of a profile -> mode of its pictures
SAME = 3  # levels of 255: a profile that changes no colour by more is sRGB
CACHED_PROFILES = 64
LONGEST_NAME = 60


@dataclass(frozen=True)
class ColourProfile:
    """What a profile means: the mode of its pictures, the conversion to sRGB (None: it is sRGB), or the problem."""

    name: str
    mode: str = ""
    transform: ImageCms.ImageCmsTransform | None = None
    problem: str = ""


@dataclass(frozen=True)
class ProfiledImage:
    """An image in sRGB, the name of the profile that it was converted from, and the problem of one that was ignored."""

    image: Image.Image
    profile: str = ""
    problem: str = ""


def convert_to_srgb(image: Image.Image, profile: object) -> ProfiledImage:
    """Return the RGB image of an image of 8 bits a channel; profile: the bytes of its colour profile, or None.

    A profile that is damaged, or does not fit the image, is ignored and named.
    """
    if not isinstance(profile, bytes) or not profile:
        return ProfiledImage(_to_rgb(image))
    meaning = read_profile(profile)
    if meaning.problem:
        return ProfiledImage(_to_rgb(image), problem=meaning.problem)
    source = image if image.mode == meaning.mode else _convert_to_mode(image, meaning.mode)
    if source is None:
        problem = f'the profile "{meaning.name}" is for mode {meaning.mode}, and the picture has mode {image.mode}'
        return ProfiledImage(_to_rgb(image), problem=problem)
    if meaning.transform is None:
        return ProfiledImage(_to_rgb(source))
    from PIL import ImageCms

    return ProfiledImage(ImageCms.applyTransform(source, meaning.transform) or source, meaning.name)


@lru_cache(CACHED_PROFILES)
def read_profile(profile: bytes) -> ColourProfile:
    """Return the meaning of a profile; those of most pictures are a few, which are read once."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = " ".join(ImageCms.getProfileDescription(source).split())[:LONGEST_NAME] or "nameless"
        mode = SPACES.get(source.profile.xcolor_space)
        if mode is None:
            return ColourProfile(name, problem=f'the profile "{name}" is of colour space {source.profile.xcolor_space}')
        # Grey curves are computed for each pixel: the table that would replace them has 33 entries.
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
        return ColourProfile(name, mode, None if _is_identity(transform, mode) else transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return ColourProfile("", problem=f"the profile is damaged: {error}")


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a conversion hardly changes any colour of a grid."""
    from PIL import ImageCms

    if mode == "CMYK":
        return False
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
    before = Image.fromarray(grid)
    after = ImageCms.applyTransform(before, transform)
    return after is not None and _largest_difference(before.convert("RGB"), after) <= SAME


def _to_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _convert_to_mode(image: Image.Image, mode: str) -> Image.Image | None:
    """Return the image in the mode of its profile, or None if that would change its colours."""
    if mode == "CMYK" or image.mode in {"CMYK", "LAB"}:
        return None
    colours = _to_rgb(image)
    if mode == "RGB":
        return colours
    red, green, blue = colours.split()
    is_grey = not ImageChops.difference(red, green).getbbox() and not ImageChops.difference(red, blue).getbbox()
    return red if is_grey else None


def _largest_difference(before: Image.Image, after: Image.Image) -> int:
    return int(np.abs(np.asarray(before).astype(int) - np.asarray(after).astype(int)).max())
