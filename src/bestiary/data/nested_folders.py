"""Class folders inside class folders: which level the labels come from, and what lies deeper."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bestiary.data.class_folders import ClassFolder
from bestiary.data.notices import NESTED, SourceNotice
from bestiary.text import format_names, printable

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
    below = [path.relative_to(folder.folder.path).parts for path in paths]
    inner = frozenset(printable(parts[0]) for parts in below if len(parts) > 1)
    return FolderContents(folder, label, sum(len(parts) == 1 for parts in below), inner)


def nested_notices(contents: Sequence[FolderContents], label_depth: int) -> list[SourceNotice]:
    """Return the notices on deeper folders, and on folders of one name that are one class since they lie apart."""
    return [*_merged_notices(contents), *_deeper_notices(contents, label_depth)]


def _deeper_notices(contents: Sequence[FolderContents], label_depth: int) -> list[SourceNotice]:
    filled = [folder for folder in contents if folder.n_direct or folder.inner]
    if 1 < len(filled) <= MAX_SAME and len(filled[0].inner) > 1 and len({folder.inner for folder in filled}) == 1:
        names = format_names(_unique(folder.folder.name for folder in filled))
        return [
            SourceNotice(
                NESTED,
                f"{names} are used as the classes, though each contains the same folders:"
                f" {format_names(sorted(filled[0].inner))}. If those are the classes, pass --label-depth"
                f" {label_depth + 1}; if these are the parts of a split, rename them to train, val and test.",
            )
        ]
    nested = [folder for folder in filled if folder.is_nested]
    if not nested:
        return []
    names = format_names(_unique(folder.folder.name for folder in filled))
    inside = format_names(sorted({name for folder in nested for name in folder.inner}))
    deep = format_names(_unique(folder.folder.name for folder in nested))
    message = (
        f"The labels are the names of the folders at level {label_depth}: {names}. All pictures of {deep} lie in deeper"
        f" folders: {inside}. If those are the classes, pass --label-depth {label_depth + 1}."
    )
    return [SourceNotice(NESTED, message, is_issue=False)]


def _merged_notices(contents: Sequence[FolderContents]) -> list[SourceNotice]:
    """Return a notice for each label whose folders lie in different folders above them."""
    paths: dict[str, set[str]] = defaultdict(set)
    for folder in contents:
        if folder.label == folder.folder.name:  # not told apart by the label map
            paths[folder.label].add(folder.folder.below)
    return [
        SourceNotice(
            NESTED,
            f"{format_names(sorted(below))} are one class, {label}. To keep them apart, give them two labels in a label"
            f" map (--labels FILE.csv with folder,label): {min(below)},LABEL.",
        )
        for label, below in sorted(paths.items())
        if len(below) > 1
    ]


def _unique(names: Iterable[str]) -> list[str]:
    return sorted(set(map(printable, names)))
