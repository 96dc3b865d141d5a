"""Pictures decoded ahead of whoever uses them: in order, a bounded number at a time, in threads.

Pillow gives up Python's lock while it decodes and scales, so threads use all cores without copying pixels between
processes, and need nothing but numpy and Pillow.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bestiary.errors import PictureError, SourceError
from bestiary.picture import LIMITS, Fit, Limits, Pixels, fit, load, read_bytes, upright, with_name


@dataclass(frozen=True)
class Pinned:
    """A picture file that must still have the content that was measured: what is cached is kept by that content."""

    path: Path
    sha256: str

    def content(self, limits: Limits) -> bytes:
        """Return the bytes of the file; raises SourceError if they are others now, PictureError if there are none."""
        content = read_bytes(self.path, limits)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise SourceError(
                f"{self.path} was changed after it was measured. Do not change the pictures during a run. Put it back"
                " as it was, or train again with it as it is now."
            )
        return content


Source = Path | bytes | Pinned | npt.NDArray[np.uint8] | Image.Image
KINDS = (Path, bytes, Pinned, np.ndarray, Image.Image)


@dataclass(frozen=True)
class View:
    """How a model looks at a picture."""

    size: int
    fit: Fit = "squash"
    limits: Limits = LIMITS

    def of(self, source: Source) -> Pixels:
        """Return the picture as uint8 (size, size, 3); raises PictureError. An array is RGB of any size.

        Raises SourceError for a pinned file that is not what it was.
        """
        if isinstance(source, Image.Image):
            source = upright(source, self.limits)
        if isinstance(source, np.ndarray):
            if source.ndim != 3 or source.shape[2] != 3 or not source.size or source.dtype != np.uint8:
                raise PictureError(
                    f"An array is {source.dtype} of shape {source.shape}; expected uint8 (height, width, 3), RGB.",
                    check="unreadable",
                )
            return source if source.shape[:2] == (self.size, self.size) else fit(source, self.size, self.fit)
        if not isinstance(source, Pinned):
            return load(source, self.size, self.fit, limits=self.limits)
        try:
            return load(source.content(self.limits), self.size, self.fit, limits=self.limits)
        except PictureError as error:
            raise PictureError(with_name(error, str(source.path)), check=error.check) from None


@dataclass(frozen=True)
class Decoded:
    """One picture of the stream: its position, and its pixels or the reason why there are none."""

    position: int
    pixels: Pixels | None
    error: PictureError | None


def decoded(sources: Iterable[Source], view: View, *, threads: int, ahead: int = 64) -> Iterator[Decoded]:
    """Yield every source in order, decoded by `threads` threads at most `ahead` pictures early: memory stays flat."""
    numbered = enumerate(sources)
    with ThreadPoolExecutor(threads, thread_name_prefix="bestiary-decode") as pool:
        waiting: deque[Future[Decoded]] = deque()
        try:
            for position, source in itertools.islice(numbered, ahead):
                waiting.append(pool.submit(_decode, position, source, view))
            while waiting:
                yield waiting.popleft().result()
                for position, source in itertools.islice(numbered, 1):
                    waiting.append(pool.submit(_decode, position, source, view))
        finally:
            for future in waiting:
                future.cancel()


def in_batches(stream: Iterable[Decoded], batch_size: int) -> Iterator[list[Decoded]]:
    """Yield lists of up to `batch_size` items, in order, the last partial one included."""
    items = iter(stream)
    while batch := list(itertools.islice(items, batch_size)):
        yield batch


def gone(error: PictureError | str) -> SourceError:
    """Return what to raise for a picture of a run that cannot be read any more."""
    return SourceError(
        f"{error} It could be read before: do not change the pictures during a run. Put it back as it was, or train"
        " again without it."
    )


def _decode(position: int, source: Source, view: View) -> Decoded:
    try:
        return Decoded(position, view.of(source), None)
    except PictureError as error:
        return Decoded(position, None, error)
