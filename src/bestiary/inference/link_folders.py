"""Links to pictures, sorted into folders by predicted label, for inspection; the pictures stay where they are."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from bestiary.errors import MachineError, UserError
from bestiary.files import is_occupied, next_free_name
from bestiary.inference.predictor import Prediction
from bestiary.text import truncate_name

UNKNOWN, UNREADABLE = "unknown", "unreadable"
NAME_BYTES = 240  # of a folder or link, so that a number fits: a file name has 255 bytes at most
FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]')  # on one of the usual file systems
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)  # devices on Windows


def require_empty_folder(folder: Path) -> None:
    """Raise UserError if the folder is not empty: old links would be mixed with new ones."""
    if is_occupied(folder):
        raise UserError(f"{folder} is not empty, and nothing is overwritten. Choose a new folder, or add --resume.")


def link_by_label(
    predictions: Iterable[Prediction], folder: Path, classes: Sequence[str] = (), *, unknown_label: str | None = None
) -> Iterator[Prediction]:
    """Yield the predictions, after creating for each a link LABEL/NAME in the folder that points to its picture.

    classes: all labels of the model, by which the names of folders are assigned (`label_folder_names`). Out-of-
    distribution pictures go to `unknown`, or to the folder of `unknown_label`, unreadable ones to `unreadable`. Equal
    names get a number. An existing link to the same picture is kept; nothing is overwritten. Raises MachineError if a
    link cannot be made.
    """
    labels, names, taken = list(classes), label_folder_names(classes), dict[Path, int]()
    for prediction in predictions:
        if prediction.path is not None:
            if prediction.label is not None and prediction.label not in names:
                labels.append(prediction.label)
                names = label_folder_names(labels)
            name = UNREADABLE if prediction.label is None else names[prediction.label]
            if prediction.label is not None and prediction.unknown and unknown_label in (None, UNKNOWN):
                name = UNKNOWN
            _link(Path(prediction.path).absolute(), folder / name, taken)
        yield prediction


def label_folder_names(labels: Sequence[str]) -> dict[str, str]:
    """Return a folder name for each label; no two are the same folder, on any of the usual file systems.

    A label that is a valid name is its own; the first of those that differ in case only. Others have characters
    replaced, or a number.

    >>> label_folder_names(["a:b", "a_b", "Cat", "cat", "unknown", "con"])
    {'a_b': 'a_b', 'Cat': 'Cat', 'a:b': 'a_b-2', 'cat': 'cat-2', 'unknown': 'unknown_', 'con': 'con_'}
    """
    names, taken = dict[str, str](), {UNKNOWN, UNREADABLE}

    def assign(label: str, name: str) -> None:
        names[label] = name
        taken.add(_comparable(name))

    for label in labels:
        if valid_file_name(label) == label and _comparable(label) not in taken:
            assign(label, label)
    for label in labels:
        if label not in names:
            valid = valid_file_name(label)
            valid = f"{valid}_" if _comparable(valid) in (UNKNOWN, UNREADABLE) else valid
            assign(label, next_free_name(valid, lambda name: _comparable(name) in taken))
    return names


def valid_file_name(label: str) -> str:
    """Return the label, with what a file name cannot contain replaced; it does not end in a dot or a space."""
    name = truncate_name(FORBIDDEN.sub("_", label), NAME_BYTES)
    return f"{name}_" if not name or name[-1] in ". " or RESERVED.fullmatch(name) else name


def _comparable(name: str) -> str:
    """Return a text that is equal for names that are the same file on a file system that ignores case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _link(target: Path, folder: Path, taken: dict[Path, int]) -> None:
    """Create the link; `taken`: the numbers below these are known to be taken."""
    first = folder / target.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not _create_link(folder / _numbered_name(target, taken.get(first, 1)), target):
            taken[first] = taken.get(first, 1) + 1
    except OSError as error:
        raise MachineError(f"A link to {target} cannot be made in {folder}: {error.strerror or error}.") from error


def _numbered_name(target: PurePath, number: int) -> str:
    """Return the name of the picture, with a number from 2 on; a long name is shortened for it."""
    if number == 1:
        return target.name
    return f"{truncate_name(target.stem, NAME_BYTES - len(os.fsencode(target.suffix)))}-{number}{target.suffix}"


def _create_link(link: Path, target: Path) -> bool:
    """Return whether the link now exists and points to the target; False if its name is taken."""
    try:
        link.symlink_to(target)
    except FileExistsError:
        return link.is_symlink() and os.readlink(link) == str(target)  # noqa: PTH115 - as written, not resolved
    return True
