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
from bestiary.preprocess import Preprocessing, Source, cropped_path

PICTURES_AHEAD = 64
MAX_PARTS = 64  # of one file that are held in memory together


@dataclass(frozen=True)
class DecodedImage:
    """One picture of the stream: its position, and its pixels or its error."""

    position: int
    pixels: Pixels | None
    error: PictureError | None


def decode_ahead(
    sources: Iterable[Source], preprocess: Preprocessing, *, threads: int, ahead: int = PICTURES_AHEAD
) -> Iterator[DecodedImage]:
    """Yield every source in order, decoded by `threads` threads at most `ahead` pictures early.

    Parts of one file that follow one another are cut from one decoded picture.
    """
    jobs = _iter_jobs(enumerate(sources))
    with ThreadPoolExecutor(threads, thread_name_prefix="bestiary-decode") as pool:
        pending: deque[tuple[int, Future[list[DecodedImage]]]] = deque()

        def submit() -> None:
            while sum(count for count, _ in pending) < ahead and (job := next(jobs, None)) is not None:
                pending.append((len(job), pool.submit(_decode_job, job, preprocess)))

        try:
            submit()
            while pending:
                yield from pending.popleft()[1].result()
                submit()
        finally:
            for _, future in pending:
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


def _iter_jobs(numbered: Iterable[tuple[int, Source]]) -> Iterator[list[tuple[int, Source]]]:
    """Yield the sources one by one, but parts of one file that follow one another together."""
    job: list[tuple[int, Source]] = []
    for item in numbered:
        path = cropped_path(item[1])
        if job and cropped_path(job[0][1]) != path:
            yield job
            job = []
        job.append(item)
        if path is None or len(job) == MAX_PARTS:
            yield job
            job = []
    if job:
        yield job


def _decode_job(job: list[tuple[int, Source]], preprocess: Preprocessing) -> list[DecodedImage]:
    path = cropped_path(job[0][1])
    if path is None:
        return [_decode(position, source, preprocess) for position, source in job]
    parts = preprocess.load_parts(path, [source for _, source in job])
    return [
        DecodedImage(position, None, part) if isinstance(part, PictureError) else DecodedImage(position, part, None)
        for (position, _), part in zip(job, parts, strict=True)
    ]


def _decode(position: int, source: Source, preprocess: Preprocessing) -> DecodedImage:
    try:
        return DecodedImage(position, preprocess.load_pixels(source), None)
    except PictureError as error:
        return DecodedImage(position, None, error)
