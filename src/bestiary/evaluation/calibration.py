"""Whether a probability means what it says: temperature, reliability, and when to answer "none of these"."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from bestiary.array_types import Array, Floats, Ints


class ReliabilityBin(TypedDict):
    """One bin of a reliability diagram; `confidence` and `accuracy` are None where no picture fell."""

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    count: int


class CoveragePoint(TypedDict):
    """Answering only at `threshold` and above: the share answered, and the share of those that is right."""

    threshold: float
    coverage: float
    accuracy: float


def bin_index(confidence: Floats, bins: int) -> Ints:
    """Return the index in [0, bins) of each confidence's bin [low, high); the last bin also holds 1."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)


def ece_bin_index(confidence: Floats, bins: int) -> Ints:
    """Return the index in [0, bins] of each confidence's bin for the ECE: torchmetrics's bins, to the last bit.

    It compares in float32, with edges that are counted from both ends, and keeps the confidences of exactly 1 apart,
    as bin number `bins`.
    """
    step, below = float(np.float32(1) / np.float32(bins)), np.arange(bins + 1)
    edges = np.where(below < (bins + 1) // 2, below * step, 1 - (bins - below) * step).astype(np.float32)
    return np.searchsorted(edges, confidence.astype(np.float32), side="right") - 1


def reliability(probabilities: Array, y_true: Array, bins: int = 15) -> list[ReliabilityBin]:
    """Return, for each of `bins` equal bins of the top probability, its mean and the share that is right.

    `probabilities`: float (n, k); `y_true`: int (n,) in [0, k). The bins are those of `ece` in metrics.json, but for
    confidences of exactly 1, which have a bin of their own there and belong to the last one here: without any, the mean
    of |confidence - accuracy| weighted by count is that figure.
    """
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    right = np.asarray(probabilities).argmax(axis=1) == y_true
    index = bin_index(confidence, bins)
    counts = np.bincount(index, minlength=bins)
    confidences = np.bincount(index, weights=confidence, minlength=bins)
    rights = np.bincount(index, weights=right, minlength=bins)
    edges = np.linspace(0.0, 1.0, bins + 1)
    return [
        ReliabilityBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            confidence=float(confidences[b] / counts[b]) if counts[b] else None,
            accuracy=float(rights[b] / counts[b]) if counts[b] else None,
            count=int(counts[b]),
        )
        for b in range(bins)
    ]


def coverage_curve(confidence: Array, correct: Array, points: int = 100) -> list[CoveragePoint]:
    """Return what answering only the surest pictures would bring, from the surest one to all; at most `points` points.

    `confidence`: float (n,); `correct`: bool (n,). Pictures of equal confidence are answered together.
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    ordered = np.asarray(confidence, dtype=np.float64)[order]
    right = np.cumsum(np.asarray(correct, dtype=np.float64)[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else np.empty(0, np.int64)
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).round().astype(np.int64))]
    return [
        CoveragePoint(
            threshold=float(ordered[end]),
            coverage=float((end + 1) / len(ordered)),
            accuracy=float(right[end] / (end + 1)),
        )
        for end in ends
    ]
