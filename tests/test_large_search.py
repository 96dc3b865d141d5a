"""Near-duplicates among more pictures than can all be compared: bounded work, the same pairs in memory and on disk."""

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from bestiary.data import hamming_search, thumbnail_rows, view_proposals
from bestiary.data.duplicates import find_duplicate_pairs
from bestiary.data.hamming_search import find_near_pairs
from bestiary.data.views import VIEWS, hash_low_frequencies, low_frequencies
from bestiary.progress import ignore_steps


@pytest.fixture(autouse=True)
def _sample_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming_search, "ALL_WITH_ALL", 0)


def draw_scenes(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth random thumbnails, uint8 (count, 32, 32); the second half are the first, mirrored."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 40, (count // 2, 8, 8))
    waves = np.cos(np.pi * np.arange(8)[:, None] * (np.arange(32) + 0.5) / 32) / (1 + np.arange(8)[:, None])
    scenes = (128 + waves.T @ coarse @ waves + random.normal(0, 2, (count // 2, 32, 32))).clip(0, 255)
    return np.concatenate([scenes, scenes[:, :, ::-1]]).astype(np.uint8)


def measured_of(thumbnails: NDArray[np.uint8]) -> pl.DataFrame:
    phash = [np.random.default_rng(row).bytes(32).hex() for row in range(len(thumbnails))]
    rows = {"sha256": [f"{row:064x}" for row in range(len(thumbnails))], "phash": phash, "error": None}
    frame = pl.DataFrame({**rows, "thumbnail": [thumbnail.tobytes() for thumbnail in thumbnails]})
    return frame.with_columns(pl.col("error").cast(pl.String))


def test_near_pairs_are_detected_where_most_bits_of_all_hashes_are_equal() -> None:
    """Pictures before one background agree in nearly every sample: neighbours in the order of further bits count."""
    random = np.random.default_rng(0)
    bits = np.zeros((4000, 256), np.uint8)
    varying = random.choice(256, 60, replace=False)
    bits[:, varying] = random.integers(0, 2, (4000, 60))
    planted = np.arange(0, 200, 2)
    bits[planted + 1] = bits[planted]
    bits[planted + 1, varying[0]] ^= 1
    packed = np.packbits(bits, axis=1).view(np.uint64)
    pairs = find_near_pairs(packed, 4)
    assert {(first, first + 1) for first in planted.tolist()} <= {(i, j) for i, j, _ in pairs.tolist()}
    hamming_search.ALL_WITH_ALL = 8192  # the fixture restores it
    np.testing.assert_array_equal(pairs, find_near_pairs(packed, 4))


def test_a_crowd_of_alike_hashes_becomes_a_forest_and_other_pairs_stay() -> None:
    random = np.random.default_rng(1)
    bits = random.integers(0, 2, (3000, 256), np.uint8)
    bits[:2000] = bits[0]
    bits[np.arange(2000), random.integers(0, 256, 2000)] ^= 1
    bits[2999] = bits[2500]
    bits[2999, :30] ^= 1
    pairs = find_near_pairs(np.packbits(bits, axis=1).view(np.uint64), 40, threads=2)
    assert len(pairs) == 2000  # 1,999 that connect the crowd, and the one pair
    assert [2500, 2999, 30] in pairs.tolist()


def test_the_hashes_of_all_views_at_once_are_those_of_each() -> None:
    scenes = draw_scenes(600)
    hashes = view_proposals._hash_views(scenes, threads=2)
    single = np.stack([hash_low_frequencies(low_frequencies(scenes, view))[:, 0] for view in VIEWS])
    assert np.bitwise_count(hashes ^ single).mean() < 0.01  # a sum in another order may round otherwise


def test_pairs_are_equal_with_any_threads_and_with_thumbnails_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = measured_of(draw_scenes(300))
    pairs = find_duplicate_pairs(pictures, 40)
    assert {(row, row + 150) for row in range(150)} <= {(i, j) for i, j, *_ in pairs.tolist()}
    np.testing.assert_array_equal(find_duplicate_pairs(pictures, 40, threads=2), pairs)
    monkeypatch.setattr(thumbnail_rows, "MAX_MEMORY_BYTES", 0)
    np.testing.assert_array_equal(find_duplicate_pairs(pictures, 40, threads=2), pairs)


@pytest.mark.parametrize("has_pread", [True, False])
def test_thumbnails_on_disk_are_indexed_as_an_array(has_pread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_pread:  # as on Windows
        monkeypatch.delattr("os.pread", raising=False)
    thumbnails = np.random.default_rng(0).integers(0, 256, (50, 32, 32), np.uint8)
    file = thumbnail_rows.ThumbnailFile()
    file.append(thumbnails[:20])
    np.testing.assert_array_equal(file[:5], thumbnails[:5])
    file.append(thumbnails[20:])
    assert len(file) == 50
    for rows in (slice(10, 60), slice(0, 0), np.array([7, 8, 9, 3, 3, 49]), np.zeros(0, np.int64)):
        np.testing.assert_array_equal(file[rows], thumbnails[rows])


def test_pictures_that_all_look_alike_have_a_bounded_number_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    alike = draw_scenes(2)[0] + random.normal(0, 1, (600, 32, 32))
    thumbnails = thumbnail_rows.ThumbnailFile()
    thumbnails.append(alike.clip(0, 255).astype(np.uint8))
    ranked: list[int] = []
    rank = view_proposals._rank_candidates

    def count_candidates(*arguments: object) -> object:
        ranked.append(len(arguments[2]))  # type: ignore[arg-type]
        return rank(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(view_proposals, "_rank_candidates", count_candidates)
    monkeypatch.setattr(view_proposals, "MIN_PROPOSALS", 100)
    proposed = view_proposals.propose_in_samples(thumbnails, np.arange(600), threads=1, advance=ignore_steps)
    at_once = view_proposals.VIEWS_AT_ONCE * view_proposals.MAX_MATCHES
    assert 600 < sum(ranked) <= 600 * (view_proposals.ENOUGH + at_once)
    assert sum(len(pairs) for pairs, _ in proposed) == 300  # half a proposal a picture
