"""Nearest neighbours of pictures by the cosine similarity of their features."""

from __future__ import annotations

import numpy as np

from bestiary.array_types import Float32s, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler

ROWS_AT_ONCE = 1_024


def nearest_neighbours(
    query: FeatureMatrix, reference: FeatureMatrix, query_groups: Ints, reference_groups: Ints, count: int
) -> Ints:
    """Return the indices in `reference` of the pictures most similar to each query, int64 (n, count), best first.

    query: features (n, channels), few; reference: (m, channels); groups: int64, (n,) and (m,). The metric is cosine
    similarity of features standardised by `reference`. Pictures of the query's own group (itself and its duplicates) do
    not count. If too few others are left, the rest of the row is -1.
    """
    mean, scale = fit_scaler(reference)
    directions = unit_rows((query[:] - mean) / scale)
    indices = np.full((len(query), count), -1, np.int64)
    closest = np.full((len(query), count), -np.inf, np.float32)
    for start in range(0, len(reference), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        cosine = directions @ unit_rows((reference[rows] - mean) / scale).T
        cosine[query_groups[:, None] == reference_groups[rows]] = -np.inf
        candidates = np.broadcast_to(np.arange(start, start + cosine.shape[1]), cosine.shape)
        cosine, candidates = np.hstack([closest, cosine]), np.hstack([indices, candidates])
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        closest, indices = np.take_along_axis(cosine, best, axis=1), np.take_along_axis(candidates, best, axis=1)
    return np.where(np.isfinite(closest), indices, -1)


def unit_rows(features: Float32s) -> Float32s:
    """Return the rows scaled to length 1, float32."""
    length = np.linalg.norm(features, axis=1, keepdims=True) + np.float32(1e-6)
    unit: Float32s = (features / length).astype(np.float32)
    return unit
