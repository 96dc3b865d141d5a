"""Tags of a TIFF: their first value, and what its fourth channel means."""

from __future__ import annotations

from typing import Any

from PIL import Image

EXTRA_SAMPLES, UNSPECIFIED, PREMULTIPLIED = 338, 0, 1  # the tag that says what a fourth channel means, and its values


def read_tag(image: Image.Image, tag: int, default: Any = None) -> Any:
    """Return the first value of a tag, or `default` if the picture lacks it or is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return default if value is None else value[0] if isinstance(value, tuple) and value else value


def is_alpha_declared(image: Image.Image) -> bool:
    """Return whether a TIFF declares its fourth channel as alpha, premultiplied or not."""
    return bool(read_tag(image, EXTRA_SAMPLES, UNSPECIFIED) != UNSPECIFIED)


def is_alpha_premultiplied(image: Image.Image) -> bool:
    """Return whether the colours of a TIFF are multiplied by its alpha channel."""
    return bool(read_tag(image, EXTRA_SAMPLES) == PREMULTIPLIED)
