"""Where pictures and their labels come from: a folder per class, folders already split, an archive, a table."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bestiary.data import archive_members, archives, manifest
from bestiary.data.split import parse_split_name
from bestiary.errors import SourceError
from bestiary.files import cache_folder
from bestiary.picture import SUFFIXES
from bestiary.progress import Reporter, SilentReporter
from bestiary.text import format_names, printable

TABLE_SUFFIXES = {".csv", ".parquet"}
# Files that live beside pictures and are not meant as pictures: passed over, but counted.
SIDECAR_NAMES = {"thumbs.db", "desktop.ini", "readme", "license"}
SIDECAR_SUFFIXES = {".txt", ".csv", ".json", ".xml", ".xmp", ".md", ".html", ".parquet", ".yaml", ".yml", ".ini", ".db"}
SIDECAR_FOLDERS = {"__macosx"}
PICTURE_SUFFIXES = frozenset().union(*SUFFIXES.values())
NOT_TEXT, LISTED_TWICE = "name is not valid Unicode", "listed twice"
SILENT = SilentReporter()


@dataclass(frozen=True)
class PictureEntry:
    """One picture as its source names it. `split` is None where the source has no split of its own."""

    path: Path
    label: str
    split: str | None = None


@dataclass(frozen=True)
class UnreadableFile:
    """One file that cannot even be named in a table. `path` and `label` are written so that they can be printed."""

    path: str
    label: str
    reason: str


@dataclass
class PictureList:
    """The pictures of a source, sorted by path, and how many other files were passed over, by reason.

    Files that were meant as pictures and can never be read are not among the pictures: they are `unusable`.
    """

    pictures: list[PictureEntry] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unusable: list[UnreadableFile] = field(default_factory=list)

    def labels(self) -> list[str]:
        """Return the labels, sorted."""
        return sorted({picture.label for picture in self.pictures})


def list_pictures(source: Path, labels: Mapping[str, str], *, reporter: Reporter = SILENT) -> PictureList:
    """Return the pictures of a folder, archive or table, their labels mapped by `labels`; files are not opened.

    An archive is unpacked into the cache folder, once. Raises SourceError, naming what was found, when the source is
    missing or holds no labelled pictures.
    """
    return list_sources([source], labels, reporter=reporter)


def list_sources(sources: Sequence[Path], labels: Mapping[str, str], *, reporter: Reporter = SILENT) -> PictureList:
    """Return the pictures of several sources as one listing: equal labels join, `labels` maps those of all of them.

    A file that is listed twice with one label is one picture, and counted in `passed_over`; with two labels it is
    two, so that the audit can name the conflict. Raises SourceError as `list_pictures` does, for any of the sources,
    and for `labels` that map none of the folders; those of them that were not found are told to the reporter.
    """
    if not sources:
        raise SourceError("There is no source of pictures. Give a folder, an archive or a table, or several of them.")
    listings = [_list_source(source, reporter, alone=len(sources) == 1) for source in sources]
    _check_map(labels, {picture.label for listing in listings for picture in listing.pictures}, reporter)
    passed_over = sum((listing.skipped for listing in listings), Counter[str]())
    found = [PictureEntry(p.path, _label(p.label, labels), p.split) for listing in listings for p in listing.pictures]
    _warn_label_case({picture.label for picture in found}, reporter)
    pictures = {(os.path.abspath(p.path), p.label, p.split): p for p in reversed(found)}  # noqa: PTH100 - no links
    passed_over[LISTED_TWICE] = len(found) - len(pictures)
    unusable = dict.fromkeys(
        UnreadableFile(one.path, _label(one.label, labels), one.reason)
        for listing in listings
        for one in listing.unusable
    )
    return PictureList(sorted(pictures.values(), key=lambda p: (str(p.path), p.label)), +passed_over, list(unusable))


def _list_source(source: Path, reporter: Reporter, *, alone: bool) -> PictureList:
    if not os.path.exists(source):  # noqa: PTH110 - unlike Path.exists, it stands names that are too long
        raise SourceError(f"There is nothing at {source}. Give a folder with one folder of pictures for each class.")
    if not _is_text(source.absolute()):
        raise SourceError(f"The name {printable(str(source.absolute()))} is not valid Unicode. Rename it.")
    if source.is_dir():
        listing = _list_folder(source, look_through=alone, reporter=reporter)
    elif archives.is_archive(source):
        listing = _list_archive(source, reporter)
    elif source.suffix.lower() in TABLE_SUFFIXES:
        listing = _list_table(source)
    else:
        raise SourceError(
            f"{source} is a file. Expected a folder, or a table ({', '.join(sorted(TABLE_SUFFIXES))}), or an archive"
            f" ({', '.join(archive_members.SUFFIXES)})."
        )
    if not listing.pictures:
        passed = ", ".join(f"{n:,} {reason}" for reason, n in listing.skipped.items())
        raise SourceError(
            f"There are no labelled pictures in {source}{f' (passed over: {passed})' if passed else ''}."
            " Expected one folder of pictures for each class."
        )
    return listing


def _label(name: str, labels: Mapping[str, str]) -> str:
    """Return the final label. Accents can be written in two ways; one label has only one."""
    composed = unicodedata.normalize("NFC", name)
    return unicodedata.normalize("NFC", labels.get(name, labels.get(composed, composed)))


def _warn_label_case(labels: set[str], reporter: Reporter) -> None:
    """Say which labels are the same but for capitals: probably one class that was written in two ways."""
    alike: dict[str, list[str]] = {}
    for label in sorted(labels):
        alike.setdefault(label.casefold(), []).append(label)
    for names in (names for names in alike.values() if len(names) > 1):
        said = f"{', '.join(names[:-1])} and {names[-1]} differ only in capitals, and stay classes of their own."
        reporter.info(f"{said} If they are one class, give both one label in a map (--labels FILE.csv).")


def _check_map(labels: Mapping[str, str], names: set[str], reporter: Reporter) -> None:
    """Refuse a map of labels that is for other folders; say which of its folders are not here."""
    composed = names | {unicodedata.normalize("NFC", name) for name in names}
    absent = sorted(name for name in labels if name not in composed)
    if not labels or not absent:
        return
    if len(absent) < len(labels):
        reporter.info(
            f"{len(absent):,} of {len(labels):,} folders of the label map are not here: {format_names(absent)}."
        )
        return
    by_folded = {name.casefold(): name for name in sorted(names)}
    close = {name: difflib.get_close_matches(name.casefold(), by_folded, n=1) for name in absent}
    pairs = [f'"{name}" is near "{by_folded[near[0]]}"' for name, near in close.items() if near]
    raise SourceError(
        f"The label map matches no folder. It names {format_names(absent)}; the folders here are {format_names(sorted(names))}."
        + (f" Nearest: {format_names(pairs)}." if pairs else " Leave --labels out if they are the labels already.")
    )


def _list_archive(source: Path, reporter: Reporter) -> PictureList:
    whole = archives.unpack_archive(source, cache_folder() / "archives", _member_skip_reason, reporter=reporter)
    listing = _list_folder(whole.folder, look_through=True, reporter=SILENT)
    listing.skipped += whole.skipped
    return listing


def _member_skip_reason(parts: tuple[str, ...]) -> str | None:
    """Return why a member of an archive is not unpacked, from the parts of its name."""
    if any(_is_skipped_folder(folder) for folder in parts[:-1]):
        return "hidden folder"
    return _skip_reason(Path(parts[-1]))


def _list_folder(source: Path, *, look_through: bool, reporter: Reporter) -> PictureList:
    listing = PictureList()
    folders = _folders(source, listing)
    while look_through and len(folders) == 1 and _is_wrapper(folders[0]):
        reporter.info(f"{folders[0]} is the only folder there: the folders in it are taken as the classes.")
        folders = _folders(folders[0], listing)
    parts = _split_of_folders(folders, reporter)
    for folder in folders:
        if parts:
            for inner in _class_folders(folder, listing):
                _collect(inner, inner.name, parts[folder], listing)
        else:
            _collect(folder, folder.name, None, listing)
    listing.skipped += Counter()  # drops zero counts
    return listing


def _split_of_folders(folders: Sequence[Path], reporter: Reporter) -> dict[Path, str]:
    """Return which part of a split each folder is, or nothing if they are classes; what looks like a split is told."""
    parts = {folder: part for folder in folders if (part := parse_split_name(folder.name))}
    if "train" in parts.values() and len(parts) > 1:
        others = sorted(folder.name.lower() for folder in folders if folder not in parts)
        if not others:
            return parts
        reporter.info(
            f"{format_names(sorted(folder.name.lower() for folder in parts))} are taken as classes like {format_names(others)} beside"
            " them. If they are the parts of a split, move the other folders away."
        )
    elif alike := _alike_inside(folders):
        reporter.info(
            f"{format_names([folder.name for folder in folders])} are taken as the classes, though each holds the same"
            f" folders: {format_names(alike)}. If those are the classes, and these the parts of a split, call them train, val"
            " and test."
        )
    return {}


def _alike_inside(folders: Sequence[Path]) -> list[str]:
    """Return the names of the folders in each of these, two or more, if they are the same in all: else nothing."""
    if not 1 < len(folders) <= 5:
        return []
    inside = [{inner.name for inner in _folders(folder, PictureList())} for folder in folders]
    same = all(names == inside[0] for names in inside) and len(inside[0]) > 1
    return sorted(inside[0]) if same else []


def _class_folders(part: Path, listing: PictureList) -> list[Path]:
    """Return the class folders of a part of a split; some collections pack it twice, as in train/train/cat."""
    folders = _folders(part, listing)
    if [folder.name for folder in folders] == [part.name] and len(inner := _folders(folders[0], listing)) > 1:
        return inner
    return folders


def _is_wrapper(folder: Path) -> bool:
    """Tell whether this only folder holds the class folders: two or more, and no pictures beside them or it.

    Several such folders may lie in one another. One folder of pictures is a class, however deep its pictures lie.
    """
    beside = [*_entries(folder.parent), *_entries(folder)]
    loose = any(path.suffix.lower() in PICTURE_SUFFIXES and path.is_file() for path in beside)
    inner = _folders(folder, PictureList())
    return not loose and (len(inner) > 1 or (len(inner) == 1 and _is_wrapper(inner[0])))


def _collect(folder: Path, label: str, split: str | None, listing: PictureList) -> None:
    for path in _files(folder, listing):
        reason = _skip_reason(path)
        if reason:
            listing.skipped[reason] += 1
            if reason == NOT_TEXT:
                listing.unusable.append(
                    UnreadableFile(printable(str(path)), printable(label), f"The {reason}: rename it.")
                )
        else:
            listing.pictures.append(PictureEntry(path, label, split))


def _skip_reason(path: Path) -> str | None:
    name = path.name.lower()
    if not _is_text(path):
        return NOT_TEXT
    if name.startswith("."):
        return "hidden"
    if name in SIDECAR_NAMES or path.suffix.lower() in SIDECAR_SUFFIXES:
        return "not meant as pictures"
    return None


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(f"The folder {folder} cannot be listed: {error.strerror or error}.") from None


def _is_text(path: Path) -> bool:
    """Tell whether a path can be written into a table: Linux allows names that are no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_skipped_folder(folder_name: str) -> bool:
    return folder_name.startswith(".") or folder_name.lower() in SIDECAR_FOLDERS


def _folders(folder: Path, listing: PictureList) -> list[Path]:
    """Return the folders of classes or splits; what lies beside them is counted."""
    entries = _entries(folder)
    found = [path for path in entries if path.is_dir()]
    shown = [path for path in found if not _is_skipped_folder(path.name)]
    kept = [path for path in shown if not (path.is_symlink() and folder.resolve().is_relative_to(path.resolve()))]
    listing.skipped["beside the class folders"] += len(entries) - len(found)
    listing.skipped["hidden folder"] += len(found) - len(shown)
    listing.skipped["linked folder"] += len(shown) - len(kept)  # back to where we are: it would never end
    return kept


def _files(folder: Path, listing: PictureList) -> Iterator[Path]:
    """Every file below the folder, sorted; linked folders are counted, not followed, so loops cannot arise."""

    def stop(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be listed: {error.strerror}.")

    for where, inner, names in os.walk(folder, onerror=stop):
        kept = [name for name in inner if not _is_skipped_folder(name)]
        listing.skipped["hidden folder"] += len(inner) - len(kept)
        listing.skipped["linked folder"] += sum(Path(where, name).is_symlink() for name in kept)
        inner[:] = sorted(kept)
        yield from (Path(where, name) for name in sorted(names))


def _list_table(source: Path) -> PictureList:
    return PictureList([PictureEntry(*row) for row in manifest.read_manifest(source)])
