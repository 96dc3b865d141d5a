"""Pictures in tar files, such as the shards of WebDataset: listed by their headers, each read by its own range."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import cast

from bestiary.cluster.file_systems import file_errors, open_file_system
from bestiary.cluster.uris import Location
from bestiary.errors import SourceError
from bestiary.inference.inputs import SUFFIXES

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
READ_BYTES = 1 << 20  # at once: a header costs no request of its own where pictures are smaller than this


def iter_members(location: Location) -> Iterator[tuple[str, int, int]]:
    """Yield name, first byte and number of bytes of each picture in a tar file, in constant memory.

    Only regular files with the suffix of a picture count; hidden ones do not. Raises SourceError for a damaged file.
    """
    with file_errors(location):
        file = open_file_system(location).open_input_file(location.path)
        size, source = file.size(), io.BufferedReader(file, READ_BYTES)
    try:
        with source, tarfile.open(fileobj=cast(io.BufferedIOBase, source), mode="r:") as archive:
            while True:
                with file_errors(location):
                    member = archive.next()
                if member is None:
                    return
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} ends after the end of the file")
                archive.members = []  # type: ignore[attr-defined] # tarfile keeps every header
                path = PurePosixPath(member.name)
                is_hidden = any(part.startswith(".") and part != "." for part in path.parts)
                if member.isreg() and not is_hidden and path.suffix.lower() in SUFFIXES:
                    yield member.name, member.offset_data, member.size
    except tarfile.TarError as error:
        raise SourceError(f"{location.uri} is no tar file, or is damaged: {error}. Copy it again.") from None
