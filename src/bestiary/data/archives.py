"""Archives of pictures: unpacked once into the cache folder, member by member, with nothing in them trusted."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bestiary.data.archive_members import (
    CHUNK_BYTES,
    DAMAGE,
    SUFFIXES,
    ArchiveMember,
    damaged_archive_error,
    iter_members,
    quote_name,
)
from bestiary.errors import MachineError, SourceError
from bestiary.progress import Reporter

MAX_UNPACKED_BYTES = 200 * 2**30
# Pictures are compressed already: an archive of them grows little. Small archives may be of drawn, nearly empty ones.
MAX_RATIO, RATIO_FROM_BYTES = 100, 2**28
KEEP_FREE_BYTES = 2**28
LAYOUT_VERSION = 1
PICTURES, NOTE, UNPACKED = "pictures", "unpacked.json", "unpacked"
LEFTOVER_SECONDS = 24 * 3600
SkipReason = Callable[[tuple[str, ...]], str | None]


@dataclass(frozen=True)
class UnpackedArchive:
    """A whole archive in the cache: the folder of its members, and how many were left packed, by reason."""

    folder: Path
    skipped: Counter[str]


def is_archive(path: Path) -> bool:
    """Tell whether a file is called like an archive that can be unpacked."""
    return path.name.lower().endswith(SUFFIXES)


def unpack_archive(archive: Path, cache: Path, skip_reason: SkipReason, *, reporter: Reporter) -> UnpackedArchive:
    """Return the members of an archive as a folder inside `cache`; unpacked now, or at an earlier call.

    passed_over: from the parts of a member's name, the reason to leave it packed, or None. Members are streamed, so
    memory does not grow with them. Raises SourceError, naming the archive and the member, for what is damaged,
    encrypted, too large or reaches outside; MachineError where the disk cannot hold it. Nothing is left half-written.
    """
    place = cache / _digest(archive)
    found = _read_complete(place)
    if found is None:
        _remove_leftovers(cache)
        shutil.rmtree(place, ignore_errors=True)  # what somebody has cleaned away in part
        with _archive_errors(archive), atomic_folder(place) as folder:
            _unpack(archive, folder, skip_reason, reporter)
            if _digest(archive) != place.name:
                raise SourceError(f"{archive} changed while it was unpacked. Wait until it is written, then try again.")
        found = _read_complete(place)
    if found is None:
        raise MachineError(f"{archive} was unpacked into {place}, but files are missing there. Is it being cleaned?")
    return found


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`; on success it takes that name, otherwise it is removed.

    Nothing is replaced: where another process was quicker, its folder stays. Raises MachineError if nothing can be
    written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:20]}.", dir=path.parent))
    except OSError as error:
        raise MachineError(f"Cannot write into {path.parent}: {error.strerror or error}.") from None
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise MachineError, with both numbers, unless the disk of an existing folder has room for `what`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + KEEP_FREE_BYTES:
        raise MachineError(
            f"{what} needs {needed_bytes / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free at {folder} (of which"
            f" {KEEP_FREE_BYTES / 1e6:,.0f} MB are kept free). Free some space or choose another place."
        )


def _digest(archive: Path) -> str:
    """Return the name under which this archive, as it is now, is kept."""
    now = archive.stat()
    text = f"{LAYOUT_VERSION} {now.st_size} {now.st_mtime_ns} ".encode() + os.fsencode(archive.resolve())
    return hashlib.sha256(text).hexdigest()[:20]


def _read_complete(folder: Path) -> UnpackedArchive | None:
    """Return what was unpacked here, unless files of it are gone or changed: caches get cleaned."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        state, counts = note["state"], Counter({str(k): int(v) for k, v in note["passed_over"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return UnpackedArchive(folder / PICTURES, counts) if _state(folder / PICTURES) == state else None


def _state(folder: Path) -> str:
    """Return a digest of the names, sizes and times of change of all files below a folder."""
    state = hashlib.sha256()
    for where, inner, names in os.walk(folder):
        inner.sort()
        for name in sorted(names):
            with contextlib.suppress(OSError):
                now = Path(where, name).stat()
                line = f"{Path(where, name).relative_to(folder)} {now.st_size} {now.st_mtime_ns}\n"
                state.update(line.encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _remove_leftovers(cache: Path) -> None:
    """Remove what a killed process left half-unpacked; a day old, so that nobody is still at it."""
    for path in cache.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(path)


@contextlib.contextmanager
def _archive_errors(archive: Path) -> Iterator[None]:
    """Turn what the archive libraries raise into one message that names the archive."""
    try:
        yield
    except DAMAGE as error:
        raise damaged_archive_error(archive, str(error)) from None
    except OSError as error:
        if error.errno is None:  # how bz2 says that its data make no sense
            raise damaged_archive_error(archive, str(error)) from None
        raise MachineError(f"{archive} cannot be unpacked: {error.strerror}. Is the disk full, or locked?") from None


# ---- Unpacking --------------------------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path, skip_reason: SkipReason, reporter: Reporter) -> None:
    """Write the members that are meant as pictures below `folder`, and a note of what was done."""
    pictures, counts, places = folder / PICTURES, Counter[str](), _UniqueNames(archive)
    pictures.mkdir()
    for member, parts in _iter_checked_members(archive, folder, reporter):
        if reason := skip_reason(parts):
            counts[reason] += 1
        else:
            _write(member, pictures / places.unique_path(parts), archive)
            counts[UNPACKED] += 1
    counts.pop(UNPACKED, 0)
    note = {"state": _state(pictures), "passed_over": counts}
    (folder / NOTE).write_text(json.dumps(note), encoding="utf-8")


def _iter_checked_members(
    archive: Path, folder: Path, reporter: Reporter
) -> Iterator[tuple[ArchiveMember, tuple[str, ...]]]:
    """Every file of an archive with the parts of its name, checked and counted, with progress by what was read."""
    budget, total, done = _SizeLimit(archive, folder), archive.stat().st_size // CHUNK_BYTES, 0
    with archive.open("rb") as raw, reporter.progress(f"Unpacking {archive.name}, MB", total) as advance:
        expected_bytes, found = iter_members(raw, archive)
        budget.expect(expected_bytes)
        for member in found:
            parts = _path_parts(member, archive)
            budget.take(member)
            if member.kind == "file" and parts:
                yield member, parts
            before, done = done, max(done, raw.tell() // CHUNK_BYTES)
            advance(done - before)


def _write(member: ArchiveMember, target: Path, archive: Path) -> None:
    """Write one member, and count its bytes on the way: what it says of its size need not be true."""
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        assert source is not None  # it is a file
        with source, target.open("xb") as out:
            while written <= member.size_bytes and (chunk := source.read(CHUNK_BYTES)):
                written += len(chunk)
                out.write(chunk)
    except OSError as error:
        if error.errno is None:
            raise
        raise MachineError(
            f"{quote_name(member.name)} of {archive} cannot be written into the cache: {error.strerror}. Free some space,"
            " set BESTIARY_CACHE to another place, or unpack it by hand and give the folder."
        ) from None
    if written != member.size_bytes:
        raise damaged_archive_error(
            archive, f"{quote_name(member.name)} has not the {member.size_bytes:,} bytes that it says it has"
        )


def _path_parts(member: ArchiveMember, archive: Path) -> tuple[str, ...]:
    """Return the folders and the name of a member that stays inside and is a plain file or folder."""
    name = member.name.replace("\\", "/")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name):
        raise SourceError(
            f"{archive} holds {quote_name(member.name)}, which would be written outside the folder it is unpacked into."
            " Do not trust this archive."
        )
    if member.kind not in ("file", "folder"):
        raise SourceError(
            f"{archive} holds {quote_name(member.name)}, which is a {member.kind}, not a file. Pack the pictures"
            " themselves (tar --dereference), or unpack it by hand and give the folder."
        )
    return parts


class _UniqueNames:
    """Finds a place for each member, none twice, on disks that ignore upper and lower case too."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._folders: dict[str, str] = {}
        self._taken: dict[str, int] = {}

    def unique_path(self, parts: tuple[str, ...]) -> PurePosixPath:
        """Return the member's own path, or with `~2` before the suffix where another member has it."""
        wanted = PurePosixPath(*parts)
        for folder in wanted.parents:
            spelled = self._folders.setdefault(_fold_case(folder), str(folder))
            if spelled != str(folder):
                raise SourceError(
                    f"{self._archive} has the folders {quote_name(spelled)} and {quote_name(str(folder))}, which not every"
                    " disk can tell apart. Rename one of them, or unpack it by hand and give the folder."
                )
        first = _fold_case(wanted)
        for number in itertools.count(self._taken.get(first, 0) + 1):
            place = wanted if number == 1 else wanted.with_name(f"{wanted.stem}~{number}{wanted.suffix}")
            if (key := _fold_case(place)) not in self._taken:
                self._taken[key] = 1
                self._taken[first] = number
                return place
        raise AssertionError  # numbers do not end


def _fold_case(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


class _SizeLimit:
    """Counts what an archive unpacks to, and stops it before it fills the disk."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self._archive, self._folder = archive, folder
        packed_bytes = archive.stat().st_size
        self._packed = f"{self._archive} has {packed_bytes / 1e6:,.1f} MB"
        self._limit_bytes = min(MAX_UNPACKED_BYTES, max(RATIO_FROM_BYTES, MAX_RATIO * packed_bytes))
        self._taken_bytes = 0

    def take(self, member: ArchiveMember) -> None:
        """Count one member; raises SourceError or MachineError where it is one too many."""
        if member.size_bytes < 0:
            raise damaged_archive_error(
                self._archive, f"{quote_name(member.name)} says that it has {member.size_bytes} bytes"
            )
        self._taken_bytes += member.size_bytes
        self._check(self._taken_bytes)
        require_space(self._folder, member.size_bytes, f"Unpacking {quote_name(member.name)} of {self._archive}")

    def expect(self, unpacked_bytes: int) -> None:
        """Refuse early, before anything is written, what will not fit."""
        self._check(unpacked_bytes)
        require_space(self._folder, unpacked_bytes, f"Unpacking {self._archive}")

    def _check(self, unpacked_bytes: int) -> None:
        if unpacked_bytes > self._limit_bytes:
            raise SourceError(
                f"{self._packed} and unpacks to {unpacked_bytes / 1e6:,.0f} MB or more; {self._limit_bytes / 1e6:,.0f}"
                " MB are allowed, since pictures hardly shrink when they are packed. If you trust it, unpack it by"
                " hand and give the folder."
            )
