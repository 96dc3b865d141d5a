"""Pictures decoded ahead: in order, a bounded number at a time, and with the unreadable ones in their place."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bestiary import preprocess
from bestiary.array_types import Pixels
from bestiary.batches.decoding import DecodedImage, decode_ahead, iter_batches
from bestiary.batches.pixel_cache import fill_pixel_cache, iter_pixel_batches, pixel_cache
from bestiary.decode_rules import FIRST_VERSION, DecodeRules
from bestiary.errors import PictureError, SourceError
from bestiary.picture import DecodeLimits, load, resize_to_square
from bestiary.preprocess import Preprocessing, Source, VerifiedFile
from bestiary.progress import SilentReporter

VIEW = Preprocessing(16)


def picture(number: int) -> bytes:
    """A PNG whose colour tells its number."""
    stream = io.BytesIO()
    Image.new("RGB", (20, 12), (number % 256, number // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def number_of(pixels: Pixels) -> int:
    return int(pixels[8, 8, 0]) + 256 * int(pixels[8, 8, 1])


def saved(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number))
    return paths


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 3), (8, 64)])
def test_pictures_come_in_the_order_of_their_sources(threads: int, ahead: int) -> None:
    found = list(decode_ahead([picture(number) for number in range(150)], VIEW, threads=threads, ahead=ahead))
    assert [item.position for item in found] == list(range(150))
    assert [number_of(item.pixels) for item in found if item.pixels is not None] == list(range(150))


def test_a_slow_picture_does_not_lose_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_at_first(source: bytes, *args: object, **limits: DecodeLimits) -> Pixels:
        time.sleep(0.1 if source == picture(0) else 0)
        return load(source, 16)

    monkeypatch.setattr(preprocess, "load", slow_at_first)
    found = list(decode_ahead([picture(number) for number in range(10)], VIEW, threads=4))
    assert [number_of(item.pixels) for item in found if item.pixels is not None] == list(range(10))


@pytest.mark.parametrize("bad", [{0}, {4}, {9}, {0, 1, 2}, set(range(10))])
def test_unreadable_sources_come_back_with_their_reason(bad: set[int], tmp_path: Path) -> None:
    paths = saved(tmp_path, 10)
    for number in bad:
        paths[number].write_text("no picture")
    found = list(decode_ahead(paths, VIEW, threads=3, ahead=4))
    assert [item.position for item in found] == list(range(10))
    assert {item.position for item in found if item.pixels is None} == bad
    for item in found:
        assert (item.error is None) == (item.pixels is not None)
        if item.error is not None:
            assert str(paths[item.position]) in str(item.error)


def test_sources_are_taken_only_as_they_are_needed() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield picture(taken)

    stream = decode_ahead(endless(), VIEW, threads=2, ahead=5)
    assert taken == 0
    for seen in range(1, 21):
        next(stream)
        assert taken <= seen + 5
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_that_is_left_early_ends_its_threads() -> None:
    stream = decode_ahead([picture(number) for number in range(100)], VIEW, threads=3)
    next(stream)
    assert _decoders() > 0
    stream.close()  # type: ignore[attr-defined]
    assert _decoders() == 0


def test_an_error_of_the_source_itself_is_not_swallowed() -> None:
    def breaks() -> Iterator[bytes]:
        yield picture(0)
        raise RuntimeError("the camera was unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        list(decode_ahead(breaks(), VIEW, threads=2))


def test_no_sources_give_nothing() -> None:
    assert list(decode_ahead([], VIEW, threads=2)) == []


def test_an_array_of_the_right_shape_is_taken_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(VIEW.load_pixels(pixels), pixels)


def test_an_array_of_another_shape_is_fitted_as_a_file_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(VIEW.load_pixels(pixels), resize_to_square(pixels, VIEW.size, VIEW.fit))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((16, 16), np.uint8),
        np.zeros((3, 16, 16), np.uint8),
        np.zeros((16, 0, 3), np.uint8),
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((16, 16, 3), np.float32),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(PictureError, match=r"expected uint8 \(height, width, 3\)") as told:
        VIEW.load_pixels(array)
    assert str(array.shape) in str(told.value)
    assert str(array.dtype) in str(told.value)


@pytest.mark.parametrize("size", [64, 96, 160])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_path_bytes_image_and_array_are_the_same_pixels(size: int, form: str, tmp_path: Path) -> None:
    """With fine texture, which reduced scales of a JPEG change."""
    noise = np.random.default_rng(0).normal(0, 45, (430, 610, 1)) + np.random.default_rng(1).uniform(60, 200, 3)
    path = tmp_path / "texture"
    Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(path, form, quality=92)
    preprocess = Preprocessing(size)
    expected = preprocess.load_pixels(path)
    opened, loaded, converted = (Image.open(path) for _ in range(3))
    loaded.load()
    sources: list[Source] = [
        path.read_bytes(),
        opened,
        loaded,
        converted.convert("RGB"),
        loaded.copy(),
        np.asarray(loaded),
    ]
    assert all(np.array_equal(preprocess.load_pixels(source), expected) for source in sources)
    first = Preprocessing(size, rules=DecodeRules(FIRST_VERSION)).load_pixels(path)
    assert np.array_equal(first, expected) == (form != "JPEG")


def test_an_image_is_not_changed_by_decoding_it(tmp_path: Path) -> None:
    Image.new("RGB", (700, 500), (9, 9, 9)).save(tmp_path / "x.jpg")
    Image.new("RGBA", (700, 500), (9, 9, 9, 0)).save(tmp_path / "x.png")
    for path in (tmp_path / "x.jpg", tmp_path / "x.png"):
        image = Image.open(path)
        mode, before = image.mode, np.asarray(Image.open(path))
        Preprocessing(32).load_pixels(image)
        assert (image.size, image.mode) == ((700, 500), mode)
        assert np.array_equal(np.asarray(image), before)


def test_limits_are_those_of_the_view() -> None:
    with pytest.raises(PictureError, match="max_pixels"):
        Preprocessing(16, limits=DecodeLimits(max_pixels=100)).load_pixels(picture(0))
    with pytest.raises(PictureError, match="max_bytes"):
        Preprocessing(16, limits=DecodeLimits(max_bytes=10)).load_pixels(picture(0))


@pytest.mark.parametrize(("count", "lengths"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_batches_have_the_last_partial_one(count: int, lengths: list[int]) -> None:
    items = [DecodedImage(position, None, None) for position in range(count)]
    batches = list(iter_batches(items, 4))
    assert [len(batch) for batch in batches] == lengths
    assert [item.position for batch in batches for item in batch] == list(range(count))


def test_pixel_batches_have_every_picture_once(tmp_path: Path) -> None:
    batches = list(iter_pixel_batches(saved(tmp_path, 10), VIEW, threads=2, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [number_of(pixels) for batch in batches for pixels in batch] == list(range(10))
    assert {batch.dtype for batch in batches} == {np.dtype(np.uint8)}


def test_a_picture_that_vanished_stops_the_run_with_its_name(tmp_path: Path) -> None:
    paths = saved(tmp_path, 3)
    paths[1].unlink()
    with pytest.raises(SourceError, match=r"001\.png.*do not change the pictures"):
        list(iter_pixel_batches(paths, VIEW, threads=1))


def test_the_pixel_cache_decodes_each_content_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, store = saved(tmp_path, 5), pixel_cache(tmp_path / "cache", VIEW)
    paths[2].write_bytes(paths[0].read_bytes())
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    fill_pixel_cache(store, paths, keys, VIEW, threads=2, reporter=SilentReporter())
    assert [number_of(pixels) for pixels in store.read(keys)] == [0, 1, 0, 3, 4]

    monkeypatch.setattr(preprocess, "load", lambda *_, **__: pytest.fail("decoded again"))
    again = pixel_cache(tmp_path / "cache", VIEW)
    fill_pixel_cache(again, paths, keys, VIEW, threads=2, reporter=SilentReporter())
    np.testing.assert_array_equal(again.read(keys), store.read(keys))


def test_a_file_that_changed_after_it_was_measured_stops_the_run_and_is_not_cached(tmp_path: Path) -> None:
    paths, store = saved(tmp_path, 40), pixel_cache(tmp_path / "cache", VIEW)
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    paths[35].write_bytes(picture(99))
    with pytest.raises(SourceError, match=r"035\.png was changed after it was measured"):
        fill_pixel_cache(store, paths, keys, VIEW, threads=2, reporter=SilentReporter())
    assert keys[35] not in pixel_cache(tmp_path / "cache", VIEW)
    assert number_of(pixel_cache(tmp_path / "cache", VIEW).read(keys[:1])[0]) == 0  # what was decoded before is kept


def test_a_pinned_file_that_is_broken_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no picture")
    pinned = VerifiedFile(path, hashlib.sha256(b"no picture").hexdigest())
    with pytest.raises(PictureError, match=r"broken\.jpg is not a picture"):
        VIEW.load_pixels(pinned)
    path.unlink()
    with pytest.raises(PictureError, match=r"broken\.jpg"):
        VIEW.load_pixels(pinned)


def test_the_pixel_cache_keeps_ways_of_looking_apart(tmp_path: Path) -> None:
    views = [Preprocessing(16), Preprocessing(32), Preprocessing(16, "crop"), Preprocessing(16, "letterbox")]
    assert len({pixel_cache(tmp_path, view).folder for view in views}) == len(views)


def _decoders() -> int:
    return sum(thread.name.startswith("bestiary-decode") for thread in threading.enumerate())
