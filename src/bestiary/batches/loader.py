"""Training batches and evaluation batches: two generators that read pixels one or two batches ahead.

`read` gives the pixels of rows: int64 positions (b,) in, a new uint8 array (b, size, size, 3) out. The pixel cache
reads them from disk, so memory stays at a few batches however many pictures there are. One background thread reads;
it changes when a batch is ready, never what is in it.
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
    """Pictures to learn from.

    images: uint8 (b, height, width, 3), RGB; labels: int64 (b,); positions: int64 (b,), the rows that were read.
    whole: int64 (w,), the positions of the whole batch where several processes share it.
    """

    images: Pixels
    labels: Ints
    indices: Ints
    global_indices: Ints


class EvaluationBatch(NamedTuple):
    """Pictures to score. images: uint8 (b, height, width, 3), RGB; positions: int64 (b,), ascending."""

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

    skip: so many batches are left out at the beginning: the epoch was interrupted after them. share: from the size of
    a batch to the part of it that this process reads.

    labels: int64 (rows,), indexed by position as `read` is. `order` may repeat or leave out rows: that is how classes
    are balanced. The last batch is left out when it is smaller than the others, because batch normalisation on a few
    pictures is noise; a single small batch is all there is, and stays. Other rows are left out in the next epoch.
    Whatever `read` raises is raised here, at the batch it belongs to.
    """
    shuffled = np.random.default_rng((seed, epoch)).permutation(order)
    whole = _full_chunks(shuffled, batch_size)[skip:]
    with closing(_read_ahead(read, [positions[local_slice(len(positions))] for positions in whole])) as rows:
        for everything, (positions, images) in zip(whole, rows, strict=True):
            yield Batch(images, labels[positions], positions, everything)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return how many batches `iter_train_batches` yields for an order of `rows` positions."""
    return max(1, rows // batch_size) if rows else 0


def iter_eval_batches(read: Read, count: int, *, batch_size: int) -> Generator[EvaluationBatch, None, None]:
    """Yield rows 0 to count - 1 in order, each exactly once, the last partial batch included."""
    parts = _all_chunks(np.arange(count, dtype=np.int64), batch_size)
    with closing(_read_ahead(read, parts)) as rows:
        for positions, images in rows:
            yield EvaluationBatch(images, positions)


def _all_chunks(positions: Ints, size: int) -> list[Ints]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _full_chunks(positions: Ints, size: int) -> list[Ints]:
    return _all_chunks(positions, size)[: steps_per_epoch(len(positions), size)]


def _read_ahead(read: Read, parts: Sequence[Ints]) -> Generator[tuple[Ints, Pixels], None, None]:
    """Yield each part with its pixels, while one thread reads at most two parts further.

    When the consumer stops early, waiting reads are dropped and the thread ends before control goes back.
    """
    pending: deque[tuple[Ints, Future[Pixels]]] = deque()
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bestiary-read")
    try:
        for part in parts:
            pending.append((part, reader.submit(read, part)))
            if len(pending) > BATCHES_AHEAD:
                positions, pixels = pending.popleft()
                yield positions, pixels.result()
        for positions, pixels in pending:
            yield positions, pixels.result()
    finally:
        reader.shutdown(wait=True, cancel_futures=True)
