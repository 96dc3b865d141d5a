"""The pixel cache: every picture of a collection as the model sees it, decoded once, shared by all runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bestiary.batches.array_cache import ArrayStore
from bestiary.batches.decoding import decoded, gone, in_batches
from bestiary.batches.preprocess import Pinned, View
from bestiary.picture import Pixels
from bestiary.progress import Reporter

PIXELS_VERSION = 1  # raise it when `picture` gives other pixels for the same file
PICTURES_AT_ONCE = 32


def pixel_store(cache: Path, view: View) -> ArrayStore:
    """Return the store of uint8 (size, size, 3) pictures for this way of looking at them."""
    shape = (view.size, view.size, 3)
    return ArrayStore(cache / "pixels" / f"{view.size}-{view.fit}-v{PIXELS_VERSION}", shape, np.uint8)


def fill(
    store: ArrayStore, paths: Sequence[Path], keys: Sequence[str], view: View, *, threads: int, reporter: Reporter
) -> None:
    """Decode the pictures that the store lacks; `keys` are the SHA-256 of their files.

    Raises SourceError if a file cannot be read any more, or has other content.
    """
    missing = store.missing(keys)
    if not missing:
        return
    with reporter.progress("Decoding pictures", len(missing)) as advance, store.writing() as segment:
        start = 0
        for images in pixel_batches([Pinned(paths[at], keys[at]) for at in missing], view, threads=threads):
            segment.append([keys[position] for position in missing[start : start + len(images)]], images)
            start += len(images)
            advance(len(images))


def pixel_batches(
    paths: Iterable[Path | Pinned], view: View, *, threads: int, batch_size: int = PICTURES_AT_ONCE
) -> Iterator[Pixels]:
    """Yield uint8 (n, size, size, 3) for all paths in order. Raises SourceError if a file cannot be read any more."""
    for batch in in_batches(decoded(paths, view, threads=threads), batch_size):
        for item in batch:
            if item.error is not None:
                raise gone(item.error)
        yield np.stack([item.pixels for item in batch if item.pixels is not None])
