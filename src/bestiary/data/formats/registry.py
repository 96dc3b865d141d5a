"""The formats of labelled collections, and which of them a file or folder has."""

from __future__ import annotations

from pathlib import Path

from bestiary.data.formats import (
    camtrap_dp,
    coco,
    cvat,
    deepfaune,
    huggingface,
    label_studio,
    megadetector,
    roboflow,
    speciesnet,
    tables,
    timelapse,
    webdataset,
    wildlife_insights,
)
from bestiary.data.formats.label_table import LabelFormat, ReadOptions
from bestiary.errors import SourceError, UserError, did_you_mean

# The formats that are recognised by certain signs; `table` is any other table.
SPECIFIC: tuple[LabelFormat, ...] = (
    camtrap_dp.FORMAT,
    coco.FORMAT,
    megadetector.FORMAT,
    speciesnet.FORMAT,
    timelapse.FORMAT,
    wildlife_insights.FORMAT,
    deepfaune.FORMAT,
    huggingface.FORMAT,
    label_studio.FORMAT,
    roboflow.FORMAT,
    cvat.FORMAT,
    webdataset.FORMAT,
)
FORMATS: tuple[LabelFormat, ...] = (*SPECIFIC, tables.FORMAT)
WITHOUT_COLUMNS = {"cvat", "roboflow"}  # the other readers say themselves which columns can be named


def find_format(name: str) -> LabelFormat:
    """Return the format of a name; raises UserError, with the others, if there is none."""
    formats = {form.name: form for form in FORMATS}
    if name not in formats:
        raise UserError(f'There is no format "{name}". {did_you_mean(name, formats)}')
    return formats[name]


def recognise_format(source: Path, options: ReadOptions) -> LabelFormat | None:
    """Return the format of a file or folder, the requested one if there is one; None: it has no signs of any.

    Raises SourceError if it may be of several formats, or the format has no columns and some are named.
    """
    if options.format is not None:
        form: LabelFormat | None = find_format(options.format)
    else:
        candidates = SPECIFIC if source.exists() else (webdataset.FORMAT,)  # a range of shards is no path
        matches = [form for form in candidates if form.is_format(source)]
        if len(matches) > 1:
            titles = " or ".join(form.title for form in matches)
            names = " or ".join(f"--format {form.name}" for form in matches)
            raise SourceError(f"{source} may be {titles}. Say which: {names}.")
        form = matches[0] if matches else tables.FORMAT if tables.is_table(source) else None
    if options.columns and form is not None and form.name in WITHOUT_COLUMNS:
        raise SourceError(
            f"{source} is {form.title}, which has no columns to name. Leave out --columns, or pass --format table."
        )
    return form
