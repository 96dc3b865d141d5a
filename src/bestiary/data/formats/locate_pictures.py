"""Finds the files that a table names: as written, with leading folders dropped, or by the end of their path.

A table may come from another computer: its paths have folders, drives or hosts that are not here. A file is taken only
if nothing else matches as well. Tried in this order, for each name:

1. as it is written, relative to the folder of the pictures;
2. with its leading folders dropped one at a time, relative to that folder;
3. anywhere below that folder, where the last folder and the name are the same, or the whole of what is written.

No file is taken for two names, and none that another name is found at earlier in this list.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from bestiary.data.folder_walk import is_skipped_folder
from bestiary.errors import SourceError
from bestiary.text import format_names

_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://[^/]*/?")
_DRIVE = re.compile(r"^[A-Za-z]:(?=[/\\]|$)|^[/\\]{2}[^/\\]+(?=[/\\])")
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")  # labelling tools put it before the names of uploaded files
MAX_NAMES = 3


@dataclass(frozen=True)
class LocatedPictures:
    """The path of each name of a table, None where it is not there.

    dropped: for how many names leading folders were left out; elsewhere: how many were found by the end of their path,
    of which `example` is the first.
    """

    paths: dict[str, str]
    missing: list[str] = field(default_factory=list)
    dropped: int = 0
    elsewhere: int = 0
    example: str = ""


def locate_pictures(names: Sequence[str], folder: Path, source: Path) -> LocatedPictures:
    """Return where the files of `names`, each once, lie in `folder`; `source`, the table, is named in errors.

    Raises SourceError if a name matches two files equally, if two names match one file, if no file is there at all, and
    for a name that no file can have.
    """
    _check_names(names, source)
    base = os.path.abspath(folder)  # noqa: PTH100 - no links are followed
    paths = _find_as_written(names, base)
    missing = [name for name in names if name not in paths]
    if not missing:
        return LocatedPictures(paths)
    files = _list_files(base)
    written, dropped = set(paths.values()), _find_without_leading(missing, base, files)
    dropped = {name: path for name, path in dropped.items() if path not in written}
    _check_distinct(dropped, source)
    paths |= dropped
    missing = [name for name in missing if name not in paths]
    elsewhere = _find_elsewhere(missing, base, files, set(paths.values()), source) if missing else {}
    _check_distinct(elsewhere, source)
    paths |= elsewhere
    missing = [name for name in missing if name not in paths]
    if not paths:
        raise SourceError(
            f"None of the {len(names):,} pictures of {source} is in the folder {base}. The first: {names[0]}. Pass the"
            " folder that they lie in: --pictures FOLDER."
        )
    example = next((f'"{name}" is {os.path.relpath(path, base)}' for name, path in elsewhere.items()), "")
    return LocatedPictures(paths, missing, len(dropped), len(elsewhere), example)


def _check_names(names: Sequence[str], source: Path) -> None:
    for name in names:
        if "\0" in name:
            raise SourceError(f"{source}: the path {name!r} is not a valid file name.")


# ---- As written -----------------------------------------------------------------------------------------------------


def _find_as_written(names: Sequence[str], base: str) -> dict[str, str]:
    """Return the files that exist under the written path: each folder is listed once, however many files it has."""
    by_folder: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in names:
        for path in _written_paths(name):
            parent, _, last = path.rpartition("/")
            by_folder[parent if parent or not path.startswith("/") else "/"].append((last, name))
    paths: dict[str, str] = {}
    for parent, wanted in by_folder.items():
        folder = os.path.normpath(os.path.join(base, parent))  # noqa: PTH118 - as fast as can be, for a million names
        present = _list_names(folder) if len(wanted) > 8 else None
        prefix = folder if folder.endswith(os.sep) else folder + os.sep
        for last, name in wanted:
            path = prefix + last
            if name not in paths and (last in present if present is not None else os.path.isfile(path)):  # noqa: PTH113
                paths[name] = path
    return paths


def _written_paths(name: str) -> Iterator[str]:
    """Yield a name as a path, and with the separators of Windows; an address of a local file without `file://`."""
    if name.startswith("file://"):
        name = unquote(_ADDRESS.sub("/", name))
    if os.sep == "\\":
        name = name.replace("\\", "/")
    if _ADDRESS.match(name) is None:
        yield name
        if "\\" in name:
            yield name.replace("\\", "/")


def _list_names(folder: str) -> Collection[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir()}
    except OSError:
        return ()


# ---- Without leading folders ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileIndex:
    """The files below a folder: their relative paths with `/`, and those by their last folder and name."""

    relative: frozenset[str]
    by_end: dict[str, list[str]]
    by_name: dict[str, list[str]]


def _list_files(base: str) -> FileIndex:
    """Return all files below a folder; hidden folders and linked ones are not looked into."""
    relative: list[str] = []
    pending = [("", base)]
    while pending:
        prefix, folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if not is_skipped_folder(name):
                            pending.append((f"{prefix}{name}/", entry.path))
                    else:
                        relative.append(prefix + name)
        except OSError as error:
            raise SourceError(f"The folder {folder} cannot be listed: {error.strerror or error}.") from None
    by_end: defaultdict[str, list[str]] = defaultdict(list)
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in relative:
        parent, _, name = path.rpartition("/")
        by_name[name].append(path)
        if parent:
            by_end[f"{parent.rpartition('/')[2]}/{name}"].append(path)
    return FileIndex(frozenset(relative), by_end, by_name)


def list_parts(name: str) -> list[str]:
    """Return the folders and the name of a path or address, without drive, host and query.

    >>> list_parts(r"C:\\Photos\\cam 1\\IMG_1.JPG"), list_parts("gs://bucket/a/b%20c.jpg")
    (['Photos', 'cam 1', 'IMG_1.JPG'], ['a', 'b c.jpg'])
    """
    if address := _ADDRESS.match(name):
        name = unquote(re.split(r"[?#]", name[address.end() :], maxsplit=1)[0])
    else:
        name = _DRIVE.sub("", name).replace("\\", "/")
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _find_without_leading(names: Sequence[str], base: str, files: FileIndex) -> dict[str, str]:
    paths: dict[str, str] = {}
    for name in names:
        parts = list_parts(name)
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        if parts and (short := _UPLOAD_PREFIX.sub("", parts[-1])) != parts[-1]:
            ends += ["/".join([*parts[start:-1], short]) for start in range(len(parts))]
        end = next((end for end in ends if end in files.relative), None)
        if end is not None:
            paths[name] = f"{base}{os.sep}{end.replace('/', os.sep)}"
    return paths


def _find_elsewhere(
    names: Sequence[str], base: str, files: FileIndex, used: Collection[str], source: Path
) -> dict[str, str]:
    paths: dict[str, str] = {}
    for name in names:
        parts = list_parts(name)
        if not parts:
            continue
        short = _UPLOAD_PREFIX.sub("", parts[-1])
        matches: list[str] = []
        if len(parts) == 1:
            matches = files.by_name.get(parts[0]) or files.by_name.get(short) or []
        else:
            matches = files.by_end.get(f"{parts[-2]}/{parts[-1]}") or []
        full = [f"{base}{os.sep}{path.replace('/', os.sep)}" for path in _longest_ends(matches, parts)]
        full = [path for path in full if path not in used]
        if len(full) > 1:
            raise SourceError(
                f'The picture "{name}" of {source} may be {full[0]} or {full[1]}'
                f"{f' or {len(full) - 2:,} more' if len(full) > 2 else ''}. Write the path from the folder of the"
                " pictures into the table, or pass that folder with --pictures."
            )
        if full:
            paths[name] = full[0]
    return paths


def _longest_ends(matches: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Return those of the paths that have most of the last parts of a name in common with it."""
    if len(matches) < 2:
        return list(matches)
    lengths = [_common_end(path.split("/"), parts) for path in matches]
    return [path for path, length in zip(matches, lengths, strict=True) if length == max(lengths)]


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _check_distinct(paths: dict[str, str], source: Path) -> None:
    """Raise SourceError if two names were found at one file: one of them would have the picture of the other."""
    if len(set(paths.values())) == len(paths):
        return None
    by_path: defaultdict[str, list[str]] = defaultdict(list)
    for name, path in paths.items():
        by_path[path].append(name)
    path, same = next((path, same) for path, same in by_path.items() if len(same) > 1)
    if len({tuple(list_parts(name)) for name in same}) == 1:  # spelt differently, the same otherwise
        return _check_distinct({name: p for name, p in paths.items() if p != path}, source)
    raise SourceError(
        f"The pictures {format_names([f'“{name}”' for name in same], MAX_NAMES)} of {source} would both be {path}:"
        " without their leading folders they are the same. Pass the folder that they lie in: --pictures FOLDER."
    )
