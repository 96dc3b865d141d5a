"""Measures one picture file. Runs in worker processes, so it imports numpy and Pillow only."""

from __future__ import annotations

import contextlib
import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from bestiary.array_types import Array, Bools, Floats, Ints, Pixels
from bestiary.box import Box, content_key, parse_box
from bestiary.capture_time import read_capture_time
from bestiary.crops import cut_region, open_for_parts, part_region
from bestiary.decode_rules import RULES, DecodeRules
from bestiary.errors import PictureError
from bestiary.jpeg import JPEG_START, open_jpeg
from bestiary.picture import DecodedPicture, DecodeLimits, message_with_filename, open_image, read_bytes

HASH_SIDE, HASH_PIXELS = 16, 64  # 16 x 16 = 256 bits from the lowest frequencies of 64 x 64 pixels
THUMBNAIL_SIDE = 32
MEASURE_SIDE = 128
COLOUR_SIDE = 8
COLOURS = ("red", "green", "blue", "border_red", "border_green", "border_blue")
INODE_MASK = 2**63 - 1  # of file identifiers that do not fit into 64 bits with a sign
FACTS = (
    *("width", "height", "format", "frames", "orientation", "has_alpha"),
    *("whitened", "unmeant_alpha", "profile", "profile_problem"),
)
Packed = bytes  # the dataclass below has a field named bytes


@dataclass(frozen=True)
class ImageMeasurements:
    """Measurements of one file, or of a box in it; `audit` decides what they mean.

    box: as text, empty for the whole picture; crop_left to crop_height: the region that is looked at for it, in pixels
    of the upright picture, which all measurements of pixels are of; sha256: of the file and the region
    bytes, mtime_ns, ctime_ns, inode: as the file system gives them, to notice a file that was replaced
    taken: when the camera took it, by EXIF (`read_capture_time`)
    luma: mean brightness in 0..1 · contrast: 5th to 95th percentile of brightness in 0..1 · entropy: of brightness,
    in bits, 0..8 · sharpness: variance of the Laplacian over variance of brightness, at 128 pixels · saturation: 0..1
    · thumbnail: 32 x 32 grey pixels, row by row · colours: Cb and Cr of 8 x 8 pixels, row by row
    · red, green, blue: means in 0..1, and those of the outermost pixels
    · quantisation: sum of the first JPEG table, small for high quality, 0 for other formats · subsampling: of colour
    in a JPEG, 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0, else -1 · sample_type: of a picture of more than 8 bits a sample;
    deep_low, deep_high: its extremes without outliers, unless the file names its range · whitened: fraction of the
    picture that laying on white has replaced · unmeant_alpha, profile_problem: why an alpha channel or a colour profile
    is ignored · profile: that the colours were converted from · missing: fraction of rows that a truncated file lacks.
    If the file is unusable, `error` gives the reason, `check` names the finding, and the rest may be empty.
    """

    path: str
    box: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    sha256: str = ""
    file_sha256: str = ""
    crop_left: int | None = None
    crop_top: int | None = None
    crop_width: int | None = None
    crop_height: int | None = None
    width: int = 0
    height: int = 0
    format: str = ""
    frames: int = 1
    orientation: int = 1
    has_alpha: bool = False
    taken: str | None = None
    phash: str = ""
    thumbnail: Packed = b""
    colours: Packed = b""
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
    sample_type: str = ""
    deep_low: float | None = None
    deep_high: float | None = None
    whitened: float = 0.0
    unmeant_alpha: str = ""
    profile: str = ""
    profile_problem: str = ""
    missing: float | None = None
    check: str | None = None
    error: str | None = None


def measure_file(path: Path, limits: DecodeLimits, rules: DecodeRules = RULES) -> ImageMeasurements:
    """Return the measurements of a file; an unusable file gets an `error`, and raises no exception."""
    return measure_boxes(path, [""], limits, rules)[0]


def measure_boxes(
    path: Path, boxes: Sequence[str], limits: DecodeLimits, rules: DecodeRules = RULES
) -> list[ImageMeasurements]:
    """Return the measurements of a file, one for each of the boxes (as text; "" is the whole picture), decoded once.

    An unusable file or box gets an `error`, and raises no exception.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings name no file; the checks below report what matters
        parts = [parse_box(box) if box else None for box in boxes]
        measured = _measure_path(path, parts, limits, rules)
        return [replace(row, box=box) for row, box in zip(measured, boxes, strict=True)]


def _measure_path(
    path: Path, parts: Sequence[Box | None], limits: DecodeLimits, rules: DecodeRules
) -> list[ImageMeasurements]:
    measurements, content = ImageMeasurements(str(path)), b""
    try:
        stat = path.stat()
        measurements = replace(
            measurements,
            bytes=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            ctime_ns=stat.st_ctime_ns,
            inode=stat.st_ino & INODE_MASK,
        )
        content = read_bytes(path, limits)
        digest = hashlib.sha256(content).hexdigest()
        measurements = replace(measurements, sha256=digest, file_sha256=digest)
        return _measure_content(content, parts, measurements, limits, rules)
    except PictureError as error:
        message = message_with_filename(error, str(path))
        missing = missing_fraction(content) if error.check == "truncated" else None
        message += "" if missing is None else f" About {100 * missing:.0f} % of the picture is missing."
        return [replace(measurements, missing=missing, check=error.check, error=message) for _ in parts]
    except OSError as error:
        is_broken_link = path.is_symlink() and not path.exists()
        why = "it is a broken symbolic link" if is_broken_link else error.strerror or error
        unreadable = ImageMeasurements(str(path), check="unreadable", error=f"{path} cannot be read: {why}.")
        return [unreadable for _ in parts]


def perceptual_hash(image: Image.Image) -> Bools:
    """Return the pHash of a picture, bool (256,), which hardly changes when it is scaled, re-encoded or brightened.

    The 16 x 16 lowest frequencies of the discrete cosine transform of 64 x 64 grey pixels, compared with their median
    (Zauner 2010): the same bits as `imagehash.phash` with `hash_size=16`.
    """
    return _hash(_hash_pixels(image))


def _hash_pixels(image: Image.Image) -> Floats:
    return np.asarray(image.convert("L").resize((HASH_PIXELS, HASH_PIXELS), Image.Resampling.LANCZOS), np.float64)


def _hash(grey: Floats) -> Bools:
    waves = _cosines()
    low = np.round(waves @ grey @ waves.T, 6)  # rounding errors must not decide a bit: machines differ
    middle = HASH_SIDE**2 // 2
    median = np.sort(low, axis=None)[middle - 1 : middle + 1].mean()  # as np.median, in a sixth of its time
    above: Bools = (low > median).ravel()
    return above


def _thumbnail(grey: Floats) -> Pixels:
    blocks = grey.reshape(THUMBNAIL_SIDE, HASH_PIXELS // THUMBNAIL_SIDE, THUMBNAIL_SIDE, -1)
    means: Floats = blocks.mean(axis=(1, 3))
    return np.rint(means).astype(np.uint8)


def _colours(small: Image.Image) -> Pixels:
    """Return the mean Cb and Cr of 8 x 8 parts of the picture, uint8 (8, 8, 2)."""
    planes: Pixels = np.asarray(small.convert("YCbCr").resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX))
    return planes[:, :, 1:]


@cache
def _cosines() -> Floats:
    frequency, position = np.arange(HASH_SIDE)[:, None], np.arange(HASH_PIXELS)[None, :]
    waves: Floats = np.cos(np.pi * frequency * (2 * position + 1) / (2 * HASH_PIXELS))
    return waves


def _measure_content(
    content: bytes,
    parts: Sequence[Box | None],
    measurements: ImageMeasurements,
    limits: DecodeLimits,
    rules: DecodeRules,
) -> list[ImageMeasurements]:
    picture = open_for_parts(content, parts, _measured_side, limits, rules)
    facts: dict[str, Any] = {name: getattr(picture, name) for name in FACTS}
    facts["taken"] = read_capture_time(picture.exif)
    if picture.depth is not None:
        facts["sample_type"] = picture.depth.sample_type
        if not picture.depth.has_own_range:
            facts |= {"deep_low": picture.depth.low, "deep_high": picture.depth.high}
    facts |= zip(("quantisation", "subsampling"), _jpeg_settings(content), strict=True)
    measurements = replace(measurements, **facts)
    return [_measure_part(picture, part, measurements) for part in parts]


def _measured_side(width: int, height: int) -> int:
    return min(MEASURE_SIDE, width, height)


def _measure_part(picture: DecodedPicture, part: Box | None, measurements: ImageMeasurements) -> ImageMeasurements:
    try:
        region = part_region(picture, part, measurements.path)
    except PictureError as error:
        return replace(measurements, check=error.check, error=str(error))
    image, facts = cut_region(picture, region), dict[str, Any]()
    if region is not None:
        facts = {f"crop_{name}": value for name, value in asdict(region).items()}
        facts |= {"width": region.width, "height": region.height}
        facts |= {"sha256": content_key(measurements.file_sha256, region)}
    small = image.copy()
    small.thumbnail((MEASURE_SIDE, MEASURE_SIDE), Image.Resampling.BILINEAR)
    pixels, levels = np.asarray(small), np.asarray(small.convert("L"))
    grey, counts = np.divide(levels, 255, dtype=np.float32), np.bincount(levels.ravel(), minlength=256)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    hashed = _hash_pixels(image)
    low, high = (_percentile(counts, fraction) for fraction in (0.05, 0.95))
    facts |= zip(COLOURS, _mean_colour(pixels) + _mean_colour(border), strict=True)
    return replace(
        measurements,
        **facts,
        phash=np.packbits(_hash(hashed)).tobytes().hex(),
        thumbnail=_thumbnail(hashed).tobytes(),
        colours=_colours(small).tobytes(),
        luma=float(grey.mean()),
        contrast=high - low,
        entropy=_entropy(counts),
        sharpness=_sharpness(grey),
        saturation=float(np.asarray(small.convert("HSV").getchannel("S")).mean() / 255),
    )


def _mean_colour(pixels: Pixels) -> list[float]:
    rows = pixels.reshape(-1, 3).astype(np.float32)
    sums = np.ones(len(rows), np.float32) @ rows  # exact: at most 128 x 128 x 255, and 30 times as fast as a mean
    means: list[float] = (sums.astype(np.float64) / len(rows) / 255).tolist()
    return means


def _jpeg_settings(content: bytes) -> tuple[int, int]:
    """Return `quantisation` and `subsampling` from the header of a picture file; decodes no pixels."""
    if not content.startswith(JPEG_START):
        return 0, -1
    with open_jpeg(content) as image:
        if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.quantization:
            return 0, -1
        return sum(image.quantization[min(image.quantization)]), JpegImagePlugin.get_sampling(image)


def _percentile(counts: Ints, fraction: float) -> float:
    """Return a percentile of brightness in 0..1, interpolated, from the number of pixels of each of 256 levels."""
    ends = np.cumsum(counts)
    position = fraction * (int(ends[-1]) - 1)
    low, high = np.searchsorted(ends, [int(position), math.ceil(position)], side="right").tolist()
    return float(low + (high - low) * (position - int(position))) / 255


def _entropy(counts: Ints) -> float:
    fractions = counts[counts > 0] / counts.sum()
    return float(-(fractions * np.log2(fractions)).sum())


def _sharpness(grey: Array) -> float:
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(laplacian.var() / max(float(grey.var()), 1e-6))


TOP_DOWN = {"JPEG", "MPO", "PNG", "PPM", "TIFF"}  # stored row by row, the top row first
EITHER_WAY = {"BMP", "TGA"}  # row by row, usually the bottom row first
DRAFT_SIDE = 1000  # pixels a side that a truncated JPEG keeps: the missing rows are counted to a thousandth


def missing_fraction(content: bytes) -> float | None:
    """Return the fraction of rows that a truncated picture lacks, in 0..1, or None if it is unknown.

    It is unknown if the picture is stored in passes (progressive JPEG, interlaced PNG). Rows that the decoder did not
    reach are zero in all channels: such rows at the edge where the file ends count as missing.
    """
    with contextlib.suppress(Exception):  # decoders of damaged files raise anything
        image = open_image(content)
        image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))  # a large JPEG at full scale takes gigabytes
        with contextlib.suppress(OSError):
            image.load()
        image.tile = []  # stops decoding: the decoded part can be read
        filled = np.flatnonzero(np.asarray(image).reshape(image.height, -1).any(axis=1))
        if len(filled) and image.format in TOP_DOWN | EITHER_WAY:
            above, below = int(filled[0]), image.height - 1 - int(filled[-1])
            missing = max(above, below) if image.format in EITHER_WAY else below
            return missing / image.height or None
    return None
