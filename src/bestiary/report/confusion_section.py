"""The report's section on what goes wrong: what is taken for what, with the pictures side by side; weak slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from bestiary.array_types import Ints
from bestiary.report import plots
from bestiary.report.gallery import GalleryPicture, gallery_pictures

LARGEST_TABLE_MATRIX = 30  # classes; beyond, the confusion matrix is a picture
MAX_CONFUSIONS = 8  # most frequent mistakes
PAIRS, MISTAKES, EXAMPLES = 3, 6, 2  # pairs with pictures, their mistakes, and right answers of either class
PAIR_PIXELS, PAIR_BYTES = 280, 14 * 1024


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are confused: how often each way, right answers of either, and the mistakes between them."""

    label_a: str
    label_b: str
    a_as_b: int
    b_as_a: int
    n_a: int
    n_b: int
    examples_a: Sequence[GalleryPicture]
    mistakes: Sequence[GalleryPicture]
    examples_b: Sequence[GalleryPicture]


def confusion_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the confusion matrix as rows of cells, or as a picture, and its most frequent mistakes."""
    labels: list[str] = metrics["confusion"]["labels"]
    counts = _counts(metrics)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [
        (row, column) for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[row, column]
    ]
    as_table = len(labels) <= LARGEST_TABLE_MATRIX
    return {
        "labels": labels,
        "matrix": list(zip(labels, counts.tolist(), rates.tolist(), strict=True)) if as_table else [],
        "matrix_plot": Markup("") if as_table else plots.confusion_heatmap(labels, counts),
        "pairs": [(labels[r], labels[c], int(counts[r, c]), int(counts[r].sum())) for r, c in pairs],
    }


def most_confused_pairs(
    metrics: Mapping[str, Any], test: pl.DataFrame, names: Mapping[str, str], suspects: set[int]
) -> list[ConfusedPair]:
    """Return the pairs of classes that are confused most, both ways added up, with pictures.

    test: the prediction table of the tested pictures. Examples are the right answers that the model is surest of,
    apart from those whose label is suspect; mistakes come surest first.
    """
    labels, counts = metrics["confusion"]["labels"], _counts(metrics)
    both = np.triu(counts + counts.T, k=1)
    order = np.argsort(-both, axis=None, kind="stable")[:PAIRS]
    places = zip(*np.unravel_index(order, both.shape), strict=True)
    return [
        _build_pair(
            (labels[i], labels[j]), counts[np.ix_([i, j], [i, j])], counts[[i, j]].sum(axis=1), test, names, suspects
        )
        for rank, (i, j) in enumerate(places)
        if both[i, j] > (rank > 0)  # a single mistake makes a pair only if there is nothing more frequent
    ]


def slice_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values for the page from `metrics.json`; a run before slices were looked for has none."""
    return {"slices": metrics.get("slices") or {}}


def _build_pair(
    labels: tuple[str, str],
    counts: Ints,
    totals: Ints,
    test: pl.DataFrame,
    names: Mapping[str, str],
    suspects: set[int],
) -> ConfusedPair:
    one, other = labels
    crossed = ((pl.col("label") == one) & (pl.col("predicted") == other)) | (
        (pl.col("label") == other) & (pl.col("predicted") == one)
    )
    mistakes = test.filter(crossed).sort("probability", descending=True).head(MISTAKES)
    sure = test.filter((pl.col("label") == pl.col("predicted")) & ~pl.col("row_id").is_in(list(suspects)))
    sure = sure.sort("probability", descending=True, maintain_order=True)
    chosen = [sure.filter(pl.col("label") == label).head(EXAMPLES) for label in labels]
    shown = [
        gallery_pictures(rows, names, suspects, side=PAIR_PIXELS, largest_bytes=PAIR_BYTES)
        for rows in (chosen[0], mistakes, chosen[1])
    ]
    return ConfusedPair(one, other, int(counts[0, 1]), int(counts[1, 0]), int(totals[0]), int(totals[1]), *shown)


def _counts(metrics: Mapping[str, Any]) -> Ints:
    labels = metrics["confusion"]["labels"]
    return np.asarray(metrics["confusion"]["counts"], dtype=np.int64).reshape(len(labels), len(labels))
