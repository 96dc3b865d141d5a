"""Which pictures are the same picture: equal files, nearly equal ones, mirrored and cropped ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.data.hamming_search import (
    Places,
    _codes,
    _few,
    _ordered,
    _sample_size,
    _samples,
    _samples_needed,
    _search,
    hash_bits,
    near_pairs,
)
from bestiary.data.measure import HASH_SIDE
from bestiary.data.registration import VIEWS, View, agreement, thumbnails_of, view_hashes

# A view of one picture is held against whole pictures: hashes this near propose, this agreement confirms.
PROPOSED_BITS, CONFIRMED = 72, 0.85
# What a crop leaves nearly alone are the lowest frequencies: 12 % of these bits differ where the nearest view of a crop
# is far off. Bit 0 is the mean, which is above the median in every picture.
_LOW = np.array([row * HASH_SIDE + column for row in range(10) for column in range(10)][1:])
_LOW_DIFFERING = 0.12

MISSED_VIEWS = 1e-3  # chance to miss a pair where a crop lies between two views
HOW = ("", ", mirrored", ", cropped", ", mirrored and cropped")  # the fourth column of `duplicate_pairs`, in words


def duplicate_pairs(found: pl.DataFrame, near_bits: int | None, *, threads: int = 1) -> Places:
    """Return the pairs of rows that show one picture, int64 (pairs, 4): positions i < j, differing bits, place in HOW.

    found: the measured table, `sha256, phash, thumbnail, error`; rows with an error are passed over. near_bits: hashes
    that differ in so many bits make a pair without further question; None: only equal files do. Copies that are
    mirrored, cropped by up to 5 % at each edge, or changed more, are proposed by hashes of views of each picture
    and confirmed by the agreement of thumbnails. Equal files and equal hashes are chained, not paired all with all.
    """
    usable = found["error"].is_null().to_numpy().nonzero()[0]
    sound = found.select("sha256", "phash", "thumbnail")[usable]
    equal = equal_pairs(sound["sha256"].to_list())
    if near_bits is None or len(usable) < 2:
        return _placed(_padded(equal), usable)
    first = np.setdiff1d(np.arange(len(usable)), equal[:, 1])  # one of each file
    hashes = sound["phash"].gather(first).to_list()
    same = equal_pairs(hashes)
    shown = np.setdiff1d(np.arange(len(first)), same[:, 1])  # one of each hash
    near = near_pairs(hash_bits([hashes[place] for place in shown]), near_bits, threads=threads)
    seen = _alike(thumbnails_of(sound["thumbnail"].gather(first[shown]).to_list()), near, threads)
    pairs = [_placed(seen, first[shown]), _placed(_padded(same), first)]
    joined = _few(len(usable), np.concatenate([_padded(equal), *pairs]))
    return _placed(joined, usable)


def groups(count: int, pairs: Places) -> Places:
    """Return a group number for each of `count` items, int64 (count,): items joined by a chain of pairs share one.

    A group is numbered by its first item, so that the numbers say nothing beyond who belongs together.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(links, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component].astype(np.int64)


def equal_pairs(digests: Sequence[str]) -> Places:
    """Return pairs that chain together all items with equal digests, int64 (pairs, 3), the third column 0."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, item), item, 0) for item, digest in enumerate(digests) if digest]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 3)


# ---- Pairs by views ------------------------------------------------------------------------------------------------


def _alike(thumbnails: npt.NDArray[np.uint8], near: Places, threads: int) -> Places:
    """Return `near` and the pairs that the views of each picture add, int64 (pairs, 4)."""
    count, size = len(thumbnails), _sample_size(len(thumbnails))
    samples = _samples(_LOW, size, _samples_needed((1 - _LOW_DIFFERING) ** size, MISSED_VIEWS))
    whole = view_hashes(thumbnails, VIEWS[0])
    others = [view_hashes(thumbnails, view) for view in VIEWS[1:]]
    proposed = _search([whole, *others], whole, PROPOSED_BITS, samples, groups(count, near), threads)
    score = np.zeros(len(proposed))
    for number, view in enumerate(VIEWS):
        seen = proposed[:, 3] == number
        score[seen] = agreement(thumbnails[proposed[seen, 0]], thumbnails[proposed[seen, 1]], view)
    order = np.argsort(-np.round(score * 20), kind="stable")  # of views that agree as well, the plainest comes first
    best = order[score[order] >= CONFIRMED]
    _, first = np.unique(_codes(count, proposed[best]), return_index=True)
    added = proposed[best[first]]
    added[:, 3] = np.array([_how(view) for view in VIEWS])[added[:, 3]]
    return _ordered(count, np.concatenate([_padded(near), added]))


def _how(view: View) -> int:
    return int(view.mirrored) + 2 * int(view.cropped)


def _padded(pairs: Places) -> Places:
    """Return pairs of three columns with a fourth: nothing is different but the bits."""
    return np.pad(pairs, ((0, 0), (0, 1)))


def _placed(pairs: Places, places: npt.NDArray[np.integer]) -> Places:
    """Return the pairs with positions among all rows instead of among `places`."""
    return np.column_stack([places[pairs[:, :2]].reshape(-1, 2), pairs[:, 2:]]).astype(np.int64)


# ---- The search ----------------------------------------------------------------------------------------------------
