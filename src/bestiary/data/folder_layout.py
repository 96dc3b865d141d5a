"""Decides what the folders of a source are: classes, or the parts of a split that contain the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bestiary.data.folder_walk import (
    NamedFolder,
    count_pictures,
    has_loose_pictures,
    has_pictures,
    is_picture_name,
    list_entries,
    list_folders,
)
from bestiary.data.label_map import ClassNaming, find_label
from bestiary.data.notices import SPLIT_FOLDERS, SourceNotice
from bestiary.data.part_names import PartName, parse_part
from bestiary.errors import SourceError
from bestiary.text import format_names, quote_names

SPLIT_OF_KIND = {"train": "train", "val": "val", "test": "test"}
KIND_ORDER = ("train", "val", "test", "eval", "holdout", "predict", "unlabelled")


@dataclass(frozen=True)
class FolderLayout:
    """The meaning of the folders of a source: classes, or parts (None: no split) whose inner folders are the classes.

    The other folders are skipped; the notices say so.
    """

    classes: Sequence[NamedFolder] = ()
    parts: dict[NamedFolder, str | None] = field(default_factory=dict)
    notices: list[SourceNotice] = field(default_factory=list)


@dataclass(frozen=True)
class _Folder:
    """A folder of a source. inner: its folders with pictures; is_loose: most pictures lie in it directly."""

    folder: NamedFolder
    label: str
    part: PartName | None
    inner: tuple[NamedFolder, ...]
    is_loose: bool
    has_pictures: bool

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        return self.part.kind if self.part else ""


def choose_layout(folders: Sequence[NamedFolder], naming: ClassNaming, top: Path) -> FolderLayout:
    """Return what the folders of a source are, decided by their names and by where the pictures lie.

    Folders that `naming` names are classes. Raises SourceError if the names are those of parts of a split, but the
    pictures do not lie in class folders inside them, or if it cannot be decided.
    """
    if not any(parse_part(folder.name) for folder in folders):
        return FolderLayout(folders)
    described = [_describe(folder, naming, top) for folder in folders]
    if _is_all_classes(described, naming):
        return FolderLayout(folders)
    parts = [folder for folder in described if folder.part and folder.has_pictures and folder.kind != "unlabelled"]
    rest = [folder for folder in described if folder not in parts]
    if not parts:
        unlabelled = [folder for folder in rest if folder.kind == "unlabelled" and folder.has_pictures]
        classes = [folder.folder for folder in rest if folder not in unlabelled]
        return FolderLayout(classes, notices=[_unlabelled_notice(unlabelled, top)] if unlabelled and classes else [])
    if len(parts) > 1:
        return _split_layout(parts, rest, top)
    return _single_part_layout(parts[0], rest, top)


def _is_all_classes(described: Sequence[_Folder], naming: ClassNaming) -> bool:
    """Return whether the user names these folders as classes, and no others that lie inside them."""
    names = {folder.name for folder in described}
    inner = {folder.name for part in described if part.part for folder in part.inner}
    if any(map(naming.is_named, inner - names)):
        return False
    return any(naming.is_named(f.name) if f.part else naming.is_chosen(f.name) for f in described)


def _describe(folder: NamedFolder, naming: ClassNaming, top: Path) -> _Folder:
    folder = _look_through(folder, top) if parse_part(folder.name) else folder
    inner = tuple(inside for inside in list_folders(folder.path, Counter()) if has_pictures(inside.path, top))
    n_loose = sum(is_picture_name(path) for path in list_entries(folder.path))
    is_loose = n_loose > 0 and (not inner or 2 * n_loose > count_pictures(folder.path, top))
    is_filled = is_loose or bool(inner) or has_pictures(folder.path, top)
    label = find_label(folder.name, naming.labels)
    return _Folder(folder, label, parse_part(folder.name), inner, is_loose, is_filled)


def _look_through(folder: NamedFolder, top: Path) -> NamedFolder:
    """Return the folder that holds the content of a part of a split: some datasets nest it twice, as in train/train.

    An archive may have a folder of any name around the class folders.
    """
    inner = [inside for inside in list_folders(folder.path, Counter()) if has_pictures(inside.path, top)]
    if len(inner) != 1 or has_loose_pictures(folder.path):
        return folder
    is_archive = folder.name != folder.path.name and len(list_folders(inner[0].path, Counter())) > 1
    if inner[0].name == folder.name or parse_part(inner[0].name) == parse_part(folder.name) or is_archive:
        return _look_through(NamedFolder(inner[0].path, folder.name), top)
    return folder


def _split_layout(parts: list[_Folder], rest: list[_Folder], top: Path) -> FolderLayout:
    """Return the layout of two or more folders that name parts of a split."""
    parts = sorted(parts, key=lambda part: (KIND_ORDER.index(part.kind), part.name))
    structured = [part for part in parts if part.inner and not part.is_loose]
    if not structured:
        raise _loose_parts_error(parts, rest, top)
    kinds = {part.kind for part in structured}
    splits = {part.folder: split for part in structured if (split := _split_of(part.kind, kinds))}
    if not splits:
        raise _loose_parts_error(parts, rest, top)
    unused = [folder for folder in [*parts, *rest] if folder.folder not in splits]
    if len(splits) == 1 and "train" in splits.values():  # the others have no labels: bestiary splits the pictures
        (part,) = splits
        return FolderLayout(parts={part: None}, notices=_skipped_notices([part.name], unused, top))
    return FolderLayout(parts=dict(splits), notices=_skipped_notices([part.name for part in splits], unused, top))


def _split_of(kind: str, kinds: set[str]) -> str | None:
    """Return the split of a kind of part beside others: "eval" and "holdout" are what is not there yet."""
    if kind == "eval":
        return "test" if "test" not in kinds else "val" if "val" not in kinds else None
    if kind == "holdout":
        return "test" if not kinds & {"test", "eval"} else None
    return SPLIT_OF_KIND.get(kind)


def _single_part_layout(part: _Folder, rest: list[_Folder], top: Path) -> FolderLayout:
    """Return the layout of a single folder that names a part of a split and has pictures, beside other folders."""
    unlabelled = [folder for folder in rest if folder.kind == "unlabelled"]
    others = [folder for folder in rest if folder.has_pictures and folder not in unlabelled]
    notices = [_unlabelled_notice(unlabelled, top)] if any(folder.has_pictures for folder in unlabelled) else []
    classes = [folder.folder for folder in rest if folder not in unlabelled or not folder.has_pictures]
    if part.inner and not part.is_loose:
        if not rest:
            return FolderLayout([part.folder])
        if not others:
            has_empty_parts = any(folder.part and folder.kind != "unlabelled" for folder in rest)
            split = SPLIT_OF_KIND.get(part.kind) if has_empty_parts else None
            return FolderLayout(parts={part.folder: split}, notices=_skipped_notices([part.name], rest, top))
        names = {path.name for path in part.inner}
        shared = [f for f in others if len(names & {path.name for path in f.inner}) * 2 >= len(names)]
        is_nested = all(folder.inner and not folder.is_loose for folder in others)
        if shared or not is_nested:
            raise _ambiguous_part_error(part, others, top)
    elif part.kind not in ("train", "val") and others:
        if part.part and part.part.is_plain:
            raise _plain_part_error(part, others, top)
        return FolderLayout(classes, notices=[*notices, *_skipped_notices([], [part], top)])
    if others:
        notices.append(_class_notice(part))
    return FolderLayout([*classes, part.folder], notices=notices)


def _skipped_notices(used: Sequence[str], unused: Sequence[_Folder], top: Path) -> list[SourceNotice]:
    """Return the notice that these folders are parts of a split, and which folders beside them are skipped."""
    if not unused:
        return []
    listed = format_names([f"{folder.name} ({_describe_pictures(folder, top)})" for folder in unused])
    skipped = f"folder{'s' * (len(unused) > 1)} {listed} {'are' if len(unused) > 1 else 'is'} skipped"
    if len(used) > 1:
        first = f"The folders {format_names(list(used))} are used as splits; the {skipped}"
    elif used:
        first = f"The folder {used[0]} is used as the split that contains the class folders; the {skipped}"
    else:
        first = f"The {skipped}: the name is that of a split"
    names = quote_names([*used, *(folder.name for folder in unused)], "" if used else ",…")
    advice = f"If these folders are classes, list them: --classes {names}."
    return [SourceNotice(SPLIT_FOLDERS, f"{first}. {advice}")]


def _describe_pictures(folder: _Folder, top: Path) -> str:
    if not folder.has_pictures:
        return "no pictures"
    count = count_pictures(folder.folder.path, top)
    return f"{count:,} picture{'s' * (count != 1)}{'' if folder.inner else ' without class folders'}"


def _unlabelled_notice(folders: Sequence[_Folder], top: Path) -> SourceNotice:
    listed = format_names([f"{folder.name} ({_describe_pictures(folder, top)})" for folder in folders])
    names = quote_names([folder.name for folder in folders], ",…")
    return SourceNotice(
        SPLIT_FOLDERS,
        f"Skipped, because the name means unlabelled pictures: {listed}. If it is a class, list it with the"
        f" other classes: --classes {names}.",
    )


def _class_notice(part: _Folder) -> SourceNotice:
    """Return the notice that a folder is a class. A train is a thing; a class "test" is more likely a mistake."""
    return SourceNotice(
        SPLIT_FOLDERS,
        f"The folder {part.name} is used as a class, although it is named like a split. If it is no class, move it"
        " elsewhere, or list the classes without it; if it is a class, list all classes: --classes a,b,c.",
        is_issue=part.kind != "train",
    )


def _loose_parts_error(parts: Sequence[_Folder], rest: Sequence[_Folder], top: Path) -> SourceError:
    others = [folder for folder in rest if folder.has_pictures and folder.kind != "unlabelled"]
    names = format_names([part.name for part in parts])
    return SourceError(
        f"The folders {names} in {top} are named like splits, but their pictures are not in class folders, so they"
        f" have no labels. Expected {parts[0].name}/CLASS/picture. If the file names contain the class, write a table"
        " of path,label. If these folders are classes, list all classes: --classes"
        f" {quote_names([folder.label for folder in [*parts, *others]])}."
    )


def _plain_part_error(part: _Folder, others: Sequence[_Folder], top: Path) -> SourceError:
    names = sorted({folder.label for folder in others})
    return SourceError(
        f"The folder {part.name} in {top} is named like a split, and contains pictures without class"
        f" folders. If they are unlabelled, move the folder elsewhere, or leave it out: --classes"
        f" {quote_names(names)}. If it is a class: --classes {quote_names([*names, part.label])}."
    )


def _ambiguous_part_error(part: _Folder, others: Sequence[_Folder], top: Path) -> SourceError:
    names = format_names([folder.name for folder in others])
    inner = format_names([folder.name for folder in part.inner])
    classes = quote_names(sorted({part.label, *(folder.label for folder in others)}))
    return SourceError(
        f"The folder {part.name} in {top} is named like a split and contains the folders {inner};"
        f" next to it are pictures in {names}. If {part.name} contains the classes, pass it alone: {part.folder.path}."
        " If the folders next to it are splits, rename them to train, val or test. If all are classes, list them:"
        f" --classes {classes}."
    )
