"""Which pictures are the same picture: equal files, nearly equal ones, mirrored and cropped ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.array_types import Ints, Pixels
from bestiary.data.hamming_search import (
    _iter_bit_samples,
    _pair_codes,
    _prune_pairs,
    _sample_size,
    _samples_needed,
    _search,
    _sort_unique_pairs,
    find_near_pairs,
    hash_bits,
)
from bestiary.data.measure import HASH_SIDE
from bestiary.data.registration import VIEWS, CropView, hash_views, registration_score, unpack_thumbnails

# A view of one picture is held against whole pictures: hashes this near propose, this agreement confirms.
PROPOSED_BITS, CONFIRMED = 72, 0.85
# What a crop leaves nearly alone are the lowest frequencies: 12 % of these bits differ where the nearest view of a crop
# is far off. Bit 0 is the mean, which is above the median in every picture.
_LOW = np.array([row * HASH_SIDE + column for row in range(10) for column in range(10)][1:])
_LOW_DIFFERING = 0.12

MISSED_VIEWS = 1e-3  # chance to miss a pair where a crop lies between two views
HOW = ("", ", mirrored", ", cropped", ", mirrored and cropped")  # the fourth column of `find_duplicate_pairs`, in words


def find_duplicate_pairs(pictures: pl.DataFrame, near_bits: int | None, *, threads: int = 1) -> Ints:
    """Return the pairs of rows that show one picture, int64 (pairs, 4): positions i < j, differing bits, place in HOW.

    found: the measured table, `sha256, phash, thumbnail, error`; rows with an error are passed over. near_bits: hashes
    that differ in so many bits make a pair without further question; None: only equal files do. Copies that are
    mirrored, cropped by up to 5 % at each edge, or changed more, are proposed by hashes of views of each picture
    and confirmed by the agreement of thumbnails. Equal files and equal hashes are chained, not paired all with all.
    """
    usable = pictures["error"].is_null().to_numpy().nonzero()[0]
    sound = pictures.select("sha256", "phash", "thumbnail")[usable]
    equal = equal_digest_pairs(sound["sha256"].to_list())
    if near_bits is None or len(usable) < 2:
        return _reindex_pairs(_add_view_column(equal), usable)
    first = np.setdiff1d(np.arange(len(usable)), equal[:, 1])  # one of each file
    hashes = sound["phash"].gather(first).to_list()
    same = equal_digest_pairs(hashes)
    shown = np.setdiff1d(np.arange(len(first)), same[:, 1])  # one of each hash
    near = find_near_pairs(hash_bits([hashes[place] for place in shown]), near_bits, threads=threads)
    seen = _confirm_pairs(unpack_thumbnails(sound["thumbnail"].gather(first[shown]).to_list()), near, threads)
    pairs = [_reindex_pairs(seen, first[shown]), _reindex_pairs(_add_view_column(same), first)]
    joined = _prune_pairs(len(usable), np.concatenate([_add_view_column(equal), *pairs]))
    return _reindex_pairs(joined, usable)


def connected_groups(count: int, pairs: Ints) -> Ints:
    """Return a group number for each of `count` items, int64 (count,): items joined by a chain of pairs share one.

    A group is numbered by its first item, so that the numbers say nothing beyond who belongs together.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(links, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component].astype(np.int64)


def equal_digest_pairs(digests: Sequence[str]) -> Ints:
    """Return pairs that chain together all items with equal digests, int64 (pairs, 3), the third column 0."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, item), item, 0) for item, digest in enumerate(digests) if digest]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 3)


# ---- Pairs by views ------------------------------------------------------------------------------------------------


def _confirm_pairs(thumbnails: Pixels, near: Ints, threads: int) -> Ints:
    """Return `near` and the pairs that the views of each picture add, int64 (pairs, 4)."""
    count, size = len(thumbnails), _sample_size(len(thumbnails))
    samples = _iter_bit_samples(_LOW, size, _samples_needed((1 - _LOW_DIFFERING) ** size, MISSED_VIEWS))
    whole = hash_views(thumbnails, VIEWS[0])
    others = [hash_views(thumbnails, view) for view in VIEWS[1:]]
    proposed = _search([whole, *others], whole, PROPOSED_BITS, samples, connected_groups(count, near), threads)
    score = np.zeros(len(proposed))
    for number, view in enumerate(VIEWS):
        seen = proposed[:, 3] == number
        score[seen] = registration_score(thumbnails[proposed[seen, 0]], thumbnails[proposed[seen, 1]], view)
    order = np.argsort(-np.round(score * 20), kind="stable")  # of views that agree as well, the plainest comes first
    best = order[score[order] >= CONFIRMED]
    _, first = np.unique(_pair_codes(count, proposed[best]), return_index=True)
    added = proposed[best[first]]
    added[:, 3] = np.array([_how_index(view) for view in VIEWS])[added[:, 3]]
    return _sort_unique_pairs(count, np.concatenate([_add_view_column(near), added]))


def _how_index(view: CropView) -> int:
    return int(view.mirrored) + 2 * int(view.cropped)


def _add_view_column(pairs: Ints) -> Ints:
    """Return pairs of three columns with a fourth: nothing is different but the bits."""
    return np.pad(pairs, ((0, 0), (0, 1)))


def _reindex_pairs(pairs: Ints, indices: npt.NDArray[np.integer]) -> Ints:
    """Return the pairs with positions among all rows instead of among `indices`."""
    return np.column_stack([indices[pairs[:, :2]].reshape(-1, 2), pairs[:, 2:]]).astype(np.int64)


# ---- The search ----------------------------------------------------------------------------------------------------
