"""Duplicate detection: equal files, near-duplicates by perceptual hash, mirrored and cropped copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.array_types import Ints, Pixels
from bestiary.data import hamming_search
from bestiary.data.measure import HASH_SIDE
from bestiary.data.registration import VIEWS, hash_views, registration_score, unpack_thumbnails

# Views of one picture are compared with whole pictures: hashes this close propose a pair, this score confirms it.
PROPOSED_BITS, CONFIRMED_SCORE = 72, 0.85
# A crop changes the lowest frequencies least: 12 % of these bits differ where a crop lies farthest from its nearest
# view. Bit 0 is the mean, which is above the median in every picture.
_LOW = np.array([row * HASH_SIDE + column for row in range(10) for column in range(10)][1:])
_LOW_DIFFERING = 0.12

MISSED_VIEWS = 1e-3  # probability to miss a pair where a crop lies between two views
HOW = ("", ", mirrored", ", cropped", ", mirrored and cropped")  # the fourth column of `find_duplicate_pairs`, in words


def find_duplicate_pairs(pictures: pl.DataFrame, near_bits: int | None, *, threads: int = 1) -> Ints:
    """Return the pairs of rows that show one picture, int64 (pairs, 4): i < j, differing bits, index into `HOW`.

    pictures: `sha256, phash, thumbnail, error`; rows with an error are skipped. near_bits: hashes that differ in at
    most so many bits are a pair without further checks; None: only equal files are. Copies that are mirrored, cropped
    by up to 5 % at each edge, or changed more, are proposed by hashes of views of each picture and confirmed by
    registration of thumbnails. Equal files and equal hashes form chains: not all of their pairs are listed.
    """
    usable = pictures["error"].is_null().arg_true().to_numpy()
    readable = pictures.select("sha256", "phash", "thumbnail")[usable]
    equal = equal_digest_pairs(readable["sha256"].to_list())
    if near_bits is None or len(usable) < 2:
        return _reindex_pairs(_add_view_column(equal), usable)
    files = np.setdiff1d(np.arange(len(usable)), equal[:, 1])  # the first of equal files
    phashes = readable["phash"].gather(files).to_list()
    same_hash = equal_digest_pairs(phashes)
    distinct = np.setdiff1d(np.arange(len(files)), same_hash[:, 1])  # the first of equal hashes
    near = hamming_search.find_near_pairs(
        hamming_search.hash_bits([phashes[index] for index in distinct]), near_bits, threads=threads
    )
    thumbnails = unpack_thumbnails(readable["thumbnail"].gather(files[distinct]).to_list())
    confirmed = _reindex_pairs(_add_pairs_by_view(thumbnails, near, threads), files[distinct])
    chains = [_add_view_column(equal), confirmed, _reindex_pairs(_add_view_column(same_hash), files)]
    return _reindex_pairs(hamming_search.prune_pairs(len(usable), np.concatenate(chains)), usable)


def connected_groups(count: int, pairs: Ints) -> Ints:
    """Return the group of each of `count` items, int64 (count,): the connected components of the pairs.

    The number of a group is the index of its first item.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(links, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component].astype(np.int64)


def equal_digest_pairs(digests: Sequence[str]) -> Ints:
    """Return pairs that connect all items with equal digests, int64 (pairs, 3), the third column 0."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, item), item, 0) for item, digest in enumerate(digests) if digest]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 3)


def _add_pairs_by_view(thumbnails: Pixels, near: Ints, threads: int) -> Ints:
    """Return `near` and the pairs found by the views of each picture, int64 (pairs, 4)."""
    count, size = len(thumbnails), hamming_search.sample_size(len(thumbnails))
    samples = hamming_search.iter_bit_samples(_LOW, size, (1 - _LOW_DIFFERING) ** size, MISSED_VIEWS)
    whole, *views = (hash_views(thumbnails, view) for view in VIEWS)
    proposed = hamming_search.search(
        [whole, *views], whole, PROPOSED_BITS, samples, connected_groups(count, near), threads
    )
    score = np.zeros(len(proposed))
    for number, view in enumerate(VIEWS):
        pairs = proposed[:, 3] == number
        score[pairs] = registration_score(thumbnails[proposed[pairs, 0]], thumbnails[proposed[pairs, 1]], view)
    order = np.argsort(-np.round(score * 20), kind="stable")  # of views with equal scores, the plainest comes first
    added = proposed[order[score[order] >= CONFIRMED_SCORE]]
    _, first = np.unique(np.sort(added[:, :2], axis=1) @ np.array([count, 1]), return_index=True)
    added = added[first]
    added[:, 3] = np.array([view.is_mirrored + 2 * view.is_cropped for view in VIEWS])[added[:, 3]]
    return hamming_search.sort_unique_pairs(count, np.concatenate([_add_view_column(near), added]))


def _add_view_column(pairs: Ints) -> Ints:
    """Return pairs of three columns with a fourth, 0: neither mirrored nor cropped."""
    return np.pad(pairs, ((0, 0), (0, 1)))


def _reindex_pairs(pairs: Ints, indices: npt.NDArray[np.integer]) -> Ints:
    """Return the pairs with indices into all rows instead of into `indices`."""
    return np.column_stack([indices[pairs[:, :2]].reshape(-1, 2), pairs[:, 2:]]).astype(np.int64)
