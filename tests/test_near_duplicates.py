"""Copies that are mirrored, cropped, brightened or stored anew: found; pictures that only resemble each other: not."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bestiary.context import Context
from bestiary.data import audit, duplicates, hamming_search, thumbnail_rows, view_search
from bestiary.data.copy_changes import CopyChange
from bestiary.data.duplicates import connected_groups, find_duplicate_pairs
from bestiary.data.hamming_search import find_near_pairs
from bestiary.data.label_map import label_map
from bestiary.data.measure import measure_file
from bestiary.data.registration import Registration, register
from bestiary.data.scan import scan_pictures
from bestiary.data.sources import list_sources
from bestiary.data.thumbnail_rows import unpack_thumbnails
from bestiary.data.views import STRETCH_SCORE, VIEWS, WHOLE, View, hash_low_frequencies, low_frequencies
from bestiary.demo.dataset import draw_creature
from bestiary.picture import LIMITS
from peak_memory import measure_peak

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
    columns = ("path", "sha256", "phash", "thumbnail", "colours", "error")
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


def shift(across: float, down: float) -> Change:
    """Return a change that shifts a picture and continues its edge."""

    def shifted(image: Image.Image) -> Image.Image:
        pixels = np.asarray(image)
        height, width = pixels.shape[:2]
        rows = np.clip(np.arange(height) - round(down * height), 0, height - 1)
        columns = np.clip(np.arange(width) - round(across * width), 0, width - 1)
        return Image.fromarray(pixels[rows][:, columns])

    return shifted


def tilt(degrees: float) -> Change:
    return lambda image: image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=image.getpixel((0, 0)))


TURN, HALF, MIRRORED = CopyChange.QUARTER_TURN, CopyChange.HALF_TURN, CopyChange.MIRRORED
CROPPED, SHIFTED, TILTED = CopyChange.CROPPED, CopyChange.SHIFTED, CopyChange.TILTED
CHANGES: dict[str, tuple[Change, set[int]]] = {
    "stored anew": (lambda image: image, {0}),
    "smaller": (lambda image: image.resize((image.width * 7 // 10, image.height * 7 // 10)), {0}),
    "brighter": (lambda image: image.point(lambda value: value + 40), {0}),
    "darker": (lambda image: image.point(lambda value: value - 40), {0}),
    "without colour": (lambda image: image.convert("L").convert("RGB"), {0}),
    "mirrored": (mirror, {MIRRORED}),
    "every edge": (crop(0.05, 0.05, 0.05, 0.05), {0, CROPPED}),
    "one corner": (crop(0.05, 0.05, 0.0, 0.0), {0, CROPPED}),
    "in between": (crop(0.03, 0.01, 0.02, 0.04), {0, CROPPED}),
    "one edge": (crop(0.0, 0.05, 0.0, 0.0), {0, CROPPED}),
    "a tenth at every edge": (crop(0.1, 0.1, 0.1, 0.1), {CROPPED}),
    "a fifth at every edge": (crop(0.2, 0.2, 0.2, 0.2), {CROPPED}),
    "a fifth at one edge": (crop(0.2, 0.0, 0.0, 0.0), {CROPPED}),
    "mirrored and cropped": (lambda image: mirror(crop(0.05, 0.0, 0.0, 0.05)(image)), {MIRRORED, MIRRORED | CROPPED}),
    "turned right": (lambda image: image.transpose(Image.Transpose.ROTATE_270), {TURN}),
    "turned left": (lambda image: image.transpose(Image.Transpose.ROTATE_90), {TURN}),
    "turned round": (lambda image: image.transpose(Image.Transpose.ROTATE_180), {HALF}),
    "upside down": (lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), {HALF | MIRRORED}),
    "transposed": (lambda image: image.transpose(Image.Transpose.TRANSPOSE), {TURN | MIRRORED}),
    "inverted": (ImageOps.invert, {CopyChange.INVERTED}),
    "shifted": (shift(0.1, 0.06), {SHIFTED}),
    "shifted up": (shift(0.0, -0.1), {SHIFTED}),
    "a few degrees": (tilt(4), {0, TILTED}),
    "more degrees": (tilt(-9), {TILTED}),
}


PLAIN = {"stored anew", "smaller", "brighter", "darker", "without colour", "mirrored", "inverted", "upside down"}
PLAIN |= {"turned right", "turned left", "turned round", "transposed"}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(tmp_path: Path, change: str) -> None:
    altered, changes = CHANGES[change]
    originals = [creature(seed) for seed in range(12)]
    pairs = find_duplicate_pairs(measured_of(tmp_path, [*originals, *map(altered, originals)]), 40)
    assert pairs.dtype == np.int64
    wanted, seen = {(seed, seed + 12) for seed in range(12)}, {(left, right) for left, right, *_ in pairs.tolist()}
    assert seen <= wanted  # none is false
    assert len(seen) == 12 if change in PLAIN else len(seen) >= 11
    assert set((pairs[:, 3] & ~CopyChange.ROUGH).tolist()) <= changes
    if change == "mirrored":
        assert pairs[:, 2].max() <= 40


def test_another_hue_is_told_and_a_tint_is_not(tmp_path: Path) -> None:
    images = [creature(seed) for seed in range(12)]
    hues = [
        Image.merge(
            "HSV",
            [image.convert("HSV").getchannel(0).point(lambda hue: (hue + 90) % 256), *image.convert("HSV").split()[1:]],
        )
        for image in images
    ]
    warmer = [
        Image.merge(
            "RGB",
            [
                band.point(lambda value, k=k: min(255, round(value * k)))
                for band, k in zip(image.split(), (1.06, 1, 0.94), strict=True)
            ],
        )
        for image in images
    ]
    for copies, is_recoloured in ((hues, True), (warmer, False)):
        pairs = find_duplicate_pairs(measured_of(tmp_path, [*images, *(copy.convert("RGB") for copy in copies)]), 40)
        pairs = pairs[pairs[:, 1] - pairs[:, 0] == 12]
        assert len(pairs) >= 9  # another hue is another grey
        fraction = np.mean(pairs[:, 3] & CopyChange.RECOLOURED != 0)
        assert fraction >= 0.7 if is_recoloured else fraction == 0


def test_pictures_in_one_frame_are_not_copies(tmp_path: Path) -> None:
    """The edges of a frame are the strongest of all; they must not decide."""
    framed = [ImageOps.expand(creature(seed).resize((200, 150)), 12, "black") for seed in range(60)]
    assert find_duplicate_pairs(measured_of(tmp_path, framed), 40).shape == (0, 4)


def test_different_pictures_are_no_pairs(tmp_path: Path) -> None:
    assert find_duplicate_pairs(measured_of(tmp_path, [creature(seed) for seed in range(60)]), 40).shape == (0, 4)


def test_pictures_without_any_structure_are_alike_by_their_hash_alone() -> None:
    plain = np.stack([np.full((32, 32), value, np.uint8) for value in (0, 90, 255)])
    for view in VIEWS:
        assert np.abs(register(plain, plain[::-1], view).scores).max() < 0.01


def test_without_near_duplicates_only_equal_files_pair_up(tmp_path: Path) -> None:
    found = measured_of(tmp_path, [creature(1), mirror(creature(1)), creature(1), creature(2)])
    assert find_duplicate_pairs(found, None).tolist() == [[0, 2, 0, 0]]


def test_rows_with_an_error_keep_their_place_and_are_passed_over(tmp_path: Path) -> None:
    found = measured_of(tmp_path, [creature(1), creature(2), creature(1), mirror(creature(2))])
    broken = pl.DataFrame(
        {"path": "b", "sha256": "", "phash": "", "thumbnail": b"", "colours": b"", "error": "broken"},
        schema=found.schema,
    )
    pairs = find_duplicate_pairs(pl.concat([broken, found[:2], broken, found[2:]]), 40)
    assert [(left, right, how) for left, right, _, how in pairs.tolist()] == [(1, 4, 0), (2, 5, MIRRORED)]
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


@pytest.mark.parametrize("bits", [8, 16, 17, 22])
def test_sampled_bits_are_sorted_stably(bits: int) -> None:
    key = np.random.default_rng(bits).integers(0, 1 << bits, 5000).astype(np.uint32)
    np.testing.assert_array_equal(hamming_search._sort_keys(key), np.argsort(key, kind="stable"))


def test_the_hash_of_frequencies_is_which_are_above_their_median() -> None:
    low = np.random.default_rng(0).normal(0, 3, (2500, 63)).astype(np.float32).round(1)  # with equal values
    bits = np.unpackbits(hash_low_frequencies(low).view(np.uint8), axis=1)
    np.testing.assert_array_equal(bits[:, :63], low > np.median(low, axis=1, keepdims=True))
    assert not bits[:, 63].any()


def test_thumbnails_that_are_gathered_in_chunks_give_the_same_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [creature(seed) for seed in range(5)]
    measured = measured_of(tmp_path, [*images, *(mirror(image) for image in images)])
    pairs = find_duplicate_pairs(measured, 40)
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 3)
    monkeypatch.setattr(thumbnail_rows, "ROWS_AT_ONCE", 3)
    np.testing.assert_array_equal(find_duplicate_pairs(measured, 40), pairs)
    assert len(pairs) == 5


@pytest.mark.slow
def test_two_hundred_thousand_hashes_are_searched_without_comparing_all() -> None:
    """In a minute of processor time, of which other programs take nothing; all pairs would take many."""
    bits = clustered(200_000, seed=1, at_most=40)
    begun = time.process_time()
    pairs = find_near_pairs(bits, 40, threads=2)
    assert time.process_time() - begun < 60
    assert (
        len(np.unique(pairs[:, 1])) >= 19_900
    )  # a copy of a copy may be further than 40 bits from nothing but its own


@pytest.mark.parametrize("is_first", [True, False])
def test_views_of_many_pictures_are_found_in_both_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """More than 8,192 pictures are compared by samples of bits: a crop is a view of its original, not the reverse."""
    originals = [creature(seed) for seed in range(16)]
    crops = [crop(0.1, 0.1, 0.1, 0.1)(image) for image in originals]
    measured = measured_of(tmp_path, [*crops, *originals] if is_first else [*originals, *crops])
    monkeypatch.setattr(hamming_search, "ALL_WITH_ALL", 0)
    pairs = find_duplicate_pairs(measured, 40)
    wanted, seen = {(seed, seed + 16) for seed in range(16)}, {(left, right) for left, right, *_ in pairs.tolist()}
    assert seen <= wanted
    assert len(seen) >= 14


def test_pictures_that_all_look_alike_take_little_memory() -> None:
    """Each picture of a view has a few proposals, however many resemble it."""
    random = np.random.default_rng(0)
    layout = np.linspace(0, 200, 32)[:, None] + np.linspace(0, 50, 32)
    thumbnails = (layout + random.normal(0, 12, (600, 32, 32))).clip(0, 255).astype(np.uint8)
    whole = low_frequencies(thumbnails, WHOLE)
    hashes = hash_low_frequencies(whole)
    pairs, correlation = view_search._propose_pairs(thumbnails, whole, hashes, np.arange(600), VIEWS[9])
    assert len(pairs) == len(correlation) <= view_search.PROPOSALS_OF_A_VIEW * 600


# ------------------------------------------------------------------------------------------------------- the views


def test_the_hash_of_a_view_is_that_of_the_picture_made_so(tmp_path: Path) -> None:
    image = creature(7).resize((300, 300), Image.Resampling.LANCZOS)
    for view in VIEWS:
        (a, b), (c, d) = view.matrix
        x, y = view.shift
        to_source = (a, b, 300 * (0.5 + x - 0.5 * (a + b)), c, d, 300 * (0.5 + y - 0.5 * (c + d)))
        made = image.transform((300, 300), Image.Transform.AFFINE, to_source, Image.Resampling.BICUBIC)
        made = ImageOps.invert(made) if view.is_inverted else made
        thumbnails = unpack_thumbnails(measured_of(tmp_path, [image, made], quality=95)["thumbnail"].to_list())
        seen, wanted = low_frequencies(thumbnails[:1], view), low_frequencies(thumbnails[1:], WHOLE)
        if not any(view.shift) and abs(a * d - b * c) == 1 and a in (0, 1, -1):  # else a part lies outside
            assert np.bitwise_count(hash_low_frequencies(seen) ^ hash_low_frequencies(wanted)).sum() <= 4, view
        assert register(thumbnails[:1], thumbnails[1:], view).scores[0] > 0.8, view  # shifted, an edge is black


def test_the_first_view_is_the_whole_picture_and_all_are_different() -> None:
    assert VIEWS[0] == WHOLE == View(is_symmetric=True, min_score=STRETCH_SCORE)
    assert len(set(VIEWS)) == len(VIEWS)


def test_registration_finds_small_moves_whatever_the_brightness(tmp_path: Path) -> None:
    image = creature(9).resize((400, 300), Image.Resampling.LANCZOS)
    moved = crop(0.04, 0.0, 0.01, 0.03)(image).point(lambda value: value // 2 + 60)
    thumbnails = unpack_thumbnails(measured_of(tmp_path, [image, moved, creature(10)])["thumbnail"].to_list())
    same, different = register(thumbnails[[0, 0]], thumbnails[[1, 2]], WHOLE).scores
    assert same > 0.95
    assert different < 0.7


def test_the_changes_of_many_registered_pairs_take_little_memory() -> None:
    moves = np.random.default_rng(0).normal(0, 0.05, (3000, 2, 3))
    warps, scores = np.eye(3)[None, :2] + moves, np.zeros(3000, np.float32)
    registration = Registration(warps, scores)
    assert measure_peak(lambda: registration.changes(WHOLE), enough=10e6) < 10e6
    changes = registration.changes(WHOLE)
    alone = [Registration(warps[[row]], scores[[row]]).changes(WHOLE) for row in range(100)]
    np.testing.assert_array_equal(changes[:100], np.concatenate(alone))
    assert Registration(warps[:0], scores[:0]).changes(WHOLE).shape == (0,)


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
    assert messages["near-duplicate"] == "Nearly the same as crab/0.png, mirrored, which is labelled crab."
    assert messages["label-conflict"] == (
        "Labelled fish, but nearly the same as crab/0.png, mirrored, which is labelled crab."
    )
