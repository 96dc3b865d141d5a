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
ALL_WITH_ALL = 8_192  # with up to so many hashes, every pair is compared; with more, those that agree in a sample
MISSED = 1e-6  # probability that a pair exactly at the maximum distance agrees in no sample; far lower for nearer ones
SAMPLES_AT_ONCE = 8
# Ten thousand frames of one film are fifty million pairs. A hash is compared with at most MAX_MATCHES others that agree
# in a sample; beyond PAIRS_PER_PICTURE, only the pairs that connect the groups are kept.
MAX_MATCHES, PAIRS_PER_PICTURE = 64, 10


def find_near_pairs(bits: Bits, max_bits: int, *, threads: int = 1) -> Ints:
    """Return the pairs (i < j) whose hashes differ in at most `max_bits` bits, int64 (pairs, 3): i, j, differing bits.

    Up to 8,192 hashes are all compared with each other. Of more, those that agree in one of some hundred samples of
    bits are compared (Indyk and Motwani 1998): a pair at `max_bits` bits is missed with probability 1e-6, at three
    quarters of that with less than 1e-12. Of more than ten pairs a picture, those that connect the groups are kept.
    """
    if len(bits) <= ALL_WITH_ALL or max_bits < 0:
        return _compare_all(bits, max_bits)
    size = sample_size(len(bits))
    agreement = math.comb(HASH_BITS - max_bits, size) / math.comb(HASH_BITS, size)
    samples = iter_bit_samples(np.arange(HASH_BITS), size, agreement, MISSED)
    return _search(bits, max_bits, samples, threads)


def hash_bits(phashes: Sequence[str]) -> Bits:
    """Return hexadecimal hashes of 256 bits as uint64 (n, 4)."""
    return np.frombuffer(bytes.fromhex("".join(phashes)), np.uint64).reshape(-1, HASH_BITS // 64)


def sort_unique_pairs(count: int, pairs: Ints) -> Ints:
    """Return each pair of `count` items once, with its smallest distance, sorted, the lower index first."""
    nearest = pairs[np.argsort(pairs[:, 2], kind="stable")]
    ends = np.sort(nearest[:, :2], axis=1)
    _, first = np.unique(ends @ np.array([count, 1]), return_index=True)
    return np.column_stack([ends[first], nearest[first, 2:]])


def prune_pairs(count: int, pairs: Ints) -> Ints:
    """Return the pairs, or, of more than ten a picture, the minimum spanning forest that connects the same groups."""
    if len(pairs) <= PAIRS_PER_PICTURE * count:
        return pairs
    unique = sort_unique_pairs(count, pairs)
    if len(unique) <= PAIRS_PER_PICTURE * count:
        return unique
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    unique = unique[np.argsort(unique[:, 2], kind="stable")]
    links = coo_array((np.arange(1, len(unique) + 1), (unique[:, 0], unique[:, 1])), shape=(count, count))
    rank = minimum_spanning_tree(links.tocsr()).data.astype(np.int64) - 1
    return unique[np.sort(rank)]


def sample_size(count: int) -> int:
    """Return the number of bits of a sample: so many that few of `count` hashes agree in all of them by chance."""
    return min(max(math.ceil(math.log2(count)) + 2, 8), 22)


def iter_bit_samples(bit_indices: Ints, size: int, agreement: float, missed: float) -> Iterator[Ints]:
    """Yield random samples of bits, so many that a pair agrees in none of them with probability `missed`.

    agreement: probability that the pair agrees in one sample.
    """
    count = math.ceil(math.log(missed) / math.log1p(-agreement)) if agreement < 1 else 1
    random = np.random.default_rng(0)  # a fixed seed: the same pictures give the same groups
    return (random.choice(bit_indices, size, replace=False) for _ in range(count))


def match_in_sample(queries: Bits, reference: Bits, max_bits: int, sample: Ints) -> Ints:
    """Return the near pairs whose hashes agree in one sample of bits, int64 (pairs, 3): query, reference, bits.

    A query is compared with at most MAX_MATCHES references.
    """
    key = _key(reference, sample)
    order = _sort_keys(key)
    ends = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=1 << len(sample)))])
    i, j = _same_key(key if queries is reference else _key(queries, sample), order, ends)
    distance = np.bitwise_count(queries[i] ^ reference[j]).sum(axis=1, dtype=np.int64)
    near = distance <= max_bits
    return np.column_stack([i[near], j[near], distance[near]]).astype(np.int64)


def _search(bits: Bits, max_bits: int, samples: Iterator[Ints], threads: int) -> Ints:
    """Return the near pairs that agree in a sample, int64 (pairs, 3), sorted, each once."""

    def match(sample: Ints) -> Ints:
        pairs = match_in_sample(bits, bits, max_bits, sample)
        return prune_pairs(len(bits), pairs[pairs[:, 0] != pairs[:, 1]])

    pairs = np.zeros((0, 3), np.int64)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(samples, SAMPLES_AT_ONCE)):
            pairs = np.concatenate([pairs, *pool.map(match, chunk)])
            pairs = prune_pairs(len(bits), sort_unique_pairs(len(bits), pairs))
    return sort_unique_pairs(len(bits), pairs)


def _compare_all(bits: Bits, max_bits: int) -> Ints:
    """Return the near pairs by comparing all hashes with each other, a block of rows at a time."""
    near = np.zeros((0, 3), np.int64)
    for start in range(0, len(bits), ROWS_AT_ONCE):
        block, rest = bits[start : start + ROWS_AT_ONCE], bits[start:]
        distance = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(bits.shape[1]):
            distance += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        i, j = np.nonzero(np.triu(distance <= max_bits, k=1))
        pairs = np.stack([i + start, j + start, distance[i, j]], axis=1).astype(np.int64)
        near = prune_pairs(len(bits), np.concatenate([near, pairs]))
    return near


def _key(bits: Bits, sample: Ints) -> npt.NDArray[np.uint32]:
    """Return the sampled bits of each hash as one number, uint32 (n,)."""
    key = np.zeros(len(bits), np.uint32)
    for number, index in enumerate(sample.tolist()):
        word, byte, bit = index // 64, index // 8 % 8, 7 - index % 8  # the bit order of numpy.packbits
        key |= ((bits[:, word] >> np.uint64(8 * byte + bit)).astype(np.uint32) & np.uint32(1)) << np.uint32(number)
    return key


def _sort_keys(key: npt.NDArray[np.uint32]) -> Ints:
    """Return the stable order of keys, int64 (n,): numpy sorts 16 bits by radix, six times as fast as 32 bits."""
    order = np.argsort(key.astype(np.uint16), kind="stable")
    return order[np.argsort((key >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]


def _same_key(key: npt.NDArray[np.uint32], order: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Return i and j of all pairs with equal keys.

    order: int64 (references,), sorts the references by key; ends: int64 (keys + 1,), where the run of each key begins.
    """
    start = ends[key]
    count = np.minimum(ends[key + np.uint32(1)] - start, MAX_MATCHES)
    i = np.repeat(np.arange(len(key)), count)
    within = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i, order[np.repeat(start, count) + within]
