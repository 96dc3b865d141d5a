"""Picture decoding: bytes -> upright uint8 RGB -> resized to the input size.

Training, evaluation, prediction and serving all decode here, so they see the same pixels.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from bestiary.array_types import Pixels
from bestiary.errors import PictureError

Fit = Literal["squash", "letterbox", "crop"]

# Raster formats only: Pillow would start Ghostscript for EPS. A phone's MPO starts with a JPEG and is opened as one.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "ICO", "TGA", "JPEG2000", "AVIF")
SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
    "ICO": {".ico"},
    "TGA": {".tga"},
    "JPEG2000": {".jp2", ".j2k", ".jpx", ".jpf"},
    "AVIF": {".avif"},
}
PICTURE_SUFFIXES = frozenset().union(*SUFFIXES.values())
LETTERBOX_GREY = 128
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
ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}
NAMELESS = "the file"  # name of a picture decoded from memory, in messages
# Decompression-bomb limits: a JPEG of a few hundred KB can repeat its scans for minutes of decoding (programs write up
# to about twenty); Pillow's time for finding the pages of a TIFF grows with their number squared.
MAX_SCANS, MAX_PAGES = 100, 1000
SCAN, JPEG_END = 0xDA, 0xD9
JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # markers with a length field, and the end


@dataclass(frozen=True)
class DecodeLimits:
    """Limits that are checked before any pixel is decoded."""

    max_bytes: int = 100_000_000
    max_pixels: int = 80_000_000


LIMITS = DecodeLimits()


@dataclass(frozen=True)
class DecodedPicture:
    """An upright RGB image, perhaps decoded at a reduced scale, and facts about its file.

    `width` and `height`: of the upright picture at full scale, in pixels.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    mode: str
    frames: int
    orientation: int
    has_alpha: bool


def read_bytes(source: Path | bytes, limits: DecodeLimits = LIMITS) -> bytes:
    """Return the bytes of a picture file; raises PictureError if it is missing, empty, too large or unreadable."""
    if isinstance(source, bytes):
        content, name = source, NAMELESS
    else:
        content, name = _file_bytes(source, limits), str(source)
    if not content:
        raise PictureError(f"{name} is empty.", check="unreadable")
    if len(content) > limits.max_bytes:
        raise _file_too_large_error(name, len(content), limits)
    return content


def message_with_filename(error: PictureError, name: str) -> str:
    """Return the message of an error with the name of the file in place of `NAMELESS`."""
    return str(error) if name in str(error) else str(error).replace(NAMELESS, name, 1)


def open_picture(source: Path | bytes, *, at_least: int | None = None, limits: DecodeLimits = LIMITS) -> DecodedPicture:
    """Return the picture upright in RGB, with facts about its file.

    `at_least`: a JPEG may be decoded at a reduced scale, with no side below this many pixels.
    Applies the EXIF orientation, composites transparency on white, scales 16-bit to 8-bit and takes the first frame of
    an animation. Raises PictureError, with the file, the problem and the limit, if the picture cannot be read.
    """
    name = NAMELESS if isinstance(source, bytes) else str(source)
    content = read_bytes(source, limits)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.format in {"JPEG", "MPO"}:
                _check_scan_count(content, name)
            return _decode_image(image, name, at_least, limits)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name} is too large: {error}", check="huge") from None
    except UnidentifiedImageError:
        raise PictureError(f"{name} is not a picture: {_guess_content_type(content)}.", check="unreadable") from None
    except PictureError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError) as error:
        check = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise PictureError(f"{name} cannot be decoded: {error}.", check=check) from None
    except Exception as error:  # decoders raise any exception for damaged files
        raise PictureError(f"{name} cannot be decoded: {type(error).__name__}: {error}.", check="unreadable") from error


def decode(source: Path | bytes, *, at_least: int | None = None, limits: DecodeLimits = LIMITS) -> Pixels:
    """Return the picture as upright uint8 RGB of shape (height, width, 3); see `open_picture`."""
    return np.asarray(open_picture(source, at_least=at_least, limits=limits).image)


def to_upright_rgb(image: Image.Image, limits: DecodeLimits = LIMITS) -> Pixels:
    """Return a Pillow image as upright uint8 RGB of shape (height, width, 3); `image` is not changed.

    Raises PictureError if its file is closed or damaged, or if it is too large.
    """
    try:
        return np.asarray(_decode_image(image.copy(), "the image", None, limits).image)
    except (OSError, SyntaxError, ValueError, AttributeError) as error:  # a closed file is an AttributeError
        raise PictureError(f"the image cannot be decoded: {error}.", check="unreadable") from None


def resize_to_square(pixels: Pixels, size: int, how: Fit = "squash") -> Pixels:
    """Return the picture as uint8 (size, size, 3), antialiased.

    `squash` stretches the whole picture; `letterbox` keeps the aspect ratio and adds grey bars; `crop` scales the short
    side and crops the centre of the long one. pixels: uint8 (height, width, 3).
    """
    return np.asarray(resize_image_to_square(Image.fromarray(pixels), size, how))


def load(source: Path | bytes, size: int, how: Fit = "squash", *, limits: DecodeLimits = LIMITS) -> Pixels:
    """Return the model input of a picture: upright uint8 RGB of shape (size, size, 3)."""
    return np.asarray(resize_image_to_square(open_picture(source, at_least=size, limits=limits).image, size, how))


def resize_image_to_square(image: Image.Image, size: int, how: Fit) -> Image.Image:
    """Return the RGB image resized to (size, size); see `resize_to_square`."""
    width, height = image.size
    if how == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    if how == "crop":
        side = min(width, height)
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    scale = size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new("RGB", (size, size), (LETTERBOX_GREY,) * 3)
    canvas.paste(image.resize(inner, Image.Resampling.BICUBIC), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return canvas


def _file_bytes(path: Path, limits: DecodeLimits) -> bytes:
    try:
        if path.is_dir():
            raise PictureError(f"{path} is a folder, not a picture.", check="unreadable")
        if not path.is_file() and path.exists():
            raise PictureError(f"{path} is neither a file nor a link to one.", check="unreadable")
        if (size_bytes := path.stat().st_size) > limits.max_bytes:
            raise _file_too_large_error(str(path), size_bytes, limits)
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError(f"There is no file {path}.", check="unreadable") from None
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}.", check="unreadable") from None


def _file_too_large_error(name: str, size_bytes: int, limits: DecodeLimits) -> PictureError:
    message = f"{name} has {size_bytes:,} bytes; at most {limits.max_bytes:,} are read (picture.max_bytes)."
    return PictureError(message, check="huge")


def _decode_image(image: Image.Image, name: str, at_least: int | None, limits: DecodeLimits) -> DecodedPicture:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise PictureError(
            f"{name} has {width:,} x {height:,} pixels; at most {limits.max_pixels:,} in all are decoded"
            " (picture.max_pixels).",
            check="huge",
        )
    mode, kind = image.mode, image.format or "unknown"
    frames = _count_frames(image)
    has_alpha = _has_alpha(image)
    if at_least is not None:
        image.draft(None, (at_least, at_least))
    orientation, stored = _read_orientation(image), image.size
    image.load()
    if image.size != stored:
        width, height = image.size
    upright, remaining = _to_rgb(image), _read_orientation(image)  # Pillow has already rotated a TIFF in load()
    if remaining in TRANSPOSITIONS:
        upright = upright.transpose(TRANSPOSITIONS[remaining])
    if remaining >= 5:
        width, height = height, width
    return DecodedPicture(upright, width, height, kind, mode, frames, orientation, has_alpha)


def _check_scan_count(content: bytes, name: str) -> None:
    """Raise PictureError for a JPEG with too many scans; walks the markers, as image data may contain 0xFFDA."""
    if content.count(bytes([0xFF, SCAN])) <= MAX_SCANS:
        return
    offset, scans = 2, 0
    while (marker := JPEG_MARKER.search(content, offset)) and marker[1][0] != JPEG_END:
        scans += marker[1][0] == SCAN
        if scans > MAX_SCANS:
            raise PictureError(f"{name} has more than {MAX_SCANS} scans, which take too long to decode.", check="huge")
        offset = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])


def _count_frames(image: Image.Image) -> int:
    """Return the number of frames, of a TIFF at most MAX_PAGES; the further frames of a phone's MPO are previews."""
    if image.format == "MPO":
        return 1
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    pages = 1
    with contextlib.suppress(EOFError):
        while pages < MAX_PAGES:
            image.seek(pages)
            pages += 1
    image.seek(0)
    return pages


def _read_orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unreadable
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ALPHA_MODES or "transparency" in image.info


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_to_rgb(image)
    if _has_alpha(image):
        straight = image.convert("RGBA")
        white = Image.new("RGBA", straight.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, straight).convert("RGB")
    if image.mode == "RGB":
        return image.copy() if image.readonly else image
    return image.convert("RGB")


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 16-bit integers, or floating-point values in 0..1, to 8 bits a channel."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0)
        grey = values / (1.0 if float(values.max()) <= 1.0 else 255.0) * 255.0
    else:
        grey = values.astype(np.float64) / 257.0
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")


def _guess_content_type(content: bytes) -> str:
    head = content[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    if any(brand in content[:32] for brand in (b"ftypheic", b"ftypheix", b"ftypmif1")):
        return "it is HEIC, which Pillow cannot read; convert it to JPEG"
    if head.startswith((b"<svg", b"<?xml")):
        return "it is a drawing (SVG or XML), not pixels"
    if head.startswith(b"%pdf"):
        return "it is a PDF"
    if b"\x00" not in content[:512]:
        return "it looks like text"
    return "no known format begins like this"
