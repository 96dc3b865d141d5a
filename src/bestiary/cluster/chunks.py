"""Chunks of rows that workers compute: how large they are."""

from __future__ import annotations

MAX_ROWS, CHUNKS_PER_WORKER, MAX_CHUNKS = 256, 8, 4000  # rows of a chunk: it is what is lost with a worker


def choose_chunk_rows(count: int, workers: int, multiple: int) -> int:
    """Return how many of so many rows a chunk has: a few chunks for each worker, at most 4,000 in all.

    multiple: of the batch sizes of the engines, which the rows of a chunk are too: the last digits of ONNX Runtime
    depend on the place of a picture in its batch, which is that of one process.

    >>> [choose_chunk_rows(count, 2, 8) for count in (0, 20, 1000)], choose_chunk_rows(1000, 2, 32)
    ([8, 8, 64], 64)
    >>> choose_chunk_rows(100_000, 16, 8), choose_chunk_rows(10_000_000, 16, 8)
    (256, 2504)
    """
    rows = max(1, min(count // (CHUNKS_PER_WORKER * workers), MAX_ROWS), -(-count // MAX_CHUNKS))
    return -(-rows // multiple) * multiple
