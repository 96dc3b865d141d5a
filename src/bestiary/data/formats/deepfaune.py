"""DeepFaune: the CSV of predictions that its program writes, a row for each picture."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_frame import choose_columns, split_rows
from bestiary.data.formats.text_columns import read_header, read_text_columns

COLUMNS = ("filename", "prediction", "score")
LABELS = ("prediction", "predictionbase", "top1")  # of the sequence, of the picture alone, and before the threshold


def is_deepfaune(path: Path) -> bool:
    """Return whether a file is a CSV with DeepFaune's columns."""
    return path.suffix.lower() == ".csv" and {*COLUMNS, "seqnum"} <= set(read_header(path))


def read_deepfaune(path: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each picture: its prediction, which DeepFaune makes equal within a sequence, or another column.

    The group is the sequence.
    """
    label = choose_columns("deepfaune", options, {"label": LABELS}, source=path).get("label", "prediction")
    required = COLUMNS if label in COLUMNS else (*COLUMNS, label)
    table = read_text_columns(path, required, ("seqnum", "date"))
    rows = table.select(file="filename", label=label, group="seqnum", time="date", reason=pl.lit(None, pl.String))
    return split_rows(path, rows, options, [f"Labels are of the column {label}: those of a model, not of people."])


FORMAT = LabelFormat("deepfaune", "DeepFaune", is_deepfaune, read_deepfaune)
