"""Parquet tables between the stages: their columns, reading and writing.

Each table has a checksum between its rows and parquet's footer, which other readers ignore: of 150 corrupted parquet
files, 59 were read without an error. A program that rewrites the table drops the checksum.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from bestiary import checks
from bestiary.array_types import Ints
from bestiary.box import Crop, PictureFile, Region, format_reference
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
    "group": pl.Int64,  # pictures of one group stay in one split: duplicates, and those of a given group or site
    "split": pl.String,  # train, val, test; null: left out, with the reason in `error`
    "error": pl.String,
}
# Measurements of every readable picture, for finding weak slices; older runs lack them.
MEASURES: dict[str, type[pl.DataType]] = {
    "luma": pl.Float64,  # mean brightness, 0 to 1
    "contrast": pl.Float64,  # 5th to 95th percentile of brightness, 0 to 1
    "sharpness": pl.Float64,  # variance of the Laplacian over variance of brightness
    "saturation": pl.Float64,  # 0 to 1
}
# What belongs together, for the split; older runs lack these columns.
GROUPING: dict[str, type[pl.DataType]] = {
    "duplicate_group": pl.Int64,  # duplicates only; `group` joins them with the given groups and the sites
    "given_group": pl.String,  # null: none
    "site": pl.String,  # null: none, or sites are not used
    "taken": pl.String,  # time of the source, else of the EXIF data, ISO 8601; null: unknown
}
# The part of the picture that a row shows, where boxes are cropped; older runs lack these columns.
CROPS: dict[str, type[pl.DataType]] = {
    "file_sha256": pl.String,  # `sha256` is that of the file and the region
    "crop_left": pl.Int32,  # pixels of the upright picture at full scale; null: the whole picture
    "crop_top": pl.Int32,
    "crop_width": pl.Int32,
    "crop_height": pl.Int32,
}
# Small versions of the pictures, in which copies of them are found; older runs lack them.
THUMBNAILS = {
    "sha256": pl.String,
    "thumbnail": pl.Binary,  # 32 x 32 grey pixels, row by row
    "colours": pl.Binary,  # Cb and Cr of 8 x 8 pixels
}
# Samples of more than 8 bits, for the range that they are scaled from; older runs lack these columns.
DEPTH: dict[str, type[pl.DataType]] = {
    "sample_type": pl.String,  # empty: 8 bits
    "deep_low": pl.Float64,  # smallest and largest sample without outliers; null: 8 bits, or the file names its range
    "deep_high": pl.Float64,
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
CHECKS = checks.TABLE_ORDER
SPLITS = ("train", "val", "test")
MARK, DIGEST_BYTES = b"bestiary SHA-256", 32
END_BYTES = 8  # the end of a parquet file: the length of the footer, and "PAR1"
BLOCK_BYTES = 2**20


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write the table atomically; raises MachineError."""
    with atomic_path(path) as temporary:
        try:
            frame.write_parquet(temporary)
        except pl.exceptions.ComputeError as error:
            if "os error" not in str(error):
                raise
            raise OSError(str(error)) from error  # polars reports a full disk as a ComputeError
        _add_checksum(temporary)


def read(path: Path, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """Return a table; raises RunError if it is missing or damaged, or if one of `columns` is missing."""
    try:
        _check_digest(path)
        frame = pl.read_parquet(path, glob=False)  # a name may have brackets
    except FileNotFoundError:
        raise RunError(f"{path} is missing. Is {path.parent} a finished run?") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # some damage makes polars panic
        raise RunError(f"{path} is damaged: {error}") from None
    if missing := [name for name in columns if name not in frame.columns]:
        raise RunError(f'{path} has no column "{missing[0]}"; it has: {", ".join(frame.columns)}.')
    return frame


def _add_checksum(path: Path) -> None:
    """Insert the mark and the checksum before the footer of a parquet file."""
    with path.open("r+b") as file:
        start = _footer(file)
        digest = _digest(file, start, start)
        file.seek(start)
        footer = file.read()
        file.seek(start)
        file.write(MARK + digest + footer)


def _check_digest(path: Path) -> None:
    """Raise RunError if the checksum does not match; a table that another program wrote has none."""
    with path.open("rb") as file:
        footer = _footer(file)
        start = max(footer - len(MARK) - DIGEST_BYTES, 0)
        file.seek(start)
        mark, digest = file.read(len(MARK)), file.read(DIGEST_BYTES)
        if mark == MARK and _digest(file, start, footer) != digest:
            raise RunError(f"{path} is damaged: checksum mismatch. Copy the run again, or train again.")


def _footer(file: BinaryIO) -> int:
    """Return the offset of the footer of a parquet file, or 0 if its length exceeds the file."""
    end = max(file.seek(0, io.SEEK_END) - END_BYTES, 0)
    file.seek(end)
    return max(end - int.from_bytes(file.read(4), "little"), 0)


def _digest(file: BinaryIO, end: int, footer: int) -> bytes:
    """Return the SHA-256 of a file's bytes before `end` and from `footer`."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(min(BLOCK_BYTES, end - file.tell())):
        digest.update(block)
    file.seek(footer)
    digest.update(file.read())
    return digest.digest()


def with_duplicate_groups(pictures: pl.DataFrame) -> pl.DataFrame:
    """Return the pictures with `group` meaning duplicates only, without given groups and sites."""
    return pictures.with_columns(group="duplicate_group") if "duplicate_group" in pictures.columns else pictures


def list_files(pictures: pl.DataFrame) -> list[PictureFile]:
    """Return the file of each row, or the region of it that the row shows."""
    files = zip(pictures["path"], list_regions(pictures), strict=True)
    return [Path(path) if region is None else Crop(Path(path), region) for path, region in files]


def list_regions(pictures: pl.DataFrame) -> list[Region | None]:
    """Return the region that each row shows, None for the whole picture."""
    if "crop_left" not in pictures.columns or not pictures["crop_left"].count():
        return [None] * pictures.height
    rows = pictures.select("crop_left", "crop_top", "crop_width", "crop_height").iter_rows()
    return [None if left is None else Region(left, top, width, height) for left, top, width, height in rows]


def name_crops(pictures: pl.DataFrame) -> pl.DataFrame:
    """Return the pictures with `path` naming the region too where a row shows only a region of its file, for pages."""
    if "crop_left" not in pictures.columns or not pictures["crop_left"].count():
        return pictures
    pairs = zip(pictures["path"], list_regions(pictures), strict=True)
    names = [format_reference(path, region) for path, region in pairs]
    return pictures.with_columns(path=pl.Series(names, dtype=pl.String))


def name_rows(rows: pl.DataFrame, pictures: pl.DataFrame) -> pl.DataFrame:
    """Return rows of predictions or findings with the `path` of `name_crops`, by `row_id`."""
    if "crop_left" not in pictures.columns or not pictures["crop_left"].count():
        return rows
    named = name_crops(pictures).select("row_id", reference="path")
    joined = rows.join(named, on="row_id", how="left", maintain_order="left")
    return joined.with_columns(path=pl.coalesce("reference", "path")).drop("reference")


def show_whole(pictures: pl.DataFrame) -> pl.DataFrame:
    """Return the pictures, each row showing the whole picture of its box; `paired_sha256` is the key of the box.

    What was measured stays that of the box. Tables without boxes are returned as they are.
    """
    if "crop_left" not in pictures.columns or not pictures["crop_left"].count():
        return pictures
    no_region = [pl.lit(None, kind).alias(name) for name, kind in CROPS.items() if name != "file_sha256"]
    return pictures.with_columns(*no_region, paired_sha256="sha256", sha256="file_sha256")


def label_indices(labels: Iterable[str], classes: Sequence[str]) -> Ints:
    """Return the index of each label among `classes`, int64 (n,)."""
    index = {name: position for position, name in enumerate(classes)}
    return np.array([index[label] for label in labels], np.int64)
