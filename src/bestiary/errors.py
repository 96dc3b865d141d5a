"""Every error that bestiary raises on purpose.

BestiaryError
├── UserError            the user's input or machine is at fault: one message, no traceback, exit code 2
│   ├── SourceError      the folder, archive or table of pictures
│   ├── PictureError     one file that cannot be used; `check` names the finding
│   ├── RecipeError      a setting that is unknown, misspelt or impossible
│   ├── RunError         a run folder that is missing, unfinished, damaged or in use
│   ├── InputError       an invalid argument of PictureClassifier or Predictor; a ValueError too
│   ├── MissingExtraError  an optional dependency that is not installed
│   └── MachineError     the disk is full, a folder cannot be written, a device is missing
├── IntegrityError       a checksum or an equality check failed: later results could not be trusted
└── InterruptedRun       Ctrl-C: the state is saved and `run` can be resumed; exit code 130

Any other exception is a bug in bestiary and keeps its traceback.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import shlex
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from bestiary.install_command import install_command
from bestiary.text import format_names

# The import names of each extra's packages; the commands that need an extra need all of it.
EXTRAS = {
    "train": (
        "polars",
        "sklearn",
        "scipy",
        "joblib",
        "psutil",
        "onnx",
        "cleanlab",
        "safetensors",
        "jinja2",
        "threadpoolctl",
    ),
    "tune": ("optuna",),
}
MAX_NAMES = 60  # valid names listed in a message


class BestiaryError(Exception):
    """Root of all errors raised on purpose."""


class UserError(BestiaryError):
    """The user's input or machine is at fault."""


class SourceError(UserError):
    """The folder, archive or table of pictures cannot be used."""


class PictureError(UserError):
    """One picture cannot be used. `check` is the name of the audit finding that describes it."""

    def __init__(self, message: str, *, check: str) -> None:
        """Keep the finding's name beside the message."""
        super().__init__(message)
        self.check = check

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling: worker processes send this error to their parent."""
        return _picture_error, (str(self), self.check)


class RecipeError(UserError):
    """A setting is unknown, misspelt or impossible."""


class RunError(UserError):
    """A run folder is missing, unfinished, damaged or in use."""


class InputError(UserError, ValueError):
    """An argument of the Python interface is invalid."""


class MissingExtraError(UserError):
    """An optional dependency is not installed."""


class MachineError(UserError):
    """The disk is full, a folder is not writable, or a device such as a GPU is missing."""


class IntegrityError(BestiaryError):
    """A checksum or an equality check failed."""


class InterruptedRun(BestiaryError):  # noqa: N818 - nothing went wrong
    """The user pressed Ctrl-C; `run` can be resumed, or is None if there was no run yet."""

    def __init__(self, run: Path | None, *, message: str | None = None) -> None:
        """Add how to resume; pass `message` if something other than a single run was interrupted."""
        if message is None and run is None:
            message = "Interrupted. Caches are kept: the same command will be faster."
        elif message is None:
            message = f"Interrupted. Nothing is lost. Resume with: bestiary train --resume {shlex.quote(str(run))}"
        super().__init__(message)
        self.run = run


def did_you_mean(name: str, valid_names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest valid name, and the valid names."""
    names = sorted(valid_names)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f'Did you mean "{close[0]}"? ' if close else ""
    return f"{guess}Known: {format_names(names, MAX_NAMES)}."


def import_optional(module: str, *, extra: str) -> ModuleType:
    """Return the imported module, or raise MissingExtraError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f'This needs "{module}", which is not installed. Add it with: {install_command(extra)}'
        ) from None


def require_extra(extra: str) -> None:
    """Raise MissingExtraError, with what is missing and the command that installs it, if an extra is incomplete."""
    if missing := [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]:
        names = ", ".join(f'"{module}"' for module in missing)
        are = "which is" if len(missing) == 1 else "which are"
        raise MissingExtraError(f"This needs {names}, {are} not installed. Add it with: {install_command(extra)}")


def _picture_error(message: str, check: str) -> PictureError:
    return PictureError(message, check=check)
