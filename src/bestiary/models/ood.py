"""Where the features of training pictures lie: what sticks out of there is no picture of a known class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bestiary.array_types import AnyFloats, Float32s, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, iter_chunks

DIRECTIONS = 256  # measured against held-out classes and strangers: docs/log.md, 2026-11-25
MAX_FIT_PICTURES = 4_096  # pictures from which the directions are found


def subsample_indices(count: int, *, seed: int = 0) -> Ints:
    """Return the positions of so many of `count` pictures as the directions are found from, all or MANY at random."""
    if count <= MAX_FIT_PICTURES:
        return np.arange(count)
    return np.random.default_rng(seed).choice(count, MAX_FIT_PICTURES, replace=False)


@dataclass(frozen=True, eq=False)
class PrincipalSubspace:
    """Standardise features with `mean` and `scale`, float32 (channels,) each, then look along `directions`.

    directions: float32 (channels, d), the principal ones of training features. Most of the length of a picture of a
    known class lies along them; of a strange picture more sticks out: the residual of ViM (Wang et al. 2022), as a
    share of the whole, which pictures of little contrast need.
    """

    mean: Float32s
    scale: Float32s
    directions: Float32s

    @classmethod
    def fit(cls, features: FeatureMatrix, *, seed: int = 0) -> PrincipalSubspace:
        """Return the subspace of training features (n, channels)."""
        some = features[subsample_indices(len(features), seed=seed)].astype(np.float32, copy=False)
        mean, scale = some.mean(axis=0), some.std(axis=0) + np.float32(1e-3)
        seen = (some - mean) / scale
        _, vectors = np.linalg.eigh(seen.T @ seen)
        count = max(1, min(DIRECTIONS, len(some) // 2, some.shape[1] // 2))
        return cls(mean, scale, np.ascontiguousarray(vectors[:, ::-1][:, :count], np.float32))

    def inside_norm(self, features: FeatureMatrix) -> AnyFloats:
        """Return for features (n, channels) the share of their squared length along the directions, (n,), 0..1."""
        return np.concatenate([self._inside_norm(piece) for piece in iter_chunks(features)])

    def _inside_norm(self, features: AnyFloats) -> AnyFloats:
        seen = (features.astype(np.float64) - self.mean) / self.scale
        share: AnyFloats = ((seen @ self.directions) ** 2).sum(axis=1) / np.maximum((seen**2).sum(axis=1), 1e-12)
        return share
