"""Finds copies that are mirrored, turned, cropped, shifted or inverted: by hashes of views, then by registration."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from bestiary.array_types import Bools, Float32s, Ints, Pixels
from bestiary.data import hamming_search
from bestiary.data.copy_changes import CopyChange
from bestiary.data.hamming_search import Bits
from bestiary.data.registration import MAX_COLOUR, colour_difference, content_difference, has_detail, register
from bestiary.data.thumbnail_rows import Thumbnails
from bestiary.data.view_proposals import PROPOSALS_OF_A_VIEW, correlate, keep_best, propose_in_samples
from bestiary.data.views import LOW_SIDE, VIEWS, WHOLE, View, hash_low_frequencies, low_frequencies
from bestiary.machine import single_blas_thread
from bestiary.progress import Advance, ignore_steps, iter_counted

# A view and a whole picture this close, of 63 bits, and whose frequencies correlate so, are registered. Among many
# pictures, chance pairs would be too many: see `view_proposals`. docs/measured.md: how many copies are detected.
PROPOSED_BITS, MIN_CORRELATION = 14, 0.8
# The best proposals of a picture in all views, on average: bounds memory and time where all pictures look alike.
# Photographs have 1.5.
PROPOSALS_PER_PICTURE = 6
ROWS_AT_ONCE, CONFIRMED_AT_ONCE = 32, 16_384
STEPS = 2 * len(VIEWS)  # of the search: each view is compared, and its pairs are confirmed


def find_view_pairs(
    thumbnails: Thumbnails,
    group: Ints,
    colours: Pixels | None = None,
    *,
    threads: int = 1,
    advance: Advance = ignore_steps,
) -> Ints:
    """Return pairs of copies, int64 (pairs, 4): i < j, differing bits, changes (`CopyChange`); each pair once.

    thumbnails: uint8 (n, 32, 32), in memory or on disk. group: int64 (n,); pictures of one group are not compared.
    colours: uint8 (n, 8, 8, 2), Cb and Cr, or None. Pairs whose aligned thumbnails differ have ROUGH among their
    changes. The bits are those of the view's hash, scaled to 256. Of several views that confirm a pair equally well,
    the plainest is taken.
    """
    propose = _propose_all if len(thumbnails) <= hamming_search.ALL_WITH_ALL else propose_in_samples
    with ThreadPoolExecutor(threads) as pool, single_blas_thread():
        pairs = [pairs for pairs, _ in propose(thumbnails, group, threads=threads, advance=advance)]
        confirmations = pool.map(partial(_confirm_pairs, thumbnails, colours), VIEWS, pairs)
        confirmed = list(iter_counted(confirmations, advance))
    copies, scores = (np.concatenate([result[column] for result in confirmed]) for column in (0, 1))
    order = np.argsort(-np.round(scores * 20), kind="stable")
    copies = np.column_stack([np.sort(copies[order, :2], axis=1), copies[order, 2:]])
    _, first = np.unique(copies[:, :2] @ np.array([len(thumbnails), 1]), return_index=True)
    return copies[first]


def _propose_all(thumbnails: Thumbnails, group: Ints, *, threads: int, advance: Advance) -> list[tuple[Ints, Float32s]]:
    """Return for each of VIEWS what `propose_in_samples` does, by comparing all views with all pictures."""
    whole = low_frequencies(thumbnails, WHOLE)
    reference = hash_low_frequencies(whole)
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda view: _propose_pairs(thumbnails, whole, reference, group, view), VIEWS)
        proposed = list(iter_counted(results, advance))
    chosen = _choose_proposals([correlation for _, correlation in proposed], PROPOSALS_PER_PICTURE * len(whole))
    return [(pairs[rows], correlation[rows]) for (pairs, correlation), rows in zip(proposed, chosen, strict=True)]


def _choose_proposals(correlations: list[Float32s], count: int) -> list[Bools]:
    """Return for each view which of its proposals are among the best `count` of all views, ties included."""
    everything = np.concatenate(correlations)
    if len(everything) <= count:
        return [np.ones(len(correlation), bool) for correlation in correlations]
    least = -np.partition(-everything, count - 1)[count - 1]
    return [correlation >= least for correlation in correlations]


def _confirm_pairs(thumbnails: Thumbnails, colours: Pixels | None, view: View, proposed: Ints) -> tuple[Ints, Float32s]:
    """Return the proposed pairs of a view that registration confirms, int64 (n, 4), and their scores, float32 (n,)."""
    if view.is_symmetric and not view.can_rotate:  # which of both is moved makes a difference near the minimum score
        proposed = np.concatenate([proposed, proposed[:, [1, 0, 2]]])
    starts = range(0, len(proposed), CONFIRMED_AT_ONCE)
    parts = [_confirm_chunk(thumbnails, colours, view, proposed[start : start + CONFIRMED_AT_ONCE]) for start in starts]
    pairs, scores = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.float32)]
    for own_pairs, own_scores in parts:
        pairs.append(own_pairs)
        scores.append(own_scores)
    return np.concatenate(pairs), np.concatenate(scores)


def _confirm_chunk(thumbnails: Thumbnails, colours: Pixels | None, view: View, proposed: Ints) -> tuple[Ints, Float32s]:
    fixed, moving = (thumbnails[proposed[:, end]] for end in (0, 1))
    registration = register(fixed, moving, view)
    is_copy = registration.scores >= view.min_score
    pairs, warps = np.column_stack([proposed, registration.changes(view)])[is_copy], registration.warps[is_copy]
    is_rough = has_detail(content_difference(fixed[is_copy], moving[is_copy], warps, is_inverted=view.is_inverted))
    if colours is not None and not view.is_inverted:
        is_rough |= colour_difference(colours[pairs[:, 0]], colours[pairs[:, 1]], warps) > MAX_COLOUR
    pairs[:, 3] |= CopyChange.ROUGH * is_rough
    pairs[:, 2] = pairs[:, 2] * hamming_search.HASH_BITS // LOW_SIDE**2
    return pairs, registration.scores[is_copy]


def _propose_pairs(
    thumbnails: Thumbnails, whole: Float32s, reference: Bits, group: Ints, view: View
) -> tuple[Ints, Float32s]:
    """Return pairs whose view and whole are close, and the correlation of their frequencies.

    Pairs: int64 (n, 3): picture of the view, whole picture, differing bits of 63; correlation: float32 (n,). Each view
    has at most PROPOSALS_OF_A_VIEW, the best.
    """
    low = low_frequencies(thumbnails, view)
    minimum = MIN_CORRELATION if view.can_rotate else 0.0
    pairs, correlation = np.zeros((0, 3), np.int64), np.zeros(0, np.float32)
    for chunk in _compare_all(hash_low_frequencies(low), reference, view):
        new = chunk[group[chunk[:, 0]] != group[chunk[:, 1]]]
        new_correlation = correlate(low, whole, new)
        is_close = new_correlation >= minimum
        pairs = np.concatenate([pairs, new[is_close]])
        correlation = np.concatenate([correlation, new_correlation[is_close]])
        if len(pairs) > 2 * PROPOSALS_OF_A_VIEW * len(low):
            pairs, correlation = keep_best(pairs, correlation, len(low))
    return keep_best(pairs, correlation, len(low))


def _compare_all(queries: Bits, reference: Bits, view: View) -> Iterator[Ints]:
    """Yield the pairs within `PROPOSED_BITS` by comparing all. Memory is reused: three times as fast."""
    count = len(reference)
    words, bytes_ = np.empty(ROWS_AT_ONCE * count, np.uint64), np.empty(ROWS_AT_ONCE * count, np.uint8)
    for start in range(0, count, ROWS_AT_ONCE):
        rows, first = queries[start : start + ROWS_AT_ONCE], start if view.is_symmetric else 0
        width = count - first
        differing, bits = (memory[: len(rows) * width].reshape(-1, width) for memory in (words, bytes_))
        np.bitwise_count(np.bitwise_xor(rows, reference[first:, 0], out=differing), out=bits)
        near = np.flatnonzero(bits.ravel() <= PROPOSED_BITS)  # much faster than nonzero of two dimensions
        pairs = np.column_stack([near // width + start, near % width + first, bits.ravel()[near]]).astype(np.int64)
        yield pairs[pairs[:, 0] < pairs[:, 1]] if view.is_symmetric else pairs
