"""Ordered, bounded prefetching: threads decode pictures ahead of the consumer.

Pillow releases the GIL while it decodes and resizes, so threads use all cores without copying pixels between processes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from bestiary.array_types import Pixels
from bestiary.errors import PictureError, SourceError
from bestiary.preprocess import Preprocessing, Source


@dataclass(frozen=True)
class DecodedImage:
    """One picture of the stream: its position, and its pixels or its error."""

    position: int
    pixels: Pixels | None
    error: PictureError | None


def decode_ahead(
    sources: Iterable[Source], preprocess: Preprocessing, *, threads: int, ahead: int = 64
) -> Iterator[DecodedImage]:
    """Yield every source in order, decoded by `threads` threads at most `ahead` pictures early."""
    numbered = enumerate(sources)
    with ThreadPoolExecutor(threads, thread_name_prefix="bestiary-decode") as pool:
        pending: deque[Future[DecodedImage]] = deque()

        def submit(count: int) -> None:
            pending.extend(pool.submit(_decode, *item, preprocess) for item in itertools.islice(numbered, count))

        try:
            submit(ahead)
            while pending:
                yield pending.popleft().result()
                submit(1)
        finally:
            for future in pending:
                future.cancel()


def iter_batches(stream: Iterable[DecodedImage], batch_size: int) -> Iterator[list[DecodedImage]]:
    """Yield lists of up to `batch_size` items, in order, the last partial one included."""
    items = iter(stream)
    while batch := list(itertools.islice(items, batch_size)):
        yield batch


def missing_picture_error(error: PictureError | str) -> SourceError:
    """Return the error for a picture of a run that can no longer be read."""
    return SourceError(
        f"{error} It could be read before: do not change the pictures during a run. Restore it, or train again"
        " without it."
    )


def _decode(position: int, source: Source, preprocess: Preprocessing) -> DecodedImage:
    try:
        return DecodedImage(position, preprocess.load_pixels(source), None)
    except PictureError as error:
        return DecodedImage(position, None, error)
