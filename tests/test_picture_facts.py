"""Pixels by Pillow's and numpy's own arithmetic, every fact about a file, images in memory, and messages in full."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bestiary import picture
from bestiary.decode_rules import FIRST_VERSION, DecodeRules
from bestiary.errors import PictureError
from bestiary.jpeg import MAX_SCANS
from bestiary.picture import (
    DecodeLimits,
    decode,
    load,
    message_with_filename,
    open_image,
    open_picture,
    read_bytes,
    resize_to_square,
    to_upright_rgb,
)
from test_depth import tiff
from test_picture import STORED, WIDTH, saved, scene, with_alpha, with_scans
from test_transparency import COLOURS, HALF, tga

BICUBIC = Image.Resampling.BICUBIC
DEEP = np.linspace(0, 65_535, 40 * 30).astype(np.uint16).reshape(30, 40)
FIRST = DecodeRules(FIRST_VERSION)
NOISE = np.random.default_rng(0).integers(0, 256, (61, 100, 3)).astype(np.uint8)


def opened_by_pillow(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def deep_colours(samples: np.ndarray) -> bytes:
    """A TIFF of 16 bits a sample, in RGB."""
    return tiff(samples, photometric=2)


def refused(source: Path | bytes, limits: DecodeLimits = picture.LIMITS) -> tuple[str, str]:
    with pytest.raises(PictureError) as caught:
        open_picture(source, limits=limits)
    return str(caught.value), caught.value.check


# --------------------------------------------------------------------------------------------------- model inputs


def test_squash_is_pillows_bicubic_resize() -> None:
    expected = Image.fromarray(NOISE).resize((48, 48), BICUBIC)
    assert np.array_equal(resize_to_square(NOISE, 48), np.asarray(expected))
    assert np.array_equal(resize_to_square(NOISE, 48, "squash"), np.asarray(expected))


@pytest.mark.parametrize("pixels", [NOISE, NOISE.transpose(1, 0, 2).copy()])
def test_crop_is_pillows_resize_of_the_middle_square(pixels: np.ndarray) -> None:
    box = (19.5, 0, 80.5, 61) if pixels.shape[1] == 100 else (0, 19.5, 61, 80.5)
    expected = Image.fromarray(pixels).resize((48, 48), BICUBIC, box=box)
    assert np.array_equal(resize_to_square(pixels, 48, "crop"), np.asarray(expected))


@pytest.mark.parametrize("pixels", [NOISE, NOISE.transpose(1, 0, 2).copy()])
def test_letterbox_is_the_scaled_picture_in_the_middle_of_grey(pixels: np.ndarray) -> None:
    """61 of 100 pixels are 29.28 of 48: 29, with 9 grey ones before and 10 after."""
    is_wide = pixels.shape[1] == 100
    expected = np.full((48, 48, 3), 128, np.uint8)
    scaled = np.asarray(Image.fromarray(pixels).resize((48, 29) if is_wide else (29, 48), BICUBIC))
    expected[(slice(9, 38), slice(None)) if is_wide else (slice(None), slice(9, 38))] = scaled
    assert np.array_equal(resize_to_square(pixels, 48, "letterbox"), expected)


@pytest.mark.parametrize("is_wide", [True, False])
def test_letterbox_keeps_one_pixel_of_a_line(is_wide: bool) -> None:
    line = np.zeros((1, 400, 3) if is_wide else (400, 1, 3), np.uint8)
    fitted = resize_to_square(line, 32, "letterbox")
    across = fitted if is_wide else fitted.transpose(1, 0, 2)
    assert np.flatnonzero((across == 0).all(axis=(1, 2))).tolist() == [15]
    assert (np.delete(across, 15, axis=0) == 128).all()


def test_a_model_input_is_squashed_unless_told_otherwise() -> None:
    content = saved(Image.fromarray(NOISE), "PNG")
    assert np.array_equal(load(content, 48), resize_to_square(NOISE, 48, "squash"))
    assert np.array_equal(load(content, 48, "crop"), resize_to_square(NOISE, 48, "crop"))
    assert load(content, 48).dtype == np.uint8


def test_a_large_jpeg_is_reduced_for_a_model_and_a_small_one_is_not() -> None:
    """1,700 pixels halved are 850, more than five times 160; the first version halved as often as 160 pixels allow."""
    content = saved(Image.linear_gradient("L").resize((1700, 1700)), "JPEG")
    assert open_picture(content, input_size=160).image.size == (850, 850)
    assert open_picture(content, input_size=160, rules=FIRST).image.size == (213, 213)
    assert open_picture(content, input_size=64).image.size == (1700, 1700)
    reduced = open_picture(content, input_size=160).image.resize((160, 160), BICUBIC)
    assert np.array_equal(load(content, 160), np.asarray(reduced))
    first = open_picture(content, input_size=160, rules=FIRST).image.resize((160, 160), BICUBIC)
    assert np.array_equal(load(content, 160, rules=FIRST), np.asarray(first))
    assert decode(content, at_least=160).shape == (213, 213, 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_function_chooses_the_side_from_the_upright_size_and_the_orientation(orientation: int) -> None:
    exif, asked = Image.Exif(), list[tuple[int, int, int]]()
    exif[0x0112] = orientation
    stored = scene(320, 240) if orientation == 1 else scene(320, 240).transpose(Image.Transpose.ROTATE_90)

    def choose(width: int, height: int, turned_from: int) -> int:
        asked.append((width, height, turned_from))
        return 60

    opened = open_picture(saved(stored, "JPEG", exif=exif), at_least=choose)
    assert asked == [(320, 240, orientation)]
    assert (opened.width, opened.height, opened.image.size) == (320, 240, (80, 60))


def test_the_picture_of_a_phone_is_reduced_as_a_jpeg_is() -> None:
    content = saved(scene(320, 240), "MPO", save_all=True, append_images=[scene(320, 240)])
    assert open_image(content).format == "MPO"
    opened = open_picture(content, at_least=60)
    assert (opened.format, opened.frames, opened.image.size) == ("MPO", 1, (80, 60))


# ---------------------------------------------------------------------------------------------- facts about a file


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_an_ordinary_picture_has_no_unusual_facts(form: str) -> None:
    opened = open_picture(saved(scene(), form))
    assert (opened.format, opened.frames, opened.orientation) == (form, 1, 1)
    assert opened.mode == ("P" if form == "GIF" else "RGB")
    assert (opened.width, opened.height, opened.image.size, opened.image.mode) == (120, 80, (120, 80), "RGB")
    assert (opened.has_alpha, opened.whitened, opened.unmeant_alpha) == (False, 0.0, "")
    assert (opened.profile, opened.profile_problem, opened.depth) == ("", "", None)


@pytest.mark.parametrize("rules", [DecodeRules(), FIRST])
def test_the_fraction_that_white_replaces(rules: DecodeRules) -> None:
    opened = open_picture(saved(with_alpha("RGBA"), "PNG"), rules=rules)
    assert opened.has_alpha
    assert opened.whitened == (0.0 if rules == FIRST else 0.5)  # the right half; the first version did not measure it
    assert not open_picture(saved(scene(), "PNG"), rules=rules).has_alpha


def test_the_exif_block_is_handed_on() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 3
    for form in ("JPEG", "PNG", "TIFF"):
        read = open_picture(saved(scene(), form, exif=exif)).exif
        assert read is not None
        assert read[0x010F] == "Maker"


def test_of_a_tiff_the_first_page_is_taken() -> None:
    pages = [Image.new("RGB", (9, 7), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    opened = open_picture(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert opened.frames == 3
    assert np.asarray(opened.image)[0, 0].tolist() == [255, 0, 0]


def test_a_deep_picture_of_the_first_rules_is_scaled_as_it_was() -> None:
    content = saved(Image.fromarray(DEEP), "PNG")
    pixels = decode(content, rules=FIRST)
    assert np.array_equal(pixels[..., 0], np.rint(DEEP / 257).astype(np.uint8))
    assert open_picture(content, rules=FIRST).depth is None
    assert open_picture(content).depth is not None


# ------------------------------------------------------------------------------------------------ images in memory


@pytest.mark.parametrize("orientation", STORED)
def test_an_image_in_memory_is_turned_upright_and_not_changed(orientation: int) -> None:
    turn = STORED[orientation]
    image = scene() if turn is None else scene().transpose(turn)
    image.getexif()[0x0112] = orientation
    before = image.copy()
    assert np.array_equal(to_upright_rgb(image), np.asarray(scene()))
    assert image == before


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(deep_colours(np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1]])), id="TIFF of 16 bits in colour"),
        pytest.param(saved(Image.fromarray(DEEP), "PNG"), id="PNG of 16 bits in grey"),
        pytest.param(tga(HALF, 0), id="TGA with undefined alpha"),
        pytest.param(saved(scene(), "JPEG"), id="JPEG"),
    ],
)
def test_an_opened_file_gives_the_pixels_of_its_bytes(content: bytes) -> None:
    """What Pillow decodes alone has only the high bytes of colours, and cannot tell which alpha is meant."""
    image = opened_by_pillow(content)
    assert np.array_equal(to_upright_rgb(image), decode(content))
    assert np.array_equal(np.asarray(image), np.asarray(opened_by_pillow(content)))


def test_an_image_that_is_loaded_already_is_taken_as_it_is() -> None:
    image = opened_by_pillow(tga(HALF, 0))
    image.load()
    pixels = to_upright_rgb(image)
    assert (pixels[: len(HALF) // 2] == 255).all()  # the alpha that the file does not mean, and the pixels have
    assert np.array_equal(pixels[len(HALF) // 2 :], COLOURS[len(HALF) // 2 :])


def test_a_later_page_in_memory_is_that_page() -> None:
    pages = [Image.new("RGB", (9, 7), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    image = opened_by_pillow(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    image.seek(1)
    assert to_upright_rgb(image)[0, 0].tolist() == [0, 255, 0]


def test_rules_and_limits_hold_for_images_in_memory() -> None:
    image = Image.fromarray(DEEP)
    assert np.array_equal(to_upright_rgb(image, rules=FIRST)[..., 0], np.rint(DEEP / 257).astype(np.uint8))
    scaled = np.rint(np.minimum(DEEP / 10_000, 1) * 255).astype(np.uint8)
    for sample_type in ("uint16", "int32"):  # the only range of integers holds for those in memory, whatever their type
        ranged = DecodeRules(deep_ranges=((sample_type, 0.0, 10_000.0),))
        assert np.array_equal(to_upright_rgb(image, rules=ranged)[..., 0], scaled)
        from_file = decode(saved(image, "PNG"), rules=ranged)[..., 0]
        assert np.array_equal(from_file, scaled if sample_type == "uint16" else decode(saved(image, "PNG"))[..., 0])
    with pytest.raises(PictureError) as caught:
        to_upright_rgb(image, DecodeLimits(max_pixels=1199))
    assert str(caught.value) == (
        "the image has 40 x 30 pixels; at most 1,199 in all are decoded (picture.max_pixels;"
        " for predict: --max-pixels)."
    )
    assert caught.value.check == "huge"
    assert to_upright_rgb(image, DecodeLimits(max_pixels=1200)).shape == (30, 40, 3)


def test_a_closed_image_and_one_without_pixels_are_refused() -> None:
    closed = opened_by_pillow(saved(scene(), "BMP"))
    closed.close()
    with pytest.raises(PictureError, match=r"^the image cannot be decoded: .+\.$") as caught:
        to_upright_rgb(closed)
    assert caught.value.check == "unreadable"
    with pytest.raises(PictureError) as empty:
        to_upright_rgb(Image.new("RGB", (0, 5)))
    assert (str(empty.value), empty.value.check) == (
        "the image has 0 x 5 pixels; a picture has at least 1 x 1.",
        "unreadable",
    )


# ----------------------------------------------------------------------------------------------- messages in full


def test_the_limit_on_bytes_is_the_last_that_is_read(tmp_path: Path) -> None:
    content, path = saved(scene(), "PNG"), tmp_path / "a.png"
    path.write_bytes(content)
    exactly, less = DecodeLimits(max_bytes=len(content)), DecodeLimits(max_bytes=len(content) - 1)
    message = f"{{}} has {len(content):,} bytes; at most {len(content) - 1:,} are read (picture.max_bytes)."
    for source, name in ((content, "the file"), (path, str(path))):
        assert read_bytes(source, exactly) == content
        assert open_picture(source, limits=exactly).width == WIDTH
        assert refused(source, less) == (message.format(name), "huge")
        with pytest.raises(PictureError, match="bytes; at most"):
            decode(source, limits=less)
        with pytest.raises(PictureError, match="bytes; at most"):
            load(source, 16, limits=less)


def test_messages_about_files_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "note.jpg").write_text("A note about a picture.\n")
    messages = {
        "folder": "{} is a folder, not a picture.",
        "pipe.jpg": "{} is neither a file nor a link to one.",
        "missing.jpg": "There is no file {}.",
        "empty.jpg": "{} is empty.",
        "note.jpg": "{} is not a picture: it looks like text.",
    }
    for name, message in messages.items():
        assert refused(tmp_path / name) == (message.format(tmp_path / name), "unreadable")
    assert refused(b"") == ("the file is empty.", "unreadable")
    assert refused(b"A note about a picture.\n") == ("the file is not a picture: it looks like text.", "unreadable")
    for error, reason in {
        PermissionError(13, "Permission denied"): "Permission denied",
        OSError("the network is gone"): "the network is gone",
    }.items():

        def fail(_: Path, error: OSError = error) -> bytes:
            raise error

        monkeypatch.setattr(Path, "read_bytes", fail)
        assert refused(tmp_path / "note.jpg") == (f"{tmp_path / 'note.jpg'} cannot be read: {reason}.", "unreadable")


@pytest.mark.parametrize(
    ("error", "message", "check"),
    [
        (OSError("broken\n  data"), "broken data", "unreadable"),
        (OSError("image file is truncated (3 bytes not processed)"), None, "truncated"),
        (struct.error("unpack requires 4 bytes"), "unpack requires 4 bytes", None),
        (KeyError("tile"), "KeyError: 'tile'", "unreadable"),
        (RuntimeError("no such codec"), "RuntimeError: no such codec", "unreadable"),
    ],
)
def test_any_error_of_a_decoder_is_an_error_about_the_picture(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str | None, check: str | None
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(picture, "convert_to_srgb", fail)
    told, named = refused(saved(scene(), "PNG"))
    assert told == f"the file cannot be decoded: {message or error}."
    assert named == (check or named)
    assert named in {"unreadable", "truncated"}


def test_a_picture_beyond_the_limit_of_pillow_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    message, check = refused(saved(scene(), "PNG"))
    assert message.startswith("the file is too large: Image size (9600 pixels) exceeds limit of 2000 pixels")
    assert check == "huge"


def mpo_of_many_scans() -> bytes:
    content = saved(scene(), "MPO", save_all=True, append_images=[scene()], progressive=True)
    second = content.index(b"\xff\xd8\xff", 3)
    return with_scans(content[:second], MAX_SCANS) + content[second:]


def test_the_message_about_scans_in_full() -> None:
    message = f"the file has more than {MAX_SCANS} scans, which take too long to decode."
    content = mpo_of_many_scans()
    assert open_image(content).format == "MPO"
    for jpeg in (content, with_scans(saved(scene(), "JPEG", progressive=True), MAX_SCANS)):
        assert refused(jpeg) == (message, "huge")
    noise = saved(Image.fromarray(NOISE), "PNG") + b"\xff\xda\0\2" * 2 * MAX_SCANS
    assert open_picture(noise).width == 100  # only a JPEG has scans


def test_a_jpeg_may_have_ten_times_the_limit_in_full_and_the_limit_at_its_scale() -> None:
    content = saved(scene(400, 300), "JPEG")
    assert open_picture(content, at_least=75, limits=DecodeLimits(max_pixels=12_000)).image.size == (100, 75)
    with pytest.raises(PictureError, match="400 x 300 pixels; at most 11,999 in all"):
        open_picture(content, at_least=75, limits=DecodeLimits(max_pixels=11_999))
    assert open_picture(content, at_least=150, limits=DecodeLimits(max_pixels=30_000)).image.size == (200, 150)
    with pytest.raises(PictureError, match="400 x 300 pixels; at most 29,999 in all"):
        open_picture(content, at_least=150, limits=DecodeLimits(max_pixels=29_999))


def test_a_jpeg_of_two_scans_is_not_decoded_at_a_reduced_scale() -> None:
    limits = DecodeLimits(max_pixels=12_000)
    grey = saved(scene(400, 300).convert("L"), "JPEG")
    assert open_picture(grey, at_least=75, limits=limits).image.size == (100, 75)
    with pytest.raises(PictureError) as caught:
        open_picture(with_scans(grey, 1), at_least=75, limits=limits)
    assert str(caught.value) == (
        "the file has 400 x 300 pixels; at most 12,000 in all are decoded (picture.max_pixels;"
        " for predict: --max-pixels). Its pixels are stored in several passes, so that it cannot be decoded at a"
        " reduced scale."
    )
    assert caught.value.check == "huge"
    message, check = refused(saved(scene(400, 300), "PNG"), limits)
    assert (message, check) == (str(caught.value).partition(" Its pixels")[0], "huge")


def test_a_message_names_its_file_once() -> None:
    error = PictureError("the file is not the file that was named.", check="unreadable")
    assert message_with_filename(error, "a.jpg") == "a.jpg is not the file that was named."
    assert message_with_filename(error, "named") == "the file is not the file that was named."
