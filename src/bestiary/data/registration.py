"""Image registration of grey thumbnails: aligns two pictures, scores their agreement, and measures what differs.

Positions are fractions of a picture's width and height, from -0.5 to 0.5. A warp, float64 (2, 3), maps positions in the
fixed picture to positions in the moving one; what lies outside the moving picture does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bestiary.array_types import Bools, Float32s, Floats, Pixels
from bestiary.data.copy_changes import CopyChange
from bestiary.data.views import View

PAIRS_AT_ONCE = 64  # fits into the processor's cache
STEPS, FIRST_STEPS = 6, 2
MIN_FIRST_SCORE = (
    0.5  # after the first steps; 1 % of copies scores less than 0.53, 71 % of the other pairs less than 0.5
)
MAX_MOVE = 0.03  # of a picture's side, in one step
MIN_OVERLAP = 0.12  # of the pixels
# Aligned thumbnails that differ so much, in grey levels, at one pixel or in the mean of 3 x 3, differ in content; and
# so do colours, in levels of Cb and Cr. Copies stored anew, resized, tinted or brightened stay below: docs/log.md.
THUMBNAIL_DETAIL, THUMBNAIL_DETAIL_AREA, MAX_COLOUR = 40.0, 26.0, 18.0
_PULL = np.diag([0.02] * 6 + [0.001] * 2)  # damping: keeps a flat picture, which every move fits, in place
_MIN_DETAIL = 1e-3  # variance that counts as none: two flat pictures are not similar, they only lack detail
_MIN_TILT_DEGREES, _MIN_CROP = 1.5, 0.03
MIN_HUE_SHIFT, MIN_HUE_DEGREES = 9.0, 25.0  # of the mean (Cb, Cr): less is white balance
_MAX_TINT = 16.0  # levels of Cb and Cr: white balance
_UNSATURATED = 6 / 255, 249 / 255


@dataclass(frozen=True)
class Registration:
    """Registered pairs of pictures: warps, float64 (n, 2, 3), and agreement after alignment, float32 (n,), -1 to 1."""

    warps: Floats
    scores: Float32s

    def changes(self, view: View) -> npt.NDArray[np.int64]:
        """Return the changes of each pair, flags of `CopyChange`, int64 (n,): those of the view, and of its warp."""
        stretch = self.warps[:, :, :2] @ np.array(view.orientation)
        sine, cosine = stretch[:, 1, 0] - stretch[:, 0, 1], stretch[:, 0, 0] + stretch[:, 1, 1]
        is_tilted = np.abs(np.degrees(np.arctan2(sine, cosine))) > _MIN_TILT_DEGREES
        starts = range(0, len(self.warps), PAIRS_AT_ONCE)  # all at once would take 50 KB for each pair
        inside = [_is_inside(self.warps[start : start + PAIRS_AT_ONCE], _grid(32)).mean(axis=1) for start in starts]
        of_fixed = np.concatenate([np.zeros(0), *inside])
        of_moving = of_fixed * np.abs(np.linalg.det(self.warps[:, :, :2]))
        lack = 1 - np.stack([of_fixed, of_moving])
        is_shifted = (lack.min(axis=0) > np.maximum(_MIN_CROP, 0.4 * lack.max(axis=0))) & ~is_tilted
        is_cropped = (lack.max(axis=0) > _MIN_CROP) & ~is_shifted & ~is_tilted
        flags = int(view.changes) + CopyChange.TILTED * is_tilted + CopyChange.SHIFTED * is_shifted
        changes: npt.NDArray[np.int64] = (flags + CopyChange.CROPPED * is_cropped).astype(np.int64)
        return changes


def register(fixed: Pixels, moving: Pixels, view: View) -> Registration:
    """Return the registration of pairs, of which `moving` looks like a view of `fixed`.

    fixed, moving: uint8 (n, side, side). From the view's position, the picture is shifted and stretched, and turned
    where the view allows it, until it fits (Lucas and Kanade 1981), independent of brightness and contrast. Only the
    finer structure is scored, which two pictures of the same kind of scene do not share. Pairs that agree too little
    after the first steps are given up, with their score so far.
    """
    warps, scores = np.repeat(_start_warp(view)[None], len(fixed), axis=0), np.zeros(len(fixed), np.float32)
    unfinished = np.arange(len(fixed))
    for steps in (FIRST_STEPS, STEPS - FIRST_STEPS):
        for first in range(0, len(unfinished), PAIRS_AT_ONCE):
            chunk = unfinished[first : first + PAIRS_AT_ONCE]
            target, source = _as_floats(fixed[chunk]), _as_floats(moving[chunk])
            source = 1 - source if view.is_inverted else source
            for _ in range(steps):
                warps[chunk] = _gauss_newton_step(target, source, warps[chunk], can_rotate=view.can_rotate)
            scores[chunk] = _score(target, source, warps[chunk], is_final=steps != FIRST_STEPS)
        unfinished = np.flatnonzero(scores >= MIN_FIRST_SCORE)
    return Registration(warps, scores)


def refine(fixed: Pixels, moving: Pixels, warps: Floats, view: View, steps: int) -> Floats:
    """Return the warps after more steps, for example of larger images of the same pictures."""
    target, source = _as_floats(fixed), _as_floats(moving)
    source = 1 - source if view.is_inverted else source
    for _ in range(steps):
        warps = _gauss_newton_step(target, source, warps, can_rotate=view.can_rotate)
    return warps


def content_difference(fixed: Pixels, moving: Pixels, warps: Floats, *, is_inverted: bool = False) -> Floats:
    """Return what differs locally between aligned pairs, in grey levels, float64 (n, 2): greatest, and of 3 x 3 pixels.

    fixed, moving: uint8 (n, side, side). Gain and offset of the whole picture are fitted, also where they saturate;
    differences within the range of the neighbouring pixels do not count, so neither blur nor a shift of a pixel does.
    """
    differences = np.zeros((len(fixed), 2))
    for first in range(0, len(fixed), PAIRS_AT_ONCE):
        chunk = slice(first, first + PAIRS_AT_ONCE)
        target, source = _as_floats(fixed[chunk]), _as_floats(moving[chunk])
        aligned, inside = _resample(1 - source if is_inverted else source, warps[chunk])
        valid = _erode(inside)
        towards = [_local_difference(target, _fit_grey(aligned, target, valid), valid)]
        towards.append(_local_difference(aligned, _fit_grey(target, aligned, valid), valid))
        differences[chunk] = 255 * np.min(towards, axis=0)
    return differences


def has_detail(differences: Floats) -> Bools:
    """Return which differences of thumbnails, as `content_difference` returns them, are of content, bool (n,)."""
    large: Bools = np.any(differences > np.array([THUMBNAIL_DETAIL, THUMBNAIL_DETAIL_AREA]), axis=1)
    return large


def colour_difference(fixed: Pixels, moving: Pixels, warps: Floats) -> Floats:
    """Return how far the colours of aligned pairs differ at most, in levels of Cb and Cr, float64 (n,).

    fixed, moving: uint8 (n, side, side, 2), Cb and Cr, of 8 or 32 pixels; means over an eighth of the side are
    compared. A slight tint of the whole picture and its saturation are fitted: a copy without colour does not differ,
    one with another hue does, also where it is one hue throughout.
    """
    times = 32 // fixed.shape[1]
    side = times * fixed.shape[1]
    differences = np.zeros(len(fixed))
    for first in range(0, len(fixed), PAIRS_AT_ONCE):
        chunk = slice(first, first + PAIRS_AT_ONCE)
        fields = []
        for colours, warp in ((fixed, None), (moving, warps[chunk])):
            enlarged = (colours[chunk].astype(np.float32) - 128).repeat(times, axis=1).repeat(times, axis=2)
            planes = [enlarged[..., channel] for channel in range(2)]
            fields.append(planes if warp is None else [_resample(plane, warp)[0] for plane in planes])
        valid = _erode(_is_inside(warps[chunk], _grid(side)).reshape(-1, side, side))
        target, source = np.stack(fields[0], -1), np.stack(fields[1], -1)
        differences[chunk] = np.maximum(_residual_colour(target, source, valid), _mean_hue_shift(target, source, valid))
    return differences


def _start_warp(view: View) -> Floats:
    linear = np.linalg.inv(np.array(view.matrix))
    return np.column_stack([linear, -linear @ np.array(view.shift)])


def _as_floats(pictures: Pixels) -> Float32s:
    return np.divide(pictures, 255, dtype=np.float32)


@lru_cache(maxsize=4)
def _grid(side: int) -> Float32s:
    """Return the positions of the pixels, float32 (2, side * side): across, down."""
    centres = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    return np.stack([axis.ravel() for axis in np.meshgrid(centres, centres)])


def _positions(warps: Floats, grid: Float32s) -> Float32s:
    moved: Float32s = (warps[:, :, :2] @ grid + warps[:, :, 2:]).astype(np.float32)
    return moved


def _is_inside(warps: Floats, grid: Float32s) -> Bools:
    """Return which pixels of the fixed picture lie within the moving one, bool (n, pixels)."""
    inside: Bools = np.all(np.abs(_positions(warps, grid)) <= 0.5, axis=1)
    return inside


def _resample(moving: Float32s, warps: Floats) -> tuple[Float32s, Bools]:
    """Return the moving pictures at the pixels of the fixed ones, by bilinear interpolation, and which lie inside."""
    count, side = moving.shape[:2]
    positions = _positions(warps, _grid(side))
    inside: Bools = np.all(np.abs(positions) <= 0.5, axis=1)
    pixels = ((positions + 0.5) * side - 0.5).clip(0, side - 1.001)
    first = pixels.astype(np.int32)
    across, down = np.moveaxis(pixels - first, 1, 0)
    corner = np.arange(count, dtype=np.int32)[:, None] * side * side + first[:, 1] * side + first[:, 0]
    flat = moving.ravel()
    top_left, top_end, below_left, below_end = (flat[corner + step] for step in (0, 1, side, side + 1))
    top, bottom = top_left + (top_end - top_left) * across, below_left + (below_end - below_left) * across
    resampled: Float32s = (top + (bottom - top) * down).reshape(moving.shape)
    return resampled, inside.reshape(moving.shape)


def _gauss_newton_step(fixed: Float32s, moving: Float32s, warps: Floats, *, can_rotate: bool) -> Floats:
    """Return the warps after one Gauss-Newton step.

    The model is `fixed = gain * moving(warp) + offset`, moved by a shift, a stretch and a shear along each axis: eight
    unknowns, in which the difference is linear for small moves.
    """
    count, side = fixed.shape[:2]
    aligned, inside = _resample(moving, warps)
    down, across = (side * slope.reshape(count, -1) for slope in np.gradient(aligned, axis=(1, 2)))
    x, y = _grid(side)
    flat, ones = aligned.reshape(count, -1), np.ones((count, side * side), np.float32)
    columns = np.stack([across, down, across * x, down * y, across * y, down * x, flat, ones], axis=1)
    columns *= inside.reshape(count, 1, -1)
    if not can_rotate:
        columns[:, 4:6] = 0
    normal = (columns @ columns.transpose(0, 2, 1)).astype(np.float64) + _PULL
    wanted = (columns @ fixed.reshape(count, -1, 1)).astype(np.float64)
    solved = np.linalg.solve(normal, wanted)[..., 0]
    moves = (solved[:, :6] / np.maximum(solved[:, 6:7], 0.2)).clip(-MAX_MOVE, MAX_MOVE)
    step = np.zeros((count, 3, 3))
    step[:, 0] = np.stack([1 + moves[:, 2], moves[:, 4], moves[:, 0]], axis=1)
    step[:, 1] = np.stack([moves[:, 5], 1 + moves[:, 3], moves[:, 1]], axis=1)
    step[:, 2, 2] = 1
    moved: Floats = warps @ step
    return moved


def _score(fixed: Float32s, moving: Float32s, warps: Floats, *, is_final: bool) -> Float32s:
    """Return the correlation of the fine structure where the pictures overlap, 0 where they hardly do.

    Two framed pictures have their frames in common, and those edges are strong. So edges are compressed, and without
    its margin the picture must agree as well: in the end, the lower of both correlations counts.
    """
    aligned, inside = _resample(moving, warps)
    valid = _erode(inside)
    if not is_final:
        return _correlate(fixed, aligned, valid)
    middle = valid.copy()
    margin = valid.shape[1] // 8
    for edge in (np.s_[:, :margin], np.s_[:, -margin:], np.s_[:, :, :margin], np.s_[:, :, -margin:]):
        middle[edge] = False
    return np.minimum(_correlate(fixed, aligned, valid), _correlate(fixed, aligned, middle))


def _correlate(fixed: Float32s, aligned: Float32s, valid: Bools) -> Float32s:
    """Return the correlation of the compressed fine structure of the valid pixels, 0 if they are few."""
    pixels = valid.sum(axis=(1, 2))
    target, source = (_centre(_compress(_fine_structure(p), valid), valid) for p in (fixed, aligned))
    covariance, of_target, of_source = (
        (product).sum(axis=(1, 2)) / np.maximum(pixels, 1)
        for product in (target * source, target * target, source * source)
    )
    scores = covariance / (np.sqrt(of_target * of_source) + _MIN_DETAIL)
    return np.where(pixels >= MIN_OVERLAP * fixed[0].size, scores, 0).astype(np.float32)


def _compress(detail: Float32s, valid: Bools) -> Float32s:
    """Return the fine structure as a fraction of itself and its usual size, in -1..1."""
    mean = (np.abs(detail) * valid).sum(axis=(1, 2)) / np.maximum(valid.sum(axis=(1, 2)), 1)
    # Without what is far larger than the mean, this is close to the median, and ten times as fast.
    usual = valid & (np.abs(detail) <= 2 * mean[:, None, None])
    typical = (np.abs(detail) * usual).sum(axis=(1, 2)) / np.maximum(usual.sum(axis=(1, 2)), 1)
    typical = typical[:, None, None] + 1 / 255
    compressed: Float32s = (detail / np.sqrt(detail * detail + typical * typical)).astype(np.float32)
    return compressed


def _centre(pictures: Float32s, valid: Bools) -> Float32s:
    mean = (pictures * valid).sum(axis=(1, 2)) / np.maximum(valid.sum(axis=(1, 2)), 1)
    centred: Float32s = (pictures - mean[:, None, None].astype(np.float32)) * valid
    return centred


def _erode(inside: Bools) -> Bools:
    """Return the pixels whose 5 x 5 neighbourhood is inside."""
    coarse = _box_filter(inside.shape[1], 5)
    eroded: Bools = coarse @ inside.astype(np.float32) @ coarse.T > 0.999
    return eroded


def _fine_structure(pictures: Float32s) -> Float32s:
    """Return the difference of the means over 3 x 3 and over 5 x 5 pixels."""
    fine, coarse = _box_filter(pictures.shape[1], 3), _box_filter(pictures.shape[1], 5)
    smooth: Float32s = (fine @ pictures @ fine.T).astype(np.float32)
    detail: Float32s = (smooth - coarse @ smooth @ coarse.T).astype(np.float32)
    return detail


@lru_cache(maxsize=8)
def _box_filter(side: int, pixels: int) -> Float32s:
    index = np.arange(side)
    is_near = (np.abs(index[:, None] - index) <= pixels // 2).astype(np.float32)
    weights: Float32s = is_near / is_near.sum(axis=1, keepdims=True)
    return weights


def _fit_grey(source: Float32s, target: Float32s, valid: Bools) -> Float32s:
    """Return `source` with the gain and offset that fit it to `target`, clipped to 0..1."""
    low, high = _UNSATURATED
    usable = valid & (source > low) & (source < high) & (target > low) & (target < high)
    usable = np.where(usable.mean(axis=(1, 2), keepdims=True) > 0.2, usable, valid)
    pixels = np.maximum(usable.sum(axis=(1, 2), keepdims=True), 1)
    mean_source, mean_target = ((p * usable).sum(axis=(1, 2), keepdims=True) / pixels for p in (source, target))
    centred = (source - mean_source) * usable
    variance = (centred * centred).sum(axis=(1, 2), keepdims=True)
    gain = ((centred * (target - mean_target)).sum(axis=(1, 2), keepdims=True) + 1e-3) / (variance + 1e-3)
    fitted: Float32s = (mean_target + gain * (source - mean_source)).clip(0, 1).astype(np.float32)
    return fitted


def _local_difference(target: Float32s, fitted: Float32s, valid: Bools) -> Floats:
    from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter

    def beyond(picture: Float32s, reference: Float32s) -> Float32s:
        highest, lowest = maximum_filter(reference, (1, 3, 3)), minimum_filter(reference, (1, 3, 3))
        outside: Float32s = np.maximum(np.maximum(picture - highest, lowest - picture), 0)
        return outside

    difference = np.maximum(beyond(target, fitted), beyond(fitted, target)) * valid
    smooth = uniform_filter(difference, (1, 3, 3))
    return np.stack([difference.max(axis=(1, 2)), smooth.max(axis=(1, 2))], axis=1).astype(np.float64)


def _residual_colour(fixed: Float32s, moving: Float32s, valid: Bools) -> Floats:
    """Return the greatest residual of one colour field predicted from the other by a saturation and a tint."""

    def residual(target: Float32s, source: Float32s) -> Floats:
        weights = valid[..., None].astype(np.float32)
        pixels = np.maximum(valid.sum(axis=(1, 2)), 1)[:, None, None, None]
        mean_target, mean_source = ((p * weights).sum(axis=(1, 2), keepdims=True) / pixels for p in (target, source))
        centred = (source - mean_source) * weights
        power = (centred * centred).sum(axis=(1, 2, 3), keepdims=True) + 1.0
        saturation = ((centred * (target - mean_target)).sum(axis=(1, 2, 3), keepdims=True) / power).clip(0, 3)
        tint = (mean_target - saturation * mean_source).clip(-_MAX_TINT, _MAX_TINT)
        left = np.linalg.norm(target - saturation * source - tint, axis=-1) * valid
        greatest: Floats = _pool(left.astype(np.float32)).max(axis=(1, 2))
        return greatest

    least: Floats = np.minimum(residual(fixed, moving), residual(moving, fixed))
    return least


def _mean_hue_shift(fixed: Float32s, moving: Float32s, valid: Bools) -> Floats:
    """Return how far the mean colour turns, in levels of Cb and Cr, float64 (n,).

    It is scaled so that MIN_HUE_SHIFT levels beside the hue of the other picture count as MAX_COLOUR. 0 where one of
    them has hardly any colour, or where the hue turns by less than MIN_HUE_DEGREES.
    """
    pixels = np.maximum(valid.sum(axis=(1, 2)), 1)[:, None]
    means = [(colours * valid[..., None]).sum(axis=(1, 2)) / pixels for colours in (fixed, moving)]
    least = np.minimum(*(np.linalg.norm(mean, axis=1) for mean in means))
    hues = [np.arctan2(mean[:, 1], mean[:, 0]) for mean in means]
    turn = np.abs((hues[1] - hues[0] + np.pi) % (2 * np.pi) - np.pi)
    is_turned = (least >= MIN_HUE_SHIFT) & (np.degrees(turn) > MIN_HUE_DEGREES)
    shift = least * np.sin(np.minimum(turn, np.pi / 2)) * MAX_COLOUR / (MIN_HUE_SHIFT * np.sin(np.pi / 4))
    hue_shift: Floats = np.where(is_turned, shift, 0).astype(np.float64)
    return hue_shift


def _pool(pictures: Float32s) -> Floats:
    count, side = pictures.shape[:2]
    means: Floats = pictures.reshape(count, side // 4, 4, side // 4, 4).mean(axis=(2, 4)).astype(np.float64)
    return means
