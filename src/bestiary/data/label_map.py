"""Label maps from folder names to labels: the built-in map for Animals-10, or a CSV."""

from __future__ import annotations

import csv
import difflib
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bestiary.errors import SourceError, did_you_mean
from bestiary.progress import Reporter
from bestiary.text import format_names

# The folder names of the dataset are Italian.
ANIMALS10 = {
    "cane": "dog",
    "cavallo": "horse",
    "elefante": "elephant",
    "farfalla": "butterfly",
    "gallina": "chicken",
    "gatto": "cat",
    "mucca": "cow",
    "pecora": "sheep",
    "ragno": "spider",
    "scoiattolo": "squirrel",
}
LABEL_MAPS = {"animals10": ANIMALS10}


def label_map(name: str | None) -> Mapping[str, str]:
    """Return folder name -> label. `name` is a built-in map or the path of a CSV with two columns, folder and label.

    None gives an empty map: every folder name is its own label. Spaces at the ends of a folder stay: a folder may be
    named so. Raises SourceError for an unknown name, a bad CSV, and a folder with two labels.
    """
    if name is None:
        return {}
    if name in LABEL_MAPS:
        return LABEL_MAPS[name]
    path = Path(name)
    if not path.is_file():
        raise SourceError(
            f'There is no label map "{name}". {did_you_mean(name, LABEL_MAPS)} Or pass the path of a CSV.'
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"The label map {path} cannot be read: {error}.") from None
    if rows and [cell.strip().lower() for cell in rows[0]] == ["folder", "label"]:
        rows = rows[1:]
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not all(cell.strip() for cell in row):
            got = ",".join(cell.strip() for cell in row)
            raise SourceError(f"{path}, row {number}: expected folder,label; got {got!r}.")
        _add_label(labels, row[0], row[1].strip(), f"{path}, row {number}")
    return labels


def _add_label(labels: dict[str, str], folder: str, label: str, where: str) -> None:
    """Add a row of a label map; raise SourceError if the folder has a second label."""
    by_composed = {_compose(name): value for name, value in labels.items()}
    if (first := by_composed.get(_compose(folder), label)) != label:
        raise SourceError(
            f'{where}: the folder "{folder}" has a second label, "{label}"; an earlier row gives it "{first}". Keep one'
            " of the two rows."
        )
    labels[folder] = label


def _compose(name: str) -> str:
    """Return a name in Unicode form NFC: accents have two spellings, a label has one."""
    return unicodedata.normalize("NFC", name)


def find_label(folder: str, labels: Mapping[str, str]) -> str:
    """Return the label of a folder in Unicode form NFC: that of the map, or else its name."""
    composed = _compose(folder)
    return _compose(labels.get(folder, labels.get(composed, composed)))


def has_folder(labels: Mapping[str, str], folder: str) -> bool:
    """Return whether a label map names a folder."""
    return folder in labels or _compose(folder) in labels or any(name.strip() == folder for name in labels)


@dataclass(frozen=True)
class ClassNaming:
    """What names a folder as a class, so that it is no part of a split: the label map, --classes, the model's classes.

    chosen: the labels of --classes; model_classes: those of the model that the pictures are for.
    """

    labels: Mapping[str, str]
    chosen: Collection[str] = ()
    model_classes: Collection[str] = ()

    def is_mapped(self, folder: str) -> bool:
        """Return whether the label map names the folder."""
        return has_folder(self.labels, folder)

    def is_chosen(self, folder: str) -> bool:
        """Return whether --classes names the label of the folder."""
        return find_label(folder, self.labels) in self.chosen

    def is_named(self, folder: str) -> bool:
        """Return whether anything names the folder as a class."""
        return self.is_chosen(folder) or self.is_mapped(folder) or find_label(folder, self.labels) in self.model_classes


def match_folders(labels: Mapping[str, str], names: set[str], reporter: Reporter) -> Mapping[str, str]:
    """Return a label map whose keys are folder names as they are.

    A row whose folder does not exist, but exists without the spaces at its ends, means that one. Reports the folders of
    the map that are missing. Raises SourceError if all are, and if two rows mean one folder with two labels.
    """
    composed = names | {_compose(name) for name in names}
    matched = {folder: label for folder, label in labels.items() if folder in composed}
    absent = []
    for folder, label in sorted(labels.items()):
        if folder not in matched and folder.strip() in composed and folder.strip() not in labels:
            _add_label(matched, folder.strip(), label, "The label map")
        elif folder not in matched:
            absent.append(folder)
    if absent and not matched:
        raise _no_match_error(absent, names)
    if absent:
        reporter.info(
            f"{len(absent):,} of {len(labels):,} folders of the label map are missing: {format_names(absent)}."
        )
    return matched


def _no_match_error(absent: list[str], names: set[str]) -> SourceError:
    by_folded = {name.casefold(): name for name in sorted(names)}
    close = {name: difflib.get_close_matches(name.casefold(), by_folded, n=1) for name in absent}
    pairs = [f'"{name}" is close to "{by_folded[match[0]]}"' for name, match in close.items() if match]
    return SourceError(
        f"The label map matches no folder. It names {format_names(absent)}; the folders are"
        f" {format_names(sorted(names))}."
        + (f" Similar names: {format_names(pairs)}." if pairs else " Omit --labels if the folder names are the labels.")
    )


def warn_label_case(labels: set[str], reporter: Reporter) -> None:
    """Report labels that differ only in case: probably one class in two spellings."""
    spellings: dict[str, list[str]] = {}
    for label in sorted(labels):
        spellings.setdefault(label.casefold(), []).append(label)
    for names in (names for names in spellings.values() if len(names) > 1):
        reporter.info(
            f"{', '.join(names[:-1])} and {names[-1]} differ only in case and are treated as separate classes. If they"
            " are one class, give both one label in a label map (--labels FILE.csv)."
        )


def absolute_label_map(name: str | None) -> str | None:
    """Return the name of a label map as a run records it: a built-in name, or the absolute path of a CSV.

    >>> absolute_label_map("animals10")
    'animals10'
    """
    return name if name is None or name in LABEL_MAPS else str(Path(name).absolute())
