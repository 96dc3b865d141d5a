import io
import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bestiary.array_types import Pixels
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import PictureError
from bestiary.jpeg import MAX_SCANS, reduced_side
from bestiary.picture import (
    LIMITS,
    MAX_PAGES,
    DecodeLimits,
    decode,
    load,
    message_with_filename,
    open_picture,
    read_bytes,
    resize_to_square,
    to_upright_rgb,
)

WIDTH, HEIGHT = 120, 80


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A smooth picture that looks different from every side: red to the right, green downwards, a blue corner."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    blue = ((x < 0.3) & (y < 0.4)).astype(np.float64)
    return Image.fromarray(np.rint(np.stack([x, y, blue], axis=2) * 255).astype(np.uint8))


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def difference(one: Pixels, other: Pixels) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(np.float64) - other).mean())


# What a camera stores for each EXIF orientation: the upright picture, undone by the opposite turn.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_gives_the_same_upright_picture(form: str, orientation: int) -> None:
    turn, exif = STORED[orientation], Image.Exif()
    stored = scene() if turn is None else scene().transpose(turn)
    exif[0x0112] = orientation
    opened = open_picture(saved(stored, form, exif=exif), at_least=32)
    assert (opened.width, opened.height, opened.orientation) == (WIDTH, HEIGHT, orientation)
    assert difference(resize_to_square(np.asarray(opened.image), 64), resize_to_square(np.asarray(scene()), 64)) < 6


@pytest.mark.parametrize("value", [0, 9, 6000])
def test_an_orientation_that_does_not_exist_changes_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    opened = open_picture(saved(scene(), "PNG", exif=exif))
    assert opened.orientation == 1
    assert difference(np.asarray(opened.image), np.asarray(scene())) == 0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    content = saved(scene(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert open_picture(content).orientation == 1


def with_alpha(mode: str) -> Image.Image:
    """The left half opaque, the right half fully transparent over black."""
    image = scene().convert("L" if mode == "LA" else "RGB")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (WIDTH // 2, 0, WIDTH, HEIGHT))
    black = Image.new(image.mode, image.size)
    image.paste(black, (WIDTH // 2, 0))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")])
def test_transparency_is_laid_on_white(mode: str, form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    opened = open_picture(saved(with_alpha(mode), form, **options))
    pixels = np.asarray(opened.image)
    assert opened.has_alpha
    assert pixels[:, WIDTH // 2 :].min() == 255
    expected = np.asarray(scene().convert(mode).convert("RGB"))
    assert difference(pixels[:, : WIDTH // 2], expected[:, : WIDTH // 2]) == 0


def test_half_transparent_is_half_white() -> None:
    assert decode(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))[0, 0].tolist() == [127, 127, 127]


def test_a_palette_is_looked_up_with_and_without_transparency() -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 0, 255, 7, 7, 7])
    image.paste(1, (2, 0, 4, 2))
    assert decode(saved(image, "PNG"))[0].tolist() == [[255, 0, 0]] * 2 + [[0, 0, 255]] * 2
    opened = open_picture(saved(image, "PNG", transparency=1))
    assert opened.has_alpha
    assert np.asarray(opened.image)[0].tolist() == [[255, 0, 0]] * 2 + [[255, 255, 255]] * 2
    partly = decode(saved(image, "PNG", transparency=bytes([255, 128])))
    assert partly[0, 3].tolist() == [127, 127, 255]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(form: str) -> None:
    content = saved(scene().convert("CMYK"), form)
    assert open_picture(content).mode == "CMYK"
    assert difference(decode(content), np.asarray(scene())) < 6


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    expected = np.arange(256)[None, :, None].repeat(4, axis=0).repeat(3, axis=2)
    for content in (saved(Image.fromarray(ramp), "PNG"), saved(Image.fromarray(ramp), "TIFF")):
        assert open_picture(content).mode == "I;16"
        assert difference(decode(content), expected.astype(np.uint8)) < 0.01


def big_endian_tiff(values: np.ndarray) -> bytes:
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 0), (277, 1), (278, height)]
    tags.append((279, values.size * 2))
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    header = struct.pack(">2sHIH", b"MM", 42, 8, len(tags))
    return header + entries + struct.pack(">I", 0) + values.astype(">u2").tobytes()


def test_16_bit_grey_of_either_byte_order_is_the_same() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(4, axis=0)
    assert difference(decode(big_endian_tiff(ramp)), decode(saved(Image.fromarray(ramp), "TIFF"))) == 0


def test_1_bit_is_black_and_white() -> None:
    image = Image.new("1", (4, 1))
    image.putpixel((2, 0), 1)
    assert decode(saved(image, "PNG"))[0].tolist() == [[0] * 3, [0] * 3, [255] * 3, [0] * 3]


@pytest.mark.parametrize(("top", "expected"), [(1.0, [0, 64, 128, 255]), (255.0, [0, 64, 128, 255])])
def test_floating_point_of_either_range_is_scaled(top: float, expected: list[int]) -> None:
    values = np.array([[0, 64 / 255, 128 / 255, 1]], np.float32) * top
    content = saved(Image.fromarray(values), "TIFF")
    assert open_picture(content).mode == "F"
    assert decode(content)[0, :, 0].tolist() == expected
    values[0, 0] = np.nan
    assert decode(saved(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    opened = open_picture(saved(frames[0], form, save_all=True, append_images=frames[1:], duration=50))
    assert opened.frames == 3
    assert difference(np.asarray(opened.image), np.asarray(frames[0])) < 3


def test_the_picture_of_a_phone_is_one_picture_although_it_holds_two() -> None:
    content = saved(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))])
    opened = open_picture(content)
    assert (opened.frames, opened.format in {"MPO", "JPEG"}) == (1, True)
    assert difference(np.asarray(opened.image), np.asarray(scene())) < 6


@given(width=st.integers(1, 700), height=st.integers(1, 700), at_least=st.integers(1, 400), turned=st.booleans())
def test_a_draft_is_never_smaller_than_asked(width: int, height: int, at_least: int, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    content = saved(Image.new("RGB", (height, width) if turned else (width, height)), "JPEG", exif=exif)
    opened = open_picture(content, at_least=at_least)
    assert (opened.width, opened.height) == (width, height)
    for decoded, whole in zip(opened.image.size, (width, height), strict=True):
        assert min(at_least, whole) <= decoded <= whole


def test_a_large_photograph_is_decoded_small() -> None:
    assert max(open_picture(saved(scene(1600, 1200), "JPEG"), at_least=100).image.size) == 200


def test_a_jpeg_is_reduced_for_a_model_only_where_that_changes_little() -> None:
    for size in ((4000, 3000), (3000, 4000)):
        assert [reduced_side(*size, side) for side in (64, 128, 224, 260)] == [3000, 3000, 1120, 1300]
    assert reduced_side(1600, 1200, 260) > 600  # in full: a scale of 1/2 is too small
    assert reduced_side(12_000, 9_000, 64) == 2250  # a quarter: at most 25 million pixels
    assert reduced_side(60_000, 500, 260) == 260


def test_a_jpeg_beyond_the_limit_is_decoded_small_unless_it_is_in_passes() -> None:
    """Its decoder keeps all pixels of a JPEG in passes, and those of other formats."""
    limits, picture = DecodeLimits(max_pixels=200_000), scene(1600, 1200)
    whole = saved(picture, "JPEG")
    opened = open_picture(whole, at_least=64, limits=limits)
    assert (opened.width, opened.height, opened.image.size) == (1600, 1200, (200, 150))
    for content in (saved(picture, "JPEG", progressive=True), saved(picture, "PNG")):
        with pytest.raises(PictureError, match="1,600 x 1,200 pixels; at most 200,000") as refused:
            open_picture(content, at_least=64, limits=limits)
        assert ("several passes" in str(refused.value)) == content.startswith(b"\xff\xd8")
    with pytest.raises(PictureError, match="max_pixels"):
        decode(whole, limits=limits)
    with pytest.raises(PictureError, match="max_pixels"):
        open_picture(whole, at_least=64, limits=DecodeLimits(max_pixels=100_000))


def test_a_jpeg_beyond_the_limit_of_pillow_is_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    content = saved(scene(800, 600), "JPEG")
    assert open_picture(content, at_least=64).image.size == (100, 75)
    with pytest.raises(PictureError, match="is too large"):
        open_picture(saved(scene(800, 600), "PNG"), at_least=64)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "F"])
@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(mode: str, size: tuple[int, int]) -> None:
    with pytest.raises(
        PictureError, match=rf"the image has {size[0]} x {size[1]} pixels; a picture has at least 1 x 1"
    ):
        to_upright_rgb(Image.new(mode, size))


@pytest.mark.parametrize("how", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 500), (500, 1), (120, 80), (80, 120), (64, 64), (900, 7)])
def test_a_fitted_picture_has_the_size_of_the_model(how: Any, width: int, height: int) -> None:
    fitted = resize_to_square(np.asarray(scene(width, height)), 64, how)
    assert fitted.shape == (64, 64, 3)
    assert fitted.dtype == np.uint8


def test_squash_keeps_all_four_corners() -> None:
    corners = resize_to_square(np.asarray(scene()), 60)[[2, 2, -3, -3], [2, -3, 2, -3]]
    assert np.abs(corners.astype(int) - [[8, 8, 255], [247, 8, 0], [8, 247, 0], [247, 247, 0]]).max() < 16


@pytest.mark.parametrize(("width", "height"), [(120, 60), (60, 120)])
def test_letterbox_keeps_the_aspect_ratio_between_grey_bars(width: int, height: int) -> None:
    fitted = resize_to_square(np.full((height, width, 3), 255, np.uint8), 64, "letterbox")
    across = fitted if width > height else fitted.transpose(1, 0, 2)
    assert (across[:16] == 128).all()
    assert (across[48:] == 128).all()
    assert (across[16:48] == 255).all()


@pytest.mark.parametrize(("width", "height"), [(180, 60), (60, 180)])
def test_crop_keeps_the_middle(width: int, height: int) -> None:
    thirds = np.zeros((60, 180, 3), np.uint8)
    thirds[:, :60, 0], thirds[:, 60:120, 1], thirds[:, 120:, 2] = 255, 255, 255
    fitted = resize_to_square(thirds if width > height else thirds.transpose(1, 0, 2).copy(), 64, "crop")
    assert fitted[32, 32].tolist() == [0, 255, 0]
    assert (fitted[2:-2, 2:-2, 1] > 250).all()


def test_fitting_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_to_square(stripes, 32).astype(int) - 128).max() < 12


@pytest.mark.parametrize("how", ["squash", "letterbox", "crop"])
def test_load_is_fit_of_decode(how: Any, collection: SyntheticDataset) -> None:
    large = saved(scene(1600, 1100), "JPEG", quality=95)
    assert difference(load(large, 96, how), resize_to_square(decode(large), 96, how)) < 1.5
    for path in sorted(collection.kinds)[:8]:
        assert difference(load(path, 96, how), resize_to_square(decode(path), 96, how)) < 5


# ------------------------------------------------------------------------------------------------- what is refused


def refused(source: Path | bytes, limits: DecodeLimits = LIMITS) -> PictureError:
    with pytest.raises(PictureError) as caught:
        load(source, 32, limits=limits)
    name = "the file" if isinstance(source, bytes) else str(source)
    assert name in str(caught.value)
    home = pickle.loads(pickle.dumps(caught.value))
    assert (str(home), home.check) == (str(caught.value), caught.value.check)
    return caught.value


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises pixels and has none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 12_000, 65_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    error = refused(path)
    assert error.check == "huge"
    assert "pixels" in str(error)


def test_the_limit_on_pixels_names_both_numbers() -> None:
    content = saved(scene(), "PNG")
    assert "120 x 80 pixels; at most 9,599" in str(refused(content, DecodeLimits(max_pixels=9_599)))
    assert load(content, 32, limits=DecodeLimits(max_pixels=9_600)).shape == (32, 32, 3)


def test_too_many_bytes_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(b"x" * 101)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("the file was read"))
    error = refused(path, DecodeLimits(max_bytes=100))
    assert (error.check, "101 bytes; at most 100" in str(error)) == ("huge", True)
    assert refused(b"x" * 101, DecodeLimits(max_bytes=100)).check == "huge"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"A note about a picture.\n", "is not a picture: it looks like text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "it is a web page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is a drawing"),
        (b"%PDF-1.7\n\0\0", "it is a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
        (bytes(range(7, 200)) + bytes(80), "no known format begins like this"),
    ],
)
def test_what_is_no_picture_is_told_with_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    for source in (path, content):
        error = refused(source)
        assert error.check == "unreadable"
        assert message in str(error)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_a_picture_that_breaks_off_is_refused_as_such(form: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    content = saved(noise, form)
    error = refused(content[: int(len(content) * share)])
    assert error.check == ("unreadable" if form == "WEBP" else "truncated")


def test_a_folder_a_missing_file_and_odd_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, message in {
        "x.jpg": "is a folder",
        "missing.jpg": "There is no file",
        "dangling.jpg": "There is no file",
        "loop.jpg": "cannot be read",
        "pipe.jpg": "neither a file nor a link to one",
    }.items():
        error = refused(tmp_path / name)
        assert (error.check, message in str(error)) == ("unreadable", True), name


def test_a_link_to_a_picture_is_a_picture(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(saved(scene(), "PNG"))
    (tmp_path / "link.png").symlink_to("real.png")
    assert read_bytes(tmp_path / "link.png") == (tmp_path / "real.png").read_bytes()


EXAMPLES = [saved(scene(40, 30), form) for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO")]


@settings(max_examples=500)
@given(
    content=st.sampled_from(EXAMPLES),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    kept=st.floats(0.05, 1),
)
def test_damage_gives_a_picture_or_a_picture_error(
    content: bytes, damage: list[tuple[float, int]], kept: float
) -> None:
    changed = bytearray(content)
    for place, value in damage:
        changed[int(place * len(changed))] = value
    try:
        pixels = load(bytes(changed[: int(len(changed) * kept)]), 32, limits=DecodeLimits(max_pixels=10_000))
    except PictureError as error:
        assert error.check in {"unreadable", "truncated", "huge"}  # noqa: PT017 - either way is fine
    else:
        assert pixels.shape == (32, 32, 3)


def with_scans(content: bytes, more: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * more + content[-2:]


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    progressive = saved(scene(), "JPEG", progressive=True)
    open_picture(with_scans(progressive, 20))
    with pytest.raises(PictureError, match="scans") as refused:
        open_picture(with_scans(progressive, MAX_SCANS))
    assert refused.value.check == "huge"


def test_what_looks_like_scans_beside_the_picture_is_none() -> None:
    noise = b"\xff\xda" * 500
    with_comment = saved(scene(), "JPEG", comment=noise)
    assert open_picture(with_comment).width == WIDTH
    assert open_picture(saved(scene(), "JPEG") + noise).width == WIDTH  # a phone's film after its photograph


def pages(count: int) -> bytes:
    """A TIFF of pages of one pixel."""
    fields = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 1)]
    content, size = bytearray(b"II*\0" + struct.pack("<I", 12) + bytes(4)), 2 + 12 * len(fields) + 4
    for number in range(1, count + 1):
        content += struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in fields)
        content += struct.pack("<I", 12 + number * size if number < count else 0)
    return bytes(content)


@pytest.mark.parametrize("count", [1, 3, MAX_PAGES + 9])
def test_pages_of_a_tiff_are_counted_up_to_a_limit(count: int) -> None:
    opened = open_picture(pages(count))
    assert (opened.frames, opened.width) == (min(count, MAX_PAGES), 1)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("the file is empty.", "a.jpg is empty."),
        ("the file names the file.", "a.jpg names the file."),
        ("x/a.jpg is empty.", "x/a.jpg is empty."),
    ],
)
def test_a_message_about_bytes_gets_the_name_of_their_file_once(message: str, expected: str) -> None:
    assert message_with_filename(PictureError(message, check="unreadable"), "a.jpg") == expected
