"""What `predict` does about boxes: for a model that was trained on boxes, PATH may be a file that has them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bestiary.errors import UserError

if TYPE_CHECKING:
    from bestiary.box import PictureFile
    from bestiary.inference.output_formats.input_table import InputTable

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".parquet")
_ROBOFLOW = "_annotations.coco.json"  # in a part of an export, or beside its pictures
FOLDER_FILES = ("datapackage.json", _ROBOFLOW, f"train/{_ROBOFLOW}", f"valid/{_ROBOFLOW}", f"test/{_ROBOFLOW}")


@dataclass(frozen=True)
class Boxes:
    """The boxes to predict, the folder of their pictures, a digest of them, and notices about what was read.

    detector: what the file says of the detector that drew them.
    """

    files: list[PictureFile]
    folder: Path
    digest: str
    notices: list[str]
    detector: Mapping[str, Any] = field(default_factory=dict)


def read_boxes(run: Path, paths: Sequence[Path], columns: str | None, pictures: Path | None) -> Boxes | None:
    """Return the boxes of the only path, if it is a file of them; None for pictures.

    Raises UserError for a model that looks at whole pictures, and for options that are of no use.
    """
    from bestiary.inference.bundle import read_bundle

    source = paths[0] if len(paths) == 1 and _has_boxes(paths[0]) else None
    is_whole = source is not None and read_bundle(run).crop == "none"
    if source is None or (is_whole and source.is_dir()):  # its pictures: a Camtrap DP, an export of Roboflow
        if columns is not None or pictures is not None:
            raise UserError(
                "--columns and --pictures are for a file of boxes, given as PATH; --columns also for --table FILE."
            )
        return None
    if is_whole:
        if source.suffix.lower() not in SUFFIXES[:2]:
            return None  # a prediction with an error
        raise UserError(
            f"{source} is no picture, and its boxes cannot be used: this model was trained on whole pictures. Give the"
            " pictures, or train with --crop boxes."
        )
    from bestiary.errors import require_extra

    require_extra("train")
    from dataclasses import replace

    from bestiary.data.boxed_pictures import read_boxed_pictures
    from bestiary.data.formats.label_table import ReadOptions
    from bestiary.data.formats.read_options import make_read_options

    options = make_read_options(None, columns, pictures) or ReadOptions()
    boxed = read_boxed_pictures(source, replace(options, boxes=True, left_out=()))
    folder = (pictures or (source if source.is_dir() else source.parent)).absolute()  # as the paths of the boxes are
    return Boxes(boxed.files, folder, _digest_files(boxed.files), boxed.notices, boxed.detector)


def read_table(run: Path, table: Path, folder: Path | None, columns: str | None, pictures: Path | None) -> InputTable:
    """Return the table of the pictures or boxes in a folder.

    Raises UserError without a folder, for options of no use, and for named boxes of a model that looks at whole
    pictures.
    """
    from bestiary.inference.bundle import read_bundle
    from bestiary.inference.output_formats.input_table import InputTable
    from bestiary.table_columns import BOX_ROLES, parse_columns

    if folder is None:
        raise UserError("With --table, PATH is the single folder that its pictures lie in.")
    if pictures is not None:
        raise UserError("With --table, PATH is the folder of the pictures. Leave out --pictures.")
    is_boxed = read_bundle(run).crop == "boxes"
    if columns is not None and not is_boxed and set(parse_columns(columns)) & set(BOX_ROLES):
        raise UserError(
            "--columns names boxes, and this model was trained on whole pictures: they cannot be used. Leave them out,"
            " or train with --crop boxes."
        )
    return InputTable(table, folder, columns, boxes=is_boxed)


def _digest_files(files: Sequence[PictureFile]) -> str:
    """Return the SHA-256 of pictures and boxes in their order: options and further files decide about them too."""
    from bestiary.box import Crop, path_of

    digest = hashlib.sha256()
    for file in files:
        digest.update(
            os.fsencode(path_of(file)) + b"\0" + str(file.part if isinstance(file, Crop) else "").encode() + b"\0"
        )
    return digest.hexdigest()


def _has_boxes(path: Path) -> bool:
    """Return whether a path may be a file of boxes: it exists and is not named like a picture."""
    try:
        if path.is_dir():
            return any((path / name).is_file() for name in FOLDER_FILES)
        return path.suffix.lower() in SUFFIXES and path.is_file()
    except OSError:  # a name that is too long
        return False
