"""Deep pictures: samples of more than 8 bits, read in full, and scaled to 8 bits from one range of values.

The range is that of the file, if it names one; else that of the collection (`DecodeRules.deep_ranges`); else it follows
from the values of the picture itself by `choose_range`.
"""

from __future__ import annotations

import io
import math
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bestiary.array_types import Array, Bools, Pixels
from bestiary.decode_rules import DecodeRules, SampleRange
from bestiary.tiff_tags import is_alpha_declared, is_alpha_premultiplied, read_tag
from bestiary.transparency import UNDECLARED_ALPHA

TAILS = 0.001  # fraction of the samples at either end that do not count: hot pixels, values that mean "no data"
SAMPLED = 1_000_000  # samples that are looked at to measure a picture
ROWS_AT_ONCE = 256
BITS = range(8, 33, 2)
BITS_PER_SAMPLE, WHITE_IS_ZERO, SAMPLE_FORMAT = 258, 262, 339
LOWEST_TAGS, HIGHEST_TAGS = (340, 280), (341, 281)  # SMinSampleValue, MinSampleValue, and the largest ones
UNSIGNED, SIGNED = 1, 2
FULL_16_BITS: SampleRange = (0.0, 65_535.0)
WORDS = (";16L", ";16B", ";16N")  # samples of 16 bits by their byte order; `BGR;16` are 5-6-5 bits of a pixel
SWAPPED_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}  # Pillow keeps the high byte only


@dataclass(frozen=True)
class DeepSamples:
    """The samples of a deep picture: (height, width), or (height, width, 3) in RGB.

    own_range: that the file names. alpha: uint8 (height, width), or None without transparency; unmeant_alpha: why a
    fourth channel is not one.
    """

    values: Array
    sample_type: str
    own_range: SampleRange | None = None
    alpha: Pixels | None = None
    is_white_zero: bool = False
    is_premultiplied: bool = False
    unmeant_alpha: str = ""


@dataclass(frozen=True)
class Depth:
    """Facts about deep samples: their type, whether the file names their range, and their extremes without outliers."""

    sample_type: str
    has_own_range: bool
    low: float
    high: float


def read_deep_samples(image: Image.Image, content: bytes | None) -> DeepSamples | None:
    """Return the samples of an opened picture, or None if it has 8 bits or fewer. Loads the picture.

    content: the bytes of its file, None for an image in memory: of 16-bit colour, that has only the high bytes.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _read_grey(image, content)
    rawmode = _rawmode(image)
    if content is None or not rawmode.startswith(("R", "G", "B", "LA")) or not rawmode.endswith(WORDS):
        return None
    return _read_colour(image, content, rawmode)


def scale_to_8_bits(samples: DeepSamples, rules: DecodeRules, *, from_file: bool) -> tuple[Image.Image, Depth]:
    """Return the picture in mode L, LA, RGB or RGBA, and facts about its samples; values out of range are clipped.

    Values that are no number become black.
    """
    low, high = measure_extremes(samples.values)
    depth = Depth(samples.sample_type, samples.own_range is not None, low, high)
    ends = samples.own_range or rules.find_range(samples.sample_type, is_exact_type=from_file)
    ends = ends or choose_range(low, high, samples.sample_type)
    pixels = np.concatenate([_scale_rows(rows, ends, samples) for rows in _iter_row_blocks(samples.values)])
    if samples.alpha is None:
        return Image.fromarray(pixels), depth
    if samples.is_premultiplied:
        opacity = np.maximum(samples.alpha, 1)[..., None] / 255
        pixels = np.clip(np.rint(pixels / opacity), 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, samples.alpha])), depth


def measure_extremes(values: Array) -> SampleRange:
    """Return the smallest and the largest finite sample, without the outermost `TAILS`; (0, 0) without a finite one."""
    flat = values.reshape(-1)
    flat = flat[:: -(-flat.size // SAMPLED)]
    finite = flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat
    if not finite.size:
        return 0.0, 0.0
    low, high = np.quantile(finite, TAILS, method="lower"), np.quantile(finite, 1 - TAILS, method="higher")
    return float(low), float(high)


def choose_range(low: float, high: float, sample_type: str) -> SampleRange:
    """Return the range to scale from, for samples between `low` and `high`.

    It is the smallest usual one that contains them: of integers 8, 10, 12 … 32 bits, of floating-point numbers 0 to 1
    or 0 to 255. If they span less than half of that, it is `low` to `high` itself.

    >>> choose_range(0, 4000, "uint16"), choose_range(28_000, 30_040, "uint16"), choose_range(-12.5, 31, "float")
    ((0.0, 4095.0), (28000.0, 30040.0), (-12.5, 31.0))
    """
    usual = find_usual_range(low, high, sample_type)
    if usual is not None:
        return usual
    return float(low), float(high) if high > low else float(low) + max(1.0, math.ulp(low))


def find_usual_range(low: float, high: float, sample_type: str) -> SampleRange | None:
    """Return the smallest usual range that contains both values, or None if they span less than half of it.

    Equal values span nothing, and have the range that contains them.

    >>> find_usual_range(0, 4095, "uint16"), find_usual_range(28_000, 30_040, "uint16")
    ((0.0, 4095.0), None)
    """
    for bottom, top in _usual_ranges(low, sample_type):
        if bottom <= low and high <= top:
            return (bottom, top) if high - low >= (top - bottom) / 2 or high <= low else None
    return None


def count_bits(low: float, high: float) -> int:
    """Return the number of bits of the smallest integers that hold both values.

    >>> count_bits(0, 4095), count_bits(0, 4096), count_bits(-1000, 3000)
    (12, 13, 13)
    """
    return max(int(high).bit_length(), int(-low - 1).bit_length() if low < 0 else 0) + (low < 0)


def _usual_ranges(low: float, sample_type: str) -> Iterator[SampleRange]:
    if sample_type == "float":
        yield from ((0.0, 1.0), (0.0, 255.0))
    elif low < 0:
        yield from ((-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) for bits in BITS)
    else:
        yield from ((0.0, 2.0**bits - 1) for bits in BITS)


def _iter_row_blocks(values: Array) -> Iterator[Array]:
    """Yield the rows some hundred at a time: as floating-point numbers they take eight times the memory."""
    for start in range(0, len(values), ROWS_AT_ONCE):
        yield values[start : start + ROWS_AT_ONCE]


def _scale_rows(rows: Array, ends: SampleRange, samples: DeepSamples) -> Pixels:
    low, high = ends
    black, white = (high, low) if samples.is_white_zero else (low, high)
    numbers = np.nan_to_num(rows.astype(np.float64), nan=black, posinf=high, neginf=low)
    scaled: Pixels = np.clip(np.rint((numbers - black) * 255 / (white - black)), 0, 255).astype(np.uint8)
    return scaled


def _read_grey(image: Image.Image, content: bytes | None) -> DeepSamples:
    image.load()
    values = np.asarray(image)
    sample_type = "float" if image.mode == "F" else "int32" if image.mode == "I" else "uint16"
    if image.format == "TIFF" and image.mode == "I":
        is_signed = read_tag(image, SAMPLE_FORMAT, UNSIGNED) == SIGNED
        bits = read_tag(image, BITS_PER_SAMPLE, 32)
        values = values if is_signed else values.view(np.uint32)
        sample_type = f"{'int' if is_signed else 'uint'}{16 if bits <= 16 else 32}"
    alpha, own_range = None, None
    if image.format in {"PPM", "JPEG2000", "HEIF"} and image.mode != "F":
        sample_type, own_range = "uint16", FULL_16_BITS  # scaled from the range that the file names
    elif image.format == "PNG" and content is not None:
        own_range = _png_range(content, values)
        alpha = _transparent_value_alpha(values, image.info.get("transparency"))
    elif image.format == "TIFF":
        own_range = _tiff_range(image, values)
    is_white_zero = image.format == "TIFF" and read_tag(image, WHITE_IS_ZERO, 1) == 0
    return DeepSamples(values, sample_type, own_range, alpha, is_white_zero)


def _read_colour(image: Image.Image, content: bytes, rawmode: str) -> DeepSamples:
    """Return 16-bit colour: Pillow decodes the high bytes, and the low ones if the byte order is exchanged."""
    image.load()
    if rawmode == "LA;16B":  # the four bytes of a pixel: grey, alpha
        low = _decode_layout(image, content, rawmode, "RGBA")
        grey, opacity = (low[..., start].astype(np.uint16) * 256 + low[..., start + 1] for start in (0, 2))
        return DeepSamples(grey, "uint16", _png_range(content, grey), _alpha_to_8_bits(opacity, grey))
    straight = rawmode.replace("RGBa", "RGBA")  # Pillow divides premultiplied colours by the one byte of alpha it reads
    high = np.asarray(image) if straight == rawmode else _decode_layout(image, content, rawmode, straight)
    low = _decode_layout(image, content, rawmode, straight[:-1] + SWAPPED_ORDER[straight[-1]])
    values = high.astype(np.uint16) * 256 + low
    if image.format == "TIFF":
        return _describe_tiff_colour(image, values)
    alpha: Pixels | None
    if values.shape[2] == 4:
        alpha = _alpha_to_8_bits(values[..., 3], values[..., :3])
    else:
        alpha = _transparent_value_alpha(values, image.info.get("transparency"))
    return DeepSamples(values[..., :3], "uint16", _png_range(content, values[..., :3]), alpha)


def _describe_tiff_colour(image: Image.Image, values: Array) -> DeepSamples:
    """Return samples in RGB with the alpha channel that the TIFF declares; values: (height, width, 3 or 4)."""
    colours, alpha, unmeant = values[..., :3], None, ""
    if values.shape[2] == 4 and is_alpha_declared(image):
        alpha = _alpha_to_8_bits(values[..., 3], colours)
    elif values.shape[2] == 4:
        unmeant = UNDECLARED_ALPHA
    return DeepSamples(
        *(colours, "uint16", _tiff_range(image, colours), alpha),
        is_premultiplied=alpha is not None and is_alpha_premultiplied(image),
        unmeant_alpha=unmeant,
    )


def _decode_layout(image: Image.Image, content: bytes, rawmode: str, layout: str) -> Pixels:
    """Return the pixels of an opened picture as its file decodes with another layout in place of `rawmode`."""
    with Image.open(io.BytesIO(content), formats=(image.format or "",)) as second:
        second.tile = [tile._replace(args=_with_layout(tile.args, rawmode, layout)) for tile in second.tile]
        second.load()
        return np.asarray(second)


def _rawmode(image: Image.Image) -> str:
    """Return the name of the layout of the pixels in the file, empty for an image that is loaded."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args if isinstance(args, str) else args[0] if args else "")


def _with_layout(args: Any, rawmode: str, layout: str) -> Any:
    """Return the arguments of a decoder with another layout; the bands of a planar TIFF have each their own."""
    name = args if isinstance(args, str) else args[0]
    changed = layout if name == rawmode else name[:-1] + layout[-1]
    return changed if isinstance(args, str) else (changed, *args[1:])


def _alpha_to_8_bits(opacity: Array, values: Array) -> Pixels:
    """Return the alpha channel in 8 bits; it has the bits of the colours or more."""
    bits = max(count_bits(0, float(opacity.max())), count_bits(0, float(values.max())), BITS[1])
    top = 2 ** (bits + bits % 2) - 1
    alpha: Pixels = np.rint(opacity.astype(np.float64) * 255 / top).astype(np.uint8)
    return alpha


def _transparent_value_alpha(values: Array, transparent: Any) -> Pixels | None:
    """Return the alpha channel of a PNG in which a single grey or colour is transparent."""
    if transparent is None:
        return None
    is_clear: Bools = values == np.asarray(transparent)
    alpha: Pixels = np.where(is_clear.all(axis=2) if values.ndim == 3 else is_clear, 0, 255).astype(np.uint8)
    return alpha


def _tiff_range(image: Image.Image, values: Array) -> SampleRange | None:
    """Return the range that the tags of a TIFF name, or None.

    A largest value that only repeats the picture's own is a statistic; one that the samples exceed is wrong.
    """
    bits = int(read_tag(image, BITS_PER_SAMPLE, 16))
    low, high = float(values.min()), float(values.max())
    top = next((read_tag(image, tag, 0) for tag in HIGHEST_TAGS if read_tag(image, tag) is not None), None)
    bottom = next((read_tag(image, tag, 0) for tag in LOWEST_TAGS if read_tag(image, tag) is not None), 0)
    if top is None:
        return (0.0, 2.0**bits - 1) if bits % 8 else None
    bottom, top = float(bottom), float(top)
    is_power = values.dtype.kind != "f" and top >= 255 and float(top + 1).is_integer() and _is_power_of_2(int(top) + 1)
    is_default = top == 2.0**bits - 1 and bottom == 0
    if is_default or low < bottom or high > top or top <= bottom or ((low, high) == (bottom, top) and not is_power):
        return None
    return bottom, top


def _is_power_of_2(number: int) -> bool:
    return number & (number - 1) == 0


def _png_range(content: bytes, values: Array) -> SampleRange | None:
    """Return the range of a 16-bit PNG with an sBIT chunk of fewer bits, or None.

    By the standard, the significant bits are the high ones. Programs also write them as the low ones: then no sample
    exceeds them, and some have bits that shifted samples do not have.
    """
    bits = _significant_bits(content)
    if bits is None or bits >= 16:
        return None
    shifted = values >> (16 - bits) << (16 - bits)
    is_shifted = bool(((values == shifted) | (values == (shifted | values >> bits))).all())
    return FULL_16_BITS if is_shifted or int(values.max()) >= 2**bits else (0.0, 2.0**bits - 1)


def _significant_bits(content: bytes) -> int | None:
    """Return the largest number of an sBIT chunk, which comes before the pixels, or None."""
    offset = 8
    while offset + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, offset)
        kind = content[offset + 4 : offset + 8]
        if kind == b"sBIT":
            return max(content[offset + 8 : offset + 8 + length], default=None)
        if kind == b"IDAT":
            return None
        offset += 12 + length
    return None
