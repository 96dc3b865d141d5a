"""Predictions as a person or a program wants them: table, jsonl, csv, parquet, pictures with heatmaps."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

from bestiary.errors import UserError, import_optional
from bestiary.inference.conformal import label_set
from bestiary.inference.predictor import Prediction
from bestiary.progress import Advance
from bestiary.text import escape_control_chars, format_points

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")  # OWASP, "CSV Injection": spreadsheets run a cell that begins so
NUMBER = re.compile(r"[+-]\d+([.,]\d+)?")


def write(
    predictions: Iterable[Prediction], form: str, out: TextIO, *, classes: Sequence[str], top: int, sets: bool = False
) -> None:
    """Write predictions to `out`: "table", "jsonl", "csv", "parquet" (bytes on out.buffer) or "json" (one object).

    sets: whether prediction sets were asked for; then csv and parquet have a column `labels`.
    """
    if form == "jsonl":
        write_lines(predictions, out)
    elif form == "csv":
        write_csv(predictions, out, classes, sets=sets)
    elif form == "parquet":
        _write_parquet(predictions, out, classes, sets)
    elif form == "json":
        out.write(json.dumps({"predictions": [p.line() for p in predictions]}, ensure_ascii=False) + "\n")
    else:
        _write_table(predictions, out, top)


def write_lines(predictions: Iterable[Prediction], out: TextIO) -> None:
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
        rows.writerow(columns(classes, sets=sets))
    for prediction in predictions:
        path, *others = row(prediction, classes, sets=sets)
        rows.writerow([_disarmed(path, "./"), *(_disarmed(cell, "'") for cell in others)])
        out.flush()


def path_in(cell: str) -> str:
    """Return the path that `write_csv` wrote into a cell."""
    return cell.removeprefix("./")  # no path begins so by itself


def _disarmed(cell: Any, guard: str) -> Any:
    """Return what stands in a cell, after `guard` if a spreadsheet would run it; numbers such as -1 it would not."""
    if not isinstance(cell, str) or not cell.startswith(FORMULAS) or NUMBER.fullmatch(cell):
        return cell
    return guard + cell


def columns(classes: Sequence[str], *, sets: bool = False) -> list[str]:
    """Return the names of the columns of a flat table of answers, with those of prediction sets where asked for."""
    shares = [f"p_{name}" for name in classes]
    return ["path", "label", "probability", "unknown", "familiarity", *shares, "error", *(["labels"] if sets else [])]


def row(one: Prediction, classes: Sequence[str], *, sets: bool = False) -> list[Any]:
    """Return the values of one answer, in the order of `columns`; None where there is none.

    The labels of a prediction set are one text, as in `cat|dog`.
    """
    shares = map(one.probabilities.get, classes)
    told = [None if one.labels is None else "|".join(one.labels)] if sets else []
    return [one.path, one.label, one.probability, one.unknown, one.familiarity, *shares, one.error, *told]


def schema(classes: Sequence[str], *, sets: bool = False) -> dict[str, Any]:
    """Return the types of the columns, for polars."""
    pl = import_optional("polars", extra="train")
    kinds = dict.fromkeys(("path", "label", "error", "labels"), pl.String) | {"unknown": pl.Boolean}
    return {name: kinds.get(name, pl.Float64) for name in columns(classes, sets=sets)}


def counted(predictions: Iterable[Prediction], advance: Advance) -> Iterator[Prediction]:
    """Yield the predictions and tell the progress of each."""
    for prediction in predictions:
        advance(1)
        yield prediction


def with_sets(predictions: Iterable[Prediction], bound: float) -> Iterator[Prediction]:
    """Yield the predictions with their prediction sets; `bound` comes from `inference.sets.bound_of`."""
    for one in predictions:
        yield one if one.error is not None else replace(one, labels=label_set(one.probabilities, bound))


def _write_parquet(predictions: Iterable[Prediction], out: TextIO, classes: Sequence[str], sets: bool) -> None:
    if out.isatty():
        raise UserError("Parquet is not for a terminal. Send it to a file: bestiary predict … --out out.parquet")
    pl = import_optional("polars", extra="train")
    rows = [row(one, classes, sets=sets) for one in predictions]
    pl.DataFrame(rows, schema=schema(classes, sets=sets), orient="row").write_parquet(out.buffer)


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
