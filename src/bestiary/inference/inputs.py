"""Which pictures a person means: files, folders, patterns, and a list on standard input."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from bestiary.errors import SourceError
from bestiary.picture import PICTURE_SUFFIXES
from bestiary.text import describe_skipped

# HEIC cannot be read, but phones write it: each such file is answered with an error instead of being skipped.
SUFFIXES = (PICTURE_SUFFIXES - {".jpx", ".jpf"}) | {".heic", ".heif"}
HIDDEN, LINKED, NO_PICTURE = "hidden", "linked folder", "not named like a picture"
LIST = Path("-")  # stands for the list on standard input
READ_BYTES = 65_536


def find_pictures(paths: Iterable[Path], path_list: BinaryIO, skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the files named, the pictures in folders named, and the files that patterns match, in the order given.

    `-` stands for the names in `path_list`, one a line, or ended by NUL bytes (`find -print0`): they are read as they
    are needed, so a list of any length takes no memory. Raises SourceError for a folder without pictures and for a
    pattern that matches nothing. A file that is not there is yielded: it has an answer of its own. What is in a folder
    and is not yielded is counted in `skipped`, by reason.
    """
    skipped = Counter() if skipped is None else skipped
    for path in paths:
        if path == LIST:
            yield from read_path_list(path_list)
        elif os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it stands names that are too long
            yield from _iter_folder(path, skipped)
        elif glob.has_magic(str(path)) and not os.path.exists(path):  # noqa: PTH110 - as above
            yield from _iter_matches(str(path))
        else:
            yield path


def read_path_list(path_list: BinaryIO) -> Iterator[Path]:
    """Yield the paths in a list, ended by NUL bytes if its beginning has one, else one a line."""
    left, end = b"", b""
    while block := path_list.read1(READ_BYTES) if hasattr(path_list, "read1") else path_list.read(READ_BYTES):
        left += block
        end = end or _separator(left)
        *whole, left = left.split(end) if end else [left]
        yield from (_decode_path(name) for name in whole if name.strip(b"\r\n"))
    if left.strip(b"\r\n"):
        yield _decode_path(left)


def _separator(beginning: bytes) -> bytes:
    """Return what ends a name, or nothing while that cannot be told."""
    if b"\0" in beginning:
        return b"\0"
    return b"\n" if b"\n" in beginning else b""


def _decode_path(name: bytes) -> Path:
    return Path(os.fsdecode(name.rstrip(b"\r\n")))


def _iter_folder(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    inside = sorted(_iter_pictures_below(folder, skipped))
    if not inside:
        raise SourceError(f"There are no pictures in {folder}.{_skipped_suffix(skipped)}")
    yield from inside


def _iter_pictures_below(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield the pictures at any depth; linked folders are not followed, so loops cannot arise."""

    def stop(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be listed: {error.strerror}.")

    for where, inner, names in os.walk(folder, onerror=stop):
        shown = [name for name in inner if not _is_hidden(name)]
        skipped[HIDDEN] += len(inner) - len(shown)
        skipped[LINKED] += sum(Path(where, name).is_symlink() for name in shown)
        inner[:] = shown
        for name in names:
            path = Path(where, name)
            if _is_hidden(name):
                skipped[HIDDEN] += 1
            elif path.suffix.lower() not in SUFFIXES:
                skipped[NO_PICTURE] += 1
            else:
                yield path


def _is_hidden(name: str) -> bool:
    """Tell whether a file or folder is none that a person sees: macOS packs its own beside pictures."""
    return name.startswith(".") or name == "__MACOSX"


def _skipped_suffix(skipped: Counter[str]) -> str:
    words = describe_skipped(skipped)
    return f" {words}" if words else ""


def _iter_matches(pattern: str) -> Iterator[Path]:
    """Yield what a pattern matches that the shell has not expanded: on Windows, or in quotes; ** goes into folders."""
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns too
    pictures = [path for path in found if _is_picture(path)]
    if not pictures:
        raise SourceError(f"No picture matches {pattern}.")
    yield from pictures


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
