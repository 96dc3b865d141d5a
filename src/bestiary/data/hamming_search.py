"""Near-neighbour search among 256-bit hashes by Hamming distance: exhaustive, or by bit sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt

from bestiary.array_types import Ints
from bestiary.data.measure import HASH_SIDE

Bits = npt.NDArray[np.uint64]

HASH_BITS = HASH_SIDE**2
ROWS_AT_ONCE = 512
ALL_WITH_ALL = 8_192  # up to so many hashes every pair is compared; beyond, those that agree in a sample of bits
MISSED = 1e-6  # chance that a pair at the very distance asked for agrees in no sample; nearer ones: far less
SAMPLES_AT_ONCE = 8
# Ten thousand frames of one film are fifty million pairs. Of so many hashes that agree in a sample, each is compared
# with the first ones; of more pairs a picture, those are kept that hold the groups together.
MAX_MATCHES, PAIRS_PER_PICTURE = 64, 10


def find_near_pairs(bits: Bits, max_bits: int, *, threads: int = 1) -> Ints:
    """Return the pairs (i < j) whose hashes differ in `max_bits` bits, as int64 (pairs, 3): i, j, differing bits.

    Up to 8,192 hashes all are compared with all. Of more, those that agree in one of some hundred samples of bits are
    compared (Indyk and Motwani 1998): a pair at `max_bits` bits is missed with a chance of 1e-6, at three quarters
    of that with less than 1e-12. Of more than ten pairs a picture, those are kept that hold the groups together.
    """
    if len(bits) <= ALL_WITH_ALL or max_bits < 0:
        return _compare_all(bits, max_bits)
    size = _sample_size(len(bits))
    agree = math.comb(HASH_BITS - max_bits, size) / math.comb(HASH_BITS, size)
    samples = _iter_bit_samples(np.arange(HASH_BITS), size, _samples_needed(agree, MISSED))
    pairs = _search([bits], bits, max_bits, samples, np.arange(len(bits)), threads)
    return _sort_unique_pairs(len(bits), pairs)[:, :3]


def hash_bits(phashes: Sequence[str]) -> Bits:
    """Return hexadecimal hashes of 256 bits as uint64 (n, 4)."""
    return np.frombuffer(bytes.fromhex("".join(phashes)), np.uint64).reshape(-1, HASH_BITS // 64)


def _pair_codes(count: int, pairs: Ints) -> Ints:
    """Return a number for each pair of `count` items, the same for (i, j) and (j, i)."""
    codes: Ints = pairs[:, :2].min(axis=1) * count + pairs[:, :2].max(axis=1)
    return codes


def _sort_unique_pairs(count: int, pairs: Ints) -> Ints:
    """Return each pair once, the one that differs least, the lower position first."""
    nearest = pairs[np.argsort(pairs[:, 2], kind="stable")]
    _, first = np.unique(_pair_codes(count, nearest), return_index=True)
    kept = nearest[first]
    return np.column_stack([np.sort(kept[:, :2], axis=1), kept[:, 2:]])


def _prune_pairs(count: int, pairs: Ints) -> Ints:
    """Return the pairs, or, of very many, the nearest ones that still hold the groups together."""
    if len(pairs) <= PAIRS_PER_PICTURE * count:
        return pairs
    once = _sort_unique_pairs(count, pairs)
    if len(once) <= PAIRS_PER_PICTURE * count:
        return once
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    once = once[np.argsort(once[:, 2], kind="stable")]
    links = coo_array((np.arange(1, len(once) + 1), (once[:, 0], once[:, 1])), shape=(count, count))
    rank = minimum_spanning_tree(links.tocsr()).data.astype(np.int64) - 1
    return once[np.sort(rank)]


def _compare_all(bits: Bits, max_bits: int) -> Ints:
    """Return the near pairs by comparing all with all, a block of rows at a time."""
    found = np.zeros((0, 3), np.int64)
    for start in range(0, len(bits), ROWS_AT_ONCE):
        block, rest = bits[start : start + ROWS_AT_ONCE], bits[start:]
        distance = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(bits.shape[1]):
            distance += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        left, right = np.nonzero(distance <= max_bits)
        keep = left < right
        left, right = left[keep], right[keep]
        pairs = np.stack([left + start, right + start, distance[left, right]], axis=1).astype(np.int64)
        found = _prune_pairs(len(bits), np.concatenate([found, pairs]))
    return found


def _sample_size(count: int) -> int:
    """Return of how many bits a sample is made: so many that few of `count` hashes agree in all of them by chance."""
    return min(max(math.ceil(math.log2(count)) + 2, 8), 22)


def _samples_needed(agree: float, missed: float) -> int:
    return math.ceil(math.log(missed) / math.log1p(-agree)) if agree < 1 else 1


def _iter_bit_samples(bit_indices: Ints, size: int, count: int) -> Iterator[Ints]:
    random = np.random.default_rng(0)  # the same pictures give the same groups
    return (random.choice(bit_indices, size, replace=False) for _ in range(count))


def _search(
    lefts: Sequence[Bits], right: Bits, max_bits: int, samples: Iterator[Ints], group: Ints, threads: int
) -> Ints:
    """Return (i, j in `right`, differing bits, which of `lefts` has i) where a sample agrees and few enough differ.

    int64 (pairs, 4), each once; every set in `lefts` is held against `right`, but for items of one group.
    """
    found = np.zeros((0, 4), np.int64)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(samples, SAMPLES_AT_ONCE)):
            more = pool.map(lambda sample: _matches_in_sample(lefts, right, max_bits, sample, group), some)
            found = np.concatenate([found, *more])
            _, first = np.unique((found[:, 3] * len(right) + found[:, 0]) * len(right) + found[:, 1], return_index=True)
            found = _prune_pairs(len(right), found[first])
    return found[np.lexsort((found[:, 1], found[:, 0], found[:, 3]))]


def _matches_in_sample(lefts: Sequence[Bits], right: Bits, max_bits: int, sample: Ints, group: Ints) -> Ints:
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
        near = distance <= max_bits
        found.append(np.column_stack([i[near], j[near], distance[near], np.full(int(near.sum()), number)]))
    return _prune_pairs(len(right), np.concatenate(found))


def _key(bits: Bits, sample: Ints) -> npt.NDArray[np.uint32]:
    """Return the sampled bits of each hash as one number, uint32 (n,)."""
    key = np.zeros(len(bits), np.uint32)
    for number, place in enumerate(sample.tolist()):
        word, byte, bit = place // 64, place // 8 % 8, 7 - place % 8  # as numpy.packbits lays them
        key |= ((bits[:, word] >> np.uint64(8 * byte + bit)).astype(np.uint32) & np.uint32(1)) << np.uint32(number)
    return key


def _same_key(key: npt.NDArray[np.uint32], order: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Return i and j of all with equal keys; `order` sorts the others by key, `ends` says where each key's run begins.

    ends: int64 (keys + 1,), a leading 0 and the running count.
    """
    start = ends[key]
    count = np.minimum(ends[key + np.uint32(1)] - start, MAX_MATCHES)
    i = np.repeat(np.arange(len(key)), count)
    within = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i, order[np.repeat(start, count) + within]
