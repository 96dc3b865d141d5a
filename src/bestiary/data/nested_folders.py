"""Class folders inside class folders: which level the labels come from, and what lies deeper."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bestiary.data.class_folders import ClassFolder
from bestiary.data.notices import NESTED, SPLIT_FOLDERS, SourceNotice
from bestiary.data.part_names import parse_part
from bestiary.text import format_names, printable

MAX_MERGED = 10  # labels listed in a message
MAX_SAME = 5  # folders that may be the parts of a split


@dataclass(frozen=True)
class FolderContents:
    """Where the pictures of a class folder lie: the number directly in it, and the names of its folders with some."""

    folder: ClassFolder
    label: str
    n_direct: int
    inner: frozenset[str]

    @property
    def is_nested(self) -> bool:
        """Whether all pictures lie in two or more folders inside it."""
        return not self.n_direct and len(self.inner) > 1


def describe_contents(folder: ClassFolder, label: str, paths: Sequence[Path]) -> FolderContents:
    """Return where the listed pictures of a class folder lie."""
    start = len(str(folder.folder.path)) + 1  # relative_to takes as long as listing the folder
    below = [str(path)[start:].partition(os.sep) for path in paths]
    inner = frozenset(printable(first) for first, separator, _ in below if separator)
    return FolderContents(folder, label, sum(not separator for _, separator, _ in below), inner)


def nested_notices(contents: Sequence[FolderContents], label_depth: int) -> list[SourceNotice]:
    """Return the notices on deeper folders, and on folders of one name that are one class since they lie apart."""
    return [*_merged_notices(contents), *_deeper_notices(contents, label_depth)]


def _deeper_notices(contents: Sequence[FolderContents], label_depth: int) -> list[SourceNotice]:
    filled = [folder for folder in contents if folder.n_direct or folder.inner]
    names = format_names(_unique(folder.folder.name for folder in filled))
    split = [folder for folder in filled if sum(parse_part(name) is not None for name in folder.inner) > 1]
    if split and 2 * len(split) >= len(filled):
        return [_inner_split_notice(names, sorted(split[0].inner), split[0].folder.name)]
    if 1 < len(filled) <= MAX_SAME and len(filled[0].inner) > 1 and len({folder.inner for folder in filled}) == 1:
        return [
            SourceNotice(
                NESTED,
                f"{names} are used as the classes, although each contains the same folders:"
                f" {format_names(sorted(filled[0].inner))}. If those are the classes, pass --label-depth"
                f" {label_depth + 1}; if {names} are splits, rename them to train, val and test.",
            )
        ]
    nested = [folder for folder in filled if folder.is_nested]
    if not nested:
        return []
    inside = format_names(sorted({name for folder in nested for name in folder.inner}))
    deep = format_names(_unique(folder.folder.name for folder in nested))
    message = (
        f"The labels are the names of the folders at level {label_depth}: {names}. All pictures of {deep} are in deeper"
        f" folders: {inside}. If those are the classes, pass --label-depth {label_depth + 1}."
    )
    return [SourceNotice(NESTED, message, is_issue=False)]


def _inner_split_notice(names: str, parts: Sequence[str], example: str) -> SourceNotice:
    return SourceNotice(
        SPLIT_FOLDERS,
        f"Each of the class folders {names} contains {format_names(parts)}. If these are splits, they"
        " are not used: bestiary splits the pictures itself. To use them, put the class folders into the splits:"
        f" {parts[0]}/{example}.",
    )


def _merged_notices(contents: Sequence[FolderContents]) -> list[SourceNotice]:
    """Return a notice for each label whose folders lie in different folders above them."""
    paths: dict[str, set[str]] = defaultdict(set)
    for folder in contents:
        if folder.label == folder.folder.name:  # not separated by the label map
            paths[folder.label].add(folder.folder.below)
    merged = {label: sorted(below) for label, below in sorted(paths.items()) if len(below) > 1}
    if not merged:
        return []
    listed = "; ".join(f"{label} ({format_names(below, 4)})" for label, below in list(merged.items())[:MAX_MERGED])
    more = f" and {len(merged) - MAX_MERGED:,} more" if len(merged) > MAX_MERGED else ""
    example = next(iter(merged.values()))[0]
    return [
        SourceNotice(
            NESTED,
            f"Folders of the same name in different folders are one class: {listed}{more}. For separate classes, give"
            f" them different labels in a label map (--labels FILE.csv): {example},LABEL.",
        )
    ]


def _unique(names: Iterable[str]) -> list[str]:
    return sorted(set(map(printable, names)))
