"""Which fourth channels are transparency, and which are not meant."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from bestiary.data.audit import PICTURE_CHECKS
from bestiary.data.measure import measure_file
from bestiary.picture import LIMITS, decode, open_picture
from test_depth import tiff

SIDE = 24
COLOURS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
EMPTY = np.zeros((SIDE, SIDE), np.uint8)
HALF = np.where(np.arange(SIDE) < SIDE // 2, 0, 255).astype(np.uint8)[:, None].repeat(SIDE, axis=1)


def saved(alpha: np.ndarray, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.dstack([COLOURS, alpha])).save(stream, form, **options)
    return stream.getvalue()


def tga(alpha: np.ndarray, bits: int, *, meaning: int | None = None) -> bytes:
    """A TGA with so many bits of alpha by its header, and by the type of its extension area."""
    header = bytes([0, 0, 2] + [0] * 9) + struct.pack("<HHBB", SIDE, SIDE, 32, 0x20 | bits)
    content = header + np.dstack([COLOURS[..., ::-1], alpha]).tobytes()
    if meaning is None:
        return content
    extension = struct.pack("<H", 495) + bytes(492) + bytes([meaning])
    return content + extension + struct.pack("<II", len(content), 0) + b"TRUEVISION-XFILE.\0"


def bmp(alpha: np.ndarray) -> bytes:
    pixels = np.dstack([COLOURS[..., ::-1], alpha])[::-1].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    head = struct.pack("<IiiHHIIiiII", 108, SIDE, SIDE, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(saved(EMPTY, "PNG"), id="png"),
        pytest.param(saved(EMPTY, "WEBP", lossless=True, exact=True), id="webp"),
        pytest.param(saved(EMPTY, "TIFF"), id="tiff"),
        pytest.param(tga(EMPTY, 8), id="tga"),
        pytest.param(tga(HALF, 0), id="tga with 0 bits of alpha"),
        pytest.param(tga(HALF, 8, meaning=2), id="tga with undefined alpha"),
        pytest.param(bmp(EMPTY), id="bmp"),
        pytest.param(tiff(np.dstack([COLOURS, HALF]), photometric=2), id="tiff with infrared"),
    ],
)
def test_a_channel_that_is_not_meant_as_alpha_is_ignored(content: bytes) -> None:
    opened = open_picture(content)
    assert np.array_equal(np.asarray(opened.image), COLOURS)
    assert opened.unmeant_alpha
    assert not opened.has_alpha


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(saved(HALF, "PNG"), id="png"),
        pytest.param(saved(HALF, "TIFF"), id="tiff"),
        pytest.param(tga(HALF, 8), id="tga"),
        pytest.param(tga(HALF, 8, meaning=3), id="tga with an extension area"),
        pytest.param(bmp(HALF), id="bmp"),
    ],
)
def test_a_channel_that_is_meant_is_laid_on_white(content: bytes) -> None:
    pixels = decode(content)
    assert (pixels[: SIDE // 2] == 255).all()
    assert np.array_equal(pixels[SIDE // 2 :], COLOURS[SIDE // 2 :])
    assert not open_picture(content).unmeant_alpha


def test_in_a_palette_that_is_all_transparent_the_colours_are_seen() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 100, 50, 0, 0, 255])
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=0)
    assert decode(stream.getvalue())[0, 0].tolist() == [200, 100, 50]


def checks_of(path: Path) -> dict[str, str]:
    row = pl.DataFrame([vars(measure_file(path, LIMITS)) | {"label": "x", "row_id": 0, "content": 1.0}])
    return {
        check.name: row.filter(check.condition).select(check.message).item()
        for check in PICTURE_CHECKS
        if row.filter(check.condition).height
    }


def test_the_audit_names_alpha_that_hides_most_and_alpha_that_is_ignored(tmp_path: Path) -> None:
    mostly = HALF.copy()
    mostly[: SIDE * 3 // 4] = 0
    for name, alpha in {"mostly": mostly, "empty": EMPTY, "opaque": EMPTY + 255}.items():
        (tmp_path / f"{name}.png").write_bytes(saved(alpha, "PNG"))
    found = checks_of(tmp_path / "mostly.png")
    assert 70 <= int(found["mostly-transparent"].split("replaces ")[1].split(" %")[0]) <= 76
    assert checks_of(tmp_path / "empty.png")["unmeant-alpha"] == "Its alpha channel is ignored: it is zero everywhere."
    assert not {"mostly-transparent", "unmeant-alpha", "alpha"} & set(checks_of(tmp_path / "opaque.png"))
