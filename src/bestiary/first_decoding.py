"""Decoding of the first version: models that were trained with it are to see the same pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bestiary.transparency import has_alpha


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image in RGB: transparency laid on white, embedded colour profiles ignored."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_to_rgb(image)
    if has_alpha(image):
        straight = image.convert("RGBA")
        white = Image.new("RGBA", straight.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, straight).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 16-bit integers, or floating-point values in 0..1, to 8 bits a channel."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0)
        grey = values / (1.0 if float(values.max()) <= 1.0 else 255.0) * 255.0
    else:
        grey = values.astype(np.float64) / 257.0
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
