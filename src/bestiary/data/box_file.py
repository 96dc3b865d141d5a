"""Boxes from another file than the labels: results of a detector beside class folders or a labelled table.

The label of a picture holds for each of its boxes; what the file of boxes calls an animal does not matter.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bestiary.box import Box
from bestiary.data.formats.label_rows import LabelRows, iter_boxes, read_label_rows
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.formats.registry import recognise_format
from bestiary.data.formats.special_labels import special_family
from bestiary.data.notices import LEFT_OUT_ROWS, SourceNotice
from bestiary.data.sources import PictureEntry, PictureList
from bestiary.errors import SourceError
from bestiary.text import common_folder, format_names

NO_SPECIES = ("human", "vehicle")  # families of boxes that an animal's label does not hold for
MAX_NAMES = 3

PictureBoxes = dict[str, list[tuple[Box, str | None]]]  # by path: the boxes, each with the family of its own label


def add_boxes(listing: PictureList, file: Path, options: ReadOptions) -> PictureList:
    """Return the listing with an entry for each box that `file` has of a picture, instead of the whole picture.

    Pictures are found below `options.pictures`, else below the folder that all listed pictures share. Boxes of people
    and vehicles count only for pictures with such a label. Raises SourceError if the file is of no known format, if
    none of its pictures is there, and if the listing has boxes of its own.
    """
    if any(entry.box is not None for entry in listing.pictures):
        raise SourceError(
            f"The pictures have boxes already, so that those of {file} are not needed. Leave out --boxes."
        )
    labelled = _read_boxes(listing, file, options)
    boxes = _boxes_by_path(labelled)
    pictures, absent, foreign = [], [], 0
    for entry in listing.pictures:
        path = os.path.abspath(entry.path)  # noqa: PTH100 - no links are followed
        if path not in boxes:
            absent.append(entry.path.name)
            pictures.append(entry)
            continue
        own = [box for box, family in boxes[path] if _is_covered(family, entry)]
        foreign += len(boxes[path]) - len(own)
        pictures += [replace(entry, box=box) for box in own] or [entry]
    notices = [*listing.notices, *labelled.notices, *_iter_notices(file, absent, foreign, len(listing.pictures))]
    pictures.sort(key=lambda entry: (str(entry.path), entry.label, str(entry.box or "")))
    return replace(listing, pictures=pictures, notices=notices)


def _read_boxes(listing: PictureList, file: Path, options: ReadOptions) -> LabelRows:
    folder = options.pictures or Path(common_folder(str(entry.path.absolute()) for entry in listing.pictures))
    reading = ReadOptions(pictures=folder, left_out=(), boxes=True, unpack=options.unpack)
    form = recognise_format(file, reading)
    if form is None:
        raise SourceError(
            f"--boxes: {file} is not of a format that is recognised, such as MegaDetector results or COCO."
        )
    return read_label_rows(file, form, reading)


def _boxes_by_path(labelled: LabelRows) -> PictureBoxes:
    """Return the boxes of each picture of the file, none for a picture without any."""
    boxes: PictureBoxes = defaultdict(list)
    for (path, label), box in zip(
        labelled.rows.select("path", "label").iter_rows(), iter_boxes(labelled.rows), strict=True
    ):
        own = boxes[path]
        if box is not None:
            own.append((box, special_family(label)))
    return dict(boxes)


def _is_covered(family: str | None, entry: PictureEntry) -> bool:
    """Return whether the label of a picture holds for a box whose own label is of this family."""
    return family not in NO_SPECIES or special_family(entry.label) == family


def _iter_notices(file: Path, absent: list[str], foreign: int, count: int) -> Iterator[SourceNotice]:
    if foreign:
        boxes = f"{foreign:,} box{'es' * (foreign != 1)} of people or vehicles"
        yield SourceNotice(LEFT_OUT_ROWS, f"{file}: left out of pictures with another label: {boxes}.")
    if absent:
        text = f"{len(absent):,} of {count:,} labelled pictures are not in {file}, and are looked at as a whole:"
        yield SourceNotice(LEFT_OUT_ROWS, f"{text} {format_names(absent, MAX_NAMES)}.")
