"""Results that take seconds are computed once for the same input, and again for another, or a damaged file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bestiary import result_cache
from bestiary.array_types import Array
from bestiary.context import Context
from bestiary.data import duplicates
from bestiary.result_cache import SUFFIX, compute_once, digest_parts
from peak_memory import measure_peak

NUMBERS = np.arange(12, dtype=np.int64).reshape(3, 4)


class Counted:
    """A computation that counts its calls."""

    calls = 0

    def __call__(self) -> Array:
        self.calls += 1
        return NUMBERS


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    compute = Counted()
    for _ in range(3):
        np.testing.assert_array_equal(compute_once(tmp_path, "a", compute, width=4), NUMBERS)
    assert compute.calls == 1
    compute_once(tmp_path, "b", compute, width=4)
    assert compute.calls == 2
    compute_once(None, "a", compute, width=4)
    assert compute.calls == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other width"])
def test_a_damaged_result_is_computed_again(tmp_path: Path, damage: str) -> None:
    compute = Counted()
    compute_once(tmp_path, "a", compute, width=4)
    path = tmp_path / f"a{SUFFIX}"
    content = path.read_bytes()
    changed = {"cut": content[:-5], "flipped": content[:-1] + bytes([content[-1] ^ 1]), "empty": b""}
    path.write_bytes(changed.get(damage, content))
    compute_once(tmp_path, "a", compute, width=5 if damage == "other width" else 4)
    assert compute.calls == 2
    np.testing.assert_array_equal(compute_once(tmp_path, "a", compute, width=4), NUMBERS)


def test_a_folder_that_cannot_be_written_loses_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    compute = Counted()
    np.testing.assert_array_equal(compute_once(tmp_path / "file" / "results", "a", compute, width=4), NUMBERS)


def test_the_results_used_longest_ago_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_cache, "MAX_FILES", 2)
    compute = Counted()
    for seconds, name in enumerate("ab"):
        compute_once(tmp_path, name, compute, width=4)
        os.utime(tmp_path / f"{name}{SUFFIX}", (seconds, seconds))
    compute_once(tmp_path, "a", compute, width=4)  # used again
    compute_once(tmp_path, "c", compute, width=4)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c"]


def test_few_large_results_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Counted()
    compute_once(tmp_path, "a", compute, width=4)
    size = (tmp_path / f"a{SUFFIX}").stat().st_size
    monkeypatch.setattr(result_cache, "MAX_BYTES", 2 * size)
    for seconds, name in enumerate("abc"):
        compute_once(tmp_path, name, compute, width=4)
        os.utime(tmp_path / f"{name}{SUFFIX}", (seconds, seconds))
    compute_once(tmp_path, "d", compute, width=4)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["c", "d"]
    monkeypatch.setattr(result_cache, "MAX_BYTES", 1)
    compute_once(tmp_path, "e", compute, width=4)
    assert [path.stem for path in tmp_path.iterdir()] == ["e"]


def test_a_large_result_is_not_copied(tmp_path: Path) -> None:
    """Of 60,000 pictures of 1,000 classes the probabilities are half a gigabyte."""
    large = np.zeros((1000, 1000))
    enough = 1.5 * large.nbytes

    def write() -> None:
        (tmp_path / f"a{SUFFIX}").unlink(missing_ok=True)
        compute_once(tmp_path, "a", lambda: large, width=1000)

    assert measure_peak(write, enough=enough) < enough
    assert measure_peak(lambda: compute_once(tmp_path, "a", pytest.fail, width=1000), enough=enough) < enough


@pytest.mark.parametrize("byte", range(0, 160, 3))
def test_no_flipped_byte_is_an_error(tmp_path: Path, byte: int) -> None:
    compute = Counted()
    compute_once(tmp_path, "a", compute, width=4)
    path = tmp_path / f"a{SUFFIX}"
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x10
    path.write_bytes(content)
    np.testing.assert_array_equal(compute_once(tmp_path, "a", compute, width=4), NUMBERS)


def test_digests_differ_with_every_part() -> None:
    parts: list[list[str | bytes | Array]] = [
        ["ab", "c"],
        ["a", "bc"],
        ["ab", b"c"],
        [NUMBERS],
        [NUMBERS.reshape(4, 3)],
        [NUMBERS.astype(np.int32)],
        [NUMBERS[:0]],
        [np.asfortranarray(NUMBERS), "a"],
    ]
    digests = [digest_parts(entry) for entry in parts]
    assert digests[0] != digests[1]
    assert digests[0] == digests[2], "text and its bytes are one thing"
    assert len(set(digests)) == len(parts) - 1
    assert digest_parts([np.asfortranarray(NUMBERS)]) == digests[3], "the same numbers"


def drawn_pictures(seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "sha256": [f"{seed}-{number}" for number in range(5)] + [f"{seed}-0"],
            "phash": [rng.bytes(32).hex() for _ in range(6)],
            "thumbnail": [rng.bytes(1024) for _ in range(6)],
            "colours": [rng.bytes(128) for _ in range(6)],
            "error": [None] * 5 + [None],
        },
        schema_overrides={"error": pl.String},
    )


def test_the_search_for_duplicates_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, first = Context(threads=1, cache=tmp_path), drawn_pictures(0)
    expected = duplicates.find_duplicate_pairs(first, 8)
    assert len(expected) == 1
    np.testing.assert_array_equal(duplicates.remembered_duplicate_pairs(first, 8, context), expected)
    original, searched = duplicates.find_duplicate_pairs, list[int]()

    def search(pictures: pl.DataFrame, near_bits: int | None, **options: object) -> Array:
        searched.append(pictures.height)
        return original(pictures, near_bits)

    monkeypatch.setattr(duplicates, "find_duplicate_pairs", search)
    np.testing.assert_array_equal(duplicates.remembered_duplicate_pairs(first, 8, context), expected)
    assert searched == []
    unreadable = first.with_columns(error=pl.Series([None, "broken", *[None] * 4]))
    turned = first.with_columns(thumbnail=pl.col("thumbnail").reverse())
    for pictures, bits in ((first, 9), (first, None), (unreadable, 8), (turned, 8), (drawn_pictures(1), 8)):
        duplicates.remembered_duplicate_pairs(pictures, bits, context)
    assert len(searched) == 5
