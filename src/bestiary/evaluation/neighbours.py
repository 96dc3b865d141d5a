"""Which pictures are most alike: what a model of the same features goes by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bestiary.models.standard import mean_and_scale
from bestiary.training.probe import Features

ROWS_AT_ONCE = 1_024

Integers = npt.NDArray[np.int64]


def nearest(asked: Features, known: Features, asked_groups: Integers, known_groups: Integers, count: int) -> Integers:
    """Return the positions in `known` of the pictures most like each one in `asked`, int64 (n, count), best first.

    asked: float32 (n, channels); known: float32 (m, channels); groups: int64, (n,) and (m,). Alike is cosine similarity
    of features standardised by `known`. Pictures of a picture's own group, which are itself or its duplicates, do not
    count; where too few others are left, the rest of the row is -1.
    """
    mean, scale = mean_and_scale(known)
    seen = _unit((known - mean) / scale)
    found = np.full((len(asked), count), -1, np.int64)
    for start in range(0, len(asked), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        alike = _unit((asked[rows] - mean) / scale) @ seen.T
        alike[asked_groups[rows][:, None] == known_groups] = -np.inf
        best = np.argsort(-alike, axis=1, kind="stable")[:, :count]
        counts = np.isfinite(np.take_along_axis(alike, best, axis=1))
        found[rows, : best.shape[1]] = np.where(counts, best, -1)
    return found


def _unit(features: Features) -> Features:
    length = np.linalg.norm(features, axis=1, keepdims=True) + np.float32(1e-6)
    unit: Features = (features / length).astype(np.float32)
    return unit
