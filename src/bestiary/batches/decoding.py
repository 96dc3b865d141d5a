"""Pictures decoded ahead of whoever uses them: in order, a bounded number at a time, in threads.

Pillow gives up Python's lock while it decodes and scales, so threads use all cores without copying pixels between
processes, and need nothing but numpy and Pillow.
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
    """One picture of the stream: its position, and its pixels or the reason why there are none."""

    position: int
    pixels: Pixels | None
    error: PictureError | None


def decode_ahead(
    sources: Iterable[Source], preprocess: Preprocessing, *, threads: int, ahead: int = 64
) -> Iterator[DecodedImage]:
    """Yield every source in order, decoded by `threads` threads at most `ahead` pictures early: memory stays flat."""
    numbered = enumerate(sources)
    with ThreadPoolExecutor(threads, thread_name_prefix="bestiary-decode") as pool:
        waiting: deque[Future[DecodedImage]] = deque()
        try:
            for position, source in itertools.islice(numbered, ahead):
                waiting.append(pool.submit(_decode, position, source, preprocess))
            while waiting:
                yield waiting.popleft().result()
                for position, source in itertools.islice(numbered, 1):
                    waiting.append(pool.submit(_decode, position, source, preprocess))
        finally:
            for future in waiting:
                future.cancel()


def batched(stream: Iterable[DecodedImage], batch_size: int) -> Iterator[list[DecodedImage]]:
    """Yield lists of up to `batch_size` items, in order, the last partial one included."""
    items = iter(stream)
    while batch := list(itertools.islice(items, batch_size)):
        yield batch


def missing_picture_error(error: PictureError | str) -> SourceError:
    """Return what to raise for a picture of a run that cannot be read any more."""
    return SourceError(
        f"{error} It could be read before: do not change the pictures during a run. Put it back as it was, or train"
        " again without it."
    )


def _decode(position: int, source: Source, preprocess: Preprocessing) -> DecodedImage:
    try:
        return DecodedImage(position, preprocess.load_pixels(source), None)
    except PictureError as error:
        return DecodedImage(position, None, error)
