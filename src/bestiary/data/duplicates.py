"""Which pictures are the same picture: equal files, nearly equal ones, mirrored and cropped ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.data.measure import HASH_SIDE
from bestiary.data.registration import VIEWS, View, agreement, thumbnails_of, view_hashes

Bits = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

HASH_BITS = HASH_SIDE**2
ROWS_AT_ONCE = 512
ALL_WITH_ALL = 8_192  # up to so many hashes every pair is compared; beyond, those that agree in a sample of bits

# A view of one picture is held against whole pictures: hashes this near propose, this agreement confirms.
PROPOSED_BITS, CONFIRMED = 72, 0.85
# What a crop leaves nearly alone are the lowest frequencies: 12 % of these bits differ where the nearest view of a crop
# is far off. Bit 0 is the mean, which is above the median in every picture.
_LOW = np.array([row * HASH_SIDE + column for row in range(10) for column in range(10)][1:])
_LOW_DIFFERING = 0.12

MISSED = 1e-6  # chance that a pair at the very distance asked for agrees in no sample; nearer ones: far less
MISSED_VIEWS = 1e-3  # the same where a crop lies between two views
# Ten thousand frames of one film are fifty million pairs. Of so many hashes that agree in a sample, each is compared
# with the first ones; of more pairs a picture, those are kept that hold the groups together.
MOST_AGREEING, PAIRS_PER_PICTURE = 64, 10
SAMPLES_AT_ONCE = 8
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


def near_pairs(bits: Bits, at_most: int, *, threads: int = 1) -> Places:
    """Return the pairs (i < j) whose hashes differ in `at_most` bits, as int64 (pairs, 3): i, j, differing bits.

    Up to 8,192 hashes all are compared with all. Of more, those that agree in one of some hundred samples of bits are
    compared (Indyk and Motwani 1998): a pair at `at_most` bits is missed with a chance of 1e-6, at three quarters
    of that with less than 1e-12. Of more than ten pairs a picture, those are kept that hold the groups together.
    """
    if len(bits) <= ALL_WITH_ALL or at_most < 0:
        return _compare_all(bits, at_most)
    size = _sample_size(len(bits))
    agree = math.comb(HASH_BITS - at_most, size) / math.comb(HASH_BITS, size)
    samples = _samples(np.arange(HASH_BITS), size, _samples_needed(agree, MISSED))
    pairs = _search([bits], bits, at_most, samples, np.arange(len(bits)), threads)
    return _ordered(len(bits), pairs)[:, :3]


def hash_bits(phashes: Sequence[str]) -> Bits:
    """Return hexadecimal hashes of 256 bits as uint64 (n, 4)."""
    return np.frombuffer(bytes.fromhex("".join(phashes)), np.uint64).reshape(-1, HASH_BITS // 64)


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


def _codes(count: int, pairs: Places) -> Places:
    """Return a number for each pair of `count` items, the same for (i, j) and (j, i)."""
    codes: Places = pairs[:, :2].min(axis=1) * count + pairs[:, :2].max(axis=1)
    return codes


def _ordered(count: int, pairs: Places) -> Places:
    """Return each pair once, the one that differs least, the lower position first."""
    nearest = pairs[np.argsort(pairs[:, 2], kind="stable")]
    _, first = np.unique(_codes(count, nearest), return_index=True)
    kept = nearest[first]
    return np.column_stack([np.sort(kept[:, :2], axis=1), kept[:, 2:]])


def _padded(pairs: Places) -> Places:
    """Return pairs of three columns with a fourth: nothing is different but the bits."""
    return np.pad(pairs, ((0, 0), (0, 1)))


def _placed(pairs: Places, places: npt.NDArray[np.integer]) -> Places:
    """Return the pairs with positions among all rows instead of among `places`."""
    return np.column_stack([places[pairs[:, :2]].reshape(-1, 2), pairs[:, 2:]]).astype(np.int64)


def _few(count: int, pairs: Places) -> Places:
    """Return the pairs, or, of very many, the nearest ones that still hold the groups together."""
    if len(pairs) <= PAIRS_PER_PICTURE * count:
        return pairs
    once = _ordered(count, pairs)
    if len(once) <= PAIRS_PER_PICTURE * count:
        return once
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    once = once[np.argsort(once[:, 2], kind="stable")]
    links = coo_array((np.arange(1, len(once) + 1), (once[:, 0], once[:, 1])), shape=(count, count))
    rank = minimum_spanning_tree(links.tocsr()).data.astype(np.int64) - 1
    return once[np.sort(rank)]


# ---- The search ----------------------------------------------------------------------------------------------------


def _compare_all(bits: Bits, at_most: int) -> Places:
    """Return the near pairs by comparing all with all, a block of rows at a time."""
    found = np.zeros((0, 3), np.int64)
    for start in range(0, len(bits), ROWS_AT_ONCE):
        block, rest = bits[start : start + ROWS_AT_ONCE], bits[start:]
        distance = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(bits.shape[1]):
            distance += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        left, right = np.nonzero(distance <= at_most)
        keep = left < right
        left, right = left[keep], right[keep]
        pairs = np.stack([left + start, right + start, distance[left, right]], axis=1).astype(np.int64)
        found = _few(len(bits), np.concatenate([found, pairs]))
    return found


def _sample_size(count: int) -> int:
    """Return of how many bits a sample is made: so many that few of `count` hashes agree in all of them by chance."""
    return min(max(math.ceil(math.log2(count)) + 2, 8), 22)


def _samples_needed(agree: float, missed: float) -> int:
    return math.ceil(math.log(missed) / math.log1p(-agree)) if agree < 1 else 1


def _samples(places: Places, size: int, count: int) -> Iterator[Places]:
    random = np.random.default_rng(0)  # the same pictures give the same groups
    return (random.choice(places, size, replace=False) for _ in range(count))


def _search(
    lefts: Sequence[Bits], right: Bits, at_most: int, samples: Iterator[Places], group: Places, threads: int
) -> Places:
    """Return (i, j in `right`, differing bits, which of `lefts` has i) where a sample agrees and few enough differ.

    int64 (pairs, 4), each once; every set in `lefts` is held against `right`, but for items of one group.
    """
    found = np.zeros((0, 4), np.int64)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(samples, SAMPLES_AT_ONCE)):
            more = pool.map(lambda sample: _agreeing(lefts, right, at_most, sample, group), some)
            found = np.concatenate([found, *more])
            _, first = np.unique((found[:, 3] * len(right) + found[:, 0]) * len(right) + found[:, 1], return_index=True)
            found = _few(len(right), found[first])
    return found[np.lexsort((found[:, 1], found[:, 0], found[:, 3]))]


def _agreeing(lefts: Sequence[Bits], right: Bits, at_most: int, sample: Places, group: Places) -> Places:
    """Return what `_search` does, of the pairs whose hashes agree in one sample of bits."""
    found = []
    key = _key(right, sample)
    order = np.argsort(key, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=1 << len(sample)))])
    for number, left in enumerate(lefts):
        i, j = _same_key(key if left is right else _key(left, sample), order, ends)
        apart = group[i] != group[j]
        i, j = i[apart], j[apart]
        distance = np.bitwise_count(left[i] ^ right[j]).sum(axis=1, dtype=np.int64)
        near = distance <= at_most
        found.append(np.column_stack([i[near], j[near], distance[near], np.full(int(near.sum()), number)]))
    return _few(len(right), np.concatenate(found))


def _key(bits: Bits, sample: Places) -> npt.NDArray[np.uint32]:
    """Return the sampled bits of each hash as one number, uint32 (n,)."""
    key = np.zeros(len(bits), np.uint32)
    for number, place in enumerate(sample.tolist()):
        word, byte, bit = place // 64, place // 8 % 8, 7 - place % 8  # as numpy.packbits lays them
        key |= ((bits[:, word] >> np.uint64(8 * byte + bit)).astype(np.uint32) & np.uint32(1)) << np.uint32(number)
    return key


def _same_key(key: npt.NDArray[np.uint32], order: Places, ends: Places) -> tuple[Places, Places]:
    """Return i and j of all with equal keys; `order` sorts the others by key, `ends` says where each key's run begins.

    ends: int64 (keys + 1,), a leading 0 and the running count.
    """
    start = ends[key]
    count = np.minimum(ends[key + np.uint32(1)] - start, MOST_AGREEING)
    i = np.repeat(np.arange(len(key)), count)
    within = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i, order[np.repeat(start, count) + within]
