"""Picture inputs of a command: files, folders, glob patterns, and a list of paths on standard input."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from bestiary.box import PictureFile, path_of
from bestiary.errors import SourceError
from bestiary.files import require_local_source
from bestiary.picture_formats import PICTURE_SUFFIXES
from bestiary.text import describe_skipped

SUFFIXES = PICTURE_SUFFIXES - {".jpx", ".jpf"}
HIDDEN, LINKED, NO_PICTURE = "hidden", "linked folder", "not named like a picture"
LIST = Path("-")  # the list on standard input
READ_BYTES = 65_536


def find_pictures(paths: Iterable[Path], path_list: BinaryIO, skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the files of `paths`, the pictures in its folders and the matches of its patterns, in the given order.

    `-` means the paths in `path_list`, one a line, or terminated by NUL bytes (`find -print0`); they are read as
    needed, in constant memory. A missing file is yielded: its prediction has an error. Files and folders skipped in a
    folder are counted in `skipped`, by reason. Raises SourceError for a folder without pictures and a pattern without
    matches.
    """
    skipped = Counter() if skipped is None else skipped
    for path in paths:
        if path == LIST:
            yield from read_path_list(path_list)
        elif os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it does not raise for names that are too long
            pictures = _iter_pictures_below(path, skipped)
            if (first := next(pictures, None)) is None:
                raise SourceError(f"There are no pictures in {path}. {describe_skipped(skipped)}".rstrip())
            yield first
            yield from pictures
        elif glob.has_magic(str(path)) and not os.path.exists(path):  # noqa: PTH110 - as above
            yield from _iter_matches(str(path))
        else:
            require_local_source(path)
            yield path


def group_by_picture(files: Iterable[PictureFile]) -> Iterator[PictureFile]:
    """Yield each file and box once, those of a picture together, pictures in the order in which they come first."""
    by_path: dict[Path, dict[PictureFile, None]] = {}
    for file in files:
        by_path.setdefault(path_of(file), {})[file] = None
    for group in by_path.values():
        yield from group


def read_path_list(path_list: BinaryIO) -> Iterator[Path]:
    """Yield the paths in a list, terminated by NUL bytes if it starts with such a name, else one a line."""
    rest, separator = b"", b""
    while block := path_list.read1(READ_BYTES) if hasattr(path_list, "read1") else path_list.read(READ_BYTES):
        rest += block
        separator = separator or next((end for end in (b"\0", b"\n") if end in rest), b"")
        *names, rest = rest.split(separator) if separator else [rest]
        yield from (_decode_path(name) for name in names if name.strip(b"\r\n"))
    if rest.strip(b"\r\n"):
        yield _decode_path(rest)


def _decode_path(name: bytes) -> Path:
    return Path(os.fsdecode(name.rstrip(b"\r\n")))


def _iter_pictures_below(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield the pictures at any depth in the order of their paths, with the names of one folder at a time in memory.

    Symbolic links to folders are not followed, so there are no loops.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted((Path(entry.name), entry.is_dir(), entry.is_symlink()) for entry in entries)
    except OSError as error:
        raise SourceError(f"The folder {error.filename} cannot be listed: {error.strerror}.") from None
    for name, is_folder, is_link in names:
        if _is_hidden(str(name)):
            skipped[HIDDEN] += 1
        elif is_folder and is_link:
            skipped[LINKED] += 1
        elif is_folder:
            yield from _iter_pictures_below(folder / name, skipped)
        elif name.suffix.lower() not in SUFFIXES:
            skipped[NO_PICTURE] += 1
        else:
            yield folder / name


def _is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden from users: macOS puts its own beside pictures."""
    return name.startswith(".") or name == "__MACOSX"


def _iter_matches(pattern: str) -> Iterator[Path]:
    """Yield the matches of a pattern that the shell has not expanded: on Windows, or in quotes; ** is recursive."""
    matches = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns too
    pictures = [path for path in matches if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not pictures:
        raise SourceError(f"No picture matches {pattern}.")
    yield from pictures
