"""Transparency: which alpha channels are meant, and pictures laid on white."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

from bestiary.tiff_tags import is_alpha_declared

ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}
TGA_FOOTER, TGA_MEANT = b"TRUEVISION-XFILE.\0", 3  # and the first type of an extension area that means alpha
TGA_TYPE_OFFSET, TGA_FOOTER_BYTES, TGA_FLAGS = 494, 26, 17
OPAQUE = 255
UNDECLARED_ALPHA = "the TIFF does not declare it as alpha"
SAMPLED_SIDE = 64
CHANGED = 32  # levels of 255: a colour that differs by more is another one


@dataclass(frozen=True)
class FlatImage:
    """An image without its alpha channel, and facts.

    alpha: the channel that is meant, or None. unmeant: why the channel is ignored, empty if it is not.
    """

    colours: Image.Image
    alpha: Image.Image | None = None
    unmeant: str = ""


def has_alpha(image: Image.Image) -> bool:
    """Return whether a picture has an alpha channel, or a transparent colour."""
    return image.mode in ALPHA_MODES or "transparency" in image.info


def split_alpha(image: Image.Image, content: bytes | None) -> FlatImage:
    """Return the colours and the alpha channel of a loaded image of 8 bits a channel.

    content: the bytes of its file, None for an image in memory. An alpha channel is not meant if it is zero everywhere,
    if the header of a TGA says so, or in a TIFF whose fourth channel is not declared to be alpha. A channel that is
    opaque everywhere is left out.
    """
    if not has_alpha(image):
        return FlatImage(image)
    straight = image.convert("RGBA")
    alpha = straight.getchannel("A")
    lowest, highest = alpha.getextrema()
    if lowest == OPAQUE:
        return FlatImage(straight.convert("RGB"))
    unmeant = "it is zero everywhere" if highest == 0 else _explain_unmeant(image, content)
    return FlatImage(straight.convert("RGB"), None if unmeant else alpha, unmeant)


def lay_on_white(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return the RGB image composited on white."""
    picture = colours.copy()
    picture.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture).convert("RGB")


def changed_fraction(colours: Image.Image, on_white: Image.Image) -> float:
    """Return the fraction of the picture that white has replaced, in 0..1."""
    size = min(SAMPLED_SIDE, colours.width), min(SAMPLED_SIDE, colours.height)
    before, after = (image.resize(size, Image.Resampling.NEAREST) for image in (colours, on_white))
    return float((np.asarray(ImageChops.difference(before, after)).max(axis=2) > CHANGED).mean())


def _explain_unmeant(image: Image.Image, content: bytes | None) -> str:
    if image.format == "TIFF" and image.mode in ALPHA_MODES and not is_alpha_declared(image):
        return UNDECLARED_ALPHA
    if image.format == "TGA" and content is not None and not _is_tga_alpha_meant(content):
        return "the header of the TGA says so"
    return ""


def _is_tga_alpha_meant(content: bytes) -> bool:
    """Return whether a TGA has bits of alpha by its header, and by its extension area if it has one."""
    if not content[TGA_FLAGS] & 0x0F:
        return False
    footer = content[-TGA_FOOTER_BYTES:]
    extension = int.from_bytes(footer[:4], "little")
    if not footer.endswith(TGA_FOOTER) or not 0 < extension < len(content) - TGA_TYPE_OFFSET:
        return True
    return content[extension + TGA_TYPE_OFFSET] >= TGA_MEANT
