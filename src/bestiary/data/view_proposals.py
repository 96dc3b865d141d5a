"""Proposes which views of pictures may be copies of other pictures, among more pictures than can all be compared.

The 63 bits of a hash are divided at random into three samples, many times. The whole pictures are sorted by each sample
once, and every view of every picture looks up those that agree with it. The number of samples does not depend on the
number of pictures, and a picture has a bounded number of candidates: the time for a picture grows only by those that
agree by chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from bestiary.array_types import Float32s, Ints
from bestiary.data.thumbnail_rows import Thumbnails
from bestiary.data.views import LOW_SIDE, VIEWS, WHOLE, View, hash_low_frequencies, low_frequencies, stack_waves
from bestiary.progress import Advance

Hashes = npt.NDArray[np.uint64]  # of 63 bits, (n,)
Counts = npt.NDArray[np.uint8]

PROPOSED_BITS, MIN_CORRELATION = 10, 0.9
# With 47 partitions, a pair that differs in 8 of 63 bits agrees in no sample with probability 0.01, in 10 bits 0.2.
PARTITIONS, SAMPLES = len(VIEWS) - 1, 3
MAX_MATCHES = 8  # of a picture's view in one sample
ENOUGH = 128  # candidates of a picture in all its views: of a million photographs, chance gives it some 70
PROPOSALS_OF_A_VIEW = 6  # the best of a picture in one view
VIEWS_OF_A_PAIR = 2  # the best: a copy is near in nine views
MIN_PROPOSALS, PROPOSALS_PER_PICTURE = 500_000, 0.5  # the best of all views are registered
KEY_BITS, RUN_SCALE = 21, 256  # of a table of a sample: beyond, it does not fit into the processor's cache
ROWS_AT_ONCE, RANKED_AT_ONCE, CORRELATED_AT_ONCE = 32_768, 16_384, 100_000
HASHED_AT_ONCE, VIEWS_AT_ONCE = 512, 4  # one matrix product for several views is twice as fast


def propose_in_samples(
    thumbnails: Thumbnails, group: Ints, *, threads: int, advance: Advance
) -> list[tuple[Ints, Float32s]]:
    """Return for each of VIEWS the pairs that are worth registering, and the correlation of their frequencies.

    group: int64 (n,); pictures of one group are not compared. Pairs: int64 (n, 3): picture of the view, whole picture,
    differing bits of 63; correlation: float32 (n,). Calls `advance` once for each view.
    """
    hashes = _hash_views(thumbnails, threads)
    advance(1)
    whole, count = hashes[VIEWS.index(WHOLE)], np.zeros(len(thumbnails), np.uint8)
    candidates = [np.zeros(0, np.int64) for _ in VIEWS]
    blocks = [range(len(VIEWS))[start : start + VIEWS_AT_ONCE] for start in range(0, len(VIEWS), VIEWS_AT_ONCE)]
    random = np.random.default_rng(0)  # a fixed seed: the same pictures give the same pairs
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PARTITIONS):
            for mask, factor in _draw_partition(random):
                table = _SampleTable.of(whole, mask, factor)
                for block in blocks:
                    search = partial(_find_candidates, table, hashes, group, count)
                    new = list(pool.map(search, block, [candidates[view] for view in block]))
                    for view, codes in zip(block, new, strict=True):
                        _count_rows(count, codes)
                        merged = np.concatenate([candidates[view], codes])
                        candidates[view] = np.sort(merged, kind="stable")  # merges two sorted parts
            advance(1)
        del hashes
        return _choose_best(list(pool.map(partial(_rank_candidates, thumbnails), VIEWS, candidates)), len(whole))


def correlate(low: Float32s, whole: Float32s, pairs: Ints) -> Float32s:
    """Return the correlation of the frequencies of pairs, float32 (n,), some at a time."""
    correlation = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), CORRELATED_AT_ONCE):
        chunk = slice(start, start + CORRELATED_AT_ONCE)
        a, b = low[pairs[chunk, 0]], whole[pairs[chunk, 1]]
        power = np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b)
        correlation[chunk] = np.einsum("ij,ij->i", a, b) / np.sqrt(power + 1e-9)
    return correlation


def keep_best(pairs: Ints, correlation: Float32s, count: int) -> tuple[Ints, Float32s]:
    """Return each pair once, of each picture's view at most PROPOSALS_OF_A_VIEW pairs, those that correlate best."""
    order = np.lexsort((pairs[:, 1], -correlation, pairs[:, 0]))
    _, first = np.unique(pairs[order, :2] @ np.array([count, 1]), return_index=True)
    order = order[np.sort(first)]
    _, start, size = np.unique(pairs[order, 0], return_index=True, return_counts=True)
    order = order[np.arange(len(order)) - np.repeat(start, size) < PROPOSALS_OF_A_VIEW]
    return pairs[order], correlation[order]


def _hash_views(thumbnails: Thumbnails, threads: int) -> npt.NDArray[np.uint64]:
    """Return the hash of each of VIEWS of each thumbnail, uint64 (views, n)."""
    hashes = np.empty((len(VIEWS), len(thumbnails)), np.uint64)
    blocks = [slice(start, start + VIEWS_AT_ONCE) for start in range(0, len(VIEWS), VIEWS_AT_ONCE)]
    waves = [stack_waves(VIEWS[block]) for block in blocks]

    def hash_rows(start: int) -> None:
        rows = slice(start, start + HASHED_AT_ONCE)
        chunk = thumbnails[rows].reshape(-1, len(waves[0])).astype(np.float32)
        for block, weights in zip(blocks, waves, strict=True):
            low = np.round(chunk @ weights, 1).reshape(-1, LOW_SIDE**2 - 1)
            hashes[block, rows] = hash_low_frequencies(low).reshape(len(chunk), -1).T

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hash_rows, range(0, len(thumbnails), HASHED_AT_ONCE)))
    return hashes


def _draw_partition(random: np.random.Generator) -> Iterator[tuple[np.uint64, np.uint64]]:
    """Yield the masks of a random partition of the 63 bits, each with an odd factor for hashing what it selects."""
    for sample in random.permutation(LOW_SIDE**2 - 1).reshape(SAMPLES, -1).tolist():
        mask = sum(1 << (8 * (index // 8) + 7 - index % 8) for index in sample)  # the bit order of numpy.packbits
        yield np.uint64(mask), random.integers(0, 2**63, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass(frozen=True, eq=False)
class _SampleTable:
    """The whole pictures sorted by a hash of a sample of their bits.

    runs: int64 (keys,): where the run of each key begins, times RUN_SCALE, plus its length, at most RUN_SCALE - 1: one
    random access to memory instead of two. order: int32 (n,); hashes: uint64 (n,), in this order.
    """

    mask: np.uint64
    factor: np.uint64
    shift: np.uint64
    runs: Ints
    order: npt.NDArray[np.int32]
    hashes: Hashes

    @classmethod
    def of(cls, whole: Hashes, mask: np.uint64, factor: np.uint64) -> _SampleTable:
        key_bits = len(whole).bit_length()  # twice to eight times as many keys as pictures
        key_bits = max(min(key_bits + 3, KEY_BITS), key_bits + 1, 16)
        shift = np.uint64(64 - key_bits)
        key = _hash_masked(whole, mask, factor, shift)
        order = np.argsort(key.astype(np.uint16), kind="stable")  # by radix; the rest of the key comes second
        order = order.take(np.argsort((key >> 16).astype(np.uint16).take(order), kind="stable"))
        sizes = np.bincount(key, minlength=1 << key_bits)
        runs = (np.cumsum(sizes) - sizes) * RUN_SCALE + np.minimum(sizes, RUN_SCALE - 1)
        return cls(mask, factor, shift, runs, order.astype(np.int32), whole.take(order))

    def match(self, hashes: Hashes) -> tuple[Ints, Ints]:
        """Return which hashes agree with which sorted pictures: the index of each, int64 (pairs,).

        Of a run of more than MAX_MATCHES, another part is compared for each hash.
        """
        runs = self.runs.take(_hash_masked(hashes, self.mask, self.factor, self.shift))
        size = runs & (RUN_SCALE - 1)
        rows = np.flatnonzero(size)
        size, start = size.take(rows), runs.take(rows) // RUN_SCALE
        long = np.flatnonzero(size > MAX_MATCHES)
        if len(long):
            more = (size.take(long) - MAX_MATCHES + 1).astype(np.uint64)
            start[long] += (hashes.take(rows.take(long)) % more).astype(np.int64)
            size = np.minimum(size, MAX_MATCHES)
        first = np.cumsum(size) - size
        i = np.repeat(rows, size)
        return i, np.arange(len(i)) + np.repeat(start - first, size)


def _hash_masked(hashes: Hashes, mask: np.uint64, factor: np.uint64, shift: np.uint64) -> Ints:
    """Return a hash of the masked bits, int64 (n,): multiply-shift, with few collisions of different bits."""
    key = hashes & mask
    key *= factor
    key >>= shift
    index: Ints = key.view(np.int64)
    return index


def _find_candidates(
    table: _SampleTable, hashes: npt.NDArray[np.uint64], group: Ints, count: Counts, view: int, codes: Ints
) -> Ints:
    """Return new pairs of a view within PROPOSED_BITS that agree in the sample, numbers i * n + j, sorted.

    count: uint8 (n,), the candidates of each picture so far; codes: those of this view, sorted.
    """
    total, near_codes = hashes.shape[1], [np.zeros(0, np.int64)]
    for start in range(0, total, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        own, closed = hashes[view, rows], count[rows] >= ENOUGH
        open_rows = np.flatnonzero(~closed) if closed.any() else None
        own = own if open_rows is None else own.take(open_rows)
        i, position = table.match(own)
        near = np.flatnonzero(np.bitwise_count(own.take(i) ^ table.hashes.take(position)) <= PROPOSED_BITS)
        i = i.take(near) if open_rows is None else open_rows.take(i.take(near))
        i, j = i + start, table.order.take(position.take(near)).astype(np.int64)
        apart = group.take(i) != group.take(j)
        i, j = i[apart], j[apart]
        if VIEWS[view].is_symmetric:
            i, j = np.minimum(i, j), np.maximum(i, j)
        near_codes.append(i * total + j)
    new = np.unique(np.concatenate(near_codes))
    if len(codes):
        new = new[codes.take(np.searchsorted(codes, new), mode="clip") != new]
    return new


def _count_rows(count: Counts, codes: Ints) -> None:
    """Add the number of candidates of each picture of a view, up to ENOUGH."""
    rows, number = np.unique(codes // len(count), return_counts=True)
    count[rows] = np.minimum(count[rows].astype(np.int64) + number, ENOUGH)


def _rank_candidates(thumbnails: Thumbnails, view: View, codes: Ints) -> tuple[Ints, Float32s]:
    """Return the best candidates of a view as pairs, and the correlation of their frequencies."""
    minimum = MIN_CORRELATION if view.can_rotate else 0.0
    parts = [np.zeros((0, 3), np.int64)]
    correlations = [np.zeros(0, np.float32)]
    for start in range(0, len(codes), RANKED_AT_ONCE):
        i, j = np.divmod(codes[start : start + RANKED_AT_ONCE], len(thumbnails))
        rows, own = np.unique(i, return_inverse=True)
        columns, partner = np.unique(j, return_inverse=True)
        low, whole = low_frequencies(thumbnails[rows], view), low_frequencies(thumbnails[columns], WHOLE)
        correlation = correlate(low, whole, np.column_stack([own, partner]))
        bits = np.bitwise_count(hash_low_frequencies(low)[own, 0] ^ hash_low_frequencies(whole)[partner, 0])
        is_close = correlation >= minimum
        parts.append(np.column_stack([i, j, bits])[is_close].astype(np.int64))
        correlations.append(correlation[is_close])
    return keep_best(np.concatenate(parts), np.concatenate(correlations), len(thumbnails))


def _choose_best(proposed: list[tuple[Ints, Float32s]], count: int) -> list[tuple[Ints, Float32s]]:
    """Return for each view which of its proposals are registered.

    Of each pair those in the VIEWS_OF_A_PAIR views in which it correlates best, and of all pairs those that correlate
    best.
    """
    view = np.repeat(np.arange(len(proposed)), [len(pairs) for pairs, _ in proposed])
    pairs = np.concatenate([pairs for pairs, _ in proposed])
    correlation = np.concatenate([correlation for _, correlation in proposed])
    codes = np.sort(pairs[:, :2], axis=1) @ np.array([count, 1])
    order = np.lexsort((view, -correlation, codes))
    _, start, size = np.unique(codes[order], return_index=True, return_counts=True)
    order = order[np.arange(len(order)) - np.repeat(start, size) < VIEWS_OF_A_PAIR]
    most = max(MIN_PROPOSALS, int(PROPOSALS_PER_PICTURE * count))
    order = order[np.lexsort((view[order], codes[order], -correlation[order]))[:most]]
    chosen = [np.sort(order[view[order] == number]) for number in range(len(proposed))]
    return [(pairs[rows], correlation[rows]) for rows in chosen]
