"""Label Studio exports: JSON, JSON_MIN and CSV, with choices and rectangles of each task."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from bestiary.box import Box
from bestiary.data.formats.json_files import load_json, read_start
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_list import NO_LABEL, RowList
from bestiary.data.formats.table_file import format_json_value, open_table, read_header
from bestiary.errors import SourceError, did_you_mean
from bestiary.picture_formats import PICTURE_SUFFIXES
from bestiary.table_columns import LABEL_NAMES
from bestiary.text import format_names

SKIPPED, UNUSED_KIND = "skipped by the annotator", "annotated with no choice or rectangle"
OWN_COLUMNS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
RECTANGLES = "rectanglelabels"
_FULL = re.compile(r'"annotations"\s*:')
Kind = TypeVar("Kind", list[Any], dict[str, Any])
_SHORT = re.compile(r'"annotation_id"\s*:')


@dataclass
class LabelledTask:
    """A task: the fields of its data, and the labels of each question, with a box or of the whole picture.

    answers: by the name of the question; is_skipped: every annotation of the task was cancelled.
    """

    data: Mapping[str, Any]
    answers: dict[str, list[tuple[str, Box | None]]] = field(default_factory=dict)
    is_skipped: bool = False
    has_unused: bool = False


def is_label_studio(source: Path) -> bool:
    """Return whether a file is such an export."""
    if source.suffix.lower() == ".csv" and source.is_file():
        return {"annotation_id", "annotator", "lead_time"} <= set(read_header(source))
    start = read_start(source, ".json")
    is_full = _FULL.search(start) is not None and '"data"' in start
    return start.startswith("[") and (is_full or _SHORT.search(start) is not None)


def read_label_studio(source: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each choice and rectangle. Raises SourceError if picture or question cannot be decided."""
    tasks = list(_iter_tasks(source))
    if not tasks:
        raise SourceError(f"{source} has no tasks.")
    picture = _choose_picture_field(tasks, options.columns.get("path"), source)
    question = _choose_question(tasks, options.columns.get("label"), source)
    extra = {role: options.columns.get(role, role) for role in ("group", "site", "time")}
    rows = RowList()
    for task in tasks:
        file = local_name(str(task.data.get(picture) or ""))
        answers = task.answers.get(question, [])
        if not file:
            rows.leave_out("", "row without a picture")
        elif not answers:
            rows.leave_out(file, SKIPPED if task.is_skipped else UNUSED_KIND if task.has_unused else NO_LABEL)
        else:
            values = {role: format_json_value(task.data.get(name)) for role, name in extra.items()}
            for label, box in answers:
                rows.add(file, label, box=box, **values)
    return rows.make_table([f"{source}: pictures from “{picture}”, labels from “{question}”."])


def local_name(address: str) -> str:
    """Return the path of a picture in local storage, without the address of the server that hands it out.

    >>> local_name("/data/local-files/?d=cams/a%20b.jpg"), local_name("s3://bucket/a.jpg")
    ('cams/a b.jpg', 's3://bucket/a.jpg')
    """
    parts = urlsplit(address) if "/local-files/" in address else None
    return parse_qs(parts.query).get("d", [address])[0] if parts else address


# ---- The three exports ----------------------------------------------------------------------------------------------


def _iter_tasks(source: Path) -> Iterator[LabelledTask]:
    """Yield the tasks of an export; raises SourceError, with the number, for one of another structure."""
    is_table = source.suffix.lower() == ".csv"
    for number, task in enumerate(_iter_rows(source) if is_table else _load_tasks(source), start=1):
        is_full = not is_table and ("annotations" in task or "completions" in task)
        try:
            labelled = _read_full(task, source) if is_full else _read_short(task, source)
        except (TypeError, AttributeError) as error:
            raise SourceError(
                f"{source}, task {number:,}: {error}. Expected an export of Label Studio: export again."
            ) from None
        yield labelled


def _iter_rows(source: Path) -> Iterator[dict[str, Any]]:
    table = open_table(source)
    for row in table.read(table.columns).iter_rows(named=True):
        yield {name: _decode_cell(cell) for name, cell in row.items()}


def _load_tasks(source: Path) -> list[dict[str, Any]]:
    content = load_json(source)
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise SourceError(f"{source} is no export of Label Studio: expected a list of tasks.")
    return content


def _decode_cell(cell: str | None) -> Any:
    if cell and cell[0] in "[{":
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _read_full(task: dict[str, Any], source: Path) -> LabelledTask:
    """Return a task of the full export; annotations that were cancelled are not used."""
    annotations = _require(task.get("annotations") or task.get("completions"), list, "annotations")
    done = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    data = _require(task.get("data"), dict, "data")
    labelled = LabelledTask(data, is_skipped=bool(annotations) and not done)
    for annotation in done:
        for result in _require(annotation.get("result"), list, "result"):
            value, kind = _require(result.get("value"), dict, "value"), result.get("type")
            answers = labelled.answers.setdefault(str(result.get("from_name")), [])
            if kind == "choices":
                answers += [(_clean(label), None) for label in _require(value.get("choices"), list, "choices")]
            elif kind == RECTANGLES:
                box = _read_box(value | {key: result.get(key) for key in ("original_width", "original_height")}, source)
                answers += [(_clean(label), box) for label in _require(value.get(RECTANGLES), list, RECTANGLES)]
            else:
                labelled.has_unused = True
    return labelled


def _read_short(row: dict[str, Any], source: Path) -> LabelledTask:
    """Return a row of the CSV or of JSON_MIN, where answers stand among the fields of the data."""
    task = LabelledTask(row)
    for name, value in row.items():
        if name in OWN_COLUMNS or value is None or value == "":
            continue
        if isinstance(value, dict) and "choices" in value:
            task.answers[name] = [(_clean(label), None) for label in _require(value["choices"], list, "choices")]
        elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
            boxes = [item for item in value if item.get(RECTANGLES)]
            task.has_unused = task.has_unused or len(boxes) < len(value)
            if boxes:
                task.answers[name] = [
                    (_clean(label), _read_box(box, source))
                    for box in boxes
                    for label in _require(box[RECTANGLES], list, RECTANGLES)
                ]
        elif isinstance(value, str | int | float):
            task.answers[name] = [(_clean(value), None)]
    return task


def _require(value: Any, kind: type[Kind], name: str) -> Kind:
    """Return a value of JSON, an empty one for null; raises TypeError for one of another kind."""
    if value is not None and not isinstance(value, kind):
        raise TypeError(f'"{name}" is {value!r:.60}, not a {"list" if kind is list else "JSON object"}')
    return value or kind()


def _clean(label: Any) -> str:
    return (format_json_value(label) or "").strip()


def _read_box(value: Mapping[str, Any], source: Path) -> Box:
    """Return a rectangle in percent as fractions; of a turned one, the upright box around it."""
    try:
        left, top, width, height = (float(value[key]) for key in ("x", "y", "width", "height"))
        angle = math.radians(float(value.get("rotation") or 0))
        if angle:  # it turns about its left upper corner, in pixels
            across, down = float(value["original_width"]), float(value["original_height"])
            xs = (0.0, width * math.cos(angle), -height * math.sin(angle) * down / across)
            ys = (0.0, width * math.sin(angle) * across / down, height * math.cos(angle))
            corners_x, corners_y = [*xs, xs[1] + xs[2]], [*ys, ys[1] + ys[2]]
            left, width = left + min(corners_x), max(corners_x) - min(corners_x)
            top, height = top + min(corners_y), max(corners_y) - min(corners_y)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise SourceError(f"{source}: a rectangle has no numbers x, y, width and height in percent.") from None
    return Box(left / 100, top / 100, width / 100, height / 100)


# ---- Which field is the picture, which question the label -----------------------------------------------------------


def _choose_picture_field(tasks: list[LabelledTask], requested: str | None, source: Path) -> str:
    fields = list(dict.fromkeys(name for task in tasks for name in task.data))
    if requested is not None:
        if requested not in fields:
            raise SourceError(f'{source}: the tasks have no field "{requested}". {did_you_mean(requested, fields)}')
        return requested
    matches = [name for name in fields if any(_is_picture(task.data.get(name)) for task in tasks[:1000])]
    if len(matches) != 1:
        listed = format_names(matches or fields)
        raise SourceError(
            f"{source}: {'several fields have' if matches else 'no field has'} pictures ({listed}). Name it:"
            " --columns path=FIELD."
        )
    return matches[0]


def _choose_question(tasks: list[LabelledTask], requested: str | None, source: Path) -> str:
    """Return the name of the question: the requested one, the only one, or the only one with a usual name."""
    names = list(dict.fromkeys(name for task in tasks for name, answers in task.answers.items() if answers))
    if requested is not None:
        if requested not in names:
            raise SourceError(f'{source}: there are no answers named "{requested}". {did_you_mean(requested, names)}')
        return requested
    is_short = any(name in task.data for task in tasks[:1000] for name in task.answers)
    if is_short:  # a text may be a field of the data
        certain = {n for t in tasks for n in t.answers if not isinstance(t.data.get(n), str | int | float)}
        usual = [name for name in names if name.casefold() in ("choice", "choices", *LABEL_NAMES)]
        names = [name for name in names if name in certain or name in usual] or [
            name for name in names if not any(_is_picture(task.data.get(name)) for task in tasks[:1000])
        ]
    if len(names) != 1:
        raise SourceError(
            f"{source}: {'several questions have' if names else 'no question has'} answers"
            f"{f' ({format_names(names)})' if names else ''}. Name the one with the label: --columns label=NAME."
        )
    return names[0]


def _is_picture(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    name = PureWindowsPath(urlsplit(local_name(value)).path if "://" in value else local_name(value)).name
    return Path(name).suffix.lower() in PICTURE_SUFFIXES


FORMAT = LabelFormat("label-studio", "a Label Studio export", is_label_studio, read_label_studio)
