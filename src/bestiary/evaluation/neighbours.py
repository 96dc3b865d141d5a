"""Which pictures are most alike: what a model of the same features goes by."""

from __future__ import annotations

import numpy as np

from bestiary.array_types import Float32s, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler

ROWS_AT_ONCE = 1_024


def nearest_neighbours(
    query: FeatureMatrix, reference: FeatureMatrix, query_groups: Ints, reference_groups: Ints, count: int
) -> Ints:
    """Return the positions in `reference` of the pictures most like each one in `query`, int64 (n, count), best first.

    asked: features (n, channels), few; known: (m, channels); groups: int64, (n,) and (m,). Alike is cosine similarity
    of features standardised by `reference`. Pictures of a picture's own group, which are itself or its duplicates, do not
    count; where too few others are left, the rest of the row is -1.
    """
    mean, scale = fit_scaler(reference)
    wanted = unit_rows((query[:] - mean) / scale)
    found = np.full((len(query), count), -1, np.int64)
    closest = np.full((len(query), count), -np.inf, np.float32)
    for start in range(0, len(reference), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        alike = wanted @ unit_rows((reference[rows] - mean) / scale).T
        alike[query_groups[:, None] == reference_groups[rows]] = -np.inf
        places = np.broadcast_to(np.arange(start, start + alike.shape[1]), alike.shape)
        alike, places = np.hstack([closest, alike]), np.hstack([found, places])
        best = np.argsort(-alike, axis=1, kind="stable")[:, :count]
        closest, found = np.take_along_axis(alike, best, axis=1), np.take_along_axis(places, best, axis=1)
    return np.where(np.isfinite(closest), found, -1)


def unit_rows(features: Float32s) -> Float32s:
    """Return the rows scaled to length 1, float32."""
    length = np.linalg.norm(features, axis=1, keepdims=True) + np.float32(1e-6)
    unit: Float32s = (features / length).astype(np.float32)
    return unit
