"""Files below a URI, listed page by page: at no time are more than a page, or a folder of HDFS, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bestiary.cluster.file_systems import EXTRA, file_errors, no_files_error, open_file_system, s3_client
from bestiary.cluster.uris import FILE, S3, Location
from bestiary.errors import import_optional

PAGE_KEYS = 1000  # of a bucket: the most that S3 answers


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a bucket or file system.

    size: in bytes. version: a text that changes with the content: the ETag of an object in S3, else the time of
    modification in ns; empty where the file system has none.
    """

    location: Location
    size: int
    version: str


def find_file(location: Location) -> ListedFile | None:
    """Return the file that a resolved URI names, None if it is a folder or nothing.

    Raises SourceError if there is no such bucket or it may not be read, MachineError if nothing answers.
    """
    if not location.key or location.key.endswith("/"):
        return None
    fs = import_optional("pyarrow.fs", extra=EXTRA)
    with file_errors(location):
        entry = open_file_system(location).get_file_info(location.path)
        if entry.type != fs.FileType.File:
            return None
        if location.scheme != S3:
            return _listed_file(location, entry)
        answer = s3_client(location).head_object(Bucket=location.host, Key=location.key)  # pyarrow has no ETag
        return ListedFile(location, answer["ContentLength"], _object_version(answer))


def iter_files(location: Location) -> Iterator[ListedFile]:
    """Yield the files at any depth below a resolved URI, sorted by name within a folder.

    Raises SourceError if there is no such bucket or folder or if it may not be read, MachineError if nothing answers.
    """
    files = _iter_bucket(location) if location.scheme == S3 else _iter_folder(location, location.key.rstrip("/"))
    yield from files


def _iter_bucket(location: Location) -> Iterator[ListedFile]:
    prefix = f"{location.key.rstrip('/')}/" if location.key.strip("/") else ""
    pages = s3_client(location).get_paginator("list_objects_v2")
    page = iter(pages.paginate(Bucket=location.host, Prefix=prefix, PaginationConfig={"PageSize": PAGE_KEYS}))
    n_keys = 0
    while True:
        with file_errors(location):  # not around a yield: errors of the consumer are not of the bucket
            answer: dict[str, Any] | None = next(page, None)
        if answer is None:
            break
        for entry in answer.get("Contents", ()):
            n_keys += 1
            if not entry["Key"].endswith("/"):  # a folder that a console made
                yield ListedFile(location.with_key(entry["Key"]), entry["Size"], _object_version(entry))
    if not n_keys:
        raise no_files_error(location)


def _iter_folder(location: Location, key: str) -> Iterator[ListedFile]:
    """Yield the files of one folder, then those of the folders in it; links to folders of this computer are passed."""
    fs = import_optional("pyarrow.fs", extra=EXTRA)
    folder = location.with_key(key)
    with file_errors(folder):
        entries = open_file_system(location).get_file_info(fs.FileSelector(folder.path.rstrip("/") or "/"))
    entries.sort(key=lambda entry: entry.path)
    folders = [entry.path for entry in entries if entry.type == fs.FileType.Directory]
    for entry in entries:
        if entry.type == fs.FileType.File:
            yield _listed_file(location.with_key(_key_of(location, entry.path)), entry)
    del entries
    for path in folders:
        if location.scheme != FILE or not Path(path).is_symlink():  # or a link to a folder above would have no end
            yield from _iter_folder(location, _key_of(location, path))


def relative_parts(location: Location, folder: Location) -> tuple[str, ...]:
    """Return the names of the folders and of the file below a folder."""
    return PurePosixPath(location.key.removeprefix(folder.key.rstrip("/")).lstrip("/")).parts


def _listed_file(location: Location, entry: Any) -> ListedFile:
    """Return a file as pyarrow describes it."""
    return ListedFile(location, entry.size, "" if entry.mtime_ns is None else str(entry.mtime_ns))


def _object_version(answer: Mapping[str, Any]) -> str:
    """Return the version of an object of S3 as boto3 describes it."""
    return str(answer.get("ETag") or answer.get("LastModified", ""))


def _key_of(location: Location, path: str) -> str:
    """Return the key of a path of pyarrow, which has the bucket before it."""
    return path.removeprefix(f"{location.host}/") if location.path.startswith(f"{location.host}/") else path.lstrip("/")
