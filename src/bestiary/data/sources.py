"""Lists pictures and their labels from a source: a folder per class, split folders, an archive, or a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bestiary.box import Box
from bestiary.context import Context
from bestiary.data import archives, manifest
from bestiary.data.archive_members import SUFFIXES, is_archive
from bestiary.data.class_folders import ClassFolder, FolderReading, empty_notice, link_notice, list_class_folders
from bestiary.data.folder_walk import (
    BESIDE,
    LINKED_FOLDER,
    NOT_TEXT,
    PACKED,
    is_skipped_folder,
    is_text,
    iter_files,
    skip_reason,
)
from bestiary.data.formats import roboflow, webdataset
from bestiary.data.formats.json_files import describe_unknown_json
from bestiary.data.formats.label_rows import LISTED_TWICE, iter_boxes, read_label_rows
from bestiary.data.formats.label_table import LabelFormat, ReadOptions
from bestiary.data.formats.registry import FORMATS, describe_label_files, recognise_format
from bestiary.data.formats.table_file import TABLE_SUFFIXES
from bestiary.data.label_map import ClassNaming, find_label, match_folders, warn_label_case
from bestiary.data.nested_folders import FolderContents, describe_contents, nested_notices
from bestiary.data.notices import SOURCE_FORMAT, UNUSED_COLUMN, SourceNotice
from bestiary.errors import SourceError
from bestiary.files import cache_folder, find_close_path, require_local_source
from bestiary.picture_formats import PICTURE_SUFFIXES
from bestiary.progress import Reporter, SilentReporter
from bestiary.text import format_names, printable

MAX_NOTICES = 30


@dataclass(frozen=True, slots=True)
class PictureEntry:
    """A picture, or a box of one, as its source lists it.

    split, group, site, time: None if the source has none. Pictures with the same group, or of one site, stay in one
    split. time: ISO 8601, with an offset if the source has one.
    """

    path: Path
    label: str
    split: str | None = None
    group: str | None = None
    site: str | None = None
    time: str | None = None
    box: Box | None = None


@dataclass(frozen=True)
class UnreadableFile:
    """A file whose name cannot be written into a table. `path` and `label` are printable forms of it."""

    path: str
    label: str
    reason: str


@dataclass
class PictureList:
    """The pictures of a source, sorted by path, and the number of skipped files by reason.

    Files that were meant as pictures but can never be read are `unusable`, and not among `pictures`. The notices say
    what the folders and columns were taken for, and what was not used. folders: absolute paths of the folders that the
    pictures lie in: of the sources, and of the archives in them.
    """

    pictures: list[PictureEntry] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unusable: list[UnreadableFile] = field(default_factory=list)
    notices: list[SourceNotice] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def labels(self) -> list[str]:
        """Return the labels, sorted."""
        return sorted({picture.label for picture in self.pictures})


def list_sources(
    sources: Sequence[Path],
    labels: Mapping[str, str],
    context: Context | None = None,
    *,
    classes: Collection[str] = (),
    model_classes: Collection[str] = (),
    label_depth: int = 1,
    reading: ReadOptions | None = None,
) -> PictureList:
    """Return the pictures of one or several sources as one list, their labels mapped by `labels`; opens no picture.

    classes, model_classes: labels that are classes although a folder of that name could be a part of a split, chosen
    and those of a model. label_depth: the level of folders whose names are the labels, below the source or its parts of
    a split. reading: how files and folders in a format for labels are read.
    An archive is unpacked into the cache folder, once. A file that is listed twice with one label is one picture,
    and is counted in `skipped`; with two labels it is two, so that the audit reports the conflict. Reports folders of
    `labels` that do not occur, and the notices. Raises SourceError if a source is missing, has no labelled pictures or
    a layout that cannot be decided, and if `labels` matches no folder.
    """
    context = context or Context()
    if not sources:
        raise SourceError("No pictures were given. Pass a folder, an archive or a table, or several of them.")
    naming = ClassNaming(labels, classes, model_classes)
    bases: dict[str, None] = {}

    def unpack(archive: Path) -> tuple[Path, Counter[str]]:
        folder, skipped = _unpack(archive, context)
        bases.update(dict.fromkeys(_absolute_paths(folder)))
        return folder, skipped

    folders = FolderReading(naming, label_depth, len(sources) == 1, unpack)
    options = replace(reading or ReadOptions(), unpack=lambda archive: unpack(archive)[0])
    lists = [_list_source(source, folders, options, context) for source in sources]
    for source in sources:
        bases.update(dict.fromkeys(_absolute_paths(options.pictures or (source if source.is_dir() else source.parent))))
    notices = list(dict.fromkeys(notice for part in lists for notice in part.notices))
    names = {entry.label for part in lists for entry in part.pictures} | {notice.folder for notice in notices} - {""}
    labels = match_folders(labels, names, context.reporter)
    mapped = {name: find_label(name, labels) for name in names}
    entries = [
        entry if mapped[entry.label] == entry.label else replace(entry, label=mapped[entry.label])
        for part in lists
        for entry in part.pictures
    ]
    warn_label_case({entry.label for entry in entries}, context.reporter)
    notices = [replace(notice, folder=find_label(notice.folder, labels)) for notice in notices]
    pictures = {(os.path.abspath(p.path), p.label, p.split, p.box): p for p in reversed(entries)}  # noqa: PTH100 - no links
    skipped = sum((part.skipped for part in lists), Counter[str]())
    skipped[LISTED_TWICE] += len(entries) - len(pictures)
    unusable = dict.fromkeys(
        replace(file, label=find_label(file.label, labels)) for part in lists for file in part.unusable
    )
    ordered = sorted(pictures.values(), key=lambda p: (str(p.path), p.label, str(p.box or "")))
    return PictureList(ordered, +skipped, list(unusable), notices, list(bases))


def _absolute_paths(folder: Path) -> list[str]:
    """Return the absolute path of a folder as pictures have it: as it is written, and without `..`."""
    return [str(folder.absolute()), os.path.abspath(folder)]  # noqa: PTH100 - no links are followed


def report_notices(notices: Sequence[SourceNotice], reporter: Reporter) -> None:
    """Report the notices, of very many the first."""
    for notice in notices[:MAX_NOTICES]:
        reporter.info(notice.message)
    if len(notices) > MAX_NOTICES:
        reporter.info(f"{len(notices) - MAX_NOTICES:,} more notices are among the findings.")


def _list_source(source: Path, reading: FolderReading, options: ReadOptions, context: Context) -> PictureList:
    require_local_source(source)
    if not os.path.exists(webdataset.expand_shards(source)[0]):  # noqa: PTH110 - Path.exists raises for names that are too long
        guess = f' Did you mean "{close}"?' if (close := find_close_path(source)) else ""
        raise SourceError(f"There is nothing at {source}.{guess} Pass a folder with one folder of pictures per class.")
    if not is_text(source.absolute()):
        raise SourceError(f"The name {printable(str(source.absolute()))} is not valid Unicode. Rename it.")
    if manifest.is_manifest(source) and not options.facts() and not options.boxes:
        listing = _list_table(source)
    elif (form := recognise_format(source, options)) is not None:
        listing = _list_labelled(source, form, options)
    elif source.is_dir():
        _check_unused_options(source, reading, options)
        listing = _list_folder(source, reading, context.reporter)
    elif is_archive(source):
        listing = _list_archive(source, reading)
    else:
        kind = "one picture" if source.suffix.lower() in PICTURE_SUFFIXES else "a file"
        raise SourceError(
            f"{source} is {kind}.{describe_unknown_json(source)} Expected a folder, or a table"
            f" ({', '.join(sorted(TABLE_SUFFIXES))}), or an archive ({', '.join(SUFFIXES)}), or a format that is"
            f" recognised; --format names one of {', '.join(form.name for form in FORMATS)}."
        )
    if not listing.pictures:
        raise _no_pictures_error(source, listing, reading.label_depth)
    return listing


def _check_unused_options(source: Path, reading: FolderReading, options: ReadOptions) -> None:
    """Raise SourceError for options of a table if the only source is a folder of class folders."""
    pictures = None if options.box_file else options.pictures  # else it is for the file of boxes
    names = [name for name, value in (("--columns", options.columns), ("--pictures", pictures)) if value]
    if reading.unwrap and names and not set(options.columns) & {"group", "site"}:
        raise SourceError(
            f"{' and '.join(names)} cannot be used: {source} is a folder of class folders, not a table."
            f"{describe_label_files(source) or ' Pass the table, or leave the option out.'}"
        )


def _list_labelled(source: Path, form: LabelFormat, options: ReadOptions) -> PictureList:
    """Return the pictures of a file or folder in a format for labels."""
    labelled = read_label_rows(source, form, options)
    entries = [
        PictureEntry(Path(path), label, split, group, site, time, box)
        for (path, label, split, group, site, time), box in zip(
            labelled.rows.select("path", "label", "split", "group", "site", "time").iter_rows(),
            iter_boxes(labelled.rows),
            strict=True,
        )
    ]
    return PictureList(entries, labelled.skipped, notices=labelled.notices)


def _no_pictures_error(source: Path, listing: PictureList, label_depth: int) -> SourceError:
    skipped = ", ".join(f"{n:,} {reason}" for reason, n in listing.skipped.items())
    reasons = "".join(f" {notice.message}" for notice in listing.notices[:1])
    expected = "one folder of pictures per class" if label_depth == 1 else f"class folders {label_depth} levels deep"
    return SourceError(
        f"There are no labelled pictures in {source}{f' (skipped: {skipped})' if skipped else ''}."
        f" Expected {expected}.{reasons}{_describe_loose_pictures(source, listing)}{describe_label_files(source)}"
    )


def _describe_loose_pictures(source: Path, listing: PictureList) -> str:
    """Return what to do with pictures that lie in the folder itself; empty if there are none."""
    if not listing.skipped.get(BESIDE) or not source.is_dir():
        return ""
    if not any(path.suffix.lower() in PICTURE_SUFFIXES for path in source.iterdir()):
        return ""
    above = source.resolve().parent
    return (
        f" If {source} is one class of several, give the folder that has them all, {above}; else move the pictures of"
        f" each class into a folder of its own, such as {source / 'cat'}."
    )


def _list_table(source: Path) -> PictureList:
    table = manifest.read_manifest(source)
    listing, unused = PictureList([PictureEntry(*row) for row in table.rows]), table.unused
    listing.notices += [SourceNotice(SOURCE_FORMAT, note) for note in table.notes]
    if unused:
        has_split = any(entry.split for entry in listing.pictures)
        roles = [role for role in ("group", "site", "time") if any(getattr(entry, role) for entry in listing.pictures)]
        *first, last = ["path", "label", *(["split"] if has_split else []), *roles]
        used = f"{', '.join(first)} and {last}"
        column = f"column{'s' * (len(unused) > 1)} {format_names(unused)}"
        keep = "" if has_split else ", or add a column split (train, val, test) that keeps each group in one split"
        listing.notices.append(
            SourceNotice(
                UNUSED_COLUMN,
                f"The table {source} has the {column}, which {'are' if len(unused) > 1 else 'is'} not used;"
                f" {used} are. Pictures with the same value there (a site, a camera, an individual, a day) are not"
                f" kept in one split. If they belong together, check the split{keep}.",
            )
        )
    return listing


def _list_archive(source: Path, reading: FolderReading) -> PictureList:
    """Return the pictures of an archive; messages name it, not its folder in the cache."""
    assert reading.unpack is not None
    folder, skipped = reading.unpack(source)
    try:
        listing = _list_folder(folder, replace(reading, unwrap=True, unpack=None), SilentReporter())
    except SourceError as error:
        raise SourceError(str(error).replace(str(folder), str(source))) from None
    listing.skipped += skipped
    listing.notices = [replace(n, message=n.message.replace(str(folder), str(source))) for n in listing.notices]
    return listing


def _unpack(archive: Path, context: Context) -> tuple[Path, Counter[str]]:
    cache = (context.cache or cache_folder()) / "archives"
    unpacked = archives.unpack_archive(archive, cache, _member_skip_reason, reporter=context.reporter)
    return unpacked.folder, unpacked.skipped


def _member_skip_reason(parts: tuple[str, ...]) -> str | None:
    """Return why a member of an archive is skipped, from the parts of its name, or None."""
    if any(is_skipped_folder(folder) for folder in parts[:-1]):
        return "hidden folder"
    reason = skip_reason(Path(parts[-1]))
    return None if reason == PACKED else reason


def _list_folder(source: Path, reading: FolderReading, reporter: Reporter) -> PictureList:
    """Return the pictures of a folder; `reporter` gets the messages about its layout."""
    result = list_class_folders(source, reading)
    for message in result.messages:
        reporter.info(message)
    listing = PictureList(skipped=result.skipped, notices=result.notices)
    contents = [_collect(folder, source, reading, listing) for folder in result.folders]
    listing.notices += nested_notices(contents, reading.label_depth)
    listing.skipped += Counter()  # drops zero counts
    return listing


def _collect(folder: ClassFolder, source: Path, reading: FolderReading, listing: PictureList) -> FolderContents:
    """Add every file below a class folder to the listing, as a picture or as skipped; return where they lie."""
    label = folder.below if folder.below != folder.name and reading.naming.is_mapped(folder.below) else folder.name
    skipped, paths, before = Counter[str](), [], len(listing.unusable)
    for path in iter_files(folder.folder.path, source, skipped):
        reason = skip_reason(path)
        if reason is None:
            paths.append(path)
            group = roboflow.find_group(path.name)
            listing.pictures.append(PictureEntry(path, label, folder.split, group and f"{label}/{group}"))
            continue
        skipped[reason] += 1
        if reason == NOT_TEXT:
            file = UnreadableFile(printable(str(path)), printable(label), f"The {reason}: rename it.")
            listing.unusable.append(file)
    listing.skipped += skipped
    if not paths and len(listing.unusable) == before:
        listing.notices.append(empty_notice(folder, _describe_empty(skipped)))
    elif links := skipped[LINKED_FOLDER]:
        listing.notices.append(link_notice(folder, links))
    return describe_contents(folder, label, paths)


def _describe_empty(skipped: Counter[str]) -> str:
    listed = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items() if count)
    return f"it contains no pictures (skipped: {listed})" if listed else "it is empty"
