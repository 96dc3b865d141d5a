"""Finds copies that are mirrored, turned, cropped, shifted or inverted: by hashes of views, then by registration."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from bestiary.array_types import Bools, Float32s, Ints, Pixels
from bestiary.data import hamming_search
from bestiary.data.registration import register
from bestiary.data.views import LOW_SIDE, VIEWS, WHOLE, View, hash_low_frequencies, low_frequencies

# A view and a whole picture this close, of 63 bits, and whose frequencies correlate so, are registered. Of 28 kinds of
# change of 240 photographs, 97 to 100 % are proposed at 14 bits. With many pictures, chance pairs would be too many.
PROPOSED_BITS, MIN_CORRELATION = 14, 0.8
PROPOSED_BITS_OF_MANY, MIN_CORRELATION_OF_MANY = 10, 0.9
_DIFFERING = 0.12  # of the bits differ where a crop lies far from its nearest view
MISSED_VIEWS = 1e-3  # probability to miss such a pair in a search by samples
PROPOSALS_PER_PICTURE = 6  # the best; bounds the time where all pictures look alike. Photographs have 1.5
ROWS_AT_ONCE = 32


def find_view_pairs(thumbnails: Pixels, group: Ints, *, threads: int = 1) -> Ints:
    """Return pairs of copies, int64 (pairs, 4): i < j, differing bits, changes (`CopyChange`); each pair once.

    thumbnails: uint8 (n, 32, 32). group: int64 (n,); pictures of one group are not compared. The bits are those of the
    view's hash, scaled to 256. Of several views that confirm a pair equally well, the plainest is taken.
    """
    whole = low_frequencies(thumbnails, WHOLE)
    with ThreadPoolExecutor(threads) as pool:
        proposed = list(pool.map(lambda view: _propose_pairs(thumbnails, whole, group, view), VIEWS))
        chosen = _choose_proposals([correlation for _, correlation in proposed], PROPOSALS_PER_PICTURE * len(whole))
        pairs = [pairs[rows] for (pairs, _), rows in zip(proposed, chosen, strict=True)]
        confirmed = list(pool.map(partial(_confirm_pairs, thumbnails), VIEWS, pairs))
    copies, scores = (np.concatenate([result[column] for result in confirmed]) for column in (0, 1))
    order = np.argsort(-np.round(scores * 20), kind="stable")
    copies = np.column_stack([np.sort(copies[order, :2], axis=1), copies[order, 2:]])
    _, first = np.unique(copies[:, :2] @ np.array([len(thumbnails), 1]), return_index=True)
    return copies[first]


def _choose_proposals(correlations: list[Float32s], count: int) -> list[Bools]:
    """Return for each view which of its proposals are among the best `count` of all views."""
    everything = np.concatenate(correlations)
    if len(everything) <= count:
        return [np.ones(len(correlation), bool) for correlation in correlations]
    least = -np.partition(-everything, count)[count]
    return [correlation > least for correlation in correlations]


def _confirm_pairs(thumbnails: Pixels, view: View, proposed: Ints) -> tuple[Ints, Float32s]:
    """Return the proposed pairs of a view that registration confirms, int64 (n, 4), and their scores, float32 (n,)."""
    if view.is_symmetric and not view.can_rotate:  # which of both is moved makes a difference near the minimum score
        proposed = np.concatenate([proposed, proposed[:, [1, 0, 2]]])
    registration = register(thumbnails[proposed[:, 0]], thumbnails[proposed[:, 1]], view)
    is_copy = registration.scores >= view.min_score
    pairs = np.column_stack([proposed, registration.changes(view)])[is_copy]
    pairs[:, 2] = pairs[:, 2] * hamming_search.HASH_BITS // LOW_SIDE**2
    return pairs, registration.scores[is_copy]


def _propose_pairs(thumbnails: Pixels, whole: Float32s, group: Ints, view: View) -> tuple[Ints, Float32s]:
    """Return pairs whose view and whole are close, and the correlation of their frequencies.

    Pairs: int64 (n, 3): picture of the view, whole picture, differing bits of 63; correlation: float32 (n,).
    """
    low = low_frequencies(thumbnails, view)
    queries, reference = hash_low_frequencies(low), hash_low_frequencies(whole)
    if len(low) <= hamming_search.ALL_WITH_ALL:
        pairs, min_correlation = _compare_all(queries, reference, group, view), MIN_CORRELATION
    else:
        size = hamming_search.sample_size(len(low))
        samples = hamming_search.iter_bit_samples(
            np.arange(LOW_SIDE**2 - 1), size, (1 - _DIFFERING) ** size, MISSED_VIEWS
        )
        pairs = hamming_search.search([queries], reference, PROPOSED_BITS_OF_MANY, samples, group, 1)[:, :3]
        min_correlation = MIN_CORRELATION_OF_MANY
    correlation = _correlate(low[pairs[:, 0]], whole[pairs[:, 1]])
    is_close = correlation >= (min_correlation if view.can_rotate else 0)
    return pairs[is_close], correlation[is_close]


def _compare_all(queries: hamming_search.Bits, reference: hamming_search.Bits, group: Ints, view: View) -> Ints:
    """Return the pairs within `PROPOSED_BITS` by comparing all. Memory is reused: three times as fast."""
    chunks, count = [np.zeros((0, 3), np.int64)], len(reference)
    words, bytes_ = np.empty(ROWS_AT_ONCE * count, np.uint64), np.empty(ROWS_AT_ONCE * count, np.uint8)
    for start in range(0, count, ROWS_AT_ONCE):
        rows, first = queries[start : start + ROWS_AT_ONCE], start if view.is_symmetric else 0
        width = count - first
        differing, bits = (memory[: len(rows) * width].reshape(-1, width) for memory in (words, bytes_))
        np.bitwise_count(np.bitwise_xor(rows, reference[first:, 0], out=differing), out=bits)
        near = np.flatnonzero(bits.ravel() <= PROPOSED_BITS)  # much faster than nonzero of two dimensions
        pairs = np.column_stack([near // width + start, near % width + first, bits.ravel()[near]]).astype(np.int64)
        is_apart = group[pairs[:, 0]] != group[pairs[:, 1]]
        chunks.append(pairs[is_apart & (pairs[:, 0] < pairs[:, 1])] if view.is_symmetric else pairs[is_apart])
    return np.concatenate(chunks)


def _correlate(low: Float32s, whole: Float32s) -> Float32s:
    product = np.einsum("ij,ij->i", low, whole)
    power = np.einsum("ij,ij->i", low, low) * np.einsum("ij,ij->i", whole, whole)
    correlation: Float32s = (product / np.sqrt(power + 1e-9)).astype(np.float32)
    return correlation
