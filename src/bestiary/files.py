"""Atomic writes, JSON files, free names and the cache folder."""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bestiary.errors import MachineError, RunError, SourceError, UserError
from bestiary.text import hide_passwords

COPY_COMMANDS = {
    "s3": "aws s3 sync s3://BUCKET/FOLDER FOLDER",
    "gs": "gcloud storage rsync --recursive gs://BUCKET/FOLDER FOLDER",
    "hdfs": "hdfs dfs -get /FOLDER FOLDER",
}
URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]")  # two letters or more: C:/ is a drive


def cache_folder() -> Path:
    """Return the cache folder: `$BESTIARY_CACHE`, or the default of the operating system.

    Raises MachineError if that is in a home folder which this user does not have.
    """
    try:
        return _default_cache_folder()
    except RuntimeError as error:  # Path.home() of a user id without an entry and without $HOME, as in containers
        raise MachineError(
            f"There is no home folder for the cache ({error}). Set BESTIARY_CACHE to a folder."
        ) from None


def _default_cache_folder() -> Path:
    if own := os.environ.get("BESTIARY_CACHE"):
        return Path(own).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "bestiary"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "bestiary" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bestiary"


def require_local_path(path: Path) -> None:
    """Raise UserError if an output looks like a URL: as a path it would be a folder named `s3:`."""
    if URL_SCHEME.match(str(path)):
        raise UserError(f"{hide_passwords(str(path))} looks like a URL; expected a file or folder on this computer.")


def require_outside(output: Path | None, folders: Iterable[Path]) -> None:
    """Raise UserError if an output would lie in one of the folders of pictures, with which it would be read later."""
    for folder in folders:
        if (
            output is not None
            and folder.is_dir()
            and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder))
        ):
            raise UserError(
                f"{output} is in the folder of the pictures, {folder}, and would be read with them next time. Choose an"
                " --out outside of it."
            )


def require_local_source(path: Path) -> None:
    """Raise SourceError, without repeating what may be a secret, if pictures are named by a URI, which was not read."""
    if match := URL_SCHEME.match(str(path)):
        scheme = match[0][:-2].lower()
        copy = COPY_COMMANDS.get(scheme)
        raise SourceError(
            f"The pictures are named by a URI ({scheme}://…); expected a folder, an archive or a table of this"
            f" computer. Copy them here{f' ({copy})' if copy else ''}, or mount them as a folder. Only the command"
            " `bestiary predict` reads URIs."
        )


def find_close_path(path: Path) -> Path | None:
    """Return what lies beside a path that does not exist and is named most like it; None if nothing is."""
    try:
        names = [beside.name for beside in path.parent.iterdir() if not beside.name.startswith(".")]
    except (OSError, ValueError):
        return None
    close = difflib.get_close_matches(path.name, names, n=1)
    return path.with_name(close[0]) if close else None


def is_occupied(path: Path, *, ignore: Container[str] = ()) -> bool:
    """Return whether a path is a file, or a folder that contains more than the names in `ignore`.

    Raises MachineError if the folder cannot be read.
    """
    try:
        return path.exists() and (not path.is_dir() or any(item.name not in ignore for item in path.iterdir()))
    except OSError as error:
        raise MachineError(f"Cannot read {path}: {error.strerror or error}. Choose another folder.") from None


def next_free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """Return the first free one of `name`, `name-2`, `name-3` …

    >>> next_free_name("owl", {"owl", "owl-2"}.__contains__)
    'owl-3'
    """
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if not is_taken(free))


def move_to_free_name(folder: Path, next_path: Callable[[], Path]) -> Path:
    """Rename a finished folder in one step to the path that `next_path` finds free, and return that.

    Two processes that want the same name get two folders. Raises OSError if it cannot be renamed.
    """
    while True:
        try:
            return folder.rename(next_path())
        except OSError as error:
            if not is_taken_error(error):
                raise


def is_taken_error(error: OSError) -> bool:
    """Return whether a folder could not be renamed because another process has just created the new name."""
    return error.errno in (errno.EEXIST, errno.ENOTEMPTY)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, otherwise it is removed.

    Raises MachineError, naming the folder, when the disk is full or the folder cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:20]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # or a power loss could leave an empty file under the final name
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        message = f"Cannot write {path}: {error.strerror or error}. Free some space or choose another folder."
        raise MachineError(message) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; raises MachineError."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run; raises RunError if the file is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is missing or damaged: {error}.") from None
    if not isinstance(values, dict):
        raise RunError(f"{path} is damaged: it does not contain a JSON object.")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; raises MachineError."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
