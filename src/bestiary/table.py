"""The tables between the stages: their columns, and how they are read and written (parquet, by polars).

A table that is written here has a checksum between its rows and parquet's footer, where no reader of parquet looks: of
150 scrambled parquet files, 59 were read as if whole. A program that writes the table anew leaves it out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from bestiary.array_types import Ints
from bestiary.errors import RunError
from bestiary.files import atomic_path

PICTURES = {
    "row_id": pl.Int64,
    "path": pl.String,
    "label": pl.String,
    "bytes": pl.Int64,
    "width": pl.Int32,
    "height": pl.Int32,
    "format": pl.String,
    "sha256": pl.String,
    "phash": pl.String,  # 256 bits as 64 hexadecimal digits
    "group": pl.Int64,  # pictures of one group are duplicates of each other; every picture has a group
    "split": pl.String,  # train, val, test; null: left out, and `error` says why
    "error": pl.String,
}
# Measured of every readable picture and kept beside PICTURES, to find where a model is worse; older runs lack them.
MEASURES: dict[str, type[pl.DataType]] = {
    "luma": pl.Float64,  # mean brightness, 0 to 1
    "contrast": pl.Float64,  # 5th to 95th percentile of brightness, 0 to 1
    "sharpness": pl.Float64,  # variance of the Laplacian over variance of brightness
    "saturation": pl.Float64,  # 0 to 1
}
FINDINGS = {
    "check": pl.String,
    "row_id": pl.Int64,
    "path": pl.String,
    "score": pl.Float64,
    "is_issue": pl.Boolean,
    "message": pl.String,
    "group": pl.Int64,
    "suggested_label": pl.String,
}
PREDICTIONS = {
    "row_id": pl.Int64,
    "path": pl.String,
    "split": pl.String,
    "label": pl.String,
    "predicted": pl.String,
    "probability": pl.Float64,
    "unknown": pl.Boolean,
    "familiarity": pl.Float64,
}  # and p_<label>, pl.Float64, for every class
CHECKS = (
    "unreadable",
    "truncated",
    "wrong-extension",
    "animated",
    "tiny",
    "huge",
    "extreme-aspect",
    "dark",
    "bright",
    "blurry",
    "low-information",
    "grey",
    "rotated",
    "alpha",
    "exact-duplicate",
    "near-duplicate",
    "label-conflict",
    "split-leak",
    "imbalance",
    "shortcut",
    "suspect-label",
    "outlier",
)
SPLITS = ("train", "val", "test")
MARK, DIGEST_BYTES = b"bestiary SHA-256", 32
END_BYTES = 8  # of a parquet file: the length of the footer before them, and "PAR1"
BLOCK_BYTES = 2**20


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write the table so that a reader finds either the old file or the whole new one; raises MachineError."""
    with atomic_path(path) as temporary:
        try:
            frame.write_parquet(temporary)
        except pl.exceptions.ComputeError as error:
            if "os error" not in str(error):
                raise
            raise OSError(str(error)) from error  # a full disk, which polars does not report as an OSError
        _seal(temporary)


def read(path: Path, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """Return a table that was written before.

    Raises RunError if it is missing or damaged, and, naming the column, if one of `columns` is missing.
    """
    try:
        _check(path)
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing. Is {path.parent} a finished run?") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from None
    except pl.exceptions.PolarsError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if missing := [name for name in columns if name not in frame.columns]:
        raise RunError(f'{path} has no column "{missing[0]}"; it has: {", ".join(frame.columns)}.')
    return frame


def _seal(path: Path) -> None:
    """Put the mark and the checksum before the footer of a parquet file."""
    with path.open("r+b") as file:
        start = _footer(file)
        digest = _digest(file, start, start)
        file.seek(start)
        footer = file.read()
        file.seek(start)
        file.write(MARK + digest + footer)


def _check(path: Path) -> None:
    """Raise RunError if a table does not fit its checksum; one that another program wrote has none."""
    with path.open("rb") as file:
        footer = _footer(file)
        start = max(footer - len(MARK) - DIGEST_BYTES, 0)
        file.seek(start)
        mark, digest = file.read(len(MARK)), file.read(DIGEST_BYTES)
        if mark == MARK and _digest(file, start, footer) != digest:
            raise RunError(
                f"{path} is damaged: its content does not fit its checksum. Copy the run again, or train again."
            )


def _footer(file: BinaryIO) -> int:
    """Return where the footer of a parquet file begins, or 0 if it says no place within the file."""
    end = max(file.seek(0, io.SEEK_END) - END_BYTES, 0)
    file.seek(end)
    return max(end - int.from_bytes(file.read(4), "little"), 0)


def _digest(file: BinaryIO, end: int, footer: int) -> bytes:
    """Return the SHA-256 of a file's bytes up to `end` and from `footer` on."""
    found = hashlib.sha256()
    file.seek(0)
    while block := file.read(min(BLOCK_BYTES, end - file.tell())):
        found.update(block)
    file.seek(footer)
    found.update(file.read())
    return found.digest()


def label_indices(labels: Iterable[str], classes: Sequence[str]) -> Ints:
    """Return the index of each label among `classes`, int64 (n,)."""
    index = {name: position for position, name in enumerate(classes)}
    return np.array([index[label] for label in labels], np.int64)
