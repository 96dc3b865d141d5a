"""Embedded colour profiles: other spaces are converted to sRGB, sRGB itself is left alone, damage is named."""

import io
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from bestiary.array_types import Pixels
from bestiary.colour_profile import read_profile
from bestiary.decode_rules import FIRST_VERSION, DecodeRules
from bestiary.picture import open_picture
from bestiary.preprocess import Preprocessing
from test_transparency import checks_of

D65, SRGB = (0.3127, 0.329), ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


def fixed(values: Any) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65_536)) for value in values)


def icc(space: bytes, tags: dict[bytes, bytes], *, kind: bytes = b"mntr", target: bytes = b"XYZ ") -> bytes:
    """A profile of version 2 with these tags beside its name."""
    words = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"mine\0" + bytes(78)
    tags = {b"desc": words + bytes(-len(words) % 4), b"cprt": b"text\0\0\0\0no\0\0", **tags}
    start, index, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        index += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I", start + len(body)) + b"none" + bytes([2, 64, 0, 0]) + kind + space + target + bytes(12)
    return head + b"acsp" + bytes(28) + fixed((0.9642, 1, 0.8249)) + bytes(48) + index + body


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def rgb_profile(corners: Any, gamma: float) -> bytes:
    """A profile of three primaries, adapted from D65 to D50, and a power curve."""

    def colour(x: float, y: float) -> Any:
        return np.array([x / y, 1, (1 - x - y) / y])

    primaries, white, target = np.stack([colour(*c) for c in corners], 1), colour(*D65), np.array([0.9642, 1, 0.8249])
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapt = np.linalg.inv(cone) @ np.diag((cone @ target) / (cone @ white)) @ cone
    matrix = adapt @ (primaries * np.linalg.solve(primaries, white))
    tags = {name: b"XYZ \0\0\0\0" + fixed(matrix[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma)) | {b"wtpt": b"XYZ \0\0\0\0" + fixed(target)}
    return icc(b"RGB ", tags)


def ink_profile() -> bytes:
    """A profile of a printer whose inks are all grey: each of cyan, magenta and yellow takes a quarter of the light."""
    corners = itertools.product((0, 1), repeat=4)
    lightness = [255 * max(0.0, 1 - 0.25 * (c + m + y)) * (1 - k) for c, m, y, k in corners]
    table = b"".join(bytes([round(value), 128, 128]) for value in lightness)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(np.eye(3).ravel()) + bytes(range(256)) * 4 + table
    tags = {b"A2B0": lut + bytes(range(256)) * 3, b"wtpt": b"XYZ \0\0\0\0" + fixed((0.9642, 1, 0.8249))}
    return icc(b"CMYK", tags, kind=b"prtr", target=b"Lab ")


def grey_profile(gamma: float) -> bytes:
    return icc(b"GRAY", {b"kTRC": curve(gamma), b"wtpt": b"XYZ \0\0\0\0" + fixed((0.9642, 1, 0.8249))})


def scene() -> Image.Image:
    coarse = np.random.default_rng(0).integers(40, 216, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def to_space(image: Image.Image, profile: bytes) -> Image.Image:
    srgb, target = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, srgb, target, outputMode="RGB")
    assert converted is not None
    return converted


def gap(pixels: Pixels, image: Image.Image) -> float:
    return float(np.abs(pixels.astype(int) - np.asarray(image.convert("RGB")).astype(int)).mean())


FORMS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100},
    "JPEG": {"quality": 98},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("profile", [rgb_profile(P3, 2.2), rgb_profile(ADOBE, 2.2), rgb_profile(SRGB, 1.0)])
def test_other_spaces_are_converted_to_srgb(form: str, profile: bytes) -> None:
    content = saved(to_space(scene(), profile), form, icc_profile=profile, **FORMS[form])
    opened = open_picture(content)
    assert opened.profile == "mine"
    assert gap(np.asarray(opened.image), scene()) < 2.5
    first = open_picture(content, rules=DecodeRules(FIRST_VERSION))
    assert gap(np.asarray(first.image), scene()) > 3


def test_srgb_is_recognised_by_its_colours_and_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    opened = open_picture(saved(scene(), "PNG", icc_profile=profile))
    assert np.array_equal(np.asarray(opened.image), np.asarray(scene()))
    assert (opened.profile, opened.profile_problem) == ("", "")
    assert read_profile(profile).transform is None


@pytest.mark.parametrize("gamma", [1.0, 1.4])
def test_grey_profiles_are_applied_to_grey_pictures(gamma: float) -> None:
    profile, ramp = grey_profile(gamma), np.arange(256, dtype=np.uint8)[None].repeat(4, axis=0)
    content = saved(Image.fromarray(ramp), "PNG", icc_profile=profile)
    linear = (np.arange(256) / 255) ** gamma
    expected = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(np.asarray(open_picture(content).image)[0, :, 0] - expected).max() < 4
    preprocess = Preprocessing(4)
    as_rgb = Image.open(io.BytesIO(content)).convert("RGB")  # keeps the profile
    assert np.array_equal(preprocess.load_pixels(as_rgb), preprocess.load_pixels(content))


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_inks_are_converted_by_their_profile(form: str) -> None:
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (255, 255, 0, 0), (0, 0, 0, 255)]
    image = Image.new("CMYK", (64, 16))
    for column, ink in enumerate(inks):
        image.paste(ink, (16 * column, 0, 16 * column + 16, 16))
    options: dict[str, Any] = {"quality": 100} if form == "JPEG" else {}
    opened = open_picture(saved(image, form, icc_profile=ink_profile(), **options))
    assert opened.profile == "mine"
    pixels = np.asarray(opened.image)[8, 8::16].astype(int)
    assert np.abs(pixels - np.array([255, 185, 119, 0])[:, None]).max() <= 4  # lightness 100, 75, 50 and 0


def test_transparency_is_laid_on_white_after_the_conversion() -> None:
    profile = rgb_profile(SRGB, 1.0)
    image = to_space(scene(), profile)
    image.putalpha(Image.new("L", image.size, 128))
    pixels = np.asarray(open_picture(saved(image, "PNG", icc_profile=profile)).image).astype(float)
    assert np.abs(pixels - (np.asarray(scene(), np.float64) * 128 / 255 + 127)).mean() < 1.5


@pytest.mark.parametrize(
    ("image", "profile", "message"),
    [
        (scene(), b"no profile at all", "damaged"),
        (scene(), rgb_profile(P3, 2.2)[:200], "damaged"),
        (scene(), grey_profile(1.0), "for mode L, and the picture has mode RGB"),
        (scene().convert("CMYK"), rgb_profile(P3, 2.2), "for mode RGB, and the picture has mode CMYK"),
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored_and_named(
    image: Image.Image, profile: bytes, message: str, tmp_path: Path
) -> None:
    content = saved(image, "TIFF", icc_profile=profile)
    opened = open_picture(content)
    assert gap(np.asarray(opened.image), image) == 0
    assert message in opened.profile_problem
    (tmp_path / "x.tif").write_bytes(content)
    assert message in checks_of(tmp_path / "x.tif")["broken-profile"]


def test_the_audit_names_the_profile(tmp_path: Path) -> None:
    profile = rgb_profile(P3, 2.2)
    (tmp_path / "x.png").write_bytes(saved(scene(), "PNG", icc_profile=profile))
    assert checks_of(tmp_path / "x.png")["colour-profile"] == "Converted to sRGB from its colour profile, “mine”."
