"""Backbone graphs and their descriptions in the cache folder: checked by their digest, written in one step."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bestiary.errors import RecipeError, RunError
from bestiary.files import atomic_path, read_json, write_text

GRAPHS = "trunks"  # the folder of the cache, a former name of backbones

if TYPE_CHECKING:
    import onnx

SETTLED_SECONDS = 2.0  # two writes at nearly the same time may leave equal times
MAX_GRAPH_BYTES = 2**31 - 2**20  # protobuf's limit is 2 GB; what is added to a backbone needs less than the rest


def graph_folder(cache: Path) -> Path:
    """Return the folder of backbone graphs in the cache folder."""
    return cache / GRAPHS


def cached_graph(folder: Path, stem: str, build: Callable[[], onnx.ModelProto]) -> Path:
    """Return the path of a graph in the folder, `STEM-DIGEST.onnx`; a missing one is built and written first.

    A damaged file is removed and written again. Safe with concurrent processes. Raises MachineError if the folder
    cannot be written, RecipeError for a graph that is too large for one file.
    """
    for path in sorted(folder.glob(f"{stem}-*.onnx")):
        if _is_intact(path):
            return path
    model = build()
    check_graph_bytes(model.ByteSize(), stem)
    content = model.SerializeToString(deterministic=True)
    path = folder / f"{stem}-{_short_digest(content)}.onnx"
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def check_graph_bytes(size: int, name: str) -> None:
    """Raise RecipeError for a graph that is too large for one file: a model is one, with all weights."""
    if size > MAX_GRAPH_BYTES:
        raise RecipeError(
            f'"{name}" has {size / 1e9:.1f} GB with its weights; a model is one ONNX file, which holds at most 2 GB.'
            " Choose a smaller backbone."
        )


def read_description(path: Path) -> dict[str, Any] | None:
    """Return the description of a backbone in a JSON file; None if there is none, or if it is damaged."""
    with contextlib.suppress(RunError):
        return read_json(path)
    return None


def write_description(path: Path, values: Mapping[str, Any]) -> None:
    """Write the description of a backbone as JSON; raises MachineError."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, computed once for its size and times. Raises RecipeError if it cannot be read."""
    try:
        status = path.stat()
        if time.time() - status.st_mtime < SETTLED_SECONDS:
            return _hash_file(path)
        return _hash_unchanged_file(path, (status.st_size, status.st_mtime_ns, status.st_ino))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}.") from None


@functools.lru_cache(maxsize=64)
def _hash_unchanged_file(path: Path, _state: tuple[int, int, int]) -> str:
    return _hash_file(path)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_intact(path: Path) -> bool:
    """Return whether the digest of the file matches the end of its name; remove it otherwise."""
    with contextlib.suppress(OSError, RecipeError):  # another process may have just removed it
        if file_sha256(path)[:16] == path.stem.rpartition("-")[2]:
            return True
        path.unlink()
    return False
