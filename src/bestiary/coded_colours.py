"""Colour spaces by number (ITU-T H.273, the "nclx" of HEIF) as ICC profiles."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from bestiary.array_types import Floats

SRGB_PRIMARIES, UNSPECIFIED = 1, 2
NAMES = {4: "BT.470 M", 5: "BT.601", 6: "BT.601", 7: "BT.601", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
CORNERS = ("red", "green", "blue", "white")
# Curves of video (BT.709, 601, 2020) are for dim rooms; pictures with these numbers are shown by the curve of sRGB.
SRGB_CURVES = frozenset({1, 2, 6, 13, 14, 15})
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
HDR = {16: "PQ", 18: "HLG"}
CURVE_STEPS = 1024
D50 = (0.9642, 1.0, 0.8249)  # the white of ICC profiles
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
HEADER_BYTES, ENTRY_BYTES, FIXED_POINT = 128, 12, 65_536


@dataclass(frozen=True)
class EmbeddedProfile:
    """The ICC profile of an image, None if it has none, and why colours that are coded by number are not converted."""

    icc: bytes | None = None
    problem: str = ""


def read_embedded_profile(image: Image.Image) -> EmbeddedProfile:
    """Return the profile in an image: an ICC profile as it is, else one made from the numbers of a HEIF."""
    icc, nclx = image.info.get("icc_profile"), image.info.get("nclx_profile")
    if isinstance(icc, bytes) and icc:
        return EmbeddedProfile(icc)
    if not isinstance(nclx, Mapping):
        return EmbeddedProfile()
    curve, primaries = int(nclx.get("transfer_characteristics", 2)), int(nclx.get("color_primaries", 2))
    if curve in HDR:
        return EmbeddedProfile(problem=f"its brightness is coded for HDR displays ({HDR[curve]})")
    is_srgb_curve = curve in SRGB_CURVES
    if is_srgb_curve and primaries in {SRGB_PRIMARIES, UNSPECIFIED}:
        return EmbeddedProfile()
    if not is_srgb_curve and curve not in GAMMAS:
        return EmbeddedProfile(problem=f"its colours are coded by transfer characteristics {curve}")
    corners = _read_corners(nclx)
    if corners is None:
        return EmbeddedProfile(problem=f"its colours are coded by primaries {primaries}")
    return EmbeddedProfile(make_icc_profile(NAMES.get(primaries, f"primaries {primaries}"), corners, GAMMAS.get(curve)))


@lru_cache(16)
def make_icc_profile(name: str, corners: tuple[tuple[float, float], ...], gamma: float | None) -> bytes:
    """Return an ICC profile (version 2) of RGB with these primaries.

    corners: chromaticities (x, y) of red, green, blue and white. gamma: of the curve, None for that of sRGB.
    """
    red, green, blue, white = (_xyz(*corner) for corner in corners)
    primaries = np.stack([red, green, blue], axis=1)
    cone, target = np.array(BRADFORD), np.array(D50)
    adapt = np.linalg.inv(cone) @ np.diag((cone @ target) / (cone @ white)) @ cone
    matrix = adapt @ (primaries * np.linalg.solve(primaries, white))
    curve = _curve_tag(gamma)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode("ascii") + bytes(1 + 78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz_tag(target),
        **{key: _xyz_tag(matrix[:, row]) for row, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    return _join_tags(tags)


def _read_corners(nclx: Mapping[str, Any]) -> tuple[tuple[float, float], ...] | None:
    """Return the chromaticities of red, green, blue and white, None unless they are a triangle around a white."""
    try:
        corners = tuple(
            (float(nclx[f"color_primary_{name}_x"]), float(nclx[f"color_primary_{name}_y"])) for name in CORNERS
        )
    except (KeyError, TypeError, ValueError):
        return None
    (rx, ry), (gx, gy), (bx, by), _ = corners
    area = abs((gx - rx) * (by - ry) - (bx - rx) * (gy - ry)) / 2
    is_real = all(0 < y <= 1 and 0 <= x <= 1 for x, y in corners)
    return corners if is_real and area > 0.01 else None


def _xyz(x: float, y: float) -> Floats:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _xyz_tag(values: Floats) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * FIXED_POINT) for value in values))


def _curve_tag(gamma: float | None) -> bytes:
    """Return the curve from the coded value, 0..1, to light, as a table."""
    coded = np.linspace(0, 1, CURVE_STEPS)
    light = coded**gamma if gamma else np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", CURVE_STEPS) + np.rint(light * 65_535).astype(">u2").tobytes()


def _join_tags(tags: Mapping[bytes, bytes]) -> bytes:
    start = HEADER_BYTES + 4 + ENTRY_BYTES * len(tags)
    index, body = struct.pack(">I", len(tags)), b""
    for key, content in tags.items():
        index += key + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    white = struct.pack(">3i", *(round(value * FIXED_POINT) for value in D50))
    head = struct.pack(">I", start + len(body)) + bytes(4) + bytes([2, 0x40, 0, 0]) + b"mntrRGB XYZ " + bytes(12)
    return head + b"acsp" + bytes(28) + white + bytes(HEADER_BYTES - 80) + index + body
