"""Compares pairs of near-duplicates at a higher resolution: is it one picture, or do they differ in a detail or colour?

Thumbnails decide which pictures are near-duplicates. A class may be about what thumbnails do not show: a scratch, the
colour of a shirt. Before two labels of one picture are called a conflict, the files are read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image

from bestiary import table
from bestiary.array_types import Floats, Ints, Pixels
from bestiary.box import PictureFile
from bestiary.context import Context
from bestiary.data.copy_changes import CONTENT, TRANSFORMED, CopyChange
from bestiary.data.registration import MAX_COLOUR, colour_difference, content_difference, refine, register
from bestiary.data.thumbnail_rows import unpack_thumbnails
from bestiary.data.views import VIEWS, View
from bestiary.errors import PictureError
from bestiary.picture import DecodeLimits
from bestiary.preprocess import Preprocessing
from bestiary.progress import iter_counted

MIN_SIDE, MAX_SIDE, COLOURS_SIDE = 32, 128, 32
OF_SMALLER = 0.75  # of the smaller picture's short side: at its full resolution, a reduced copy is blurred
MAX_PAIRS, MAX_PAIRS_OF_CLASSES = 300, 40  # a pair takes some 20 milliseconds
REFINING_STEPS = 2
GOOD_SCORE = 0.9  # of a registration that needs no comparison with other views
# Of pictures of at most 128 x 128 pixels, in grey levels: at one pixel, in the mean of 3 x 3. Photographs stored anew
# at quality 60 to 95, at half the size, brightened or with more contrast stay below: docs/log.md.
FILE_DETAIL, FILE_DETAIL_AREA = 48.0, 20.0


def check_content(pictures: pl.DataFrame, pairs: Ints, limits: DecodeLimits, context: Context) -> Ints:
    """Return the pairs, with RECOLOURED or DETAIL added to the changes of those whose files differ so.

    pictures: `path, label, sha256, width, height, thumbnail`; pairs: int64 (n, 4), as `find_duplicate_pairs` returns
    them. Pairs of different files with different labels are checked, at most 300, and 40 of two classes; the others are
    UNCHECKED, and so are files that cannot be read any more.
    """
    labels, sha256 = pictures["label"].to_numpy(), pictures["sha256"].to_numpy()
    first, second = pairs[:, 0], pairs[:, 1]
    is_open = (labels[first] != labels[second]) & (sha256[first] != sha256[second]) & (pairs[:, 3] & CONTENT == 0)
    rows = _choose_pairs(labels, pairs, np.flatnonzero(is_open))
    checked = pairs.copy()
    checked[is_open, 3] |= CopyChange.UNCHECKED
    checked[rows, 3] &= ~CopyChange.UNCHECKED
    if not len(rows):
        return checked
    progress = context.reporter.progress("Searching for duplicates: comparing details", len(rows))
    with progress as advance, ThreadPoolExecutor(context.threads) as pool:
        changes = pool.map(partial(_check_pair, pictures, table.list_files(pictures), limits), pairs[rows].tolist())
        checked[rows, 3] |= np.array(list(iter_counted(changes, advance)), np.int64)
    return checked


def _choose_pairs(labels: npt.NDArray[np.object_], pairs: Ints, rows: Ints) -> Ints:
    """Return at most MAX_PAIRS of the rows of pairs, evenly drawn, and of each two classes the first of them."""
    counts: dict[frozenset[str], int] = defaultdict(int)
    chosen: list[int] = []
    for row in rows[np.random.default_rng(0).permutation(len(rows))]:
        key = frozenset(labels[pairs[row, :2]])
        counts[key] += 1
        if counts[key] <= MAX_PAIRS_OF_CLASSES and len(chosen) < MAX_PAIRS:
            chosen.append(int(row))
    return np.array(sorted(chosen), np.int64)


def _check_pair(pictures: pl.DataFrame, files: Sequence[PictureFile], limits: DecodeLimits, pair: list[int]) -> int:
    """Return the changes of content of one pair, UNCHECKED if a file cannot be read any more."""
    i, j, _, changes = pair
    try:
        short = min(pictures[name][index] or 0 for name in ("width", "height") for index in (i, j))
        side = int(np.clip(OF_SMALLER * short, MIN_SIDE, MAX_SIDE))
        preprocess = Preprocessing(side, limits=limits)
        images = np.stack([preprocess.load_pixels(files[index]) for index in (i, j)])
    except PictureError:
        return int(CopyChange.UNCHECKED)
    return _content_changes(images, unpack_thumbnails([pictures["thumbnail"][index] for index in (i, j)]), changes)


def _content_changes(images: Pixels, thumbnails: Pixels, changes: int) -> int:
    """Return the changes of content of one pair; images: uint8 (2, side, side, 3); thumbnails: uint8 (2, 32, 32)."""
    view, (first, second), warps = _best_alignment(thumbnails, changes)
    fixed, moving = (Image.fromarray(images[index]).convert("YCbCr") for index in (first, second))
    target, source = (np.asarray(image)[None, :, :, 0] for image in (fixed, moving))
    warps = refine(target, source, warps, view, REFINING_STEPS)
    difference = content_difference(target, source, warps, is_inverted=view.is_inverted)[0]
    result = CopyChange.DETAIL * bool((difference > np.array([FILE_DETAIL, FILE_DETAIL_AREA])).any())
    if not view.is_inverted:
        is_recoloured = bool(colour_difference(_colours(fixed), _colours(moving), warps)[0] > MAX_COLOUR)
        result += CopyChange.RECOLOURED * is_recoloured
    return int(result)


def _colours(image: Image.Image) -> Pixels:
    """Return Cb and Cr of 32 x 32 parts of a YCbCr image, uint8 (1, 32, 32, 2)."""
    return np.asarray(image.resize((COLOURS_SIDE, COLOURS_SIDE), Image.Resampling.BOX))[None, :, :, 1:]


def _best_alignment(thumbnails: Pixels, changes: int) -> tuple[View, tuple[int, int], Floats]:
    """Return the view of such changes that aligns the thumbnails best, which one is fixed, which moving, the warp."""
    best: tuple[float, View, tuple[int, int], Floats] | None = None
    for view in (view for view in VIEWS if view.changes & TRANSFORMED == changes & TRANSFORMED):
        for first, second in ((0, 1), (1, 0)):
            registration = register(thumbnails[[first]], thumbnails[[second]], view)
            score = round(float(registration.scores[0]), 2)
            if best is None or score > best[0]:
                best = score, view, (first, second), registration.warps
        if best is not None and best[0] >= GOOD_SCORE:
            break
    assert best is not None, "there is a view of every orientation"
    return best[1:]
