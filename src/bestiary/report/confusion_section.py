"""Report section on mistakes: confusion matrix, most confused pairs of classes with pictures, weak slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from bestiary.array_types import Floats, Ints
from bestiary.report import plots
from bestiary.report.gallery import GalleryPicture, gallery_pictures

LARGEST_TABLE_MATRIX = 30  # classes; of more the confusion matrix is a heatmap
MAX_CONFUSIONS = 8  # most frequent mistakes
PAIRS, MISTAKES, EXAMPLES = 3, 6, 2  # pairs with pictures, their mistakes, and correct predictions of either class
PAIR_PIXELS, PAIR_BYTES = 280, 14 * 1024


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are confused: how often each way, correct predictions of either, and the mistakes."""

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
    """Return the confusion matrix as rows of cells, or as a heatmap, and its most frequent mistakes."""
    labels, counts = _confusion(metrics)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    as_table = len(labels) <= LARGEST_TABLE_MATRIX
    return {
        "labels": labels,
        "matrix": _matrix_rows(labels, counts, rates) if as_table else [],
        "cells": [(i, j, int(counts[i, j])) for i, j in np.argwhere(counts).tolist()],
        "matrix_plot": Markup("") if as_table else plots.confusion_heatmap(labels, counts),
        "pairs": [
            (labels[i], labels[j], int(counts[i, j]), int(counts[i].sum()))
            for i, j in _iter_largest(wrong, MAX_CONFUSIONS)
        ],
    }


def _matrix_rows(labels: Sequence[str], counts: Ints, rates: Floats) -> list[tuple[int, str, list[int], list[float]]]:
    """Return the rows of the table: position, class, counts and fractions. Classes without pictures have none."""
    rows = enumerate(zip(labels, counts.tolist(), rates.tolist(), strict=True))
    return [(at, label, row, fractions) for at, (label, row, fractions) in rows if any(row)]


def most_confused_pairs(
    metrics: Mapping[str, Any], test: pl.DataFrame, names: Mapping[str, str], tags: Mapping[int, str]
) -> list[ConfusedPair]:
    """Return the pairs of classes that are confused most, both ways added up, with pictures.

    test: the prediction table of the test split. The examples are the most confident correct predictions, apart from
    those with a tag (`gallery.build_galleries`); the mistakes are sorted by confidence.
    """
    labels, counts = _confusion(metrics)
    both = np.triu(counts + counts.T, k=1)
    totals = counts.sum(axis=1)
    return [
        ConfusedPair(
            labels[i],
            labels[j],
            int(counts[i, j]),
            int(counts[j, i]),
            int(totals[i]),
            int(totals[j]),
            *_pair_pictures(labels[i], labels[j], test, names, tags),
        )
        for rank, (i, j) in enumerate(_iter_largest(both, PAIRS))
        if both[i, j] > (rank > 0)  # a single mistake makes a pair only if there is nothing more frequent
    ]


def _pair_pictures(
    label_a: str, label_b: str, test: pl.DataFrame, names: Mapping[str, str], tags: Mapping[int, str]
) -> Iterator[list[GalleryPicture]]:
    """Yield pictures of correct predictions of the first class, of mistakes, of correct predictions of the second."""
    label, predicted = pl.col("label"), pl.col("predicted")
    pair = [label_a, label_b]
    test = test.sort("probability", descending=True, maintain_order=True)
    mistakes = test.filter((label != predicted) & label.is_in(pair) & predicted.is_in(pair)).head(MISTAKES)
    correct = test.filter((label == predicted) & ~pl.col("row_id").is_in(list(tags)))
    examples_a, examples_b = (correct.filter(label == own).head(EXAMPLES) for own in pair)
    for rows in (examples_a, mistakes, examples_b):
        yield gallery_pictures(rows, names, tags, side=PAIR_PIXELS, largest_bytes=PAIR_BYTES)


def _iter_largest(values: Ints, n: int) -> Iterator[tuple[int, int]]:
    """Yield the positions of the largest values above zero of a matrix, the largest first."""
    order = np.argsort(-values, axis=None, kind="stable")[:n]
    for row, column in zip(*np.unravel_index(order, values.shape), strict=True):
        if values[row, column]:
            yield int(row), int(column)


def _confusion(metrics: Mapping[str, Any]) -> tuple[list[str], Ints]:
    labels = list(metrics["confusion"]["labels"])
    return labels, np.asarray(metrics["confusion"]["counts"], dtype=np.int64).reshape(len(labels), len(labels))
