"""JSON files of labels: read as a whole, after checking that they fit into memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil

from bestiary.errors import SourceError

BYTES_PER_BYTE = 8  # of memory for one byte of JSON, seen on exports of labelling tools: 5 to 7
SAMPLE_BYTES = 2**16


def read_start(path: Path, suffix: str) -> str:
    """Return the beginning of a text file with this suffix; empty for another file, and if it cannot be read."""
    if path.suffix.lower() != suffix or not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return file.read(SAMPLE_BYTES).decode("utf-8-sig", errors="replace").lstrip()
    except OSError:
        return ""


def load_json(path: Path) -> Any:
    """Return the content of a JSON file; raises SourceError if it is none, or too large for the memory that is free."""
    try:
        needed, available = path.stat().st_size * BYTES_PER_BYTE, psutil.virtual_memory().available
        if needed > available:
            raise SourceError(
                f"{path} has {path.stat().st_size / 1e9:.1f} GB; reading it takes about {needed / 1e9:.0f} GB of"
                f" memory, and {available / 1e9:.0f} GB are free. Export it in parts and pass them all, or as CSV."
            )
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}. It is damaged or incomplete.") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}.") from None


def describe_unknown_json(path: Path) -> str:
    """Return what is wrong with a JSON file that is of no known format, and what to do; empty for another file."""
    if path.suffix.lower() != ".json":
        return ""
    try:
        with path.open("rb") as file:
            start = file.read(SAMPLE_BYTES)
    except OSError as error:
        return f" It cannot be read: {error.strerror or error}."
    if not start.strip():
        return " It is empty: export it again."
    if b"\0" in start[:200]:
        return " It is UTF-16 or no text: save it as UTF-8."
    text = start.decode("utf-8-sig", errors="replace").lstrip()
    if text[0] not in "{[":
        return f" It is no JSON, it begins with {text[:20]!r}: export it again."
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and _is_object(lines[0]) and lines[1].lstrip().startswith("{"):
        return f" It has JSON lines, one object a line: rename it to {path.stem}.jsonl."
    if text.startswith("["):
        return " It is a list: a table of objects has one a line, as JSON lines in a file named .jsonl, or is a CSV."
    return ""


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
