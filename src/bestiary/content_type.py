"""What a file contains that is not a picture, and what is wrong with one that is damaged, in words."""

from __future__ import annotations

CUT_OFF = ("truncated", "unexpected end of file")  # in the messages of Pillow, and of libheif


def describe_damage(error: Exception) -> tuple[str, str]:
    """Return the message of a decoder as one line, and the check that it belongs to: truncated, or unreadable."""
    text = " ".join(str(error).split())
    return text, "truncated" if any(words in text.lower() for words in CUT_OFF) else "unreadable"


def describe_content(content: bytes) -> str:
    """Return a clause that says what the bytes of a file are."""
    head = content[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    if head.startswith((b"<svg", b"<?xml")):
        return "it is a drawing (SVG or XML), not pixels"
    if head.startswith(b"%pdf"):
        return "it is a PDF"
    if content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "it is a TIFF of a kind that Pillow cannot read; save it with 8 or 16 bits a channel"
    if b"\x00" not in content[:512]:
        return "it looks like text"
    return "no known format begins like this"
