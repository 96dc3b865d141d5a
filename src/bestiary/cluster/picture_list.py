"""The list of pictures that a job on a cluster works on: JSON lines in its folder, of which workers read chunks.

The number of a line, from 0, is the id of its picture: a picture that is listed twice has two. JSON escapes what is not
UTF-8 in a name, and a box is written in full, so that every picture comes back as it was listed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bestiary.box import Box, Crop, PictureFile, Region, StoredPicture

if TYPE_CHECKING:
    from bestiary.cluster.remote_files import PictureRow


@dataclass(frozen=True)
class ListSummary:
    """A written list. count: of its pictures; digest: SHA-256 of what names them, whatever their content is now."""

    count: int
    digest: str


@dataclass(frozen=True)
class ListChunk:
    """Consecutive lines of a list: ids from `start` to `stop` - 1, in `length` bytes from `offset` on."""

    start: int
    stop: int
    offset: int
    length: int


def write_picture_list(path: Path, pictures: Iterable[PictureFile]) -> ListSummary:
    """Write the pictures, one a line, in constant memory."""
    count, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for count, picture in enumerate(pictures, start=1):  # noqa: B007 - the last one is the count
            line = format_picture(picture)
            digest.update(f"{_format_name(picture) or line}\n".encode())
            file.write(f"{line}\n".encode())
    return ListSummary(count, digest.hexdigest())


def iter_list_chunks(path: Path, rows: int) -> Iterator[ListChunk]:
    """Yield the chunks of a list, of `rows` lines each, the last partial one included."""
    start = offset = length = stop = 0
    with path.open("rb") as lines:
        for stop, line in enumerate(lines, start=1):
            length += len(line)
            if stop - start == rows:
                yield ListChunk(start, stop, offset, length)
                start, offset, length = stop, offset + length, 0
    if length:
        yield ListChunk(start, stop, offset, length)


def read_list_chunk(path: str, chunk: ListChunk) -> list[str]:
    """Return the lines of a chunk, for `parse_picture`."""
    with Path(path).open("rb") as file:
        file.seek(chunk.offset)
        return file.read(chunk.length).decode().splitlines()


def format_picture(picture: PictureFile) -> str:
    """Return a picture as one line of JSON: its path, and the part of it that is looked at; of a URI its row."""
    if isinstance(picture, StoredPicture):
        from bestiary.cluster.remote_files import RemotePicture

        assert isinstance(picture, RemotePicture), "a picture that any node can read"
        return json.dumps(picture.row)
    if not isinstance(picture, Crop):
        return json.dumps([os.fspath(picture)])
    part = picture.part
    if isinstance(part, Region):
        return json.dumps([os.fspath(picture.path), [part.left, part.top, part.width, part.height]])
    numbers = [part.left, part.top, part.width, part.height, part.unit, part.picture_size, part.confidence]
    return json.dumps([os.fspath(picture.path), numbers])


def _format_name(picture: PictureFile) -> str:
    """Return what names a stored picture as a line of JSON, without its state, empty for a file."""
    if not isinstance(picture, StoredPicture):
        return ""
    from bestiary.cluster.remote_files import RemotePicture

    assert isinstance(picture, RemotePicture), "a picture that any node can read"
    return json.dumps([picture.row["id"], picture.row["uri"]])


def parse_picture(line: str) -> PictureFile:
    """Return the picture of a line.

    >>> parse_picture(format_picture(Crop(Path("a.jpg"), Box(0.1, 0.2, 0.3, 0.4, picture_size=(8, 9)))))
    Crop(path=PosixPath('a.jpg'), part=Box(left=0.1, top=0.2, width=0.3, height=0.4, unit='fraction', \
picture_size=(8, 9), confidence=None))
    """
    values = json.loads(line)
    if isinstance(values, dict):
        from bestiary.cluster.remote_files import RemotePicture

        return RemotePicture(cast("PictureRow", values))
    path, *parts = values
    if not parts:
        return Path(path)
    [numbers] = parts
    if len(numbers) == 4:
        return Crop(Path(path), Region(*numbers))
    left, top, width, height, unit, size, confidence = numbers
    picture_size = None if size is None else (size[0], size[1])
    return Crop(Path(path), Box(left, top, width, height, unit, picture_size, confidence))
