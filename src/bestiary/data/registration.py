"""How alike two pictures are when one may be mirrored or cropped, from grey thumbnails of 32 x 32 pixels.

A hash of each view of a picture proposes, in bits; the agreement of two aligned thumbnails confirms, in -1..1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestiary.array_types import Float32s, Floats, Pixels
from bestiary.data.measure import HASH_SIDE, THUMBNAIL_SIDE

Span = tuple[float, float]

PICTURES_AT_ONCE = 4096
PAIRS_AT_ONCE = 64  # what is worked on stays in the processor's cache: twice as fast as 4,096 pairs
STEPS = 4
_PULL = 0.02, 0.02, 0.02, 0.02, 0.001, 0.001  # keeps a plain picture, which every move fits, where it is
_MIN_DETAIL = 0.5 / 255**2  # variance that counts as none: two plain pictures are not alike, they only lack detail


@dataclass(frozen=True)
class CropView:
    """A way to look at a picture: perhaps mirrored, through a window, in shares of its width and height."""

    across: Span = (0.0, 1.0)
    down: Span = (0.0, 1.0)
    mirrored: bool = False

    @property
    def cropped(self) -> bool:
        """Whether the window leaves something out."""
        return (self.across, self.down) != ((0.0, 1.0), (0.0, 1.0))


# Every crop of up to 5 % at each edge is near one of these: most hashes differ in less than 60 bits, all in less than
# 80 (300 photographs). The four corners of 95 %, the middle of 95 % and the middle of 90 %; each mirrored as well.
_CROPS = (
    *(((x, x + 0.95), (y, y + 0.95)) for x in (0.0, 0.05) for y in (0.0, 0.05)),
    ((0.025, 0.975), (0.025, 0.975)),
    ((0.05, 0.95), (0.05, 0.95)),
)
VIEWS = (CropView(), CropView(mirrored=True), *(CropView(*crop, mirror) for mirror in (False, True) for crop in _CROPS))


def hash_views(thumbnails: Pixels, view: CropView) -> npt.NDArray[np.uint64]:
    """Return the perceptual hash of one view of each thumbnail, uint64 (n, 4).

    thumbnails: uint8 (n, 32, 32). As `inspection.perceptual_hash`, of the view's window and from fewer pixels: to be
    compared with hashes from here only.
    """
    down, across = _cosine_basis(view.down), _cosine_basis(view.across)
    across = across[:, ::-1] if view.mirrored else across
    found = np.empty((len(thumbnails), HASH_SIDE**2 // 64), np.uint64)
    for start in range(0, len(thumbnails), PICTURES_AT_ONCE):
        some = slice(start, start + PICTURES_AT_ONCE)
        low = np.round(down @ thumbnails[some].astype(np.float32) @ across.T, 1).reshape(-1, HASH_SIDE**2)
        above = low > np.median(low, axis=1, keepdims=True)
        found[some] = np.packbits(above, axis=1).view(np.uint64)
    return found


def registration_score(moving: Pixels, fixed: Pixels, view: CropView) -> Float32s:
    """Return how well a view of each of `moving` agrees with each of `fixed` once aligned, float32 (n,), -1..1.

    ones, others: uint8 (n, 32, 32). The view's window is shifted and stretched until it fits (Lucas and Kanade 1981),
    whatever the brightness and the contrast; what is compared is the correlation of the finer structure, which
    two pictures of the same kind of scene do not share.
    """
    moving = moving[:, :, ::-1] if view.mirrored else moving
    parts = [_align_and_score(one, other, view.across, view.down) for one, other in _iter_pair_chunks(moving, fixed)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _cosine_basis(span: Span) -> Float32s:
    """Return the cosine waves of a window as weights of the thumbnail's pixels, (16, 32)."""
    places = np.arange(THUMBNAIL_SIDE) + 0.5
    waves = np.cos(np.pi * np.arange(HASH_SIDE)[:, None] * places / THUMBNAIL_SIDE)
    low, high = span
    found: Float32s = waves.astype(np.float32) @ _sampling(np.array([low], np.float32), np.array([high - low]))[0]
    return found


def _sampling(low: npt.NDArray[np.floating], width: npt.NDArray[np.floating]) -> Float32s:
    """Return matrices that read a line of pixels at new places, linearly: (n, 32, 32) for n windows."""
    pixels = np.arange(THUMBNAIL_SIDE, dtype=np.float32)
    places = (low[:, None] + width[:, None] * (pixels + 0.5) / THUMBNAIL_SIDE) * THUMBNAIL_SIDE - 0.5
    places = places.clip(0, THUMBNAIL_SIDE - 1).astype(np.float32)
    weights: Float32s = np.maximum(1 - np.abs(places[:, :, None] - pixels), np.float32(0))
    return weights


def _iter_pair_chunks(moving: Pixels, fixed: Pixels) -> Iterator[tuple[Float32s, Float32s]]:
    for start in range(0, len(moving), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        yield _to_unit_range(moving[some]), _to_unit_range(fixed[some])


def _to_unit_range(pictures: Pixels) -> Float32s:
    return np.divide(pictures, 255, dtype=np.float32)


def _align_and_score(moving: Float32s, fixed: Float32s, across: Span, down: Span) -> Float32s:
    windows = np.repeat([[across[0], across[1] - across[0], down[0], down[1] - down[0]]], len(moving), axis=0)
    for _ in range(STEPS):
        windows = _gauss_newton_step(windows, _resample_windows(moving, windows), fixed)
    one, other = _structure(_resample_windows(moving, windows)), _structure(fixed)
    together = (one * other).mean((1, 2))
    apart = np.sqrt((one * one).mean((1, 2)) * (other * other).mean((1, 2)))
    found: Float32s = (together / (apart + _MIN_DETAIL)).astype(np.float32)
    return found


def _resample_windows(moving: Float32s, windows: Floats) -> Float32s:
    across, across_width, down, down_width = windows.T
    found: Float32s = np.matmul(
        _sampling(down, down_width) @ moving, _sampling(across, across_width).transpose(0, 2, 1)
    )
    return found


def _gauss_newton_step(windows: Floats, seen: Float32s, fixed: Float32s) -> Floats:
    """Return windows, (n, 4): start and width across, start and width down, one step of Gauss-Newton nearer.

    The other picture is taken for `gain * seen + offset`, moved by a shift and a stretch along each axis: six
    unknowns, in which the difference is linear for small moves.
    """
    slope_down, slope_across = (slope * THUMBNAIL_SIDE for slope in np.gradient(seen, axis=(1, 2)))
    place = ((np.arange(THUMBNAIL_SIDE) + 0.5) / THUMBNAIL_SIDE).astype(np.float32)
    moves = (slope_across, slope_across * place, slope_down, slope_down * place[:, None], seen, np.ones_like(seen))
    columns = np.stack(moves, axis=-1).reshape(len(seen), -1, len(moves))
    turned = columns.transpose(0, 2, 1)
    normal = (turned @ columns).astype(np.float64) + np.diag(_PULL)
    solved = np.linalg.solve(normal, (turned @ fixed.reshape(len(seen), -1, 1)).astype(np.float64))[..., 0]
    gain = np.maximum(solved[:, 4:5], 0.2)
    shift_across, stretch_across, shift_down, stretch_down = (solved[:, :4] / gain).clip(-0.03, 0.03).T
    across, across_width, down, down_width = windows.T
    return np.stack(
        [
            across + shift_across * across_width,
            across_width * (1 + stretch_across),
            down + shift_down * down_width,
            down_width * (1 + stretch_down),
        ],
        axis=1,
    )


def _structure(pictures: Float32s) -> Float32s:
    """Return what is left between the means of 3 x 3 and of 5 x 5 pixels, without its mean."""
    fine, coarse = _box_filter(3), _box_filter(5)
    smooth = fine @ pictures @ fine.T
    left = smooth - coarse @ smooth @ coarse.T
    found: Float32s = left - left.mean((1, 2), keepdims=True)
    return found


def _box_filter(pixels: int) -> Float32s:
    place = np.arange(THUMBNAIL_SIDE)
    near = (np.abs(place[:, None] - place) <= pixels // 2).astype(np.float32)
    found: Float32s = near / near.sum(axis=1, keepdims=True)
    return found


def unpack_thumbnails(packed: Sequence[bytes]) -> Pixels:
    """Return the thumbnails that `Inspection.thumbnail` holds as uint8 (n, 32, 32)."""
    return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
