"""What one picture file is: measured in worker processes, so this module imports numpy and Pillow only."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

from bestiary.array_types import Array, Bools, Floats, Pixels
from bestiary.errors import PictureError
from bestiary.picture import FORMATS, DecodeLimits, message_with_filename, open_picture, read_bytes

HASH_SIDE, HASH_PIXELS = 16, 64  # 16 x 16 = 256 bits from the lowest frequencies of 64 x 64 pixels
THUMBNAIL_SIDE = 32
MEASURE_SIDE = 128
Packed = bytes  # the dataclass below has a field of the name bytes


@dataclass(frozen=True)
class ImageMeasurements:
    """Measurements of one file; what they mean is decided elsewhere.

    luma: mean brightness in 0..1 · contrast: 5th to 95th percentile of brightness in 0..1 · entropy: of brightness,
    in bits, 0..8 · sharpness: variance of the Laplacian over variance of brightness, at 128 pixels · saturation: 0..1
    · thumbnail: 32 x 32 grey pixels, row by row · red, green, blue: means in 0..1, and those of the outermost pixels
    · quantisation: sum of the first JPEG table, small for high quality, 0 for other formats · subsampling: of colour
    in a JPEG, 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0, else -1 · missing: share of rows that a truncated file lacks.
    When the file cannot be used, `error` says why, `check` names the finding, and the rest may be empty.
    """

    path: str
    bytes: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    frames: int = 1
    orientation: int = 1
    has_alpha: bool = False
    phash: str = ""
    thumbnail: Packed = b""
    luma: float = 0.0
    contrast: float = 0.0
    entropy: float = 0.0
    sharpness: float = 0.0
    saturation: float = 0.0
    red: float = 0.0
    green: float = 0.0
    blue: float = 0.0
    border_red: float = 0.0
    border_green: float = 0.0
    border_blue: float = 0.0
    quantisation: int = 0
    subsampling: int = -1
    missing: float | None = None
    check: str | None = None
    error: str | None = None


def measure_file(path: Path, limits: DecodeLimits) -> ImageMeasurements:
    """Return the measurements of a file; a file that cannot be used comes back with `error`, never as an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks name no file: what they amount to is found below
        return _measure_path(path, limits)


def _measure_path(path: Path, limits: DecodeLimits) -> ImageMeasurements:
    seen, content = ImageMeasurements(str(path)), b""
    try:
        stat = path.stat()
        seen = ImageMeasurements(str(path), stat.st_size, stat.st_mtime_ns)
        content = read_bytes(path, limits)
        digest = hashlib.sha256(content).hexdigest()
        seen = ImageMeasurements(str(path), stat.st_size, stat.st_mtime_ns, digest)
        return _measure_content(content, seen, limits)
    except PictureError as error:
        message = message_with_filename(error, str(path))
        missing = missing_fraction(content) if error.check == "truncated" else None
        message += "" if missing is None else f" About {100 * missing:.0f} % of the picture is missing."
        return replace(seen, missing=missing, check=error.check, error=message)
    except OSError as error:
        leads_nowhere = path.is_symlink() and not path.exists()
        why = "it is a link that leads nowhere" if leads_nowhere else error.strerror or error
        return ImageMeasurements(str(path), check="unreadable", error=f"{path} cannot be read: {why}.")


def perceptual_hash(image: Image.Image) -> Bools:
    """Return 256 bits, shape (256,), that hardly change when a picture is scaled, re-encoded or brightened.

    The 16 x 16 lowest frequencies of the discrete cosine transform of 64 x 64 grey pixels, each against their median:
    pHash (Zauner 2010) with `hash_size=16`, the same bits as imagehash gives for the same pixels.
    """
    return _hash(_hash_pixels(image))


def _hash_pixels(image: Image.Image) -> Floats:
    return np.asarray(image.convert("L").resize((HASH_PIXELS, HASH_PIXELS), Image.Resampling.LANCZOS), np.float64)


def _hash(grey: Floats) -> Bools:
    waves = _cosines()
    low = np.round(waves @ grey @ waves.T, 6)  # what is zero but for rounding must not decide a bit: machines differ
    return (low > np.median(low)).ravel()


def _thumbnail(grey: Floats) -> Pixels:
    blocks = grey.reshape(THUMBNAIL_SIDE, HASH_PIXELS // THUMBNAIL_SIDE, THUMBNAIL_SIDE, -1)
    means: Floats = blocks.mean(axis=(1, 3))
    return np.rint(means).astype(np.uint8)


@cache
def _cosines() -> Floats:
    frequency, place = np.arange(HASH_SIDE)[:, None], np.arange(HASH_PIXELS)[None, :]
    waves: Floats = np.cos(np.pi * frequency * (2 * place + 1) / (2 * HASH_PIXELS))
    return waves


def _measure_content(content: bytes, seen: ImageMeasurements, limits: DecodeLimits) -> ImageMeasurements:
    opened = open_picture(content, at_least=MEASURE_SIDE, limits=limits)
    small = opened.image.copy()
    small.thumbnail((MEASURE_SIDE, MEASURE_SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(small.convert("L"), np.float32) / 255
    hashed = _hash_pixels(opened.image)
    low, high = np.percentile(grey, (5, 95))
    red, green, blue = _mean_colour(pixels := np.asarray(small))
    border_red, border_green, border_blue = _mean_colour(_border(pixels))
    quantisation, subsampling = _jpeg_settings(content)
    return ImageMeasurements(
        seen.path,
        seen.bytes,
        seen.mtime_ns,
        seen.sha256,
        width=opened.width,
        height=opened.height,
        format=opened.format,
        frames=opened.frames,
        orientation=opened.orientation,
        has_alpha=opened.has_alpha,
        phash=np.packbits(_hash(hashed)).tobytes().hex(),
        thumbnail=_thumbnail(hashed).tobytes(),
        luma=float(grey.mean()),
        contrast=float(high - low),
        entropy=_entropy(grey),
        sharpness=_sharpness(grey),
        saturation=float(np.asarray(small.convert("HSV"))[..., 1].mean() / 255),
        red=red,
        green=green,
        blue=blue,
        border_red=border_red,
        border_green=border_green,
        border_blue=border_blue,
        quantisation=quantisation,
        subsampling=subsampling,
    )


def _mean_colour(pixels: Array) -> list[float]:
    means: list[float] = (pixels.reshape(-1, 3).mean(axis=0) / 255).tolist()
    return means


def _border(pixels: Array) -> Array:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _jpeg_settings(content: bytes) -> tuple[int, int]:
    """Return `quantisation` and `subsampling` from the header of a picture file: no pixel is decoded."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.quantization:
            return 0, -1
        return sum(image.quantization[min(image.quantization)]), JpegImagePlugin.get_sampling(image)


def _entropy(grey: Array) -> float:
    counts = np.bincount((grey * 255).astype(np.uint8).ravel(), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _sharpness(grey: Array) -> float:
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(laplacian.var() / max(float(grey.var()), 1e-6))


DOWNWARDS = {"JPEG", "MPO", "PNG", "PPM", "TIFF"}  # stored row by row, the upper edge first
EITHER_WAY = {"BMP", "TGA"}  # row by row, the lower edge first as a rule


def missing_fraction(content: bytes) -> float | None:
    """Return the share of rows that a truncated picture lacks, in 0..1, or None where that cannot be told.

    It cannot where the whole picture is stored in ever finer passes (progressive JPEG, interlaced PNG). What the
    decoder did not reach is zero in all channels: rows at the edge where the file ends that are so count as missing.
    """
    with contextlib.suppress(Exception):  # whatever a decoder of damaged files stumbles over: then nothing is told
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        with contextlib.suppress(OSError):
            image.load()
        image.tile = []  # nothing is left to decode: what is there can be read
        if image.format in DOWNWARDS | EITHER_WAY:
            return _empty_edge(np.asarray(image), either=image.format in EITHER_WAY)
    return None


def _empty_edge(pixels: np.ndarray, *, either: bool) -> float | None:
    filled = np.flatnonzero(pixels.reshape(len(pixels), -1).any(axis=1))
    if not len(filled):
        return None
    above, below = int(filled[0]), len(pixels) - 1 - int(filled[-1])
    missing = max(above, below) if either else below
    return missing / len(pixels) if missing else None
