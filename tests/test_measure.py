import hashlib
import io
import math
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from bestiary.data.measure import ImageMeasurements, measure_file, perceptual_hash
from bestiary.demo.dataset import SyntheticDataset, draw_creature
from bestiary.picture import LIMITS, DecodeLimits, open_picture


def creature(seed: int) -> Image.Image:
    return draw_creature("crab", np.random.default_rng(seed))


def written(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def inspected(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> ImageMeasurements:
    return measure_file(written(folder, image, name, **options), LIMITS)


def bits_apart(one: ImageMeasurements, other: ImageMeasurements) -> int:
    return (int(one.phash, 16) ^ int(other.phash, 16)).bit_count()


# ------------------------------------------------------------------------------------------------------- the hash


def test_the_hash_is_that_of_imagehash_bit_for_bit(collection: SyntheticDataset) -> None:
    for path in sorted(collection.kinds)[:40]:
        image = open_picture(path).image
        reference = imagehash.phash(image, hash_size=16).hash.ravel()
        np.testing.assert_array_equal(perceptual_hash(image), reference)
        if max(image.size) < 256:  # not decoded at a smaller scale: the file's hash is the picture's
            assert measure_file(path, LIMITS).phash == np.packbits(reference).tobytes().hex()


@pytest.mark.parametrize("size", [(1, 300), (300, 2), (64, 64), (65, 63), (31, 200)])
def test_the_hash_is_that_of_imagehash_for_every_shape(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    np.testing.assert_array_equal(perceptual_hash(image), imagehash.phash(image, hash_size=16).hash.ravel())


@pytest.mark.real
def test_the_hash_is_that_of_imagehash_on_photographs(animals10: Path) -> None:
    for path in sorted(animals10.glob("*/*"))[::300]:
        image = open_picture(path).image
        np.testing.assert_array_equal(perceptual_hash(image), imagehash.phash(image, hash_size=16).hash.ravel())


def test_the_hash_hardly_changes_when_a_picture_is_stored_anew_and_much_for_another_picture(tmp_path: Path) -> None:
    apart, others = [], []
    for seed in range(8):
        image = creature(seed)
        one = inspected(tmp_path, image)
        smaller = image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS)
        brighter = ImageEnhance.Brightness(image).enhance(1.1)
        apart.append(bits_apart(one, inspected(tmp_path, image, "a.jpg", quality=60)))
        apart.append(bits_apart(one, inspected(tmp_path, smaller)))
        apart.append(bits_apart(one, inspected(tmp_path, brighter)))
        others.append(bits_apart(one, inspected(tmp_path, creature(seed + 100))))
    assert max(apart) <= 40 < min(others)
    assert np.mean(others) > 90


def test_a_photograph_decoded_small_keeps_its_hash(tmp_path: Path) -> None:
    large = creature(3).resize((1500, 1100), Image.Resampling.LANCZOS)
    found = inspected(tmp_path, large, "a.jpg", quality=95)
    whole = np.packbits(perceptual_hash(open_picture(tmp_path / "a.jpg").image)).tobytes().hex()
    assert (int(found.phash, 16) ^ int(whole, 16)).bit_count() <= 8
    assert (found.width, found.height) == (1500, 1100)


# ----------------------------------------------------------------------------------------------- the measurements


def test_facts_about_the_file_are_those_of_the_file(tmp_path: Path) -> None:
    image = creature(0)
    path = written(tmp_path, image, "b.jpg")
    found, stat = measure_file(path, LIMITS), path.stat()
    assert found.path == str(path)
    assert (found.bytes, found.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.width, found.height, found.format) == (*image.size, "JPEG")
    assert (found.frames, found.orientation, found.has_alpha) == (1, 1, False)
    assert (found.check, found.error) == (None, None)


def test_brightness_contrast_and_colour_of_plain_pictures(tmp_path: Path) -> None:
    black = inspected(tmp_path, Image.new("RGB", (50, 50)))
    white = inspected(tmp_path, Image.new("RGB", (50, 50), "white"))
    red = inspected(tmp_path, Image.new("RGB", (50, 50), "red"))
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    both = inspected(tmp_path, Image.fromarray(halves))
    assert (black.luma, white.luma, both.luma) == pytest.approx((0, 1, 0.5), abs=0.01)
    assert (black.contrast, white.contrast, both.contrast) == (0, 0, 1)
    assert (black.entropy, both.entropy) == pytest.approx((0, 1), abs=0.01)
    assert (black.saturation, white.saturation, red.saturation) == (0, 0, 1)
    assert black.sharpness == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (97, 41), (128, 128), (300, 200)])
def test_levels_are_summarised_as_numpy_does(tmp_path: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(size[0]).normal(120, 60, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
    measured = inspected(tmp_path, Image.fromarray(noise))
    small = Image.fromarray(noise)
    small.thumbnail((128, 128), Image.Resampling.BILINEAR)
    low, high = np.percentile(np.asarray(small.convert("L")) / 255, (5, 95))
    assert measured.contrast == pytest.approx(high - low, abs=1e-9)
    means = np.asarray(small).reshape(-1, 3).mean(axis=0) / 255
    assert [measured.red, measured.green, measured.blue] == means.tolist()
    assert measured.saturation == np.asarray(small.convert("HSV"))[..., 1].mean() / 255


def test_noise_has_all_eight_bits_and_a_blurred_picture_is_less_sharp(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8))
    assert inspected(tmp_path, noise).entropy == pytest.approx(8, abs=0.05)
    image = creature(5)
    sharpness = [inspected(tmp_path, image.filter(ImageFilter.GaussianBlur(radius))).sharpness for radius in (0, 2, 6)]
    assert sharpness[0] > 3 * sharpness[1] > 9 * sharpness[2]
    rest = inspected(tmp_path, ImageEnhance.Brightness(image).enhance(0.5)).sharpness
    assert rest == pytest.approx(sharpness[0], rel=0.1)  # brightness is no sharpness


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (4000, 1)])
def test_the_smallest_and_longest_pictures_are_measured(tmp_path: Path, size: tuple[int, int]) -> None:
    found = inspected(tmp_path, Image.new("RGB", size, (90, 10, 200)))
    assert found.error is None
    assert (found.width, found.height, len(found.phash)) == (*size, 64)
    assert all(math.isfinite(value) for value in (found.luma, found.contrast, found.entropy, found.sharpness))


# ------------------------------------------------------------------------------------------- what cannot be used


def test_what_cannot_be_used_comes_back_with_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "my picture folder"
    folder.mkdir()
    whole = written(folder, creature(1), "whole picture.jpg").read_bytes()
    contents = {"empty": b"", "text": b"a note about a picture", "cut": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (folder / f"{name} picture.jpg").write_bytes(content)
    (folder / "folder picture.jpg").mkdir()
    (folder / "dangling picture.jpg").symlink_to("nowhere")
    checks = {"empty": "unreadable", "text": "unreadable", "cut": "truncated", "folder": "unreadable"}
    for name, check in {**checks, "missing": "unreadable", "dangling": "unreadable"}.items():
        path = folder / f"{name} picture.jpg"
        found = measure_file(path, LIMITS)
        assert found.check == check, name
        assert found.error is not None
        assert found.error.count(str(path)) == 1, found.error
        assert found.phash == ""
    cut = measure_file(folder / "cut picture.jpg", LIMITS)
    assert cut.sha256 == hashlib.sha256(contents["cut"]).hexdigest()
    assert cut.bytes == len(contents["cut"])


def test_limits_are_kept_and_named(tmp_path: Path) -> None:
    path = written(tmp_path, creature(1))
    for limits, setting in (
        (DecodeLimits(max_bytes=99), "picture.max_bytes"),
        (DecodeLimits(max_pixels=99), "picture.max_pixels"),
    ):
        found = measure_file(path, limits)
        assert found.check == "huge"
        assert found.error is not None
        assert str(path) in found.error
        assert setting in found.error


def test_a_jpeg_beyond_the_limit_of_pillow_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = creature(1).resize((600, 400))
    path = written(tmp_path, picture, "large.jpg", quality=90, subsampling=2)
    content = path.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    expected, cut = measure_file(path, LIMITS), measure_file(tmp_path / "cut.jpg", LIMITS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert measure_file(path, LIMITS) == expected
    assert (expected.error, expected.subsampling, expected.quantisation > 0) == (None, 2, True)
    assert measure_file(tmp_path / "cut.jpg", LIMITS) == cut
    assert cut.missing is not None


@given(form=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]), place=st.floats(0, 0.999), kept=st.floats(0, 1))
def test_no_damage_is_ever_an_exception(
    tmp_path_factory: pytest.TempPathFactory, form: str, place: float, kept: float
) -> None:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(stream, form)
    content = bytearray(stream.getvalue())
    content[int(place * len(content))] ^= 0x5A
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: int(kept * len(content))])
    found = measure_file(path, DecodeLimits(max_pixels=100_000))
    assert (found.error is None) == (found.check is None) == (found.phash != "")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF"])
def test_of_a_truncated_file_is_told_how_much_is_missing(tmp_path: Path, form: str) -> None:
    noise = np.random.default_rng(0).integers(1, 256, (128, 96, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, form)
    path = tmp_path / "half"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    found = measure_file(path, LIMITS)
    assert found.check == "truncated"
    assert found.missing == pytest.approx(0.5, abs=0.15)  # what waits in the decoder's buffer is not shown either
    assert f"About {100 * (found.missing or 0):.0f} % of the picture is missing." in (found.error or "")


def test_a_dark_upper_edge_is_not_taken_for_what_is_missing_below(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 256, (128, 96, 3), dtype=np.uint8)
    noise[:90] = 0
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "JPEG")
    path = tmp_path / "most"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 3 // 4])
    assert measure_file(path, LIMITS).missing == pytest.approx(0.1, abs=0.08)


def test_where_a_picture_is_stored_in_passes_nothing_is_claimed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 256, (128, 96, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "JPEG", progressive=True)
    path = tmp_path / "half"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    found = measure_file(path, LIMITS)
    assert (found.check, found.missing) == ("truncated", None)
    assert "missing" not in (found.error or "")
