"""Pictures by URI: files below a prefix, bytes in parquet, and members of tar files; one row for each.

The computer that starts a job lists rows, which have no content; whoever computes, perhaps on another node, reads the
bytes of a row. A row has all that reading needs, but no credentials: those come from the environment there.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypedDict, TypeVar

import numpy as np

from bestiary.box import StoredPicture
from bestiary.cluster import tar_pictures
from bestiary.cluster.file_systems import file_errors, no_files_error, open_file_system, resolve
from bestiary.cluster.listing import ListedFile, find_file, iter_files, relative_parts
from bestiary.cluster.parquet_pictures import SUFFIX as PARQUET
from bestiary.cluster.parquet_pictures import ParquetPictures
from bestiary.cluster.uris import ID_COLUMN, Location, parse_uri
from bestiary.errors import InputError, PictureError, SourceError
from bestiary.inference.inputs import HIDDEN, NO_PICTURE, SUFFIXES
from bestiary.picture import LIMITS
from bestiary.text import describe_skipped

DOWNLOADS = 16  # at once: each waits for an answer most of the time
TAR = tar_pictures.SUFFIX


class PictureRow(TypedDict):
    """A picture that can be read from anywhere. Columns of strings and integers, for tables.

    id: the URI of a file, with `#row=NUMBER` or `#member=NAME` for one in parquet or tar, or the value of the option
    `id_column`. uri: of the file, with the options that reading it needs. offset: number of the row in parquet, first
    byte in tar, else 0. size: in bytes, -1 if it is not known. version: of the file, as of `ListedFile`.
    """

    id: str
    uri: str
    offset: int
    size: int
    version: str


class RemoteSource:
    """The pictures of one or several URIs."""

    def __init__(self, uris: Sequence[str]) -> None:
        """Find the buckets. Raises InputError for invalid URIs, and for one that contains another.

        Raises SourceError if there is no such bucket, MachineError if nothing answers.
        """
        self._locations = [parse_uri(uri) for uri in uris]
        _check_overlap(self._locations)
        self._locations = [resolve(location) for location in self._locations]

    def iter_rows(self, skipped: Counter[str] | None = None) -> Iterator[PictureRow]:
        """Yield a row for each picture, in constant memory but for eight bytes of each that is in parquet or tar.

        Files below a prefix that are no pictures are counted in `skipped`, by reason. Parquet and tar files are read
        where they are named, and below a prefix without other pictures. Raises SourceError for a URI without pictures,
        for files that cannot be read, and at the end for an identity that comes twice.
        """
        skipped = Counter() if skipped is None else skipped
        digests = array("Q")
        for row in self._iter_rows(skipped):
            if row["size"] < 0 or "#member=" in row["id"]:
                digests.append(_digest(row["id"]))
            yield row
        if (repeated := _find_repeated(digests)) is not None:
            name = next(row["id"] for row in self._iter_rows(Counter()) if _digest(row["id"]) == repeated)
            raise SourceError(
                f"The input {name} is listed twice, and would have two answers. Remove it, or choose an {ID_COLUMN}"
                " whose values differ."
            )

    def _iter_rows(self, skipped: Counter[str]) -> Iterator[PictureRow]:
        for location in self._locations:
            file = find_file(location)
            if file is not None:
                yield from _iter_file(file)
            else:
                yield from _iter_prefix(location, skipped)


def read_bytes(row: PictureRow, max_bytes: int = LIMITS.max_bytes) -> bytes:
    """Return the content of a picture.

    Raises PictureError if it is gone, may not be read, has no bytes or more than `max_bytes`; MachineError if nothing
    answers: then the picture is not at fault.
    """
    _check_size(row, row["size"], max_bytes)
    location = parse_uri(row["uri"])
    try:
        if location.suffix == PARQUET:
            content = _open_parquet(row["uri"], row["version"]).read(row["offset"])
        else:
            content = _read_range(row, location)
    except SourceError as error:
        raise PictureError(str(error), check="unreadable") from None
    _check_size(row, len(content), max_bytes)
    return content


class RemotePicture(StoredPicture):
    """A row as a picture that a predictor takes: its bytes are read when it is decoded, or `prefetch` reads them."""

    def __init__(self, row: PictureRow) -> None:
        """Take a row of `RemoteSource`."""
        self.row, self.name = row, row["id"]
        self._content: Future[bytes | PictureError] | None = None

    @property
    def state(self) -> list[int | str]:
        """Size and version as they were listed; of a picture in parquet or tar the version of that file."""
        return [self.row["size"], self.row["version"]]

    def read(self, max_bytes: int) -> bytes:
        """Return the bytes; raises as `read_bytes`."""
        if self._content is None:
            return read_bytes(self.row, max_bytes)
        content = self._content.result()
        self._content = None  # the bytes are not held longer than they are needed
        if isinstance(content, PictureError):
            raise content
        _check_size(self.row, len(content), max_bytes)
        return content

    def start_reading(self, pool: ThreadPoolExecutor, max_bytes: int) -> None:
        """Read the bytes in another thread, for the next call of `read`."""
        self._content = pool.submit(_try_read, self.row, max_bytes)

    def cancel(self) -> None:
        """Do not begin to read."""
        if self._content is not None:
            self._content.cancel()


Picture = TypeVar("Picture")


def prefetch(
    pictures: Iterable[Picture], max_bytes: int = LIMITS.max_bytes, downloads: int = DOWNLOADS
) -> Iterator[Picture]:
    """Yield the pictures in order, while the bytes of the next remote ones are read; others are passed on.

    At most 2 x `downloads` remote pictures are read ahead. An error comes from `read` of its picture.
    """
    remaining = iter(pictures)
    with ThreadPoolExecutor(downloads, thread_name_prefix="bestiary-read") as pool:
        pending: deque[Picture] = deque()

        def submit() -> None:
            while len(pending) < 2 * downloads:
                try:
                    picture = next(remaining)
                except StopIteration:
                    return
                if isinstance(picture, RemotePicture):
                    picture.start_reading(pool, max_bytes)
                pending.append(picture)

        try:
            submit()
            while pending:
                yield pending.popleft()
                submit()
        finally:
            for picture in pending:
                if isinstance(picture, RemotePicture):
                    picture.cancel()


def _try_read(row: PictureRow, max_bytes: int) -> bytes | PictureError:
    try:
        return read_bytes(row, max_bytes)
    except PictureError as error:
        return error


def _read_range(row: PictureRow, location: Location) -> bytes:
    with file_errors(location):
        if location.suffix == TAR:
            content: bytes = _open_file(row["uri"], row["version"]).read_at(row["size"], row["offset"])
        else:
            with open_file_system(location).open_input_stream(location.path) as stream:
                return bytes(stream.read())
    if len(content) < row["size"]:
        raise PictureError(f"{row['id']} ends early: {location.uri} is cut off.", check="unreadable")
    return content


@functools.lru_cache(maxsize=4)
def _open_parquet(uri: str, version: str) -> ParquetPictures:  # noqa: ARG001 - a part of the key
    """Return the pictures of a parquet file; a file that replaces it has another version, and is opened anew."""
    return ParquetPictures(parse_uri(uri))


@functools.lru_cache(maxsize=8)
def _open_file(uri: str, version: str) -> Any:  # noqa: ARG001 - a part of the key
    location = parse_uri(uri)
    return open_file_system(location).open_input_file(location.path)


def _check_size(row: PictureRow, size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        message = f"{row['id']} has {size_bytes:,} bytes; at most {max_bytes:,} are read (picture.max_bytes)."
        raise PictureError(message, check="huge")


def _iter_prefix(folder: Location, skipped: Counter[str]) -> Iterator[PictureRow]:
    """Yield the pictures below a prefix; those in its parquet and tar files if it has no others."""
    containers: list[ListedFile] = []
    n_pictures, before = 0, skipped.copy()
    for file in iter_files(folder):
        if any(part.startswith(".") for part in relative_parts(file.location, folder)):
            skipped[HIDDEN] += 1
        elif file.location.suffix in SUFFIXES:
            n_pictures += 1
            yield from _iter_file(file)
        elif file.location.suffix in (PARQUET, TAR):
            containers.append(file)
        else:
            skipped[NO_PICTURE] += 1
    if n_pictures:
        skipped[NO_PICTURE] += len(containers)
        return
    if not containers:
        reasons = describe_skipped(skipped - before)
        raise (
            SourceError(f"There are no pictures at {folder.uri}. {reasons}".rstrip())
            if reasons
            else no_files_error(folder)
        )
    for file in containers:
        yield from _iter_file(file)


def _iter_file(file: ListedFile) -> Iterator[PictureRow]:
    """Yield the row of a file, or a row for each picture in parquet or tar."""
    location, uri, version = file.location, file.location.full_uri, file.version
    if location.key.lower().endswith(tar_pictures.COMPRESSED):
        raise SourceError(f"{location.uri} is compressed, so that its members cannot be read apart. Unpack it to .tar.")
    if location.suffix == PARQUET:
        for number, identity in enumerate(ParquetPictures(location).iter_ids()):
            yield {"id": identity, "uri": uri, "offset": number, "size": -1, "version": version}
    elif location.suffix == TAR:
        for name, offset, size in tar_pictures.iter_members(location):
            name = f"{location.uri}#member={name}"
            yield {"id": name, "uri": uri, "offset": offset, "size": size, "version": version}
    else:
        yield {"id": location.uri, "uri": uri, "offset": 0, "size": file.size, "version": version}


def _check_overlap(locations: Sequence[Location]) -> None:
    """Raise InputError if a URI is, or lies below, another one: its pictures would be listed twice."""
    for number, location in enumerate(locations):
        for later in locations[number + 1 :]:
            first, second = sorted((location, later), key=lambda item: len(item.key.rstrip("/")))
            folder, key = first.key.rstrip("/"), second.key.rstrip("/")
            is_below = key == folder or key.startswith(f"{folder}/") or not folder
            if (first.scheme, first.host) == (second.scheme, second.host) and is_below:
                raise InputError(f"{second.uri} is listed twice: it is in {first.uri} too. Leave one of them out.")


def _digest(identity: str) -> int:
    return int.from_bytes(hashlib.blake2b(identity.encode(errors="replace"), digest_size=8).digest(), "little")


def _find_repeated(digests: array[int]) -> int | None:
    """Return a digest that comes twice, None without one."""
    values = np.sort(np.frombuffer(digests, np.uint64))
    repeated = values[1:][values[1:] == values[:-1]]
    return int(repeated[0]) if len(repeated) else None
