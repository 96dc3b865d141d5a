"""Near-neighbour search among 256-bit hashes by Hamming distance: exhaustive, or by bit sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.array_types import Ints
from bestiary.data.measure import HASH_SIDE

Bits = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.uint32]

HASH_BITS = HASH_SIDE**2
ROWS_AT_ONCE, HASHES_AT_ONCE = 512, 65_536
ALL_WITH_ALL = 8_192  # with up to so many hashes, every pair is compared; with more, those that agree in a sample
MISSED = 1e-6  # probability that a pair exactly at the maximum distance agrees in no sample; far lower for nearer ones
# Bits of a sample. Up to a million hashes agree in so many by chance less than once each, so that the number of
# samples, and the time for a hash, is the same for ten thousand and for a million of them.
SAMPLE_BITS, ORDER_BITS = 20, 16
SAMPLES_AT_ONCE = 4
# Ten thousand frames of one film are fifty million pairs. A hash is compared with at most MAX_MATCHES others that agree
# in a sample; beyond PAIRS_PER_PICTURE, only the pairs that connect the groups are kept.
MAX_MATCHES, PAIRS_PER_PICTURE = 64, 10
FIRST_WORDS = 2  # of four: nearly all pairs that agree by chance differ in more bits than allowed here already


def find_near_pairs(bits: Bits, max_bits: int, *, threads: int = 1) -> Ints:
    """Return the pairs (i < j) whose hashes differ in at most `max_bits` bits, int64 (pairs, 3): i, j, differing bits.

    Up to 8,192 hashes are all compared with each other. Of more, those that agree in one of some hundred samples of
    bits are compared (Indyk and Motwani 1998): a pair at `max_bits` bits is missed with probability 1e-6, at three
    quarters of that with less than 1e-12. Where more than 64 hashes agree in a sample, each is compared with the 64
    that follow it in the order of further bits. Of more than ten pairs a picture, those that connect the groups are
    kept.
    """
    if len(bits) <= ALL_WITH_ALL or max_bits < 0:
        return _compare_all(bits, max_bits)
    size = sample_size(len(bits))
    agreement = math.comb(HASH_BITS - max_bits, size) / math.comb(HASH_BITS, size)
    samples = iter_bit_samples(np.arange(HASH_BITS), size, count_samples(agreement, MISSED), ORDER_BITS)
    return _search(bits, max_bits, samples, threads)


def hash_bits(phashes: Sequence[str] | pl.Series) -> Bits:
    """Return hexadecimal hashes of 256 bits as uint64 (n, 4)."""
    starts = range(0, len(phashes), HASHES_AT_ONCE)
    parts = [bytes.fromhex("".join(phashes[start : start + HASHES_AT_ONCE])) for start in starts]
    return np.frombuffer(b"".join(parts), np.uint64).reshape(-1, HASH_BITS // 64)


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
    return max(math.ceil(math.log2(max(count, 2))), SAMPLE_BITS)


def count_samples(agreement: float, missed: float) -> int:
    """Return how many samples a pair has to agree in none of to be missed with the probability `missed`.

    agreement: probability that the pair agrees in one sample.
    """
    return math.ceil(math.log(missed) / math.log1p(-agreement)) if agreement < 1 else 1


def iter_bit_samples(bit_indices: Ints, size: int, count: int, further: int = 0) -> Iterator[Ints]:
    """Yield random samples of `size` bits, without replacement, and of `further` bits after them, for an order."""
    random = np.random.default_rng(0)  # a fixed seed: the same pictures give the same groups
    return (random.choice(bit_indices, size + further, replace=False) for _ in range(count))


def _search(bits: Bits, max_bits: int, samples: Iterator[Ints], threads: int) -> Ints:
    """Return the near pairs that agree in a sample, int64 (pairs, 3), sorted, each once.

    A pair is one number, i * n + j, until the end: a million pictures can have ten million pairs.
    """
    count = len(bits)
    words = np.ascontiguousarray(bits.T)
    codes, group = np.zeros(0, np.int64), None
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(samples, SAMPLES_AT_ONCE)):
            new = list(pool.map(partial(_match_sample, words, max_bits, group), chunk))
            codes = np.unique(np.concatenate([codes, *new]))
            if len(codes) > PAIRS_PER_PICTURE * count or (group is not None and any(map(len, new))):
                codes = _encode(count, prune_pairs(count, _decode(bits, codes)))
                group = _connect(count, codes)
    return _decode(bits, codes)


def _match_sample(words: Bits, max_bits: int, group: Ints | None, sample: Ints) -> Ints:
    """Return the near pairs whose hashes agree in one sample, as numbers i * n + j, int64 (pairs,).

    words: the hashes by word, uint64 (4, n). group: int64 (n,); pictures of one group are not compared.
    """
    size = len(sample) - ORDER_BITS
    key = _hash_sample(words, sample[:size])
    order = _sort_keys(key)
    key = key.take(order)
    agrees = key[1:] == key[:-1]
    in_run = np.zeros(len(key), bool)
    in_run[1:] = agrees
    in_run[:-1] |= agrees
    order, key = order[in_run], key[in_run]
    if (key[MAX_MATCHES:] == key[:-MAX_MATCHES]).any():
        order = order[_sort_long_runs(key, words, order, sample[size:])]
    run = _Run(words, order, [word.take(order) for word in words[:FIRST_WORDS]], group)
    codes = [np.zeros(0, np.int64)]
    first, enough = np.flatnonzero(key[1:] == key[:-1]), PAIRS_PER_PICTURE * words.shape[1]
    for offset in range(1, MAX_MATCHES + 1):
        codes.append(run.near_codes(first, first + offset, max_bits))
        enough -= len(codes[-1])
        first = first[: np.searchsorted(first, len(key) - offset - 1)]
        first = first[key.take(first + offset + 1) == key.take(first)]
        if not len(first) or enough < 0:
            break
    return np.concatenate(codes)


@dataclass(frozen=True, eq=False)
class _Run:
    """Rows in an order in which those that may be near are neighbours.

    words: uint64 (4, n), of all rows; order: int64 (m,); first_words: of the rows in this order, uint64 (m,) each;
    group: int64 (n,) or None.
    """

    words: Bits
    order: Ints
    first_words: list[Bits]
    group: Ints | None

    def near_codes(self, first: Ints, second: Ints, max_bits: int) -> Ints:
        """Return the pairs that differ in at most `max_bits` bits, as numbers i * n + j; of no common group.

        first, second: positions in the order. Most pairs differ too much in half of the words already.
        """
        if self.group is not None:
            apart = self.group.take(self.order.take(first)) != self.group.take(self.order.take(second))
            first, second = first[apart], second[apart]
        distance = np.zeros(len(first), np.uint16)
        for word in self.first_words:
            distance += np.bitwise_count(word.take(first) ^ word.take(second))
        near = np.flatnonzero(distance <= max_bits)
        distance = distance.take(near)
        i, j = self.order.take(first.take(near)), self.order.take(second.take(near))
        for word in self.words[FIRST_WORDS:]:
            distance += np.bitwise_count(word.take(i) ^ word.take(j))
        codes: Ints = (np.minimum(i, j) * self.words.shape[1] + np.maximum(i, j))[distance <= max_bits]
        return codes


def _sort_long_runs(key: Keys, words: Bits, rows: Ints, sample: Ints) -> Ints:
    """Return the order of rows that sorts those with one key by further bits, where there are too many to compare.

    key: uint32 (n,), sorted; rows: int64 (n,), of `words`, which have these keys. Neighbours in a long run then agree
    in more bits than others.
    """
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    sizes = np.diff(starts, append=len(key))
    run = np.repeat(np.arange(len(starts)), sizes)
    is_long = sizes[run] > MAX_MATCHES
    order = np.arange(len(key))
    long = order[is_long]
    further = np.zeros(len(long), np.uint16)
    for number, index in enumerate(sample.tolist()):
        word, byte, bit = _locate_bit(index)
        further |= (
            (words[word].take(rows[long]) >> np.uint64(8 * byte + bit)).astype(np.uint16) & np.uint16(1)
        ) << number
    order[is_long] = long[np.lexsort((further, run[long]))]
    return order


def _encode(count: int, pairs: Ints) -> Ints:
    codes: Ints = pairs[:, 0] * count + pairs[:, 1]
    return np.sort(codes)


def _decode(bits: Bits, codes: Ints) -> Ints:
    """Return pairs as find_near_pairs does, from sorted numbers i * n + j."""
    i, j = np.divmod(codes, max(len(bits), 1))
    distance = np.zeros(len(codes), np.int64)
    for word in range(bits.shape[1]):
        distance += np.bitwise_count(bits[:, word].take(i) ^ bits[:, word].take(j))
    return np.column_stack([i, j, distance])


def _connect(count: int, codes: Ints) -> Ints:
    """Return the component of each of `count` items that the pairs connect, int64 (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(codes), np.int8), np.divmod(codes, count)), shape=(count, count))
    _, component = connected_components(links, directed=False)
    return component.astype(np.int64)


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


def _locate_bit(index: int) -> tuple[int, int, int]:
    """Return the word of a bit, its byte there, and its place in the byte: the bit order of numpy.packbits."""
    return index // 64, index // 8 % 8, 7 - index % 8


def _hash_sample(words: Bits, sample: Ints) -> Keys:
    """Return a hash of the sampled bits of each row, uint32 (n,): equal where they are, and hardly ever else.

    words: uint64 (words, n). Multiply-shift hashing (Dietzfelbinger 1996) of the masked words takes a tenth of the time
    of moving each bit to its place.
    """
    mask = [0] * len(words)
    for index in sample.tolist():
        word, byte, bit = _locate_bit(index)
        mask[word] |= 1 << (8 * byte + bit)
    factors = np.random.default_rng(sample).integers(0, 2**63, len(words), np.uint64) * np.uint64(2) + np.uint64(1)
    total = np.zeros(words.shape[1], np.uint64)
    for word, chosen, factor in zip(words, mask, factors, strict=True):
        if chosen:
            total += (word & np.uint64(chosen)) * factor
    return (total >> np.uint64(32)).astype(np.uint32)


def _sort_keys(key: Keys) -> Ints:
    """Return the stable order of keys, int64 (n,): numpy sorts 16 bits by radix, six times as fast as 32 bits."""
    order = np.argsort(key.astype(np.uint16), kind="stable")
    return order.take(np.argsort((key >> np.uint32(16)).astype(np.uint16).take(order), kind="stable"))
