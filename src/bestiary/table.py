"""The tables between the stages: their columns, and how they are read and written (parquet, by polars)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from bestiary.errors import RunError
from bestiary.machine import atomic

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


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write the table so that a reader finds either the old file or the whole new one; raises MachineError."""
    with atomic(path) as temporary:
        try:
            frame.write_parquet(temporary)
        except pl.exceptions.ComputeError as error:
            if "os error" not in str(error):
                raise
            raise OSError(str(error)) from error  # a full disk, which polars does not report as an OSError


def read(path: Path, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """Return a table that was written before; raises RunError, naming the column, if one of `columns` is missing."""
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing. Is {path.parent} a finished run?") from None
    except pl.exceptions.PolarsError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if missing := [name for name in columns if name not in frame.columns]:
        raise RunError(f'{path} has no column "{missing[0]}"; it has: {", ".join(frame.columns)}.')
    return frame
