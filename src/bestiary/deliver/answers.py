"""Predictions as a person or a program wants them: table, jsonl, csv, parquet, pictures with heatmaps."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from bestiary.batches.decoding import View
from bestiary.errors import MachineError, UserError, needs
from bestiary.inference.predictor import Prediction
from bestiary.machine import atomic
from bestiary.progress import Advance

HEATMAP_STRENGTH = 0.55


def write(predictions: Iterable[Prediction], form: str, out: TextIO, *, classes: Sequence[str], top: int) -> None:
    """Write predictions to `out`: "table", "jsonl", "csv", "parquet" (bytes on out.buffer) or "json" (one object)."""
    if form == "jsonl":
        write_lines(predictions, out)
    elif form == "csv":
        write_csv(predictions, out, classes)
    elif form == "parquet":
        _write_parquet(predictions, out, classes)
    elif form == "json":
        out.write(json.dumps({"predictions": [p.line() for p in predictions]}, ensure_ascii=False) + "\n")
    else:
        _write_table(predictions, out, top)


def write_lines(predictions: Iterable[Prediction], out: TextIO) -> None:
    """Write one JSON object a line, each as soon as it is known."""
    for prediction in predictions:
        out.write(json.dumps(prediction.line(), ensure_ascii=False) + "\n")
        out.flush()


def write_csv(predictions: Iterable[Prediction], out: TextIO, classes: Sequence[str], *, header: bool = True) -> None:
    """Write one row of comma-separated values a picture, each as soon as it is known."""
    rows = csv.writer(out, lineterminator="\n")
    if header:
        rows.writerow(columns(classes))
    for prediction in predictions:
        rows.writerow(row(prediction, classes))
        out.flush()


def columns(classes: Sequence[str]) -> list[str]:
    """Return the names of the columns of a flat table of answers."""
    return ["path", "label", "probability", "unknown", "familiarity", *(f"p_{name}" for name in classes), "error"]


def row(one: Prediction, classes: Sequence[str]) -> list[Any]:
    """Return the values of one answer, in the order of `columns`; None where there is none."""
    shares = map(one.probabilities.get, classes)
    return [one.path, one.label, one.probability, one.unknown, one.familiarity, *shares, one.error]


def schema(classes: Sequence[str]) -> dict[str, Any]:
    """Return the types of the columns, for polars."""
    pl = needs("polars", extra="train")
    kinds = {"path": pl.String, "label": pl.String, "unknown": pl.Boolean, "error": pl.String}
    return {name: kinds.get(name, pl.Float64) for name in columns(classes)}


def counted(predictions: Iterable[Prediction], advance: Advance) -> Iterator[Prediction]:
    """Yield the predictions and tell the progress of each."""
    for prediction in predictions:
        advance(1)
        yield prediction


def with_heatmaps(predictions: Iterable[Prediction], folder: Path, view: View) -> Iterator[Prediction]:
    """Yield the predictions, after writing for each picture one of the same name with the evidence drawn on it."""
    taken: set[str] = set()
    for prediction in predictions:
        if prediction.heatmap is not None and prediction.path is not None:
            name = _free_name(Path(prediction.path).stem, taken)
            _save(heatmap_over(view.of(Path(prediction.path)), prediction.heatmap), folder / f"{name}.heatmap.png")
        yield prediction


def heatmap_over(pixels: npt.NDArray[np.uint8], heatmap: npt.NDArray[np.float32]) -> Image.Image:
    """Return the picture with what speaks for its label in warm colours; pixels: uint8 (size, size, 3)."""
    evidence = np.clip(heatmap, 0, None)
    evidence = evidence / max(float(evidence.max()), 1e-12)
    size = (pixels.shape[1], pixels.shape[0])
    smooth = np.asarray(Image.fromarray(evidence.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    weight = np.clip(smooth, 0, 1)[..., None]
    warm = np.concatenate([np.full_like(weight, 255), 255 * (1 - weight) * 0.9, np.zeros_like(weight)], axis=-1)
    grey = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1) * 0.5 + pixels * 0.5
    mixed = grey * (1 - HEATMAP_STRENGTH * weight) + warm * HEATMAP_STRENGTH * weight
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def _free_name(stem: str, taken: set[str]) -> str:
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name


def _save(image: Image.Image, path: Path) -> None:
    if path.exists():
        raise MachineError(f"{path} exists already, and is not written over. Choose another folder for the heatmaps.")
    with atomic(path) as temporary:
        image.save(temporary)


def _write_parquet(predictions: Iterable[Prediction], out: TextIO, classes: Sequence[str]) -> None:
    if out.isatty():
        raise UserError("Parquet is not for a terminal. Send it to a file: bestiary predict … --out out.parquet")
    pl = needs("polars", extra="train")
    rows = [row(one, classes) for one in predictions]
    pl.DataFrame(rows, schema=schema(classes), orient="row").write_parquet(out.buffer)


def _write_table(predictions: Iterable[Prediction], out: TextIO, top: int) -> None:
    for one in predictions:
        if one.error is not None:
            out.write(f"{one.path}\n    cannot be read: {one.error}\n")
            continue
        best = sorted(one.probabilities.items(), key=lambda item: -item[1])[:top]
        shown = ", ".join(f"{name} {probability:.1%}" for name, probability in best)
        doubt = "  (unknown: like none of the classes)" if one.unknown else ""
        out.write(f"{one.path}  {shown}{doubt}\n")
        out.flush()
