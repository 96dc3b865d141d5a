"""Predictions as a person or a program wants them: table, jsonl, csv, parquet, pictures with heatmaps."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

from bestiary.errors import UserError, import_optional
from bestiary.inference.conformal import prediction_set
from bestiary.inference.predictor import Prediction
from bestiary.progress import Advance
from bestiary.text import escape_control_chars, format_points

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")  # OWASP, "CSV Injection": spreadsheets run a cell that begins so
NUMBER = re.compile(r"[+-]\d+([.,]\d+)?")


def write_predictions(
    predictions: Iterable[Prediction],
    output_format: str,
    out: TextIO,
    *,
    classes: Sequence[str],
    top: int,
    sets: bool = False,
) -> None:
    """Write predictions to `out`: "table", "jsonl", "csv", "parquet" (bytes on out.buffer) or "json" (one object).

    sets: whether prediction sets were asked for; then csv and parquet have a column `labels`.
    """
    if output_format == "jsonl":
        write_jsonl(predictions, out)
    elif output_format == "csv":
        write_csv(predictions, out, classes, sets=sets)
    elif output_format == "parquet":
        _write_parquet(predictions, out, classes, sets)
    elif output_format == "json":
        out.write(json.dumps({"predictions": [p.line() for p in predictions]}, ensure_ascii=False) + "\n")
    else:
        _write_table(predictions, out, top)


def write_jsonl(predictions: Iterable[Prediction], out: TextIO) -> None:
    """Write one JSON object a line, each as soon as it is known."""
    for prediction in predictions:
        out.write(json.dumps(prediction.line(), ensure_ascii=False) + "\n")
        out.flush()


def write_csv(
    predictions: Iterable[Prediction],
    out: TextIO,
    classes: Sequence[str],
    *,
    header: bool = True,
    sets: bool = False,
) -> None:
    """Write one row of comma-separated values a picture, each as soon as it is known.

    No cell is one that a spreadsheet would run: a path that looks like a formula has `./` before it, and is the same
    path; other texts an apostrophe. The other formats hold every text as it is.
    """
    rows = csv.writer(out, lineterminator="\n")
    if header:
        rows.writerow(prediction_columns(classes, sets=sets))
    for prediction in predictions:
        path, *others = prediction_row(prediction, classes, sets=sets)
        rows.writerow([_escape_formula(path, "./"), *(_escape_formula(cell, "'") for cell in others)])
        out.flush()


def parse_csv_path(cell: str) -> str:
    """Return the path that `write_csv` wrote into a cell."""
    return cell.removeprefix("./")  # no path begins so by itself


def _escape_formula(cell: Any, prefix: str) -> Any:
    """Return what stands in a cell, after `prefix` if a spreadsheet would run it; numbers such as -1 it would not."""
    if not isinstance(cell, str) or not cell.startswith(FORMULAS) or NUMBER.fullmatch(cell):
        return cell
    return prefix + cell


def prediction_columns(classes: Sequence[str], *, sets: bool = False) -> list[str]:
    """Return the names of the columns of a flat table of answers, with those of prediction sets where asked for."""
    shares = [f"p_{name}" for name in classes]
    return ["path", "label", "probability", "unknown", "familiarity", *shares, "error", *(["labels"] if sets else [])]


def prediction_row(prediction: Prediction, classes: Sequence[str], *, sets: bool = False) -> list[Any]:
    """Return the values of one answer, in the order of `prediction_columns`; None where there is none.

    The labels of a prediction set are one text, as in `cat|dog`.
    """
    shares = map(prediction.probabilities.get, classes)
    told = [None if prediction.labels is None else "|".join(prediction.labels)] if sets else []
    return [
        prediction.path,
        prediction.label,
        prediction.probability,
        prediction.unknown,
        prediction.familiarity,
        *shares,
        prediction.error,
        *told,
    ]


def polars_schema(classes: Sequence[str], *, sets: bool = False) -> dict[str, Any]:
    """Return the types of the columns, for polars."""
    pl = import_optional("polars", extra="train")
    kinds = dict.fromkeys(("path", "label", "error", "labels"), pl.String) | {"unknown": pl.Boolean}
    return {name: kinds.get(name, pl.Float64) for name in prediction_columns(classes, sets=sets)}


def count_progress(predictions: Iterable[Prediction], advance: Advance) -> Iterator[Prediction]:
    """Yield the predictions and tell the progress of each."""
    for prediction in predictions:
        advance(1)
        yield prediction


def add_prediction_sets(predictions: Iterable[Prediction], bound: float) -> Iterator[Prediction]:
    """Yield the predictions with their prediction sets; `bound` comes from `inference.sets.bound_of`."""
    for one in predictions:
        yield one if one.error is not None else replace(one, labels=prediction_set(one.probabilities, bound))


def _write_parquet(predictions: Iterable[Prediction], out: TextIO, classes: Sequence[str], sets: bool) -> None:
    if out.isatty():
        raise UserError("Parquet is not for a terminal. Send it to a file: bestiary predict … --out out.parquet")
    pl = import_optional("polars", extra="train")
    rows = [prediction_row(one, classes, sets=sets) for one in predictions]
    pl.DataFrame(rows, schema=polars_schema(classes, sets=sets), orient="row").write_parquet(out.buffer)


def _write_table(predictions: Iterable[Prediction], out: TextIO, top: int) -> None:
    for one in predictions:
        if one.error is not None:
            out.write(f"{escape_control_chars(str(one.path))}\n    cannot be read: {escape_control_chars(one.error)}\n")
            continue
        best = sorted(one.probabilities.items(), key=lambda item: -item[1])[:top]
        shown = ", ".join(f"{name} {format_points(probability, 1)} %" for name, probability in best)
        shown += "" if one.labels is None else f"  {{{', '.join(one.labels)}}}"
        doubt = "  (unknown: like none of the classes)" if one.unknown else ""
        out.write(f"{escape_control_chars(str(one.path))}  {escape_control_chars(shown)}{doubt}\n")
        out.flush()
