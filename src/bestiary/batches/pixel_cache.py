"""Pixel cache: preprocessed pictures, decoded once and shared by all runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bestiary.array_types import Pixels
from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.decoding import PICTURES_AHEAD, decode_ahead, iter_batches, missing_picture_error
from bestiary.box import PictureFile
from bestiary.preprocess import Preprocessing, VerifiedFile
from bestiary.progress import Reporter

PICTURES_AT_ONCE = 32


def pixel_cache(cache: Path, preprocess: Preprocessing) -> ArrayCache:
    """Return the cache of uint8 (size, size, 3) pictures for this preprocessing."""
    shape = (preprocess.size, preprocess.size, 3)
    name = f"{preprocess.size}-{preprocess.fit}-{preprocess.rules.cache_name}"
    return ArrayCache(cache / "pixels" / name, shape, np.uint8)


def fill_pixel_cache(
    store: ArrayCache,
    paths: Sequence[PictureFile],
    keys: Sequence[str],
    preprocess: Preprocessing,
    *,
    threads: int,
    reporter: Reporter,
) -> None:
    """Decode the pictures that are not cached; `keys`: the SHA-256 of their files.

    Raises SourceError if a file can no longer be read, or was changed.
    """
    missing = store.missing_keys(keys)
    if not missing:
        return
    files = [VerifiedFile.of(paths[index], keys[index]) for index in missing]
    with reporter.progress("Decoding pictures", len(missing)) as advance, store.writer() as segment:
        start = 0
        for images in iter_pixel_batches(files, preprocess, threads=threads):
            segment.append([file.sha256 for file in files[start : start + len(images)]], images)
            start += len(images)
            advance(len(images))


def iter_pixel_batches(
    paths: Iterable[PictureFile | VerifiedFile],
    preprocess: Preprocessing,
    *,
    threads: int,
    batch_size: int = PICTURES_AT_ONCE,
) -> Iterator[Pixels]:
    """Yield uint8 (n, size, size, 3) for all paths in order; raises SourceError if a file can no longer be read."""
    ahead = max(PICTURES_AHEAD, 2 * batch_size)  # two batches: one is decoded while a device computes the other
    for batch in iter_batches(decode_ahead(paths, preprocess, threads=threads, ahead=ahead), batch_size):
        for item in batch:
            if item.error is not None:
                raise missing_picture_error(item.error) from item.error
        yield np.stack([item.pixels for item in batch if item.pixels is not None])
