"""Links to pictures, sorted into folders by predicted label, for inspection; the pictures stay where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bestiary.errors import MachineError, UserError
from bestiary.files import is_occupied
from bestiary.inference.predictor import Prediction

UNKNOWN, UNREADABLE = "unknown", "unreadable"


def require_empty_folder(folder: Path) -> None:
    """Raise UserError if the folder is not empty: old links would be mixed with new ones."""
    if is_occupied(folder):
        raise UserError(f"{folder} is not empty, and nothing is overwritten. Choose a new folder, or add --resume.")


def link_by_label(predictions: Iterable[Prediction], folder: Path) -> Iterator[Prediction]:
    """Yield the predictions, after creating for each a link LABEL/NAME in the folder that points to its picture.

    Out-of-distribution pictures go to `unknown`, unreadable ones to `unreadable`. Equal names get a number.
    An existing link to the same picture is kept; nothing is overwritten. Raises MachineError if a link cannot be made.
    """
    taken: dict[Path, int] = {}
    for prediction in predictions:
        if prediction.path is not None:
            _link(Path(prediction.path).absolute(), folder / _label_folder_name(prediction), taken)
        yield prediction


def _label_folder_name(prediction: Prediction) -> str:
    """Return the folder name for this prediction: the label, with characters replaced that a name cannot contain."""
    if prediction.label is None:
        return UNREADABLE
    if prediction.unknown:
        return UNKNOWN
    name = "".join("_" if letter in '/\\:*?"<>|' or ord(letter) < 32 else letter for letter in prediction.label)
    return f"{name}_" if name.strip(". ") == "" or name in (UNKNOWN, UNREADABLE) else name


def _link(target: Path, folder: Path, taken: dict[Path, int]) -> None:
    """Create the link; `taken`: the numbers below these are known to be taken."""
    first = folder / target.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not _create_link(folder / _numbered_name(target, taken.get(first, 1)), target):
            taken[first] = taken.get(first, 1) + 1
    except OSError as error:
        raise MachineError(f"A link to {target} cannot be made in {folder}: {error.strerror or error}.") from error


def _numbered_name(target: Path, number: int) -> str:
    return target.name if number == 1 else f"{target.stem}-{number}{target.suffix}"


def _create_link(link: Path, target: Path) -> bool:
    """Return whether the link now exists and points to the target; False if its name is taken."""
    try:
        link.symlink_to(target)
    except FileExistsError:
        return link.is_symlink() and os.readlink(link) == str(target)  # noqa: PTH115 - as written, not resolved
    return True
