"""Calibration: the bins of the expected calibration error (ECE), reliability diagram, accuracy against coverage."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from bestiary.array_types import Array, Floats, Ints


class ReliabilityBin(TypedDict):
    """One bin of a reliability diagram; `confidence` and `accuracy` are None in an empty bin."""

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    count: int


class CoveragePoint(TypedDict):
    """Selective prediction at one confidence threshold: the fraction answered, and the accuracy among those."""

    threshold: float
    coverage: float
    accuracy: float


def bin_index(confidence: Floats, bins: int) -> Ints:
    """Return the index in [0, bins) of each confidence's bin [low, high); the last bin also contains 1."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)


def ece_bin_index(confidence: Floats, bins: int) -> Ints:
    """Return the index in [0, bins] of each confidence's bin for the ECE: the bins of torchmetrics, bit for bit.

    Comparison is in float32, with edges counted from both ends. Confidences of exactly 1 are in bin number `bins`.
    """
    step, below = float(np.float32(1) / np.float32(bins)), np.arange(bins + 1)
    edges = np.where(below < (bins + 1) // 2, below * step, 1 - (bins - below) * step).astype(np.float32)
    return np.searchsorted(edges, confidence.astype(np.float32), side="right") - 1


def reliability(probabilities: Array, y_true: Array, bins: int = 15) -> list[ReliabilityBin]:
    """Return the mean confidence and the accuracy in each of `bins` equal bins of the top probability.

    `probabilities`: float (n, k); `y_true`: int (n,) in [0, k). The bins are those of `ece` in metrics.json, except
    that confidences of exactly 1 belong to the last bin here. If there are none, the mean of |confidence - accuracy|
    weighted by count equals `ece`.
    """
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    correct = np.asarray(probabilities).argmax(axis=1) == y_true
    index, edges = bin_index(confidence, bins), np.linspace(0.0, 1.0, bins + 1).tolist()
    counts = np.bincount(index, minlength=bins).tolist()
    totals, hits = (np.bincount(index, weights=values, minlength=bins).tolist() for values in (confidence, correct))
    return [
        ReliabilityBin(
            low=low, high=high, confidence=total / n if n else None, accuracy=hit / n if n else None, count=n
        )
        for low, high, total, hit, n in zip(edges[:-1], edges[1:], totals, hits, counts, strict=True)
    ]


def coverage_curve(confidence: Array, correct: Array, points: int = 100) -> list[CoveragePoint]:
    """Return accuracy against coverage, from the most confident picture alone to all; at most `points` points.

    `confidence`: float (n,); `correct`: bool (n,). Pictures of equal confidence are answered together.
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    ordered = np.asarray(confidence, dtype=np.float64)[order]
    hits = np.cumsum(np.asarray(correct, dtype=np.float64)[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else np.empty(0, np.int64)
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).round().astype(np.int64))]
    columns = ordered[ends], (ends + 1) / max(len(ordered), 1), hits[ends] / (ends + 1)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [CoveragePoint(threshold=edge, coverage=coverage, accuracy=accuracy) for edge, coverage, accuracy in rows]
