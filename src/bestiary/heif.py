"""HEIC and HEIF pictures: recognised by their first bytes, opened by pillow-heif, which the extra "heif" installs."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image, ImageFile

from bestiary.errors import MissingExtraError, PictureError, import_optional
from bestiary.install_command import install_command

# Brands of the file type box (ISO/IEC 23008-12): of HEVC pictures and sequences, of any codec's, and of AVIF.
HEVC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
ANY_BRANDS, AVIF_BRANDS = frozenset({b"mif1", b"msf1"}), frozenset({b"avif", b"avis"})
MOST_BRAND_BYTES = 256


def is_heif(content: bytes) -> bool:
    """Return whether the bytes of a file begin like HEIC or HEIF; AVIF, which Pillow reads itself, does not count."""
    if content[4:8] != b"ftyp":
        return False
    major, end = content[8:12], min(int.from_bytes(content[:4]), len(content), MOST_BRAND_BYTES)
    compatible = {content[start : start + 4] for start in range(16, end - 3, 4)}
    return major in HEVC_BRANDS or (major in ANY_BRANDS and not compatible & AVIF_BRANDS)


def open_heif(content: bytes, name: str) -> ImageFile.ImageFile:
    """Return the opened picture, in Pillow's format HEIF, its pixels not yet decoded; of several, the primary one.

    The container's rotation and mirroring are part of the pixels; pillow-heif resets the orientation in EXIF, which
    only repeats them. 10 and 12 bits in colour become 8. Raises PictureError, with the command that installs
    pillow-heif, if it is missing, and OSError for a damaged file.
    """
    try:
        module = import_optional("pillow_heif", extra="heif")
    except MissingExtraError:
        raise PictureError(_missing_message(name), check="unreadable") from None
    try:
        image: ImageFile.ImageFile = module.HeifImageFile(io.BytesIO(content))
    except SyntaxError as error:
        raise OSError(str(error)) from None
    return image


def is_heif_image(image: Image.Image) -> bool:
    """Return whether an image was opened from HEIC or HEIF: then its pixels are upright."""
    return image.format == "HEIF"


@cache
def _install_heif() -> str:
    return install_command("heif")


def _missing_message(name: str) -> str:
    return (
        f'{name} is HEIC, which needs "pillow_heif", which is not installed. Add it with: {_install_heif()} - or'
        " convert the picture to JPEG."
    )
