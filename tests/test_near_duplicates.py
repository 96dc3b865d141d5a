"""Copies that are mirrored, cropped, brightened or stored anew: found; pictures that only resemble each other: not."""

import itertools
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

from bestiary.context import Context
from bestiary.data import audit, hamming_search
from bestiary.data.duplicates import HOW, connected_groups, find_duplicate_pairs
from bestiary.data.hamming_search import find_near_pairs, hash_bits
from bestiary.data.label_map import label_map
from bestiary.data.measure import measure_file
from bestiary.data.registration import VIEWS, CropView, hash_views, registration_score, unpack_thumbnails
from bestiary.data.scan import scan_pictures
from bestiary.data.sources import list_sources
from bestiary.demo.dataset import draw_creature
from bestiary.picture import LIMITS

Change = Callable[[Image.Image], Image.Image]
KINDS = ("crab", "bird", "fish", "rabbit", "spider", "butterfly")


def creature(seed: int) -> Image.Image:
    return draw_creature(KINDS[seed % len(KINDS)], np.random.default_rng(seed)).convert("RGB")


def measured_of(folder: Path, images: list[Image.Image], quality: int = 90) -> pl.DataFrame:
    """Return what is measured of the images, stored as JPEG in this order."""
    found = []
    for number, image in enumerate(images):
        image.save(folder / f"{number:04d}.jpg", quality=quality)
        found.append(measure_file(folder / f"{number:04d}.jpg", LIMITS))
    columns = ("path", "sha256", "phash", "thumbnail", "error")
    frame = pl.DataFrame({name: [getattr(one, name) for one in found] for name in columns})
    return frame.with_columns(pl.col("error").cast(pl.String))


def crop(left: float, top: float, right: float, bottom: float) -> Change:
    def cropped(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        return image.resize((width, height), Image.Resampling.BICUBIC, box=box)

    return cropped


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES: dict[str, tuple[Change, set[str]]] = {
    "stored anew": (lambda image: image, {""}),
    "smaller": (lambda image: image.resize((image.width * 7 // 10, image.height * 7 // 10)), {""}),
    "brighter": (lambda image: image.point(lambda value: value + 40), {""}),
    "darker": (lambda image: image.point(lambda value: value - 40), {""}),
    "mirrored": (mirror, {", mirrored"}),
    "every edge": (crop(0.05, 0.05, 0.05, 0.05), {"", ", cropped"}),
    "one corner": (crop(0.05, 0.05, 0.0, 0.0), {"", ", cropped"}),
    "in between": (crop(0.03, 0.01, 0.02, 0.04), {"", ", cropped"}),
    "one edge": (crop(0.0, 0.05, 0.0, 0.0), {"", ", cropped"}),
    "both": (lambda image: mirror(crop(0.05, 0.0, 0.0, 0.05)(image)), {", mirrored", ", mirrored and cropped"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(tmp_path: Path, change: str) -> None:
    altered, words = CHANGES[change]
    originals = [creature(seed) for seed in range(12)]
    pairs = find_duplicate_pairs(measured_of(tmp_path, [*originals, *map(altered, originals)]), 40)
    assert pairs.dtype == np.int64
    assert {(left, right) for left, right, *_ in pairs.tolist()} == {(seed, seed + 12) for seed in range(12)}
    assert {HOW[how] for how in pairs[:, 3]} <= words
    if change == "mirrored":
        assert pairs[:, 2].max() <= 40


def test_different_pictures_are_no_pairs(tmp_path: Path) -> None:
    assert find_duplicate_pairs(measured_of(tmp_path, [creature(seed) for seed in range(60)]), 40).shape == (0, 4)


def test_pictures_without_any_structure_are_alike_by_their_hash_alone() -> None:
    plain = np.stack([np.full((32, 32), value, np.uint8) for value in (0, 90, 255)])
    for view in VIEWS:
        assert np.abs(registration_score(plain, plain[::-1], view)).max() < 0.01


def test_without_near_duplicates_only_equal_files_pair_up(tmp_path: Path) -> None:
    found = measured_of(tmp_path, [creature(1), mirror(creature(1)), creature(1), creature(2)])
    assert find_duplicate_pairs(found, None).tolist() == [[0, 2, 0, 0]]


def test_rows_with_an_error_keep_their_place_and_are_passed_over(tmp_path: Path) -> None:
    found = measured_of(tmp_path, [creature(1), creature(2), creature(1), mirror(creature(2))])
    broken = pl.DataFrame(
        {"path": "b", "sha256": "", "phash": "", "thumbnail": b"", "error": "broken"}, schema=found.schema
    )
    pairs = find_duplicate_pairs(pl.concat([broken, found[:2], broken, found[2:]]), 40)
    assert [(left, right, HOW[how]) for left, right, _, how in pairs.tolist()] == [(1, 4, ""), (2, 5, ", mirrored")]
    assert find_duplicate_pairs(broken, 40).shape == (0, 4)
    assert find_duplicate_pairs(found[:1], 40).shape == (0, 4)
    assert find_duplicate_pairs(found[:0], 40).shape == (0, 4)


def test_equal_files_are_chained_and_a_near_one_hangs_on_the_first(tmp_path: Path) -> None:
    one = creature(3)
    found = measured_of(tmp_path, [one, one, one, one.resize((90, 80)), creature(4)])
    pairs = find_duplicate_pairs(found, 40)
    assert pairs[:, :2].tolist() == [[0, 1], [0, 2], [0, 3]]
    assert connected_groups(5, pairs).tolist() == [0, 0, 0, 0, 4]


# ------------------------------------------------------------------------------------------------------ the search


def clustered(count: int, seed: int, at_most: int = 60) -> NDArray[np.uint64]:
    """Random hashes; every tenth is a copy of another with some bits turned."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (count, 256), np.uint8)
    for item in range(10, count, 10):
        bits[item] = bits[random.integers(0, item)]
        bits[item, random.choice(256, random.integers(0, at_most + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64)


@pytest.mark.parametrize("at_most", [0, 12, 40, 64])
def test_the_sampled_search_finds_what_comparing_all_finds(monkeypatch: pytest.MonkeyPatch, at_most: int) -> None:
    bits = clustered(3000, seed=at_most, at_most=80)
    exact = find_near_pairs(bits, at_most)
    monkeypatch.setattr(hamming_search, "ALL_WITH_ALL", 0)
    for threads in (1, 2):
        sampled = find_near_pairs(bits, at_most, threads=threads)
        assert sampled.dtype == np.int64
        assert {tuple(pair) for pair in sampled.tolist()} == {tuple(pair) for pair in exact.tolist()}
        assert len(sampled) == len(exact) > 0


@pytest.mark.parametrize("all_with_all", [0, 8192])
def test_a_film_of_pictures_stays_one_group_and_does_not_become_millions_of_pairs(
    monkeypatch: pytest.MonkeyPatch, all_with_all: int
) -> None:
    monkeypatch.setattr(hamming_search, "ALL_WITH_ALL", all_with_all)
    random = np.random.default_rng(0)
    frames = np.tile(random.integers(0, 2, 256, np.uint8), (1200, 1))
    frames[np.arange(1200), random.integers(0, 256, 1200)] ^= 1
    others = random.integers(0, 2, (300, 256), np.uint8)
    pairs = find_near_pairs(np.packbits(np.concatenate([frames, others]), axis=1).view(np.uint64), 40)
    assert 1199 <= len(pairs) <= hamming_search.PAIRS_PER_PICTURE * 1500
    group = connected_groups(1500, pairs)
    assert set(group[:1200].tolist()) == {0}
    assert len(set(group[1200:].tolist())) == 300


@pytest.mark.slow
def test_two_hundred_thousand_hashes_are_searched_in_a_minute() -> None:
    import time

    bits = clustered(200_000, seed=1, at_most=40)
    begun = time.monotonic()
    pairs = find_near_pairs(bits, 40, threads=2)
    assert time.monotonic() - begun < 60
    assert (
        len(np.unique(pairs[:, 1])) >= 19_900
    )  # a copy of a copy may be further than 40 bits from nothing but its own


# ------------------------------------------------------------------------------------------------------- the views


def test_the_hash_of_a_view_is_that_of_the_picture_made_so(tmp_path: Path) -> None:
    image = creature(7).resize((400, 300), Image.Resampling.LANCZOS)
    for view in VIEWS:
        left, top = view.across[0], view.down[0]
        made = crop(left, top, 1 - view.across[1], 1 - view.down[1])(mirror(image) if view.is_mirrored else image)
        found = measured_of(tmp_path, [image, made], quality=95)
        thumbnails = unpack_thumbnails(found["thumbnail"].to_list())
        seen, wanted = hash_views(thumbnails[:1], view), hash_views(thumbnails[1:], VIEWS[0])
        assert np.bitwise_count(seen ^ wanted).sum() <= 24, view
        assert registration_score(thumbnails[:1], thumbnails[1:], view)[0] > 0.95, view


def test_the_first_view_is_the_whole_picture_and_all_are_different() -> None:
    assert VIEWS[0] == CropView()
    assert not VIEWS[0].is_cropped
    assert len(set(VIEWS)) == len(VIEWS)


def test_agreement_finds_small_moves_whatever_the_brightness(tmp_path: Path) -> None:
    image = creature(9).resize((400, 300), Image.Resampling.LANCZOS)
    moved = crop(0.04, 0.0, 0.01, 0.03)(image).point(lambda value: value // 2 + 60)
    thumbnails = unpack_thumbnails(measured_of(tmp_path, [image, moved, creature(10)])["thumbnail"].to_list())
    right, wrong = registration_score(thumbnails[[0, 0]], thumbnails[[1, 2]], CropView())
    assert right > 0.95
    assert wrong < 0.7


# ------------------------------------------------------------------------------------------------- what it is for


def test_a_finding_says_how_a_copy_differs(tmp_path: Path) -> None:
    for label, images in {"crab": [creature(0)], "fish": [mirror(creature(0)), creature(2)]}.items():
        (tmp_path / label).mkdir()
        for number, image in enumerate(images):
            image.save(tmp_path / label / f"{number}.png")
    listing = list_sources([tmp_path], label_map(None))
    found = scan_pictures(listing, LIMITS, Context(threads=1, cache=None))
    pairs = find_duplicate_pairs(found, 40)
    found = found.with_columns(group=pl.Series(connected_groups(found.height, pairs)))
    messages = dict(audit.find_issues(found, pairs).select("check", "message").iter_rows())
    assert messages["near-duplicate"] == "Nearly the same as crab/0.png, mirrored."
    assert messages["label-conflict"] == (
        "Labelled fish, but nearly the same as crab/0.png, mirrored, which is labelled crab."
    )


@pytest.mark.real
@pytest.mark.slow
def test_every_pair_that_imagehash_sees_is_one_of_our_groups(animals10: Path) -> None:
    found = scan_pictures(
        list_sources([animals10], label_map("animals10")),
        LIMITS,
        Context(threads=2, cache=None),
    )
    pairs = find_duplicate_pairs(found, 40, threads=2)
    group = connected_groups(found.height, pairs)
    theirs = []
    for path in found["path"]:
        with Image.open(path) as image:
            theirs.append(np.packbits(imagehash.phash(image, hash_size=16).hash.ravel()).tobytes().hex())
    outside = find_near_pairs(hash_bits(theirs), 36)
    assert len(outside) >= 80
    assert (group[outside[:, 0]] == group[outside[:, 1]]).all()
    labels = found["label"].to_list()
    assert all(labels[left] == labels[right] for left, right in pairs[:, :2].tolist())  # none across classes
    assert 95 <= len(pairs) <= 110  # 99, all of them genuine by eye
    assert max(len(list(same)) for _, same in itertools.groupby(sorted(group.tolist()))) <= 6  # false pairs would chain
