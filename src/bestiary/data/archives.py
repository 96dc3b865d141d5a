"""Unpacks archives of pictures once into the cache folder, member by member; nothing in an archive is trusted."""

from __future__ import annotations

import contextlib
import hashlib
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

from bestiary.data.archive_members import CHUNK_BYTES, DAMAGE, ArchiveMember, damage_error, iter_members, quote_name
from bestiary.errors import MachineError, SourceError
from bestiary.progress import Reporter

MAX_UNPACKED_BYTES = 200 * 2**30
# Pictures are compressed already, so an archive of them unpacks to little more. Small archives may hold drawings.
MAX_RATIO, RATIO_FROM_BYTES = 100, 2**28
KEEP_FREE_BYTES = 2**28
LAYOUT_VERSION = 2  # 2: folders without pictures too
PICTURES, NOTE = "pictures", "unpacked.json"
LEFTOVER_SECONDS = 24 * 3600
SkipReason = Callable[[tuple[str, ...]], str | None]


@dataclass(frozen=True)
class UnpackedArchive:
    """A completely unpacked archive in the cache: its folder, and the number of skipped members by reason."""

    folder: Path
    skipped: Counter[str]


def unpack_archive(archive: Path, cache: Path, skip_reason: SkipReason, *, reporter: Reporter) -> UnpackedArchive:
    """Return the members of an archive as a folder inside `cache`, unpacked now or by an earlier call.

    skip_reason: maps the parts of a member's name to the reason to skip it, or None. Members are streamed, so memory
    use does not depend on their size. Raises SourceError, naming the archive and the member, for what is damaged,
    encrypted, too large or outside the folder; MachineError if the disk is full. Nothing is left half-written.
    """
    folder = cache / _digest(archive)
    unpacked = _read_complete(folder)
    if unpacked is None:
        _remove_leftovers(cache)
        shutil.rmtree(folder, ignore_errors=True)  # a cache that was deleted in part
        with _archive_errors(archive), atomic_folder(folder) as temporary:
            _unpack(archive, temporary, skip_reason, reporter)
            if _digest(archive) != folder.name:
                raise SourceError(
                    f"{archive} changed while it was unpacked. Wait until it is complete, then try again."
                )
        unpacked = _read_complete(folder)
    if unpacked is None:
        raise MachineError(f"{archive} was unpacked into {folder}, but files are missing there. Was the cache cleaned?")
    return unpacked


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; rename it to `path` on success, remove it otherwise.

    An existing `path` is not replaced: if another process created it first, that folder stays. Raises MachineError if
    the parent folder is not writable.
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
            f" {KEEP_FREE_BYTES / 1e6:,.0f} MB are kept free). Free some space or choose another folder."
        )


def _digest(archive: Path) -> str:
    """Return the cache key of this archive in its present state."""
    now = archive.stat()
    text = f"{LAYOUT_VERSION} {now.st_size} {now.st_mtime_ns} ".encode() + os.fsencode(archive.resolve())
    return hashlib.sha256(text).hexdigest()[:20]


def _read_complete(folder: Path) -> UnpackedArchive | None:
    """Return the unpacked archive, or None if it is missing, or its files were changed or removed since."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        state, skipped = note["state"], Counter({str(k): int(v) for k, v in note["passed_over"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return UnpackedArchive(folder / PICTURES, skipped) if _state(folder / PICTURES) == state else None


def _state(folder: Path) -> str:
    """Return a digest of the names, sizes and modification times of all files below a folder."""
    state = hashlib.sha256()
    for parent, inner, names in os.walk(folder):
        inner.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            with contextlib.suppress(OSError):
                now = path.stat()
                line = f"{path.relative_to(folder)} {now.st_size} {now.st_mtime_ns}\n"
                state.update(line.encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _remove_leftovers(cache: Path) -> None:
    """Remove what a killed process left half-unpacked, once it is a day old: newer ones may still be in use."""
    for path in cache.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(path)


@contextlib.contextmanager
def _archive_errors(archive: Path) -> Iterator[None]:
    """Convert the exceptions of the archive libraries into one error that names the archive."""
    try:
        yield
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # None: invalid data, for gzip and bz2
            reason = (
                f"{archive} cannot be unpacked: {error.strerror}. Check whether the disk is full or write-protected."
            )
            raise MachineError(reason) from None
        raise damage_error(archive, str(error)) from None


# ---- Unpacking --------------------------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path, skip_reason: SkipReason, reporter: Reporter) -> None:
    """Write the pictures of the archive below `folder`, and a note that makes the folder complete."""
    pictures, skipped, names = folder / PICTURES, Counter[str](), _UniqueNames(archive)
    bare: set[tuple[str, ...]] = set()  # folders of which no picture is written
    pictures.mkdir()
    for member, parts in _iter_checked_members(archive, folder, reporter):
        is_folder = member.kind == "folder"
        reason = skip_reason((*parts, "picture") if is_folder else parts)
        if reason is None and not is_folder:
            _write(member, pictures / names.unique_path(parts), archive)
        elif reason is None or skip_reason((*parts[:-1], "picture")) is None:
            bare.add(parts if is_folder else parts[:-1])
        if reason is not None and not is_folder:
            skipped[reason] += 1
    _make_bare_folders(pictures, bare)
    note = {"state": _state(pictures), "passed_over": skipped}
    (folder / NOTE).write_text(json.dumps(note), encoding="utf-8")


def _make_bare_folders(pictures: Path, bare: set[tuple[str, ...]]) -> None:
    """Make the folders without pictures that lie beside two folders of pictures: they are named as classes without any.

    Others, such as one with the licence beside the folder that contains all classes, would hide what the archive is.
    """
    beside: dict[Path, int] = {}
    for parts in sorted(parts for parts in bare if parts):
        parent = pictures.joinpath(*parts[:-1])
        if parent not in beside:
            beside[parent] = sum(path.is_dir() for path in parent.iterdir()) if parent.is_dir() else 0
        if beside[parent] > 1:
            with contextlib.suppress(FileExistsError):
                pictures.joinpath(*parts).mkdir()


def _iter_checked_members(
    archive: Path, folder: Path, reporter: Reporter
) -> Iterator[tuple[ArchiveMember, tuple[str, ...]]]:
    """Yield every file and folder of an archive with the parts of its name, after checking name, kind and size."""
    unpacked_bytes, done, total = 0, 0, archive.stat().st_size // CHUNK_BYTES
    with archive.open("rb") as raw, reporter.progress(f"Unpacking {archive.name}, MB", total) as advance:
        expected_bytes, members = iter_members(raw, archive)
        _check_size(expected_bytes, archive)
        require_space(folder, expected_bytes, f"Unpacking {archive}")
        for member in members:
            parts, name = _path_parts(member, archive), quote_name(member.name)
            if member.size_bytes < 0:
                raise damage_error(archive, f"{name} declares a size of {member.size_bytes} bytes")
            unpacked_bytes += member.size_bytes
            _check_size(unpacked_bytes, archive)
            require_space(folder, member.size_bytes, f"Unpacking {name} of {archive}")
            if parts:
                yield member, parts
            before, done = done, max(done, raw.tell() // CHUNK_BYTES)
            advance(done - before)


def _check_size(unpacked_bytes: int, archive: Path) -> None:
    """Raise SourceError if an archive unpacks to more than its own size allows."""
    packed_bytes = archive.stat().st_size
    limit_bytes = min(MAX_UNPACKED_BYTES, max(RATIO_FROM_BYTES, MAX_RATIO * packed_bytes))
    if unpacked_bytes > limit_bytes:
        raise SourceError(
            f"{archive} has {packed_bytes / 1e6:,.1f} MB and unpacks to {unpacked_bytes / 1e6:,.0f} MB or more;"
            f" {limit_bytes / 1e6:,.0f} MB are allowed, because pictures hardly compress. If you trust"
            " it, unpack it by hand and pass the folder."
        )


def _write(member: ArchiveMember, target: Path, archive: Path) -> None:
    """Write one member and count its bytes: the size in its header need not be true."""
    written, name = 0, quote_name(member.name)
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
            f"{name} of {archive} cannot be written into the cache: {error.strerror}. Free some space, set"
            " BESTIARY_CACHE to another folder, or unpack it by hand and pass the folder."
        ) from None
    if written != member.size_bytes:
        raise damage_error(archive, f"size mismatch for {name}: its header says {member.size_bytes:,} bytes")


def _path_parts(member: ArchiveMember, archive: Path) -> tuple[str, ...]:
    """Return the folders and name of a member; raise SourceError unless it is a file or folder that stays inside."""
    path = member.name.replace("\\", "/")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if path.startswith("/") or ".." in parts or re.match("[A-Za-z]:", path):
        raise SourceError(
            f"{archive} contains {quote_name(member.name)}, which would be written outside the target folder (path"
            " traversal). Do not trust this archive."
        )
    if member.kind not in ("file", "folder"):
        raise SourceError(
            f"{archive} contains {quote_name(member.name)}, which is a {member.kind}, not a file. Pack the pictures"
            " themselves (tar --dereference), or unpack it by hand and pass the folder."
        )
    return parts


class _UniqueNames:
    """Gives each member a path of its own, on case-insensitive file systems too."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._folders: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def unique_path(self, parts: tuple[str, ...]) -> PurePosixPath:
        """Return the member's own path, or with `~2` before the suffix if another member has it."""
        wanted = path = PurePosixPath(*parts)
        for folder in map(str, wanted.parents):
            first = self._folders.setdefault(_fold_case(folder), folder)
            if first != folder:
                raise SourceError(
                    f"{self._archive} has the folders {quote_name(first)} and {quote_name(folder)}, which are the same"
                    " on some file systems. Rename one of them, or unpack it by hand and pass the folder."
                )
        key = _fold_case(wanted)
        while _fold_case(path) in self._counts:
            self._counts[key] += 1
            path = wanted.with_name(f"{wanted.stem}~{self._counts[key]}{wanted.suffix}")
        self._counts[_fold_case(path)] = 1
        return path


def _fold_case(path: PurePosixPath | str) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()
