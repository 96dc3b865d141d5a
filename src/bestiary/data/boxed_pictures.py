"""Boxes to predict, from any format that has them: labels and splits do not matter, and each box is one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bestiary.box import Crop, PictureFile
from bestiary.data.formats.label_rows import iter_boxes, read_label_rows
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.formats.registry import recognise_format
from bestiary.errors import SourceError
from bestiary.text import format_count


@dataclass(frozen=True)
class BoxedPictures:
    """The boxes of a file, those of one picture together; a picture without a box is whole.

    notices: what was read; detector: what the file says of the detector, by the names of MegaDetector's format.
    """

    files: list[PictureFile]
    notices: list[str]
    detector: Mapping[str, Any] = field(default_factory=dict)


def read_boxed_pictures(source: Path, options: ReadOptions) -> BoxedPictures:
    """Return the boxes of a file or folder in a format for labels.

    Raises SourceError if the format is not recognised, and if there is no box.
    """
    form = recognise_format(source, options)
    if form is None:
        raise SourceError(f"{source} is not of a format that is recognised. Expected pictures, or boxes of pictures.")
    labelled = read_label_rows(source, form, options, ignore_labels=True)
    rows = labelled.rows.sort("path", maintain_order=True)
    files: list[PictureFile] = []
    for path, box in zip(map(Path, rows["path"]), iter_boxes(rows), strict=True):
        files.append(path if box is None else Crop(path, box))
    whole_pictures = sum(isinstance(file, Path) for file in files)
    if whole_pictures == len(files):
        raise SourceError(
            f"{source} ({form.title}) has no boxes, and the model looks at boxes. For a table, name their columns:"
            " --columns box=left+top+width+height."
        )
    notices = [notice.message for notice in labelled.notices]
    if whole_pictures:
        whole = format_count(whole_pictures, "picture has", "pictures have")
        notices.append(f"{whole} no box: {'it is' if whole_pictures == 1 else 'they are'} looked at as a whole.")
    return BoxedPictures(files, notices, labelled.detector)
