"""Image registration of 32 x 32 grey thumbnails: similarity of two pictures of which one may be mirrored or cropped.

A hash of each view of a picture proposes pairs, by differing bits; the correlation of two aligned thumbnails, in -1..1,
confirms them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestiary.array_types import Float32s, Floats, Pixels
from bestiary.data.measure import HASH_SIDE, THUMBNAIL_SIDE

Span = tuple[float, float]

PICTURES_AT_ONCE = 4096
PAIRS_AT_ONCE = 64  # fits into the processor's cache: twice as fast as 4,096 pairs
STEPS = 4
_PULL = 0.02, 0.02, 0.02, 0.02, 0.001, 0.001  # damping: keeps a flat picture, which every move fits, in place
_MIN_DETAIL = 0.5 / 255**2  # variance that counts as none: two flat pictures are not similar, they only lack detail


@dataclass(frozen=True)
class CropView:
    """A view of a picture: a window in fractions of its width and height, possibly mirrored."""

    across: Span = (0.0, 1.0)
    down: Span = (0.0, 1.0)
    is_mirrored: bool = False

    @property
    def is_cropped(self) -> bool:
        """Whether the window leaves something out."""
        return (self.across, self.down) != ((0.0, 1.0), (0.0, 1.0))


# Every crop of up to 5 % at each edge is close to one of these: most hashes differ in less than 60 bits, all in less
# than 80 (300 photographs). The four corners of 95 %, the centre of 95 % and the centre of 90 %; each also mirrored.
_CROPS = (
    *(((x, x + 0.95), (y, y + 0.95)) for x in (0.0, 0.05) for y in (0.0, 0.05)),
    ((0.025, 0.975), (0.025, 0.975)),
    ((0.05, 0.95), (0.05, 0.95)),
)
VIEWS = (CropView(), CropView(is_mirrored=True), *(CropView(*crop, flip) for flip in (False, True) for crop in _CROPS))


def unpack_thumbnails(packed: Sequence[bytes]) -> Pixels:
    """Return thumbnails as `ImageMeasurements` stores them as uint8 (n, 32, 32)."""
    return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def hash_views(thumbnails: Pixels, view: CropView) -> npt.NDArray[np.uint64]:
    """Return the perceptual hash of one view of each thumbnail, uint64 (n, 4).

    thumbnails: uint8 (n, 32, 32). Like `measure.perceptual_hash`, of the view's window and from fewer pixels, so
    comparable only with hashes of this function.
    """
    down, across = _cosine_basis(view.down), _cosine_basis(view.across)
    across = across[:, ::-1] if view.is_mirrored else across
    hashes = np.empty((len(thumbnails), HASH_SIDE**2 // 64), np.uint64)
    for start in range(0, len(thumbnails), PICTURES_AT_ONCE):
        chunk = slice(start, start + PICTURES_AT_ONCE)
        low = np.round(down @ thumbnails[chunk].astype(np.float32) @ across.T, 1).reshape(-1, HASH_SIDE**2)
        is_above = low > np.median(low, axis=1, keepdims=True)
        hashes[chunk] = np.packbits(is_above, axis=1).view(np.uint64)
    return hashes


def registration_score(moving: Pixels, fixed: Pixels, view: CropView) -> Float32s:
    """Return the correlation of a view of each of `moving` with each of `fixed` after alignment, float32 (n,), -1..1.

    moving, fixed: uint8 (n, 32, 32). The view's window is shifted and stretched until it fits (Lucas and Kanade 1981),
    independent of brightness and contrast. Only the finer structure is correlated, which two pictures of the same kind
    of scene do not share.
    """
    moving = moving[:, :, ::-1] if view.is_mirrored else moving
    scores = np.zeros(len(moving), np.float32)
    for start in range(0, len(moving), PAIRS_AT_ONCE):
        chunk = slice(start, start + PAIRS_AT_ONCE)
        scores[chunk] = _align_and_score(moving[chunk], fixed[chunk], view)
    return scores


def _cosine_basis(span: Span) -> Float32s:
    """Return the cosine waves of a window as weights of the thumbnail's pixels, (16, 32)."""
    centres = np.arange(THUMBNAIL_SIDE) + 0.5
    waves = np.cos(np.pi * np.arange(HASH_SIDE)[:, None] * centres / THUMBNAIL_SIDE).astype(np.float32)
    low, high = span
    basis: Float32s = waves @ _sampling(np.array([low], np.float32), np.array([high - low]))[0]
    return basis


def _sampling(low: npt.NDArray[np.floating], width: npt.NDArray[np.floating]) -> Float32s:
    """Return matrices that resample a line of pixels linearly: (n, 32, 32) for n windows."""
    pixels = np.arange(THUMBNAIL_SIDE, dtype=np.float32)
    positions = (low[:, None] + width[:, None] * (pixels + 0.5) / THUMBNAIL_SIDE) * THUMBNAIL_SIDE - 0.5
    positions = positions.clip(0, THUMBNAIL_SIDE - 1).astype(np.float32)
    weights: Float32s = np.maximum(1 - np.abs(positions[:, :, None] - pixels), np.float32(0))
    return weights


def _align_and_score(moving: Pixels, fixed: Pixels, view: CropView) -> Float32s:
    source, target = (np.divide(pictures, 255, dtype=np.float32) for pictures in (moving, fixed))
    spans = [(low, high - low) for low, high in (view.across, view.down)]
    windows = np.repeat([[*spans[0], *spans[1]]], len(moving), axis=0)
    for _ in range(STEPS):
        windows = _gauss_newton_step(windows, _resample_windows(source, windows), target)
    aligned, target = _fine_structure(_resample_windows(source, windows)), _fine_structure(target)
    covariance = (aligned * target).mean((1, 2))
    deviations = np.sqrt((aligned * aligned).mean((1, 2)) * (target * target).mean((1, 2)))
    scores: Float32s = (covariance / (deviations + _MIN_DETAIL)).astype(np.float32)
    return scores


def _resample_windows(moving: Float32s, windows: Floats) -> Float32s:
    left, width, top, height = windows.T
    resampled: Float32s = np.matmul(_sampling(top, height) @ moving, _sampling(left, width).transpose(0, 2, 1))
    return resampled


def _gauss_newton_step(windows: Floats, seen: Float32s, fixed: Float32s) -> Floats:
    """Return windows, (n, 4): left, width, top and height, after one Gauss-Newton step.

    The model is `fixed = gain * seen + offset`, moved by a shift and a stretch along each axis: six unknowns, in which
    the difference is linear for small moves.
    """
    slope_down, slope_across = (slope * THUMBNAIL_SIDE for slope in np.gradient(seen, axis=(1, 2)))
    position = ((np.arange(THUMBNAIL_SIDE) + 0.5) / THUMBNAIL_SIDE).astype(np.float32)
    ones = np.ones_like(seen)
    moves = (slope_across, slope_across * position, slope_down, slope_down * position[:, None], seen, ones)
    columns = np.stack(moves, axis=-1).reshape(len(seen), -1, len(moves))
    transposed = columns.transpose(0, 2, 1)
    normal = (transposed @ columns).astype(np.float64) + np.diag(_PULL)
    solved = np.linalg.solve(normal, (transposed @ fixed.reshape(len(seen), -1, 1)).astype(np.float64))[..., 0]
    gain = np.maximum(solved[:, 4:5], 0.2)
    shift_across, stretch_across, shift_down, stretch_down = (solved[:, :4] / gain).clip(-0.03, 0.03).T
    left, width, top, height = windows.T
    stretched = width * (1 + stretch_across), height * (1 + stretch_down)
    return np.stack([left + shift_across * width, stretched[0], top + shift_down * height, stretched[1]], axis=1)


def _fine_structure(pictures: Float32s) -> Float32s:
    """Return the difference of the means over 3 x 3 and over 5 x 5 pixels, minus its own mean."""
    fine, coarse = _box_filter(3), _box_filter(5)
    smooth = fine @ pictures @ fine.T
    detail = smooth - coarse @ smooth @ coarse.T
    centred: Float32s = detail - detail.mean((1, 2), keepdims=True)
    return centred


def _box_filter(pixels: int) -> Float32s:
    index = np.arange(THUMBNAIL_SIDE)
    is_near = (np.abs(index[:, None] - index) <= pixels // 2).astype(np.float32)
    weights: Float32s = is_near / is_near.sum(axis=1, keepdims=True)
    return weights
