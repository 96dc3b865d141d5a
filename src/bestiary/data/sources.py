"""Lists pictures and their labels from a source: a folder per class, split folders, an archive, or a table."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bestiary.context import Context
from bestiary.data import archives, manifest
from bestiary.data.archive_members import SUFFIXES, is_archive
from bestiary.data.split import parse_split_name
from bestiary.errors import SourceError
from bestiary.files import cache_folder
from bestiary.picture import PICTURE_SUFFIXES
from bestiary.progress import Reporter, SilentReporter
from bestiary.text import format_names, printable

TABLE_SUFFIXES = {".csv", ".parquet"}
# Files that lie beside pictures and are no pictures: skipped, but counted.
SIDECAR_NAMES = {"thumbs.db", "desktop.ini", "readme", "license"}
SIDECAR_SUFFIXES = {".txt", ".csv", ".json", ".xml", ".xmp", ".md", ".html", ".parquet", ".yaml", ".yml", ".ini", ".db"}
SIDECAR_FOLDERS = {"__macosx"}
NOT_TEXT, LISTED_TWICE = "name is not valid Unicode", "listed twice"


@dataclass(frozen=True)
class PictureEntry:
    """A picture as its source lists it. `split` is None if the source has no split."""

    path: Path
    label: str
    split: str | None = None


@dataclass(frozen=True)
class UnreadableFile:
    """A file whose name cannot be written into a table. `path` and `label` are printable forms of it."""

    path: str
    label: str
    reason: str


@dataclass
class PictureList:
    """The pictures of a source, sorted by path, and the number of skipped files by reason.

    Files that were meant as pictures but can never be read are `unusable`, and not among `pictures`.
    """

    pictures: list[PictureEntry] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unusable: list[UnreadableFile] = field(default_factory=list)

    def labels(self) -> list[str]:
        """Return the labels, sorted."""
        return sorted({picture.label for picture in self.pictures})


def list_sources(sources: Sequence[Path], labels: Mapping[str, str], context: Context | None = None) -> PictureList:
    """Return the pictures of one or several sources as one list, their labels mapped by `labels`; opens no picture.

    An archive is unpacked into the cache folder, once. A file that is listed twice with one label is one picture,
    and is counted in `skipped`; with two labels it is two, so that the audit reports the conflict. Reports folders of
    `labels` that do not occur. Raises SourceError if a source is missing or has no labelled pictures, and if `labels`
    matches no folder.
    """
    context = context or Context()
    if not sources:
        raise SourceError("There is no source of pictures. Pass a folder, an archive or a table, or several of them.")
    lists = [_list_source(source, context, unwrap=len(sources) == 1) for source in sources]
    _check_label_map(labels, {entry.label for pictures in lists for entry in pictures.pictures}, context.reporter)
    entries = [replace(entry, label=_map_label(entry.label, labels)) for part in lists for entry in part.pictures]
    _warn_label_case({entry.label for entry in entries}, context.reporter)
    pictures = {(os.path.abspath(p.path), p.label, p.split): p for p in reversed(entries)}  # noqa: PTH100 - no links
    skipped = sum((part.skipped for part in lists), Counter[str]())
    skipped[LISTED_TWICE] = len(entries) - len(pictures)
    unusable = dict.fromkeys(
        replace(file, label=_map_label(file.label, labels)) for part in lists for file in part.unusable
    )
    return PictureList(sorted(pictures.values(), key=lambda p: (str(p.path), p.label)), +skipped, list(unusable))


def _list_source(source: Path, context: Context, *, unwrap: bool) -> PictureList:
    if not os.path.exists(source):  # noqa: PTH110 - Path.exists raises for names that are too long
        raise SourceError(f"There is nothing at {source}. Pass a folder with one folder of pictures per class.")
    if not _is_text(source.absolute()):
        raise SourceError(f"The name {printable(str(source.absolute()))} is not valid Unicode. Rename it.")
    if source.is_dir():
        listing = _list_folder(source, unwrap=unwrap, reporter=context.reporter)
    elif is_archive(source):
        listing = _list_archive(source, context)
    elif source.suffix.lower() in TABLE_SUFFIXES:
        listing = PictureList([PictureEntry(*row) for row in manifest.read_manifest(source)])
    else:
        raise SourceError(
            f"{source} is a file. Expected a folder, or a table ({', '.join(sorted(TABLE_SUFFIXES))}), or an archive"
            f" ({', '.join(SUFFIXES)})."
        )
    if not listing.pictures:
        skipped = ", ".join(f"{n:,} {reason}" for reason, n in listing.skipped.items())
        raise SourceError(
            f"There are no labelled pictures in {source}{f' (skipped: {skipped})' if skipped else ''}."
            " Expected one folder of pictures per class."
        )
    return listing


def _map_label(name: str, labels: Mapping[str, str]) -> str:
    """Return the label of a folder in Unicode form NFC: accents have two spellings, a label has one."""
    composed = unicodedata.normalize("NFC", name)
    return unicodedata.normalize("NFC", labels.get(name, labels.get(composed, composed)))


def _warn_label_case(labels: set[str], reporter: Reporter) -> None:
    """Report labels that differ only in case: probably one class in two spellings."""
    spellings: dict[str, list[str]] = {}
    for label in sorted(labels):
        spellings.setdefault(label.casefold(), []).append(label)
    for names in (names for names in spellings.values() if len(names) > 1):
        reporter.info(
            f"{', '.join(names[:-1])} and {names[-1]} differ only in case and are treated as separate classes. If they"
            " are one class, give both one label in a label map (--labels FILE.csv)."
        )


def _check_label_map(labels: Mapping[str, str], names: set[str], reporter: Reporter) -> None:
    """Raise SourceError if a label map matches no folder; report which of its folders are missing."""
    composed = names | {unicodedata.normalize("NFC", name) for name in names}
    absent = sorted(name for name in labels if name not in composed)
    if not absent:
        return
    if len(absent) < len(labels):
        reporter.info(
            f"{len(absent):,} of {len(labels):,} folders of the label map are missing: {format_names(absent)}."
        )
        return
    by_folded = {name.casefold(): name for name in sorted(names)}
    close = {name: difflib.get_close_matches(name.casefold(), by_folded, n=1) for name in absent}
    pairs = [f'"{name}" is close to "{by_folded[match[0]]}"' for name, match in close.items() if match]
    raise SourceError(
        f"The label map matches no folder. It names {format_names(absent)}; the folders are"
        f" {format_names(sorted(names))}."
        + (f" Similar names: {format_names(pairs)}." if pairs else " Omit --labels if the folder names are the labels.")
    )


def _list_archive(source: Path, context: Context) -> PictureList:
    cache = (context.cache or cache_folder()) / "archives"
    unpacked = archives.unpack_archive(source, cache, _member_skip_reason, reporter=context.reporter)
    listing = _list_folder(unpacked.folder, unwrap=True, reporter=SilentReporter())
    listing.skipped += unpacked.skipped
    return listing


def _member_skip_reason(parts: tuple[str, ...]) -> str | None:
    """Return why a member of an archive is skipped, from the parts of its name, or None."""
    if any(_is_skipped_folder(folder) for folder in parts[:-1]):
        return "hidden folder"
    return _skip_reason(Path(parts[-1]))


def _list_folder(source: Path, *, unwrap: bool, reporter: Reporter) -> PictureList:
    listing = PictureList()
    folders = _folders(source, listing)
    while unwrap and len(folders) == 1 and _is_wrapper(folders[0]):
        reporter.info(f"{folders[0]} is the only folder: the folders inside it are used as the classes.")
        folders = _folders(folders[0], listing)
    splits = _splits_of_folders(folders, reporter)
    for folder in folders:
        if splits:
            for inner in _class_folders(folder, listing):
                _collect(inner, splits[folder], listing)
        else:
            _collect(folder, None, listing)
    listing.skipped += Counter()  # drops zero counts
    return listing


def _splits_of_folders(folders: Sequence[Path], reporter: Reporter) -> dict[Path, str]:
    """Return the split of each folder, or nothing if the folders are classes; report a layout that is ambiguous."""
    splits = {folder: split for folder in folders if (split := parse_split_name(folder.name))}
    if "train" in splits.values() and len(splits) > 1:
        others = sorted(folder.name.lower() for folder in folders if folder not in splits)
        if not others:
            return splits
        reporter.info(
            f"{format_names(sorted(folder.name.lower() for folder in splits))} are used as classes, like"
            f" {format_names(others)} beside them. If they are the splits of a dataset, move the other folders away."
        )
    elif labels := _common_subfolders(folders):
        reporter.info(
            f"{format_names([folder.name for folder in folders])} are used as the classes, though each contains the"
            f" same folders: {format_names(labels)}. If those are the classes, and these the splits, rename these to"
            " train, val and test."
        )
    return {}


def _common_subfolders(folders: Sequence[Path]) -> list[str]:
    """Return the names of the folders inside two to five folders if all contain the same two or more, else nothing."""
    if not 1 < len(folders) <= 5:
        return []
    inside = [{inner.name for inner in _folders(folder, PictureList())} for folder in folders]
    same = all(names == inside[0] for names in inside) and len(inside[0]) > 1
    return sorted(inside[0]) if same else []


def _class_folders(split: Path, listing: PictureList) -> list[Path]:
    """Return the class folders of a split; some datasets nest it twice, as in train/train/cat."""
    folders = _folders(split, listing)
    if [folder.name for folder in folders] == [split.name] and len(inner := _folders(folders[0], listing)) > 1:
        return inner
    return folders


def _is_wrapper(folder: Path) -> bool:
    """Return whether an only folder contains the class folders: two or more, and no pictures in it or beside it.

    Wrappers may be nested. A single folder of pictures is a class, however deep its pictures lie.
    """
    beside = [*_entries(folder.parent), *_entries(folder)]
    has_pictures = any(path.suffix.lower() in PICTURE_SUFFIXES and path.is_file() for path in beside)
    inner = _folders(folder, PictureList())
    return not has_pictures and (len(inner) > 1 or (len(inner) == 1 and _is_wrapper(inner[0])))


def _collect(folder: Path, split: str | None, listing: PictureList) -> None:
    """Add every file below a class folder to the listing, as a picture or as skipped."""
    for path in _files(folder, listing):
        reason = _skip_reason(path)
        if reason is None:
            listing.pictures.append(PictureEntry(path, folder.name, split))
            continue
        listing.skipped[reason] += 1
        if reason == NOT_TEXT:
            file = UnreadableFile(printable(str(path)), printable(folder.name), f"The {reason}: rename it.")
            listing.unusable.append(file)


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
    """Return whether a path is valid Unicode and can be written into a table: Linux allows other names."""
    text = str(path)
    return text.encode(errors="replace").decode() == text


def _is_skipped_folder(folder_name: str) -> bool:
    return folder_name.startswith(".") or folder_name.lower() in SIDECAR_FOLDERS


def _folders(folder: Path, listing: PictureList) -> list[Path]:
    """Return the class or split folders inside a folder; count what is skipped."""
    entries = _entries(folder)
    folders = [path for path in entries if path.is_dir()]
    visible = [path for path in folders if not _is_skipped_folder(path.name)]
    # A link back to a parent would recurse without end.
    inner = [path for path in visible if not (path.is_symlink() and folder.resolve().is_relative_to(path.resolve()))]
    listing.skipped["beside the class folders"] += len(entries) - len(folders)
    listing.skipped["hidden folder"] += len(folders) - len(visible)
    listing.skipped["linked folder"] += len(visible) - len(inner)
    return inner


def _files(folder: Path, listing: PictureList) -> Iterator[Path]:
    """Yield every file below the folder, sorted; linked folders are counted, not followed, so loops cannot occur."""

    def stop(error: OSError) -> None:
        raise SourceError(f"The folder {error.filename} cannot be listed: {error.strerror}.")

    for parent, inner, names in os.walk(folder, onerror=stop):
        visible = [name for name in inner if not _is_skipped_folder(name)]
        listing.skipped["hidden folder"] += len(inner) - len(visible)
        listing.skipped["linked folder"] += sum(Path(parent, name).is_symlink() for name in visible)
        inner[:] = sorted(visible)
        yield from (Path(parent, name) for name in sorted(names))
