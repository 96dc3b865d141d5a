"""Orientation of a picture by EXIF, and the transposition that turns it upright."""

from __future__ import annotations

from PIL import Image

TRANSPOSITIONS = {  # EXIF orientation -> the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_ORIENTATION = 0x0112


def read_exif(image: Image.Image) -> Image.Exif | None:
    """Return the EXIF fields of an image, None if they are damaged."""
    try:
        return image.getexif()
    except Exception:  # a damaged EXIF block does not make the pixels unreadable
        return None


def read_orientation(exif: Image.Exif | None) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright, and stands for an invalid one."""
    try:
        orientation = 1 if exif is None else exif.get(EXIF_ORIENTATION, 1)
    except Exception:  # fields are decoded when they are looked up
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened JPEG when it is turned upright; no pixels are decoded."""
    width, height = image.size
    return (height, width) if read_orientation(read_exif(image)) >= 5 else (width, height)
