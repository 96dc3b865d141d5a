"""Writers of predictions: table, jsonl, json, csv and parquet; progress and prediction sets of a stream."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote

from bestiary.box import BOX_FIELDS, Box, box_fields
from bestiary.errors import UserError, import_optional
from bestiary.inference.conformal import prediction_set
from bestiary.inference.predictor import Prediction
from bestiary.progress import Advance
from bestiary.text import escape_control_chars, format_points

if TYPE_CHECKING:
    from bestiary.inference.event_answers import EventTracker

FORMULA = re.compile(r"[=+\-@\t\r\n]")  # OWASP, "CSV Injection": spreadsheets run a cell that begins so
NUMBER = re.compile(r"[+-]\d+([.,]\d+)?")


@dataclass(frozen=True)
class MoreColumns:
    """Columns that only some predictions have: sets: `labels`; reasons: `reason`; boxes: those of the box."""

    sets: bool = False
    reasons: bool = False
    boxes: bool = False


def write_predictions(
    predictions: Iterable[Prediction],
    output_format: str,
    out: TextIO,
    *,
    classes: Sequence[str],
    top: int,
    more: MoreColumns = MoreColumns(),
    events: EventTracker | None = None,
) -> None:
    """Write predictions to `out`: "table", "jsonl", "csv", "parquet" (bytes on out.buffer) or "json" (one object).

    more: of prediction sets, of the reasons that a model with thresholds by class gives, and of boxes.
    events: tracks the predictions; its answers follow them in "table" and "json".
    """
    if output_format == "jsonl":
        write_jsonl(predictions, out, boxes=more.boxes)
    elif output_format == "csv":
        write_csv(predictions, out, classes, **asdict(more))
    elif output_format == "parquet":
        _write_parquet(predictions, out, classes, **asdict(more))
    elif output_format == "json":
        values = {"predictions": [prediction.line(boxes=more.boxes) for prediction in predictions]}
        if events is not None:
            values["events"] = [answer.line() for answer in events.answers()]
        out.write(json.dumps(values, ensure_ascii=False) + "\n")
    else:
        _write_table(predictions, out, top)
        if events is not None:
            out.writelines(["\n", *(f"{answer.describe()}\n" for answer in events.answers())])


def write_jsonl(predictions: Iterable[Prediction], out: TextIO, *, boxes: bool = False) -> None:
    """Write one JSON object a line, each as soon as it is predicted."""
    for prediction in predictions:
        out.write(json.dumps(prediction.line(boxes=boxes), ensure_ascii=False) + "\n")
        out.flush()


def write_csv(
    predictions: Iterable[Prediction],
    out: TextIO,
    classes: Sequence[str],
    *,
    header: bool = True,
    sets: bool = False,
    reasons: bool = False,
    boxes: bool = False,
) -> None:
    """Write one row of comma-separated values a picture, each as soon as it is predicted.

    No cell can run as a formula in a spreadsheet: a path that looks like a formula gets the prefix `./`, which does not
    change it, other texts an apostrophe. The other formats write every text unchanged.
    """
    rows = csv.writer(out, lineterminator="\n")
    if header:
        rows.writerow(prediction_columns(classes, sets=sets, reasons=reasons, boxes=boxes))
    for prediction in predictions:
        path, *cells = prediction_row(prediction, classes, sets=sets, reasons=reasons, boxes=boxes)
        rows.writerow([escape_formula(path, "./"), *(escape_formula(cell, "'") for cell in cells)])
        out.flush()


def parse_csv_path(cell: str) -> str:
    """Return the path that `write_csv` wrote into a cell."""
    return cell.removeprefix("./")  # no path begins so by itself


def escape_formula(cell: Any, prefix: str) -> Any:
    """Return the cell, with `prefix` if a spreadsheet would run it as a formula; numbers such as -1 stay.

    A text that begins with an apostrophe and a formula gets another apostrophe, so that each cell has one meaning.
    """
    if not isinstance(cell, str) or NUMBER.fullmatch(cell):
        return cell
    return prefix + cell if FORMULA.match(cell.lstrip("'") if prefix == "'" else cell) else cell


def join_labels(labels: Iterable[str], classes: Iterable[str]) -> str:
    """Return the labels of a set as one text, separated by `|`.

    If any of the classes contains `|`, then `%` and `|` in labels are written as `%25` and `%7C`, as in a URL.

    >>> join_labels(["cat", "100%"], ["cat", "100%"]), join_labels(["cat|dog", "100%"], ["100%", "cat|dog"])
    ('cat|100%', 'cat%7Cdog|100%25')
    """
    if any("|" in name for name in classes):
        labels = (label.replace("%", "%25").replace("|", "%7C") for label in labels)
    return "|".join(labels)


def split_labels(text: str, classes: Iterable[str]) -> list[str]:
    """Return the labels of a set that `join_labels` joined; `classes`: all classes, as in the columns `p_…`.

    >>> split_labels("cat|100%", ["cat", "100%"]), split_labels("cat%7Cdog|100%25", ["100%", "cat|dog"])
    (['cat', '100%'], ['cat|dog', '100%'])
    """
    labels = text.split("|") if text else []
    return [unquote(label) for label in labels] if any("|" in name for name in classes) else labels


def prediction_columns(
    classes: Sequence[str], *, sets: bool = False, reasons: bool = False, boxes: bool = False
) -> list[str]:
    """Return the columns of a flat table: `labels` for prediction sets, `reason` for reasons, and those of boxes."""
    columns = ["path", "label", "probability", "unknown", "familiarity", *(f"p_{name}" for name in classes), "error"]
    return [*columns, *(["labels"] if sets else []), *(["reason"] if reasons else []), *(BOX_FIELDS if boxes else [])]


def prediction_row(
    prediction: Prediction, classes: Sequence[str], *, sets: bool = False, reasons: bool = False, boxes: bool = False
) -> list[Any]:
    """Return the values of one prediction, in the order of `prediction_columns`; None for a missing value.

    The labels of a prediction set are one text, as in `cat|dog`: see `join_labels`.
    """
    row = [
        prediction.path,
        prediction.label,
        prediction.probability,
        prediction.unknown,
        prediction.familiarity,
        *map(prediction.probabilities.get, classes),
        prediction.error,
    ]
    if sets:
        row.append(None if prediction.labels is None else join_labels(prediction.labels, classes))
    if reasons:
        row.append(prediction.reason)
    return [*row, *box_fields(prediction.box).values()] if boxes else row


def polars_schema(
    classes: Sequence[str], *, sets: bool = False, reasons: bool = False, boxes: bool = False
) -> dict[str, Any]:
    """Return the types of the columns, for polars."""
    pl = import_optional("polars", extra="train")
    kinds = dict.fromkeys(("path", "label", "error", "labels", "reason", "box_unit"), pl.String)
    kinds |= {"unknown": pl.Boolean}
    columns = prediction_columns(classes, sets=sets, reasons=reasons, boxes=boxes)
    return {name: kinds.get(name, pl.Float64) for name in columns}


def count_progress(predictions: Iterable[Prediction], advance: Advance) -> Iterator[Prediction]:
    """Yield the predictions and advance the progress by one for each."""
    for prediction in predictions:
        advance(1)
        yield prediction


def add_prediction_sets(predictions: Iterable[Prediction], bound: float) -> Iterator[Prediction]:
    """Yield the predictions with their prediction sets; `bound` comes from `conformal.conformal_threshold`."""
    for prediction in predictions:
        if prediction.error is None:
            prediction = replace(prediction, labels=prediction_set(prediction.probabilities, bound))
        yield prediction


def check_unknown_label(text: str, classes: Sequence[str]) -> None:
    """Raise UserError if the label of unknown pictures is empty, or a class of the model."""
    if not text.strip():
        raise UserError("--unknown-label is empty. Give a text, for example: --unknown-label unknown")
    if text in classes:
        raise UserError(f'--unknown-label "{text}" is a class of the model. Choose another text.')


def relabel_unknown(predictions: Iterable[Prediction], text: str) -> Iterator[Prediction]:
    """Yield the predictions, those of unknown pictures with this label; their probability is of the nearest class."""
    for prediction in predictions:
        is_unknown = prediction.error is None and prediction.unknown
        yield replace(prediction, label=text) if is_unknown else prediction


def _write_parquet(
    predictions: Iterable[Prediction], out: TextIO, classes: Sequence[str], *, sets: bool, reasons: bool, boxes: bool
) -> None:
    if out.isatty():
        raise UserError("Parquet cannot be printed to a terminal. Write a file: bestiary predict … --out out.parquet")
    pl = import_optional("polars", extra="train")
    extra = {"sets": sets, "reasons": reasons, "boxes": boxes}
    rows = [prediction_row(prediction, classes, **extra) for prediction in predictions]
    pl.DataFrame(rows, schema=polars_schema(classes, **extra), orient="row").write_parquet(out.buffer)


def _write_table(predictions: Iterable[Prediction], out: TextIO, top: int) -> None:
    for prediction in predictions:
        path = escape_control_chars(str(prediction.path)) + _format_box(prediction.box)
        if prediction.error is not None:
            out.write(f"{path}\n    cannot be read: {escape_control_chars(prediction.error)}\n")
            continue
        labels = _format_labels(prediction, top)
        labels += "" if prediction.labels is None else f"  {{{', '.join(prediction.labels)}}}"
        note = f"  ({prediction.note})" if prediction.unknown else ""
        out.write(f"{path}  {escape_control_chars(labels)}{note}\n")
        out.flush()


def _format_box(box: Box | None) -> str:
    return "" if box is None else f" [{box.left:.4g}, {box.top:.4g}, {box.width:.4g}, {box.height:.4g}]"


def _format_labels(prediction: Prediction, top: int) -> str:
    """Return the label, then the most probable of the others, `top` in all, with their probabilities.

    A label that was chosen by cost is followed by the most probable class; one that is not a class, the label of
    unknown pictures, stands before the classes.
    """
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    cells = [f"{name} {format_points(probability, 1)} %" for name, probability in ranked]
    position = next((rank for rank, (name, _) in enumerate(ranked) if name == prediction.label), None)
    if position is None:
        return f"{prediction.label}, nearest: {', '.join(cells[:top])}"
    chosen = cells.pop(position) + (f" by cost (most probable: {cells[0]})" if position and top == 1 else "")
    return ", ".join([chosen, *cells[: top - 1]])
