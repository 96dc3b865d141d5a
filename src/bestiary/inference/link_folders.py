"""Links to pictures, sorted into folders by label: a person looks through them; the pictures stay where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bestiary.errors import MachineError, UserError
from bestiary.files import is_occupied
from bestiary.inference.predictor import Prediction

UNKNOWN, UNREADABLE = "unknown", "unreadable"


def require_empty_folder(folder: Path) -> None:
    """Raise UserError if there is something in the folder already: old links would be mixed with new ones."""
    if is_occupied(folder):
        raise UserError(f"{folder} is not empty, and nothing is written over. Choose a new folder, or add --resume.")


def link_by_label(predictions: Iterable[Prediction], folder: Path) -> Iterator[Prediction]:
    """Yield the predictions, after making for each a link LABEL/NAME in the folder that points to its picture.

    What is unknown goes to `unknown`, what cannot be read to `unreadable`. Pictures of the same name get a number. A
    link to the same picture that is there already is kept; nothing is ever written over. Raises MachineError where
    links cannot be made.
    """
    taken: dict[Path, int] = {}
    for prediction in predictions:
        if prediction.path is not None:
            _link(Path(prediction.path).absolute(), folder / _label_folder_name(prediction), taken)
        yield prediction


def _label_folder_name(prediction: Prediction) -> str:
    """Return the name of the folder for this answer; a label may hold what a folder's name may not."""
    if prediction.label is None:
        return UNREADABLE
    if prediction.unknown:
        return UNKNOWN
    name = "".join("_" if letter in '/\\:*?"<>|' or ord(letter) < 32 else letter for letter in prediction.label)
    return f"{name}_" if name.strip(". ") == "" or name in (UNKNOWN, UNREADABLE) else name


def _link(target: Path, folder: Path, taken: dict[Path, int]) -> None:
    """Make the link; `taken`: how far the numbers of this name are known to be used."""
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
    """Return whether the link is there now and leads to the target; False if its name is taken."""
    try:
        link.symlink_to(target)
    except FileExistsError:
        return link.is_symlink() and os.readlink(link) == str(target)  # noqa: PTH115 - as written, not resolved
    return True
