"""The ways in which two copies of one picture differ, as flags: mirrored, cropped, turned, with other colours, ..."""

from __future__ import annotations

from enum import IntFlag


class CopyChange(IntFlag):
    """How the second picture of a pair differs from the first; 0 for a copy that was resized, re-encoded or brightened.

    RECOLOURED and DETAIL differ in content: such a pair may have two correct labels. UNCHECKED: the files may differ in
    content, but only the thumbnails were compared. ROUGH: the aligned thumbnails of a mirrored, turned, cropped or
    shifted copy differ, which the files do not always confirm.
    """

    NONE = 0
    MIRRORED = 1
    CROPPED = 2
    QUARTER_TURN = 4
    HALF_TURN = 8
    SHIFTED = 16
    TILTED = 32
    INVERTED = 64
    RECOLOURED = 128
    DETAIL = 256
    UNCHECKED = 512
    ROUGH = 1024


ORIENTATION = CopyChange.MIRRORED | CopyChange.QUARTER_TURN | CopyChange.HALF_TURN
TRANSFORMED = ORIENTATION | CopyChange.INVERTED
CONTENT = CopyChange.RECOLOURED | CopyChange.DETAIL
_TEXTS = {
    CopyChange.MIRRORED: "mirrored",
    CopyChange.QUARTER_TURN: "rotated by 90 degrees",
    CopyChange.HALF_TURN: "rotated by 180 degrees",
    CopyChange.SHIFTED: "shifted",
    CopyChange.CROPPED: "cropped",
    CopyChange.TILTED: "rotated by a few degrees",
    CopyChange.INVERTED: "inverted",
    CopyChange.RECOLOURED: "with other colours",
    CopyChange.DETAIL: "different in a detail",
}
_UPSIDE_DOWN = CopyChange.MIRRORED | CopyChange.HALF_TURN


def describe_changes(changes: int) -> str:
    """Return the changes in words, to follow `the same as x.jpg`; empty if there are none.

    >>> describe_changes(0), describe_changes(CopyChange.MIRRORED | CopyChange.CROPPED)
    ('', ', mirrored and cropped')
    >>> describe_changes(CopyChange.MIRRORED | CopyChange.HALF_TURN), describe_changes(CopyChange.QUARTER_TURN)
    (', flipped upside down', ', rotated by 90 degrees')
    """
    words = [text for flag, text in _TEXTS.items() if changes & flag]
    if changes & _UPSIDE_DOWN == _UPSIDE_DOWN:
        words = ["flipped upside down", *(word for word in words if word not in ("mirrored", "rotated by 180 degrees"))]
    if not words:
        return ""
    return f", {', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else f", {words[0]}"
