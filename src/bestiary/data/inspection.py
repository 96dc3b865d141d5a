"""What one picture file is: measured in worker processes, so this module imports numpy and Pillow only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bestiary.errors import PictureError
from bestiary.picture import Limits, open_picture, read_bytes

HASH_SIDE, HASH_PIXELS = 16, 64  # 16 x 16 = 256 bits from the lowest frequencies of 64 x 64 pixels
MEASURED_SIDE = 128


@dataclass(frozen=True)
class Inspection:
    """Measurements of one file; what they mean is decided elsewhere.

    luma: mean brightness in 0..1 · contrast: 5th to 95th percentile of brightness in 0..1 · entropy: of brightness,
    in bits, 0..8 · sharpness: variance of the Laplacian over variance of brightness, at 128 pixels · saturation: 0..1.
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
    luma: float = 0.0
    contrast: float = 0.0
    entropy: float = 0.0
    sharpness: float = 0.0
    saturation: float = 0.0
    check: str | None = None
    error: str | None = None


def inspect(path: Path, limits: Limits) -> Inspection:
    """Return the measurements of a file; a file that cannot be used comes back with `error`, never as an exception."""
    seen = Inspection(str(path))
    try:
        stat = path.stat()
        seen = Inspection(str(path), stat.st_size, stat.st_mtime_ns)
        content = read_bytes(path, limits)
        digest = hashlib.sha256(content).hexdigest()
        seen = Inspection(str(path), stat.st_size, stat.st_mtime_ns, digest)
        return _measured(content, seen, limits)
    except PictureError as error:
        # What is decoded from memory calls itself "picture"; here it has a name.
        message = str(error) if str(path) in str(error) else str(error).replace("picture", str(path), 1)
        return Inspection(str(path), seen.bytes, seen.mtime_ns, seen.sha256, check=error.check, error=message)
    except OSError as error:
        return Inspection(str(path), check="unreadable", error=f"{path} cannot be read: {error.strerror or error}.")


def perceptual_hash(image: Image.Image) -> npt.NDArray[np.bool_]:
    """Return 256 bits, shape (256,), that hardly change when a picture is scaled, re-encoded or brightened.

    The 16 x 16 lowest frequencies of the discrete cosine transform of 64 x 64 grey pixels, each against their median:
    pHash (Zauner 2010) with `hash_size=16`, the same bits as imagehash gives for the same pixels.
    """
    grey = np.asarray(image.convert("L").resize((HASH_PIXELS, HASH_PIXELS), Image.Resampling.LANCZOS), np.float64)
    waves = _cosines()
    low = np.round(waves @ grey @ waves.T, 6)  # what is zero but for rounding must not decide a bit: machines differ
    return (low > np.median(low)).ravel()


@cache
def _cosines() -> npt.NDArray[np.float64]:
    frequency, place = np.arange(HASH_SIDE)[:, None], np.arange(HASH_PIXELS)[None, :]
    waves: npt.NDArray[np.float64] = np.cos(np.pi * frequency * (2 * place + 1) / (2 * HASH_PIXELS))
    return waves


def _measured(content: bytes, seen: Inspection, limits: Limits) -> Inspection:
    opened = open_picture(content, at_least=MEASURED_SIDE, limits=limits)
    small = opened.image.copy()
    small.thumbnail((MEASURED_SIDE, MEASURED_SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(small.convert("L"), np.float32) / 255
    low, high = np.percentile(grey, (5, 95))
    return Inspection(
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
        phash=np.packbits(perceptual_hash(opened.image)).tobytes().hex(),
        luma=float(grey.mean()),
        contrast=float(high - low),
        entropy=_entropy(grey),
        sharpness=_sharpness(grey),
        saturation=float(np.asarray(small.convert("HSV"))[..., 1].mean() / 255),
    )


def _entropy(grey: npt.NDArray[Any]) -> float:
    counts = np.bincount((grey * 255).astype(np.uint8).ravel(), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _sharpness(grey: npt.NDArray[Any]) -> float:
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(laplacian.var() / max(float(grey.var()), 1e-6))
