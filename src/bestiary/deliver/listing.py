"""Which pictures a person means: files, folders, patterns, and a list on standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from bestiary.errors import SourceError

PICTURE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
}
LIST = Path("-")  # stands for the list on standard input
READ_BYTES = 65_536


def pictures_in(paths: Iterable[Path], listed: BinaryIO) -> Iterator[Path]:
    """Yield the files named, the pictures in folders named, and the files that patterns match, in the order given.

    `-` stands for the names in `listed`, one a line, or ended by NUL bytes (`find -print0`): they are read as they
    are needed, so a list of any length takes no memory. Raises SourceError for a folder without pictures and for a
    pattern that matches nothing. A file that is not there is yielded: it has an answer of its own.
    """
    for path in paths:
        if path == LIST:
            yield from names_in(listed)
        elif path.is_dir():
            yield from _in_folder(path)
        elif glob.has_magic(str(path)) and not path.exists():
            yield from _matching(str(path))
        else:
            yield path


def names_in(listed: BinaryIO) -> Iterator[Path]:
    """Yield the paths in a list, ended by NUL bytes if its beginning has one, else one a line."""
    left, end = b"", b""
    while block := listed.read1(READ_BYTES) if hasattr(listed, "read1") else listed.read(READ_BYTES):
        left += block
        end = end or _separator(left)
        *whole, left = left.split(end) if end else [left]
        yield from (_path(name) for name in whole if name.strip(b"\r\n"))
    if left.strip(b"\r\n"):
        yield _path(left)


def _separator(beginning: bytes) -> bytes:
    """Return what ends a name, or nothing while that cannot be told."""
    if b"\0" in beginning:
        return b"\0"
    return b"\n" if b"\n" in beginning else b""


def _path(name: bytes) -> Path:
    return Path(os.fsdecode(name.rstrip(b"\r\n")))


def _in_folder(folder: Path) -> Iterator[Path]:
    inside = sorted(path for path in folder.rglob("*") if _is_picture(path))
    if not inside:
        raise SourceError(f"There are no pictures in {folder}.")
    yield from inside


def _matching(pattern: str) -> Iterator[Path]:
    """Yield what a pattern matches that the shell has not expanded: on Windows, or in quotes; ** goes into folders."""
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns too
    pictures = [path for path in found if _is_picture(path)]
    if not pictures:
        raise SourceError(f"No picture matches {pattern}.")
    yield from pictures


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
