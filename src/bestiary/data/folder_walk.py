"""Lists the folders and files of a source: what is hidden, not meant as a picture or linked twice is counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bestiary.data.archive_members import is_archive
from bestiary.errors import SourceError
from bestiary.locks import is_output_lock
from bestiary.picture_formats import PICTURE_SUFFIXES

# Files that lie beside pictures and are no pictures: skipped, but counted.
SIDECAR_NAMES = {"thumbs.db", "desktop.ini", "readme", "license"}
SIDECAR_SUFFIXES = {".txt", ".csv", ".json", ".xml", ".xmp", ".md", ".html", ".parquet", ".yaml", ".yml", ".ini", ".db"}
SIDECAR_FOLDERS = {"__macosx"}
NOT_TEXT, PACKED = "name is not valid Unicode", "archive inside a class folder"
BESIDE, HIDDEN_FOLDER, LINKED_FOLDER = "beside the class folders", "hidden folder", "linked folder"


@dataclass(frozen=True)
class NamedFolder:
    """A folder and its name; the folder of an unpacked archive has the name of the archive."""

    path: Path
    name: str


def skip_reason(path: Path) -> str | None:
    """Return why a file of a class folder is skipped, or None if it is listed as a picture."""
    name = path.name.lower()
    if not is_text(path):
        return NOT_TEXT
    if name.startswith("."):
        return "hidden"
    if name in SIDECAR_NAMES or path.suffix.lower() in SIDECAR_SUFFIXES:
        return "not meant as pictures"
    return PACKED if is_archive(path) else None


def is_text(path: Path) -> bool:
    """Return whether a path is valid Unicode and can be written into a table: Linux allows other names."""
    text = str(path)
    return text.encode(errors="replace").decode() == text


def is_skipped_folder(folder_name: str) -> bool:
    """Return whether a folder of this name is never looked into."""
    return folder_name.startswith(".") or folder_name.lower() in SIDECAR_FOLDERS


def list_entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, without the locks of this and other commands' outputs.

    Raises SourceError, naming the folder, if it cannot be listed.
    """
    try:
        return [path for path in sorted(folder.iterdir()) if not is_output_lock(path)]
    except OSError as error:
        raise SourceError(f"The folder {folder} cannot be listed: {error.strerror or error}.") from None


def leads_back(folder: Path) -> bool:
    """Return whether a folder is a link to a folder above it, in which a walk would not end."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def list_folders(folder: Path, skipped: Counter[str]) -> list[NamedFolder]:
    """Return the folders inside a folder, linked ones too; count in `skipped` what else is in it."""
    entries = list_entries(folder)
    folders = [path for path in entries if path.is_dir()]
    visible = [path for path in folders if not is_skipped_folder(path.name) and not _holds_only_locks(path)]
    inner = [path for path in visible if not leads_back(path)]
    skipped[BESIDE] += len(entries) - len(folders)
    skipped[HIDDEN_FOLDER] += sum(is_skipped_folder(path.name) for path in folders)
    skipped[LINKED_FOLDER] += len(visible) - len(inner)
    return [NamedFolder(path, path.name) for path in inner]


def iter_files(folder: Path, top: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield every file below a folder, sorted. A linked folder is followed unless `top`, the source, has it anyway.

    No folder is walked twice, so loops cannot occur. Skipped folders are counted in `skipped`.
    """
    top, visited = top.resolve(), {folder.resolve()}

    def stop(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be listed: {error.strerror}.")

    def is_followed(path: Path) -> bool:
        real = path.resolve()
        if real in visited or (path.is_symlink() and _is_walked_anyway(real, top)):
            return False
        visited.add(real)
        return True

    for parent, inner, names in os.walk(folder, onerror=stop, followlinks=True):
        visible = [name for name in sorted(inner) if not is_skipped_folder(name)]
        skipped[HIDDEN_FOLDER] += len(inner) - len(visible)
        inner[:] = [name for name in visible if is_followed(Path(parent, name))]
        skipped[LINKED_FOLDER] += len(visible) - len(inner)
        yield from (path for name in sorted(names) if not is_output_lock(path := Path(parent, name)))


def _holds_only_locks(folder: Path) -> bool:
    """Return whether a folder was created for the lock of an output: it holds nothing but that, however deep."""
    is_empty = True
    try:
        for path in folder.iterdir():
            is_inner = path.is_dir() and not path.is_symlink() and _holds_only_locks(path)
            if not is_inner and not is_output_lock(path):
                return False
            is_empty = False
    except OSError:  # whoever lists it explains it
        return False
    return not is_empty


def _is_walked_anyway(real: Path, top: Path) -> bool:
    """Return whether a folder contains the source, or is a visible folder of it."""
    if top.is_relative_to(real):
        return True
    return real.is_relative_to(top) and not any(map(is_skipped_folder, real.relative_to(top).parts))


def has_pictures(folder: Path, top: Path) -> bool:
    """Return whether a folder has a file, however deep, that would be listed as a picture."""
    return any(skip_reason(path) is None for path in iter_files(folder, top, Counter()))


def has_loose_pictures(folder: Path) -> bool:
    """Return whether pictures lie directly in a folder, by their suffix."""
    return any(map(is_picture_name, list_entries(folder)))


def is_picture_name(path: Path) -> bool:
    """Return whether a path is a file with the suffix of a picture."""
    return path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()


def count_pictures(folder: Path, top: Path) -> int:
    """Return how many files of a folder would be listed as pictures."""
    return sum(skip_reason(path) is None for path in iter_files(folder, top, Counter()))
