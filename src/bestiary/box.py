"""Bounding boxes: a rectangle of a picture, as an annotation or a detector gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BoxUnit = Literal["fraction", "pixels"]
BOX_UNITS: tuple[BoxUnit, ...] = ("fraction", "pixels")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of an upright picture: its left upper corner, width and height.

    unit: "fraction" of the width and height of the picture, or "pixels" of the picture at full scale.
    """

    left: float
    top: float
    width: float
    height: float
    unit: BoxUnit = "fraction"
