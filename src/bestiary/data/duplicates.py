"""Duplicate detection: equal files, near-duplicates by perceptual hash, mirrored, turned and cropped copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.array_types import Ints
from bestiary.context import Context
from bestiary.data import hamming_search
from bestiary.data.copy_changes import CopyChange
from bestiary.data.registration import MAX_COLOUR, colour_difference, content_difference, has_detail, register
from bestiary.data.thumbnail_rows import gather_colours, gather_thumbnails, unpack_colours, unpack_thumbnails
from bestiary.data.view_search import find_view_pairs
from bestiary.data.views import TURNED
from bestiary.progress import Advance, ignore_steps
from bestiary.result_cache import compute_once, digest_parts

FOLDER = "duplicates"  # in the cache folder
PAIRS_AT_ONCE = 4096
PAIR_COLUMNS = 4
MAX_ALIGNED = 2000  # of 4,096 pairs; where more differ, it is not because of a small turn
_UNMOVED = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def find_duplicate_pairs(
    pictures: pl.DataFrame, near_bits: int | None, *, threads: int = 1, advance: Advance = ignore_steps
) -> Ints:
    """Return the pairs of rows that show one picture, int64 (pairs, 4): i < j, differing bits, flags of `CopyChange`.

    pictures: `sha256, phash, thumbnail, error`, and `colours`, without which colours are not compared; rows with an
    error are skipped. near_bits: hashes that differ in at most so many bits are a pair without further checks; None:
    only equal files are. Copies that are mirrored, turned, cropped, shifted or inverted are proposed by hashes of views
    of each picture and confirmed by registration of thumbnails. Equal files and equal hashes form chains: not all of
    their pairs are listed.
    """
    usable = pictures["error"].is_null().arg_true().to_numpy()
    columns = [name for name in ("sha256", "phash", "thumbnail", "colours") if name in pictures.columns]
    readable = pictures.select(columns)[usable]
    equal = equal_digest_pairs(readable["sha256"])
    if near_bits is None or len(usable) < 2:
        return _reindex_pairs(_add_changes_column(equal), usable)
    files = np.setdiff1d(np.arange(len(usable)), equal[:, 1])  # the first of equal files
    phashes = readable["phash"].gather(files)
    same_hash = equal_digest_pairs(phashes)
    distinct = np.setdiff1d(np.arange(len(files)), same_hash[:, 1])  # the first of equal hashes
    bits = hamming_search.hash_bits(phashes.gather(distinct))
    near = hamming_search.find_near_pairs(bits, near_bits, threads=threads)
    thumbnails = gather_thumbnails(readable["thumbnail"], files[distinct])
    colours = gather_colours(readable["colours"], files[distinct]) if "colours" in readable.columns else None
    groups = connected_groups(len(distinct), near)
    by_view = find_view_pairs(thumbnails, groups, colours, threads=threads, advance=advance)
    by_hash = np.concatenate([_reindex_pairs(near, distinct), same_hash])
    by_hash = np.column_stack([by_hash, _content_changes(readable[files], by_hash)])
    chains = [_reindex_pairs(pairs, files) for pairs in (by_hash, _reindex_pairs(by_view, distinct))]
    return _reindex_pairs(
        hamming_search.prune_pairs(len(usable), np.concatenate([_add_changes_column(equal), *chains])), usable
    )


def remembered_duplicate_pairs(
    pictures: pl.DataFrame, near_bits: int | None, context: Context, *, advance: Advance = ignore_steps
) -> Ints:
    """Return what `find_duplicate_pairs` does, from the cache folder if the same pictures were searched before."""
    folder = None if context.cache is None else context.cache / FOLDER
    columns = [name for name in ("sha256", "phash", "thumbnail", "colours") if name in pictures.columns]

    def iter_parts() -> Iterator[bytes]:
        yield f"{near_bits} {columns} {pictures.height}".encode()
        yield np.packbits(pictures["error"].is_null().to_numpy()).tobytes()
        for chunk in pictures.select(columns).iter_slices(PAIRS_AT_ONCE):
            for name in columns:
                values = chunk[name].to_list()
                yield b"\0".join(value if isinstance(value, bytes) else (value or "").encode() for value in values)

    def search() -> Ints:
        return find_duplicate_pairs(pictures, near_bits, threads=context.threads, advance=advance)

    pairs: Ints = compute_once(folder, digest_parts(iter_parts()), search, width=PAIR_COLUMNS)
    return pairs


def connected_groups(count: int, pairs: Ints) -> Ints:
    """Return the group of each of `count` items, int64 (count,): the connected components of the pairs.

    The number of a group is the index of its first item.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(links, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component].astype(np.int64)


def equal_digest_pairs(digests: Sequence[str] | pl.Series) -> Ints:
    """Return pairs that connect all items with equal digests, int64 (pairs, 3), the third column 0; "" has no equal."""
    items = pl.DataFrame({"digest": digests}, schema={"digest": pl.String}).with_row_index("item")
    items = items.filter(pl.col("digest").is_not_null() & (pl.col("digest") != ""))
    items = items.with_columns(first=pl.col("item").first().over("digest")).filter(pl.col("first") != pl.col("item"))
    return items.select(pl.col("first", "item").cast(pl.Int64), bits=pl.lit(0, pl.Int64)).to_numpy().reshape(-1, 3)


def _content_changes(pictures: pl.DataFrame, pairs: Ints) -> Ints:
    """Return how pairs with near hashes differ, flags of `CopyChange`: in colour, in a detail, by a small turn."""
    changes = np.zeros(len(pairs), np.int64)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        chunk = pairs[start : start + PAIRS_AT_ONCE]
        warps = np.repeat(_UNMOVED[None], len(chunk), axis=0)
        fixed, moving = (unpack_thumbnails(pictures["thumbnail"].gather(chunk[:, end]).to_list()) for end in (0, 1))
        flags = CopyChange.DETAIL * has_detail(content_difference(fixed, moving, warps))
        differing = np.flatnonzero(flags)[:MAX_ALIGNED]  # perhaps only because one is cropped or turned a little
        registration = register(fixed[differing], moving[differing], TURNED)
        aligned = content_difference(fixed[differing], moving[differing], registration.warps)
        is_copy = (registration.scores >= TURNED.min_score) & ~has_detail(aligned)
        flags[differing[is_copy]] = registration.changes(TURNED)[is_copy]
        warps[differing[is_copy]] = registration.warps[is_copy]
        if "colours" in pictures.columns:
            fixed, moving = (unpack_colours(pictures["colours"].gather(chunk[:, end]).to_list()) for end in (0, 1))
            flags += CopyChange.RECOLOURED * (colour_difference(fixed, moving, warps) > MAX_COLOUR)
        changes[start : start + PAIRS_AT_ONCE] = flags
    return changes


def _add_changes_column(pairs: Ints) -> Ints:
    """Return pairs of three columns with a fourth, 0: no changes."""
    return np.pad(pairs, ((0, 0), (0, 1)))


def _reindex_pairs(pairs: Ints, indices: npt.NDArray[np.integer]) -> Ints:
    """Return the pairs with indices into all rows instead of into `indices`."""
    return np.column_stack([indices[pairs[:, :2]].reshape(-1, 2), pairs[:, 2:]]).astype(np.int64)
