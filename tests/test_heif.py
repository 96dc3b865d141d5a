"""HEIC: upright once, in sRGB, within the limits, the primary picture; and what is said without the extra."""

import base64
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from bestiary.array_types import Pixels
from bestiary.capture_time import read_capture_time
from bestiary.data.measure import measure_file
from bestiary.errors import PictureError
from bestiary.heif import is_heif
from bestiary.inference.inputs import find_pictures
from bestiary.picture import LIMITS, DecodeLimits, decode, load, open_picture, to_upright_rgb
from bestiary.picture_formats import PICTURE_SUFFIXES
from bestiary.preprocess import Preprocessing
from bestiary.thumbnails import thumbnail_data_uri
from test_colour_profile import ADOBE, P3, gap, rgb_profile, to_space
from test_colour_profile import scene as colours
from test_picture import STORED, difference, scene

pillow_heif = pytest.importorskip("pillow_heif")


def heic(image: Image.Image, **options: Any) -> bytes:
    """The bytes of a HEIC with this picture; `exif` as bytes turns it: the encoder writes `irot` and `imir`."""
    stream = io.BytesIO()
    pixels = image.tobytes()
    pillow_heif.encode(image.mode, image.size, pixels, stream, **{"quality": 100, "chroma": 444} | options)
    return stream.getvalue()


def exif(fields: dict[int, Any]) -> bytes:
    block = Image.Exif()
    block.update(fields)
    return block.tobytes()


def pillow_image(content: bytes) -> Image.Image:
    """The picture as a user's own code opens it, by pillow-heif."""
    image: Image.Image = pillow_heif.HeifImageFile(io.BytesIO(content))
    return image


def test_a_heic_is_read_from_a_path_bytes_and_memory(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(content := heic(scene()))
    opened = open_picture(content)
    facts = (opened.format, opened.width, opened.height, opened.frames, opened.orientation, opened.profile)
    assert facts == ("HEIF", 120, 80, 1, 1, "")
    pixels = np.asarray(opened.image)
    assert difference(pixels, np.asarray(scene())) < 2
    for source in (tmp_path / "a.heic", content):
        assert np.array_equal(decode(source), pixels)
    assert np.array_equal(to_upright_rgb(pillow_image(content)), pixels)
    assert load(content, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("orientation", STORED)
def test_a_heic_is_turned_exactly_once(orientation: int) -> None:
    turn = STORED[orientation]
    stored = scene() if turn is None else scene().transpose(turn)
    content = heic(stored, exif=exif({0x0112: orientation}))
    boxes = {name for name in (b"irot", b"imir") if name in content}
    assert bool(boxes) == (orientation > 1)
    opened = open_picture(content)
    assert (opened.width, opened.height) == (120, 80)
    assert difference(np.asarray(opened.image), np.asarray(scene())) < 3
    assert difference(to_upright_rgb(pillow_image(content)), np.asarray(scene())) < 3


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_orientation_in_exif_alone_turns_nothing(orientation: int) -> None:
    """ISO/IEC 23008-12: the container turns the picture, EXIF does not."""
    content = heic(scene(), exif=exif({0x0112: 1}))
    changed = content.replace(b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x01", b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06")
    assert changed != content
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:D tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    with_xmp = io.BytesIO()
    pillow_heif.register_heif_opener()
    scene().save(with_xmp, "HEIF", quality=100, chroma=444)
    plain = with_xmp.getvalue()
    image = pillow_image(plain)
    image.info["xmp"] = xmp
    for picture in (decode(changed), decode(plain), to_upright_rgb(image)):
        assert difference(picture, np.asarray(scene())) < 3


@pytest.mark.parametrize("chroma", [420, 444])
@pytest.mark.parametrize("tile_size", [None, 64])
def test_ten_bits_and_tiles_give_the_same_colours(chroma: int, tile_size: int | None) -> None:
    deep = np.asarray(scene()).astype(np.uint16) * 257
    stream, tiles = io.BytesIO(), {} if tile_size is None else {"tile_size": tile_size}
    pillow_heif.encode("RGB;16", scene().size, deep.tobytes(), stream, quality=100, chroma=chroma, **tiles)
    opened = open_picture(stream.getvalue())
    assert pillow_image(stream.getvalue()).info["bit_depth"] == 10
    assert difference(np.asarray(opened.image), np.asarray(scene())) < 4


def test_ten_bits_of_grey_span_black_to_white() -> None:
    ramp = np.arange(0, 16_384, dtype=np.uint16).reshape(128, 128) * 4
    stream = io.BytesIO()
    pillow_heif.encode("L;16", (128, 128), ramp.tobytes(), stream, quality=100)
    pixels = decode(stream.getvalue())
    assert np.abs(pixels[..., 0].astype(int) - (ramp >> 8)).max() <= 3
    dim = io.BytesIO()
    pillow_heif.encode("L;16", (128, 128), (ramp // 8).tobytes(), dim, quality=100)
    assert decode(dim.getvalue()).max() < 40  # not stretched: the file names its range


@pytest.mark.parametrize("mode", ["RGBA", "RGBa"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    alpha = np.zeros((80, 120), np.uint8)
    alpha[:, 60:] = 255
    image = scene().convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    opened = open_picture(heic(image.convert(mode)))
    pixels = np.asarray(opened.image)
    assert opened.has_alpha
    assert opened.whitened > 0.4
    assert pixels[:, :50].min() > 245
    assert difference(pixels[:, 70:], np.asarray(scene())[:, 70:]) < 4


@pytest.mark.parametrize("corners", [P3, ADOBE])
def test_wide_gamut_by_icc_is_converted_to_srgb(corners: Any) -> None:
    profile = rgb_profile(corners, 2.2)
    content = heic(to_space(colours(), profile), icc_profile=profile)
    opened = open_picture(content)
    assert opened.profile == "mine"
    assert gap(np.asarray(opened.image), colours()) < 3
    assert np.array_equal(to_upright_rgb(pillow_image(content)), np.asarray(opened.image))


NCLX = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6, "full_range_flag": 1}


@pytest.mark.parametrize(
    ("numbers", "corners", "name"),
    [
        ({}, P3, "Display P3"),
        ({"color_primaries": 9}, ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), "BT.2020"),
        ({"color_primaries": 9, "transfer_characteristics": 4}, ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046)), ""),
        ({"color_primaries": 1, "transfer_characteristics": 8}, ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), ""),
    ],
)
def test_wide_gamut_by_number_is_converted_to_srgb(numbers: dict[str, int], corners: Any, name: str) -> None:
    gamma = {4: 2.2, 8: 1.0}.get(numbers.get("transfer_characteristics", 13), 2.2)
    opened = open_picture(content := heic(to_space(colours(), rgb_profile(corners, gamma)), **NCLX | numbers))
    assert name in opened.profile
    assert opened.profile
    assert gap(np.asarray(opened.image), colours()) < 3
    untouched = pillow_image(content)
    untouched.load()
    assert gap(np.asarray(untouched.convert("RGB")), colours()) > 4


def test_srgb_by_number_changes_nothing_and_hdr_is_named(tmp_path: Path) -> None:
    for numbers in ({"color_primaries": 1}, {"color_primaries": 1, "transfer_characteristics": 1}):
        opened = open_picture(heic(scene(), **NCLX | numbers))
        assert (opened.profile, opened.profile_problem) == ("", "")
    for curve, name in ((16, "PQ"), (18, "HLG")):
        (path := tmp_path / "a.heic").write_bytes(heic(scene(), **NCLX | {"transfer_characteristics": curve}))
        assert name in measure_file(path, LIMITS).profile_problem


def test_of_several_pictures_the_primary_one_is_read() -> None:
    pillow_heif.register_heif_opener()
    stream, red = io.BytesIO(), Image.new("RGB", (64, 48), "red")
    scene().save(stream, "HEIF", save_all=True, append_images=[red], primary_index=1)
    opened = open_picture(stream.getvalue())
    assert (opened.frames, opened.width, opened.height) == (2, 64, 48)
    assert np.asarray(opened.image)[..., 0].min() > 240
    assert np.asarray(opened.image)[..., 1].max() < 20


def test_the_thumbnail_in_a_heic_is_never_taken_for_the_picture(tmp_path: Path) -> None:
    large = scene(1200, 800)
    content = heic(large, thumbnails=[320])
    assert pillow_image(content).draft(None, (64, 64)) is not None
    for picture in (load(content, 64), np.asarray(open_picture(content, at_least=64).image.resize((64, 64)))):
        assert picture.shape == (64, 64, 3)
    assert open_picture(content, at_least=64, input_size=64).image.size == (1200, 800)


def test_limits_hold_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = heic(scene())
    monkeypatch.setattr(pillow_heif.HeifImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(PictureError, match=r"120 x 80 pixels; at most 9,599") as caught:
        open_picture(content, limits=DecodeLimits(max_pixels=9_599))
    assert caught.value.check == "huge"
    with pytest.raises(PictureError, match="at most 100 are read"):
        open_picture(content, limits=DecodeLimits(max_bytes=100))


def test_a_size_that_lies_is_refused_without_taking_its_memory() -> None:
    content = heic(Image.new("RGB", (2000, 1500)), quality=10)
    place = content.index(b"ispe") + 8
    small = content[:place] + (100).to_bytes(4) + (75).to_bytes(4) + content[place + 8 :]
    with pytest.raises(PictureError):
        open_picture(small, limits=DecodeLimits(max_pixels=10_000))


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.99])
def test_a_heic_that_breaks_off_is_truncated(fraction: float) -> None:
    content = heic(scene(300, 200))
    with pytest.raises(PictureError, match="end of file") as caught:
        open_picture(content[: int(len(content) * fraction)])
    assert caught.value.check == "truncated"


EXAMPLE = heic(scene(40, 30), exif=exif({0x0112: 6}))


@settings(max_examples=200, deadline=None)
@given(
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    rest=st.floats(0.05, 1),
)
def test_damage_gives_a_picture_or_a_picture_error(damage: list[tuple[float, int]], rest: float) -> None:
    changed = bytearray(EXAMPLE)
    for position, value in damage:
        changed[int(position * len(changed))] = value
    try:
        pixels = load(bytes(changed[: int(len(changed) * rest)]), 32, limits=DecodeLimits(max_pixels=10_000))
    except PictureError as error:
        assert error.check in {"unreadable", "truncated", "huge"}  # noqa: PT017 - either way is fine
    else:
        assert pixels.shape == (32, 32, 3)


def test_the_capture_time_is_read() -> None:
    block = Image.Exif()
    block[0x0112] = 6
    block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:14 12:00:00"
    opened = open_picture(heic(scene(), exif=block.tobytes()))
    assert read_capture_time(opened.exif) == "2026-05-14T12:00:00"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", True),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", True),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", False),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1heic", False),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41avc1", False),
        (b"", False),
    ],
)
def test_heic_is_recognised_by_its_brands(content: bytes, expected: bool) -> None:
    assert is_heif(content) == expected


def test_heic_files_are_listed(tmp_path: Path) -> None:
    assert {".heic", ".heif", ".hif"} <= PICTURE_SUFFIXES
    for name in ("IMG_1.HEIC", "b.heif", "c.hif"):
        (tmp_path / name).write_bytes(heic(scene()))
    assert [path.name for path in find_pictures([tmp_path], io.BytesIO())] == ["IMG_1.HEIC", "b.heif", "c.hif"]
    measured = measure_file(tmp_path / "IMG_1.HEIC", LIMITS)
    assert (measured.format, measured.error) == ("HEIF", None)


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path) -> None:
    (path := tmp_path / "IMG_1.HEIC").write_bytes(heic(scene()))
    (tmp_path / "pillow_heif.py").write_text("raise ModuleNotFoundError(name='pillow_heif')")
    program = (
        "import sys; from pathlib import Path; from bestiary.picture import LIMITS; from bestiary.data.measure import"
        " measure_file; found = measure_file(Path(sys.argv[1]), LIMITS); print(found.check, found.error)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    assert answer.stdout.startswith(f"unreadable {path} is HEIC")
    assert "install" in answer.stdout
    assert "[heif]" in answer.stdout


def thumbnail(path: Path) -> Pixels:
    """The copy of a picture that the pages of audit, report and review show."""
    page = thumbnail_data_uri(path)
    assert page is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(page.partition(",")[2]))))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF"])
@pytest.mark.parametrize("corners", [P3, ADOBE])
def test_wide_gamut_is_converted_wherever_a_picture_is_opened(tmp_path: Path, form: str, corners: Any) -> None:
    profile = rgb_profile(corners, 2.2)
    wide = to_space(colours(), profile)
    if form == "HEIF":
        content = heic(wide, icc_profile=profile)
    else:
        wide.save(stream := io.BytesIO(), form, icc_profile=profile, **({"quality": 100} if form != "TIFF" else {}))
        content = stream.getvalue()
    (path := tmp_path / "a.picture").write_bytes(content)
    colours().save(tmp_path / "srgb.png")
    preprocess = Preprocessing(48)
    in_memory = pillow_image(content) if form == "HEIF" else Image.open(io.BytesIO(content))
    pictures = {
        "predict": preprocess.load_pixels(path),
        "serve": preprocess.load_pixels(content),
        "in memory": preprocess.load_pixels(in_memory),
    }
    assert gap(np.asarray(wide), colours()) > 3.5
    for name, pixels in pictures.items():
        assert gap(pixels, colours()) < 3, name
    assert gap(thumbnail(path), Image.fromarray(thumbnail(tmp_path / "srgb.png"))) < 3
