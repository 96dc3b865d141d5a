"""Picture decoding: bytes -> upright uint8 RGB -> resized to the input size.

Training, evaluation, prediction and serving all decode here, so they see the same pixels.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from bestiary import first_decoding
from bestiary.array_types import Pixels
from bestiary.coded_colours import read_embedded_profile
from bestiary.colour_profile import convert_to_srgb
from bestiary.content_type import describe_content, describe_damage
from bestiary.decode_rules import FIRST_VERSION, RULES, DecodeRules
from bestiary.depth import Depth, read_deep_samples, scale_to_8_bits
from bestiary.errors import PictureError
from bestiary.heif import is_heif, is_heif_image, open_heif
from bestiary.jpeg import JPEG_START, MAX_SCANS, ChooseSide, has_more_scans, open_jpeg, reduced_side
from bestiary.orientation import TRANSPOSITIONS, read_exif, read_orientation, upright_size
from bestiary.picture_formats import FORMATS
from bestiary.transparency import changed_fraction, has_alpha, lay_on_white, split_alpha

Fit = Literal["squash", "letterbox", "crop"]

LETTERBOX_GREY = 128
NAMELESS = "the file"  # name of a picture decoded from memory, in messages
MOST_REDUCED = 10  # times the limit on pixels: a larger JPEG takes too long, even at a reduced scale
MAX_PAGES = 1000  # of a TIFF; Pillow's time for finding them grows with their number squared


@dataclass(frozen=True)
class DecodeLimits:
    """Limits that are checked before any pixel is decoded; max_pixels: in memory, of a JPEG at its reduced scale."""

    max_bytes: int = 100_000_000
    max_pixels: int = 80_000_000


LIMITS = DecodeLimits()


@dataclass(frozen=True)
class DecodedPicture:
    """An upright RGB image, perhaps decoded at a reduced scale, and facts about its file.

    `width` and `height`: of the upright picture at full scale, in pixels. whitened: fraction of the picture that laying
    on white has replaced. unmeant_alpha: why an alpha channel is ignored. profile: the colour profile that it was
    converted from; profile_problem: why one is ignored. depth: of a picture of more than 8 bits a sample. exif: as it
    was read for the orientation, None if it is damaged.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    mode: str
    frames: int
    orientation: int
    has_alpha: bool
    whitened: float = 0.0
    unmeant_alpha: str = ""
    profile: str = ""
    profile_problem: str = ""
    depth: Depth | None = None
    exif: Image.Exif | None = None


@dataclass(frozen=True)
class _Request:
    """How a picture is to be decoded; content: the bytes of its file, None for an image in memory."""

    name: str
    content: bytes | None
    limits: DecodeLimits
    rules: DecodeRules
    at_least: int | ChooseSide | None = None
    input_size: int | None = None


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


def open_picture(
    source: Path | bytes,
    *,
    at_least: int | ChooseSide | None = None,
    input_size: int | None = None,
    limits: DecodeLimits = LIMITS,
    rules: DecodeRules = RULES,
) -> DecodedPicture:
    """Return the picture upright in RGB, with facts about its file.

    `at_least`: a JPEG may be decoded at a reduced scale, with no side below this many pixels (or a function: see
    `ChooseSide`). `input_size`: it is decoded for a model's input of this size. Applies the EXIF orientation, converts
    colours to sRGB, composites transparency on white, scales deep samples to 8 bits and takes the first frame.
    Raises PictureError, with the file, the problem and the limit, if the picture cannot be read.
    """
    name = NAMELESS if isinstance(source, bytes) else str(source)
    content = read_bytes(source, limits)
    request = _Request(name, content, limits, rules, at_least, input_size)
    try:
        with open_image(content, name) as image:
            if image.format in {"JPEG", "MPO"} and has_more_scans(content, MAX_SCANS):
                raise PictureError(
                    f"{name} has more than {MAX_SCANS} scans, which take too long to decode.", check="huge"
                )
            frames = _count_frames(image)
            return replace(_decode_image(image, request), frames=frames)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name} is too large: {error}", check="huge") from None
    except UnidentifiedImageError:
        raise PictureError(f"{name} is not a picture: {describe_content(content)}.", check="unreadable") from None
    except PictureError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError) as error:
        text, check = describe_damage(error)
        raise PictureError(f"{name} cannot be decoded: {text}.", check=check) from None
    except Exception as error:  # decoders raise any exception for damaged files
        raise PictureError(f"{name} cannot be decoded: {type(error).__name__}: {error}.", check="unreadable") from error


def decode(
    source: Path | bytes, *, at_least: int | None = None, limits: DecodeLimits = LIMITS, rules: DecodeRules = RULES
) -> Pixels:
    """Return the picture as upright uint8 RGB of shape (height, width, 3); see `open_picture`."""
    return np.asarray(open_picture(source, at_least=at_least, limits=limits, rules=rules).image)


def to_upright_rgb(image: Image.Image, limits: DecodeLimits = LIMITS, rules: DecodeRules = RULES) -> Pixels:
    """Return a Pillow image as upright uint8 RGB of shape (height, width, 3); `image` is not changed.

    Raises PictureError if its file is closed or damaged, or if it is too large.
    """
    try:
        return np.asarray(_decode_image(image, _Request("the image", _unloaded_content(image), limits, rules)).image)
    except (OSError, SyntaxError, ValueError, AttributeError) as error:  # a closed file is an AttributeError
        raise PictureError(f"the image cannot be decoded: {error}.", check="unreadable") from None


def resize_to_square(pixels: Pixels, size: int, how: Fit = "squash") -> Pixels:
    """Return the picture as uint8 (size, size, 3), antialiased.

    `squash` stretches the whole picture; `letterbox` keeps the aspect ratio and adds grey bars; `crop` scales the short
    side and crops the centre of the long one. pixels: uint8 (height, width, 3).
    """
    return np.asarray(resize_image_to_square(Image.fromarray(pixels), size, how))


def load(
    source: Path | bytes, size: int, how: Fit = "squash", *, limits: DecodeLimits = LIMITS, rules: DecodeRules = RULES
) -> Pixels:
    """Return the model input of a picture: upright uint8 RGB of shape (size, size, 3)."""
    return np.asarray(
        resize_image_to_square(open_picture(source, input_size=size, limits=limits, rules=rules).image, size, how)
    )


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


def _unloaded_content(image: Image.Image) -> bytes | None:
    """Return the bytes of the file of a Pillow image, if it is not loaded yet and they say more than the pixels."""
    file, formats = getattr(image, "fp", None), {"PNG", "TIFF", "TGA"}
    if file is None or image.format not in formats or not getattr(image, "tile", None) or image.tell():
        return None
    position = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(position)
    return content


def open_image(content: bytes, name: str = NAMELESS) -> ImageFile.ImageFile:
    """Return the opened picture, its pixels not yet decoded; JPEG and HEIC of any size, others within Pillow's limit.

    name: of the picture in the message if it needs an extra that is not installed.
    """
    if content.startswith(JPEG_START):
        return open_jpeg(content)
    return open_heif(content, name) if is_heif(content) else Image.open(io.BytesIO(content), formats=FORMATS)


def _decode_image(image: Image.Image, request: _Request) -> DecodedPicture:
    width, height = image.size
    if 0 in image.size:
        raise PictureError(
            f"{request.name} has {width} x {height} pixels; a picture has at least 1 x 1.", check="unreadable"
        )
    mode, kind = image.mode, image.format or "unknown"
    if kind in {"JPEG", "MPO"} and (side := _draft_side(image, request)) is not None:
        image.draft(None, (side, side))  # of a HEIC it would be the thumbnail, which may show anything
    _check_size(image, (width, height), request)
    stored = image.size
    before = read_orientation(read_exif(image)) if kind == "TIFF" else None  # of a PNG, it would load the picture
    rgb = _to_rgb(image, request)
    if image.size != stored:
        width, height = image.size
    exif = read_exif(image)
    # Pillow has already rotated a TIFF in load(), and libheif a HEIC.
    upright, remaining = rgb.image, 1 if is_heif_image(image) else read_orientation(exif)
    orientation = before or remaining
    if remaining in TRANSPOSITIONS:
        upright = upright.transpose(TRANSPOSITIONS[remaining])
    if remaining >= 5:
        width, height = height, width
    return replace(
        rgb,
        image=upright,
        width=width,
        height=height,
        format=kind,
        mode=mode,
        frames=1,
        orientation=orientation,
        exif=exif,
    )


def _draft_side(image: Image.Image, request: _Request) -> int | None:
    """Return the side, in pixels, below which a JPEG is not reduced; None: decoded in full."""
    if callable(request.at_least):
        return request.at_least(*upright_size(image), read_orientation(read_exif(image)))
    if request.content is None or request.input_size is None:
        return request.at_least
    is_first = request.rules.version == FIRST_VERSION
    return request.input_size if is_first else reduced_side(*image.size, request.input_size)


def _check_size(image: Image.Image, full_size: tuple[int, int], request: _Request) -> None:
    """Raise PictureError if too many pixels would be in memory: of a JPEG in passes, the decoder keeps all of them."""
    (width, height), limit, why = full_size, request.limits.max_pixels, ""
    if width * height <= limit:
        return
    if image.width * image.height <= limit and width * height <= MOST_REDUCED * limit:
        if request.content is not None and not has_more_scans(request.content, 1):
            return
        why = " Its pixels are stored in several passes, so that it cannot be decoded at a reduced scale."
    raise PictureError(
        f"{request.name} has {width:,} x {height:,} pixels; at most {limit:,} in all are decoded (picture.max_pixels;"
        f" for predict: --max-pixels).{why}",
        check="huge",
    )


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


def _to_rgb(image: Image.Image, request: _Request) -> DecodedPicture:
    """Return the picture in RGB, not turned upright, with facts about its colours; loads the image."""
    if request.rules.version == FIRST_VERSION:
        image.load()
        return _blank_facts(_own_copy(first_decoding.convert_to_rgb(image)), has_alpha=has_alpha(image))
    samples, depth = read_deep_samples(image, request.content), None
    pixels = image
    if samples is not None:
        pixels, depth = scale_to_8_bits(samples, request.rules, from_file=request.content is not None)
    pixels.load()
    flat = split_alpha(pixels, request.content)
    profile = read_embedded_profile(image)
    profiled = convert_to_srgb(flat.colours, profile.icc)
    rgb, whitened = profiled.image, 0.0
    if flat.alpha is not None:
        rgb = lay_on_white(profiled.image, flat.alpha)
        whitened = changed_fraction(profiled.image, rgb)
    return replace(
        _blank_facts(_own_copy(rgb), has_alpha=flat.alpha is not None),
        whitened=whitened,
        unmeant_alpha=flat.unmeant or (samples.unmeant_alpha if samples is not None else ""),
        profile=profiled.profile,
        profile_problem=profiled.problem or profile.problem,
        depth=depth,
    )


def _blank_facts(image: Image.Image, *, has_alpha: bool) -> DecodedPicture:
    return DecodedPicture(image, 0, 0, "", "", 1, 1, has_alpha)


def _own_copy(image: Image.Image) -> Image.Image:
    return image.copy() if image.readonly else image
