"""Batch loading: generators of training and evaluation batches that prefetch up to two batches.

`read` takes row indices, int64 (b,), and returns their pixels as a new uint8 array (b, size, size, 3). The pixel cache
reads them from disk, so memory stays at a few batches. One background thread reads; it affects when a batch is ready,
never its content.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np

from bestiary.array_types import Ints, Pixels

Read = Callable[[Ints], Pixels]

BATCHES_AHEAD = 2


class Batch(NamedTuple):
    """A training batch.

    images: uint8 (b, height, width, 3), RGB; labels: int64 (b,); indices: int64 (b,), the rows that were read.
    global_indices: int64 (w,), the rows of the whole batch if several processes share it.
    """

    images: Pixels
    labels: Ints
    indices: Ints
    global_indices: Ints


class EvaluationBatch(NamedTuple):
    """An evaluation batch. images: uint8 (b, height, width, 3), RGB; indices: int64 (b,), ascending."""

    images: Pixels
    indices: Ints


def iter_train_batches(
    read: Read,
    labels: Ints,
    order: Ints,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    skip: int = 0,
    local_slice: Callable[[int], slice] = slice,
) -> Generator[Batch, None, None]:
    """Yield the batches of one epoch: the rows of `order`, shuffled by a generator seeded with (seed, epoch).

    labels: int64 (rows,), indexed by row like `read`. `order` may repeat or omit rows, which balances classes. skip:
    the number of batches before the interruption of a resumed epoch. local_slice: maps the size of a batch to the slice
    that this process reads.

    A last, smaller batch is dropped, because batch normalisation on a few pictures is noisy, unless it is the only one;
    the shuffling drops other rows in the next epoch. Errors of `read` are raised at the batch that they belong to.
    """
    shuffled = np.random.default_rng((seed, epoch)).permutation(order)
    batches = _chunks(shuffled, batch_size)[skip : steps_per_epoch(len(order), batch_size)]
    with closing(_read_ahead(read, [indices[local_slice(len(indices))] for indices in batches])) as chunks:
        for global_indices, (indices, images) in zip(batches, chunks, strict=True):
            yield Batch(images, labels[indices], indices, global_indices)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the number of batches that `iter_train_batches` yields for an order of `rows` rows."""
    return max(1, rows // batch_size) if rows else 0


def iter_eval_batches(read: Read, count: int, *, batch_size: int) -> Generator[EvaluationBatch, None, None]:
    """Yield rows 0 to count - 1 in order, each exactly once, the last partial batch included."""
    with closing(_read_ahead(read, _chunks(np.arange(count, dtype=np.int64), batch_size))) as chunks:
        for indices, images in chunks:
            yield EvaluationBatch(images, indices)


def _chunks(indices: Ints, size: int) -> list[Ints]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _read_ahead(read: Read, chunks: Sequence[Ints]) -> Generator[tuple[Ints, Pixels], None, None]:
    """Yield each chunk of indices with its pixels, while one thread prefetches at most two chunks.

    If the consumer stops early, pending reads are cancelled and the thread ends before control returns.
    """
    pending: deque[tuple[Ints, Future[Pixels]]] = deque()
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bestiary-read")
    try:
        for chunk in chunks:
            pending.append((chunk, reader.submit(read, chunk)))
            if len(pending) > BATCHES_AHEAD:
                indices, pixels = pending.popleft()
                yield indices, pixels.result()
        for indices, pixels in pending:
            yield indices, pixels.result()
    finally:
        reader.shutdown(wait=True, cancel_futures=True)
