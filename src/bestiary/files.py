"""Atomic writes, JSON files and the cache folder: no file is ever left half-written."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bestiary.errors import MachineError, RunError


def cache_folder() -> Path:
    """Return the folder for things that can be computed again: `$BESTIARY_CACHE`, or the system's place for such."""
    if own := os.environ.get("BESTIARY_CACHE"):
        return Path(own).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "bestiary"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "bestiary" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bestiary"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the place of `path`, otherwise it is removed.

    Raises MachineError, naming the folder, when the disk is full or the folder cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:20]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _fsync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise MachineError(
            f"Cannot write {path}: {error.strerror or error}. Free some space or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    """Wait until the content is on the disk: after a power loss a name must never lead to an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader finds either the old file or the whole new one."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run; raises RunError if it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is missing or damaged: {error}.") from None
    if not isinstance(values, dict):
        raise RunError(f"{path} is damaged: it holds no object.")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object so that a reader finds either the old file or the whole new one."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
