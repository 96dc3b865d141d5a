"""CVAT for images 1.1: `annotations.xml` with tags and boxes of each picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from bestiary.box import MAX_SIDE, Box
from bestiary.data.formats.json_files import read_start
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_list import NO_LABEL, RowList
from bestiary.data.split import parse_split_name
from bestiary.errors import SourceError

FILE_NAME = "annotations.xml"
UNUSED_SHAPES = {"polygon", "polyline", "points", "cuboid", "ellipse", "mask", "skeleton"}


def is_cvat(source: Path) -> bool:
    """Return whether a source is such a file, or a folder with one."""
    start = read_start(source / FILE_NAME if source.is_dir() else source, ".xml")
    return "<annotations>" in start and ("<image " in start or "<meta>" in start)


def read_cvat(source: Path, _options: ReadOptions) -> LabelTable:
    """Return a row for each tag and box. Raises SourceError for damaged XML, a video, and a file of another kind."""
    path, rows, shapes = source / FILE_NAME if source.is_dir() else source, RowList(), Counter[str]()
    for image in _iter_images(path):
        name, count = image.get("name", ""), 0
        split = parse_split_name(image.get("subset", ""))
        for shape in image:
            label = (shape.get("label") or "").strip()
            if shape.tag in UNUSED_SHAPES:
                shapes[shape.tag] += 1
            if shape.tag not in ("tag", "box") or not label:
                continue
            rows.add(name, label, split=split, box=_read_box(shape, image, path) if shape.tag == "box" else None)
            count += 1
        if not count:
            rows.leave_out(name, NO_LABEL)
    notes = [f"{path}: {count:,} shapes of the kind {kind} are not used." for kind, count in shapes.items()]
    return rows.make_table(notes)


def _iter_images(path: Path) -> Iterator[ElementTree.Element]:
    """Yield the pictures of a file, one at a time in memory."""
    root = None
    try:
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            if root is None:
                root = element
                if root.tag != "annotations":
                    raise SourceError(
                        f"{path} is XML, but not of CVAT: it begins with <{root.tag}>, not <annotations>."
                    )
            elif event == "end" and element.tag == "track":
                raise SourceError(
                    f"{path} has the tracks of a video. Export the task as “CVAT for images 1.1”, with images."
                )
            elif event == "end" and element.tag == "image":
                yield element
                root.clear()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also for an encoding that there is not
        raise SourceError(f"{path} cannot be read as XML: {error}. It is damaged or incomplete.") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}.") from None


def _read_box(shape: ElementTree.Element, image: ElementTree.Element, path: Path) -> Box:
    """Return the box in pixels; of a turned one, the upright box around it."""
    try:
        across, down = (int(image.get(side) or 0) for side in ("width", "height"))
        left, top, end_x, end_y = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        angle = math.radians(float(shape.get("rotation", "0")))
    except (KeyError, ValueError):
        raise SourceError(
            f"{path}: a box of {image.get('name')} has no numbers xtl, ytl, xbr, ybr, or its picture no width and"
            " height in pixels."
        ) from None
    width, height = end_x - left, end_y - top
    if angle:
        middle_x, middle_y = (left + end_x) / 2, (top + end_y) / 2
        sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
        width, height = width * cosine + height * sine, width * sine + height * cosine
        left, top = middle_x - width / 2, middle_y - height / 2
    has_size = 0 < across <= MAX_SIDE >= down > 0
    return Box(left, top, width, height, "pixels", (across, down) if has_size else None)


FORMAT = LabelFormat("cvat", "a CVAT export", is_cvat, read_cvat)
