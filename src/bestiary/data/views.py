"""Views of a picture, and their hashes: what a mirrored, turned, cropped, shifted or inverted copy would look like.

A copy of picture A that was cropped looks like one of the views of A: the hash of that view is close to the hash of the
whole copy. All hashes are computed from thumbnails of 32 x 32 grey pixels, by one matrix product for each view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bestiary.array_types import Float32s, Floats
from bestiary.data.copy_changes import CopyChange
from bestiary.data.measure import THUMBNAIL_SIDE
from bestiary.data.thumbnail_rows import Thumbnails

Matrix = tuple[tuple[float, float], tuple[float, float]]

LOW_SIDE = 8  # 8 x 8 lowest frequencies without the mean: 63 bits, which small shifts, crops and turns hardly change
PICTURES_AT_ONCE = 1024
# A stretch alone aligns small crops, and a low score is enough: of 99 pairs of photographs none was false. Where a
# picture may be turned as well, two cut-outs on white reach 0.92.
STRETCH_SCORE, AFFINE_SCORE = 0.85, 0.92

_UPRIGHT: Matrix = ((1.0, 0.0), (0.0, 1.0))
_MIRROR: Matrix = ((-1.0, 0.0), (0.0, 1.0))


@dataclass(frozen=True)
class View:
    """A view of a picture: an affine map from the view's square to the picture's, both from -0.5 to 0.5.

    orientation: the quarter turns and mirroring alone. matrix, shift: the whole map. is_symmetric: applied twice, it
    gives the picture again, so each pair has to be compared once. min_score: of the registration of a copy.
    """

    matrix: Matrix = _UPRIGHT
    shift: tuple[float, float] = (0.0, 0.0)
    orientation: Matrix = _UPRIGHT
    changes: CopyChange = CopyChange.NONE
    is_symmetric: bool = False
    min_score: float = AFFINE_SCORE

    @property
    def is_inverted(self) -> bool:
        """Whether light and dark are exchanged."""
        return bool(self.changes & CopyChange.INVERTED)

    @property
    def can_rotate(self) -> bool:
        """Whether registration may turn the picture, not only shift and stretch it."""
        return self.min_score == AFFINE_SCORE


def _orientation_views() -> tuple[View, ...]:
    quarter, half, mirrored = CopyChange.QUARTER_TURN, CopyChange.HALF_TURN, CopyChange.MIRRORED
    plain = (
        View(is_symmetric=True, min_score=STRETCH_SCORE),
        View(_MIRROR, orientation=_MIRROR, changes=mirrored, is_symmetric=True, min_score=STRETCH_SCORE),
    )
    turns: tuple[tuple[Matrix, CopyChange], ...] = (
        (((-1.0, 0.0), (0.0, -1.0)), half),
        (((1.0, 0.0), (0.0, -1.0)), half | mirrored),
        (((0.0, 1.0), (1.0, 0.0)), quarter | mirrored),
        (((0.0, -1.0), (-1.0, 0.0)), quarter | mirrored),
    )
    # A turn by 270 degrees needs no view: the other picture of the pair is turned by 90.
    turned = View(((0.0, -1.0), (1.0, 0.0)), orientation=((0.0, -1.0), (1.0, 0.0)), changes=quarter)
    inverted = View(changes=CopyChange.INVERTED, is_symmetric=True)
    views = (View(matrix, orientation=matrix, changes=changes, is_symmetric=True) for matrix, changes in turns)
    return (*plain, *views, turned, inverted)


def _crop_views() -> tuple[View, ...]:
    """Return crops: a hash is close to that of every crop of up to 10 % at each edge, or of 20 % in all."""
    corners = [((0.85, 0.85), (x, y)) for x in (-0.075, 0.075) for y in (-0.075, 0.075)]
    edges = [((0.85, 0.9), (x, 0.0)) for x in (-0.075, 0.075)] + [((0.9, 0.85), (0.0, y)) for y in (-0.075, 0.075)]
    centres = [((side, side), (0.0, 0.0)) for side in (0.85, 0.7, 0.6)]
    crops = [View(((x, 0.0), (0.0, y)), shift) for (x, y), shift in centres + corners + edges]
    mirrored = [
        View(((-x, 0.0), (0.0, y)), shift, _MIRROR, CopyChange.MIRRORED) for (x, y), shift in centres[:1] + corners
    ]
    return (*crops, *mirrored)


def _tilt(degrees: float, scale: float = 1.0) -> View:
    cosine, sine = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return View(((cosine, -sine), (sine, cosine)))


def _mirror(view: View) -> View:
    """Return the view of the mirror image."""
    (a, b), (c, d) = view.matrix
    x, y = view.shift
    return View(((-a, -b), (c, d)), (-x, y), _MIRROR, CopyChange.MIRRORED)


_SHIFTS = tuple(
    View(shift=(x * step, y * step))
    for step in (0.05, 0.1)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))
)
_TILTS = (*(_tilt(degrees) for degrees in (-12, -8, -4, 4, 8, 12)), *(_tilt(degrees, 0.85) for degrees in (-6, 6)))
TURNED = View()  # the whole picture, which registration may turn
# A copy that is mirrored and moved as well: the same moves, at the wider of their steps.
_MIRRORED = tuple(_mirror(view) for view in (TURNED, *_SHIFTS[8:], _tilt(-8), _tilt(8)))
VIEWS = (*_orientation_views(), *_crop_views(), *_SHIFTS, *_TILTS, *_MIRRORED)
WHOLE = VIEWS[0]


def low_frequencies(thumbnails: Thumbnails, view: View) -> Float32s:
    """Return the lowest frequencies of one view of each thumbnail, without the mean, float32 (n, 63).

    thumbnails: uint8 (n, 32, 32). Where a view reaches beyond the picture, the edge is continued.
    """
    waves = _view_waves(view)
    low = np.empty((len(thumbnails), LOW_SIDE**2 - 1), np.float32)
    for start in range(0, len(thumbnails), PICTURES_AT_ONCE):
        chunk = thumbnails[start : start + PICTURES_AT_ONCE].reshape(-1, THUMBNAIL_SIDE**2).astype(np.float32)
        if view.is_inverted:
            np.subtract(255, chunk, out=chunk)
        np.matmul(chunk, waves, out=low[start : start + PICTURES_AT_ONCE])
    return np.round(low, 1, out=low)


def hash_low_frequencies(low: Float32s) -> npt.NDArray[np.uint64]:
    """Return which frequencies are above their median, as 63 bits, uint64 (n, 1).

    A pHash (Zauner 2010) of fewer frequencies than `measure.perceptual_hash`.
    """
    middle = low.shape[1] // 2  # of an odd number; sorting all of them is ten times as fast as numpy's median
    hashes = np.empty((len(low), 1), np.uint64)
    for start in range(0, len(low), PICTURES_AT_ONCE):
        chunk = low[start : start + PICTURES_AT_ONCE]
        is_above = chunk > np.sort(chunk, axis=1)[:, middle, None]
        packed = np.packbits(np.pad(is_above, ((0, 0), (0, 1))), axis=1)
        hashes[start : start + PICTURES_AT_ONCE] = packed.view(np.uint64)
    return hashes


def stack_waves(views: Sequence[View]) -> Float32s:
    """Return the weights of several views side by side, float32 (1024, views * 63)."""
    return np.hstack([-_view_waves(view) if view.is_inverted else _view_waves(view) for view in views])


@lru_cache(maxsize=64)
def _view_waves(view: View) -> Float32s:
    """Return the cosine waves of a view as weights of the thumbnail's pixels, float32 (1024, 63)."""
    from scipy.sparse import coo_array

    centres = (np.arange(THUMBNAIL_SIDE) + 0.5) / THUMBNAIL_SIDE - 0.5
    across, down = (axis.ravel() for axis in np.meshgrid(centres, centres))
    positions = np.array(view.matrix) @ np.stack([across, down]) + np.array(view.shift)[:, None]
    pixels = ((positions + 0.5) * THUMBNAIL_SIDE - 0.5).clip(0, THUMBNAIL_SIDE - 1)
    first = np.floor(pixels).astype(np.int64).clip(0, THUMBNAIL_SIDE - 2)
    rest = pixels - first
    rows, columns, weights = [], [], []
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        rows.append(np.arange(THUMBNAIL_SIDE**2))
        columns.append((first[1] + y) * THUMBNAIL_SIDE + first[0] + x)
        weights.append((rest[0] if x else 1 - rest[0]) * (rest[1] if y else 1 - rest[1]))
    sampling = coo_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(THUMBNAIL_SIDE**2,) * 2
    )
    waves: Floats = np.cos(np.pi * np.arange(LOW_SIDE)[:, None] * (centres + 0.5))
    low = np.einsum("ay,bx->abyx", waves, waves).reshape(LOW_SIDE**2, -1)[1:]
    weighted: Float32s = (sampling.T @ low.T).astype(np.float32)
    return weighted
