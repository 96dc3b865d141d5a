"""Archive readers: stream the members of a zip or tar file, treating every header as untrusted input."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from bestiary.errors import SourceError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 500_000
MAX_DIRECTORY_BYTES = 2**26  # of a zip's central directory, which is read into memory as a whole
CHUNK_BYTES = 2**20
COMPRESSIONS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
ZIP_ENCRYPTED, ZIP_UTF8 = 0x1, 0x800  # bits of a member's flags
# What the archive libraries raise for a damaged archive: NotImplementedError for an unknown compression, RecursionError
# for deeply nested headers.
BAD_DATA = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, struct.error)
DAMAGE = (*BAD_DATA, EOFError, NotImplementedError, OverflowError, RecursionError, UnicodeDecodeError)


@dataclass(frozen=True)
class ArchiveMember:
    """An entry of an archive, as its header describes it. `kind` is file, folder, link or special file."""

    name: str
    kind: str
    size_bytes: int
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Return whether the file name has the suffix of a supported archive format."""
    return path.name.lower().endswith(SUFFIXES)


def strip_archive_suffix(path: Path) -> str:
    """Return the file name of an archive without its suffix.

    >>> strip_archive_suffix(Path("guinea pig.tar.gz"))
    'guinea pig'
    """
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(suffix))
    return path.name[: -len(suffix)]


def damage_error(archive: Path, why: str) -> SourceError:
    """Return the error for an archive that cannot be read."""
    why = why.strip().rstrip(".")[:120] or "unexpected end of data"
    return SourceError(
        f"{archive} cannot be read as an archive: {why}. It is damaged, incomplete, or in an unsupported format."
        " Download or pack it again, or unpack it by hand and pass the folder."
    )


def quote_name(name: str) -> str:
    """Return a member's name in quotes, on one line and at most 120 characters long."""
    text = json.dumps(name, ensure_ascii=not name.isprintable())
    return text if len(text) <= 120 else f'{text[:60]}…{text[-58:-1]}"'


def iter_members(raw: IO[bytes], archive: Path) -> tuple[int, Iterator[ArchiveMember]]:
    """Return the estimated unpacked size of an open archive in bytes, and an iterator over its members in order.

    The first bytes decide the format, not the file name. Read a member before advancing to the next one.
    Raises SourceError if the archive is encrypted or has too many members, one of DAMAGE if it is damaged.
    """
    start = raw.read(6)
    raw.seek(0)
    compressed = next((make for magic, make in COMPRESSIONS.items() if start.startswith(magic)), None)
    if start.startswith(ZIP_STARTS) or (compressed is None and archive.suffix.lower() == ".zip"):
        return _zip(raw, archive)
    return archive.stat().st_size, _tar(compressed(raw) if compressed else raw, archive)


def _check_count(count: int, archive: Path) -> None:
    if count > MAX_MEMBERS:
        raise SourceError(f"{archive} has more than {MAX_MEMBERS:,} members. Unpack it by hand and pass the folder.")


# ---- zip --------------------------------------------------------------------------------------------------------


def _zip(raw: IO[bytes], archive: Path) -> tuple[int, Iterator[ArchiveMember]]:
    count, directory_bytes = _zip_directory(raw)
    _check_count(count, archive)
    if directory_bytes > MAX_DIRECTORY_BYTES:
        raise damage_error(archive, f"its central directory has {directory_bytes / 1e6:,.0f} MB")
    zip_file = zipfile.ZipFile(raw)
    entries = zip_file.infolist()
    _check_count(len(entries), archive)
    if any(entry.flag_bits & ZIP_ENCRYPTED for entry in entries):
        raise SourceError(f"{archive} is encrypted. Unpack it with its password and pass the folder.")
    members = (ArchiveMember(_zip_name(e), _zip_kind(e), e.file_size, partial(zip_file.open, e)) for e in entries)
    return sum(entry.file_size for entry in entries), members


def _zip_directory(raw: IO[bytes]) -> tuple[int, int]:
    """Return the declared number of members and the size of the central directory in bytes, both 0 if it has none.

    Checked first, because reading the central directory takes memory for every member.
    """
    raw.seek(max(0, raw.seek(0, io.SEEK_END) - 2**16 - 98))  # end record, comment and zip64 records
    tail = raw.read()
    raw.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        return 0, 0
    members, directory_bytes = struct.unpack_from("<HL", tail, at + 10)
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07" and tail[at - 76 : at - 72] == b"PK\x06\x06":
        members, directory_bytes = struct.unpack_from("<QQ", tail, at - 76 + 32)
    return members, directory_bytes


def _zip_kind(entry: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the archive was packed on Windows
    if kind == stat.S_IFLNK:
        return "link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "special file"
    return "folder" if entry.is_dir() else "file"


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """Return the name, decoded as UTF-8 if possible: macOS and others write UTF-8 without setting the flag for it."""
    if entry.flag_bits & ZIP_UTF8:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return entry.filename


# ---- tar --------------------------------------------------------------------------------------------------------


def _tar(plain: IO[bytes], archive: Path) -> Iterator[ArchiveMember]:
    stream: Any = _ForwardStream(plain)
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as tar_file:
        for count, entry in enumerate(iter(tar_file.next, None), start=1):
            _check_count(count, archive)
            yield ArchiveMember(_tar_name(entry), _tar_kind(entry), entry.size, partial(tar_file.extractfile, entry))
            vars(tar_file)["members"].clear()  # TarFile keeps every member it has read
    stream.finish()


def _tar_kind(entry: tarfile.TarInfo) -> str:
    if entry.issym() or entry.islnk():
        return "link"
    return "folder" if entry.isdir() else "file" if entry.isreg() else "special file"


def _tar_name(entry: tarfile.TarInfo) -> str:
    """Return the name, decoded as Latin-1 if it is not UTF-8."""
    name = entry.name.encode("utf-8", "surrogateescape")
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")


class _ForwardStream:
    """Guards the stream that tarfile reads: tarfile accepts headers of any size and ignores a truncated end."""

    def __init__(self, plain: IO[bytes]) -> None:
        self._plain = plain
        self._last = b""
        self.seek, self.tell = plain.seek, plain.tell

    def read(self, size: int) -> bytes:
        """Return the next bytes; raise ReadError for a header that declares more than a chunk."""
        if not 0 <= size <= CHUNK_BYTES:
            raise tarfile.ReadError(f"a header declares a size of {size:,} bytes")
        self._last = self._plain.read(size)
        return self._last

    def finish(self) -> None:
        """Raise ReadError if the end-of-archive block is missing; then read on, so that the checksum is verified."""
        if self._last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the end-of-archive block is missing, or a header is damaged")
        for _ in range(64):
            if not self._plain.read(CHUNK_BYTES):
                break
