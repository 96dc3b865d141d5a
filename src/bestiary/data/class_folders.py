"""Lists the class folders of a folder: through wrappers, the parts of a split, archives, and several levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bestiary.data.archive_members import is_archive, strip_archive_suffix
from bestiary.data.folder_layout import choose_layout
from bestiary.data.folder_walk import (
    BESIDE,
    SIDECAR_FOLDERS,
    NamedFolder,
    has_loose_pictures,
    has_pictures,
    is_picture_name,
    is_skipped_folder,
    is_text,
    leads_back,
    list_entries,
    list_folders,
)
from bestiary.data.label_map import ClassNaming
from bestiary.data.notices import EMPTY_CLASS, SourceNotice
from bestiary.data.part_names import parse_part
from bestiary.errors import SourceError
from bestiary.picture_formats import PICTURE_SUFFIXES
from bestiary.text import format_names, quote_names

CONTAINERS = {"images", "image", "imgs", "img", "pictures", "photos", "data", "dataset", "raw-img", "jpegimages"}
Unpack = Callable[[Path], tuple[Path, Counter[str]]]  # an archive -> its folder in the cache, members skipped by reason


@dataclass(frozen=True)
class ClassFolder:
    """A class folder, its name below the source (`animals/cat` at depth 2), its split, and the folder of that split."""

    folder: NamedFolder
    below: str
    split: str | None = None
    part: str = ""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name


@dataclass(frozen=True)
class FolderReading:
    """How to read the folders of a source.

    naming: what names folders as classes; label_depth: the level of folders that are the classes; unwrap: look into an
    only folder; unpack: for archives, None to leave them packed.
    """

    naming: ClassNaming
    label_depth: int
    unwrap: bool
    unpack: Unpack | None


@dataclass
class ClassFolders:
    """The class folders of a source, what was skipped on the way, and the notices about both."""

    folders: list[ClassFolder] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    notices: list[SourceNotice] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def list_class_folders(source: Path, reading: FolderReading) -> ClassFolders:
    """Return the class folders of a source. Raises SourceError for a layout that cannot be decided."""
    result = ClassFolders()
    parent, folders = source, list_folders(source, result.skipped)
    while reading.unwrap and (wrapper := _find_wrapper(folders, source, reading.label_depth)):
        beside = [folder.name for folder in folders if folder != wrapper]
        only = "the only folder with pictures" if beside else "the only folder"
        result.messages.append(f"{wrapper.path} is {only}: its subfolders are used as the classes.")
        result.notices += [_unused_notice(name, "it contains no pictures") for name in beside]
        parent, folders = wrapper.path, list_folders(wrapper.path, result.skipped)
    folders += _unpack_archives(parent, folders, reading, result)
    layout = choose_layout(folders, reading.naming, source)
    result.notices += layout.notices
    result.notices += _iter_unused_notices(parent)
    for part, split in layout.parts.items():
        result.notices += _iter_unused_notices(part.path)
        for folder in list_folders(part.path, result.skipped):
            result.folders += _descend(ClassFolder(folder, folder.name, split, part.name), source, reading, result)
    for folder in layout.classes:
        result.folders += _descend(ClassFolder(folder, folder.name), source, reading, result)
    if reading.label_depth > 1:
        _check_deep_labels(result.folders, reading)
    return result


def _check_deep_labels(folders: Sequence[ClassFolder], reading: FolderReading) -> None:
    """Raise SourceError if the names at a deeper level are those of parts of a split, as in cat/train/1.jpg."""
    names = sorted({folder.name for folder in folders})
    parts = [name for name in names if parse_part(name) and not reading.naming.is_named(name)]
    if len(parts) > 1:
        raise SourceError(
            f"With --label-depth {reading.label_depth} the labels would be {format_names(names)}, of which"
            f" {format_names(parts)} are names of splits. Choose another level, or list the classes: --classes"
            f" {quote_names(names)}."
        )


def empty_notice(folder: ClassFolder, reason: str) -> SourceNotice:
    """Return the notice that a class folder contributes no pictures, with the reason."""
    part = f"{folder.part}/" if folder.part else ""
    return SourceNotice(EMPTY_CLASS, f"The folder {part}{folder.below} is not used: {reason}.", folder=folder.name)


def link_notice(folder: ClassFolder, links: int) -> SourceNotice:
    """Return the notice that linked folders inside a class folder with pictures are not followed."""
    part = f"{folder.part}/" if folder.part else ""
    subject = f"{links:,} linked folder{'s' * (links > 1)} in {part}{folder.below} {'are' if links > 1 else 'is'}"
    reason = "their pictures are included already, or the link is circular"
    return SourceNotice(EMPTY_CLASS, f"{subject} not followed: {reason}.", folder=folder.name, is_issue=False)


def _unused_notice(name: str, reason: str) -> SourceNotice:
    return SourceNotice(EMPTY_CLASS, f"The folder {name} is not used: {reason}.", folder=name)


def _descend(folder: ClassFolder, source: Path, reading: FolderReading, result: ClassFolders) -> list[ClassFolder]:
    """Return the class folders below a folder of the first level: `label_depth` levels below their part or source."""
    level = [folder]
    for depth in range(1, reading.label_depth):
        above, level = level, []
        for parent in above:
            inner = list_folders(parent.folder.path, result.skipped)
            level += [replace(parent, folder=f, below=f"{parent.below}/{f.name}") for f in inner]
            if has_loose_pictures(parent.folder.path) or (not inner and has_pictures(parent.folder.path, source)):
                reason = f"lie at level {depth}, and labels are taken from the folders at level {reading.label_depth}"
                message = f"Pictures directly in the folder {parent.below} are not used: they {reason}."
                result.notices.append(SourceNotice(EMPTY_CLASS, message, folder=parent.name))
            elif not inner:
                result.notices.append(empty_notice(parent, "it is empty"))
    return level


def _iter_unused_notices(parent: Path) -> Iterator[SourceNotice]:
    """Yield a notice for what lies where class folders are expected and is none: broken links, hidden folders."""
    for path in list_entries(parent):
        if path.is_dir():
            if is_skipped_folder(path.name):
                if path.name.lower() not in SIDECAR_FOLDERS and has_loose_pictures(path):
                    reason = "its name begins with a dot, so it is hidden. It contains pictures"
                    yield replace(_unused_notice(path.name, reason), is_issue=False)
            elif leads_back(path):
                yield _unused_notice(path.name, "it is a link to a parent folder")
        elif path.is_symlink() and not path.exists() and path.suffix.lower() not in PICTURE_SUFFIXES:
            yield _unused_notice(path.name, "it is a broken symbolic link")


# ---- Wrappers ---------------------------------------------------------------------------------------------------


def _find_wrapper(folders: Sequence[NamedFolder], top: Path, label_depth: int) -> NamedFolder | None:
    """Return the folder that contains the class folders, or None if these folders are the classes or parts.

    It is the only folder, or one with a name such as "images" beside folders that hold no pictures.
    """
    filled = list(folders)
    if len(folders) > 1:
        containers = [folder for folder in folders if folder.name.casefold() in CONTAINERS]
        filled = [folder for folder in folders if has_pictures(folder.path, top)] if containers else []
        filled = filled if filled == containers else []
    if len(filled) == 1 and _is_wrapper(filled[0].path) and _is_deep(filled[0].path, label_depth):
        return filled[0]
    return None


def _is_wrapper(folder: Path) -> bool:
    """Return whether an only folder contains the class folders: two or more, and no pictures in it or beside it.

    Wrappers may be nested. A single folder of pictures is a class, however deep its pictures lie.
    """
    beside = [*list_entries(folder.parent), *list_entries(folder)]
    if any(map(is_picture_name, beside)):
        return False
    inner = list_folders(folder, Counter())
    return len(inner) > 1 or (len(inner) == 1 and _is_wrapper(inner[0].path))


def _is_deep(folder: Path, levels: int) -> bool:
    """Return whether there are folders that many levels below a folder."""
    return levels == 0 or any(_is_deep(inner.path, levels - 1) for inner in list_folders(folder, Counter()))


# ---- Archives ---------------------------------------------------------------------------------------------------


def _unpack_archives(
    parent: Path, folders: Sequence[NamedFolder], reading: FolderReading, result: ClassFolders
) -> list[NamedFolder]:
    """Return the unpacked folders of the archives of a folder, with their names: one archive for each class or part.

    Archives beside class folders, a single one, and those inside another archive stay packed, and are named.
    """
    archives = [path for path in list_entries(parent) if path.is_file() and is_archive(path) and is_text(path)]
    archives = [path for path in archives if not path.name.startswith(".")]
    if not archives:
        return []
    names = format_names([path.name for path in archives])
    if any(has_pictures(folder.path, parent) for folder in folders):
        reason = "they are next to folders of pictures. Unpack them, or pass them as further sources"
        result.notices.append(SourceNotice(EMPTY_CLASS, f"Archives in {parent} are not used: {names}; {reason}."))
        return []
    if reading.unpack is None:
        raise SourceError(
            f"There are archives inside the archive: {names}. Unpack it by hand and pass the folder, in which each"
            " archive is one class."
        )
    if len(archives) == 1:
        raise SourceError(f"{parent} contains one archive, {names}. Pass the archive itself: {archives[0]}.")
    unpacked: list[NamedFolder] = []
    for archive in archives:
        folder, skipped = reading.unpack(archive)
        result.skipped += skipped
        unpacked.append(NamedFolder(folder, strip_archive_suffix(archive)))
    twice = sorted(name for name, count in Counter(folder.name for folder in unpacked).items() if count > 1)
    if twice:
        raise SourceError(f"Two archives in {parent} have the name {twice[0]}: rename one of them, or merge them.")
    result.skipped[BESIDE] -= len(archives)
    result.messages.append(f"Each archive in {parent} is used as one folder: {names}.")
    return unpacked
