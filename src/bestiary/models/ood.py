"""Out-of-distribution score from the principal subspace of training features (ViM)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bestiary.array_types import AnyFloats, Float32s, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, iter_chunks
from bestiary.machine import single_blas_thread

DIRECTIONS = 256  # measured on held-out classes and out-of-distribution pictures: docs/log.md, 2026-11-25
MAX_FIT_PICTURES = 4_096  # the subspace is fitted on at most so many pictures


def subsample_indices(count: int, *, seed: int = 0) -> Ints:
    """Return the indices of the pictures to fit on: all `count`, or MAX_FIT_PICTURES at random."""
    if count <= MAX_FIT_PICTURES:
        return np.arange(count)
    return np.random.default_rng(seed).choice(count, MAX_FIT_PICTURES, replace=False)


@dataclass(frozen=True, eq=False)
class PrincipalSubspace:
    """The principal directions, float32 (channels, d), of standardised training features.

    mean, scale: float32 (channels,), for standardising. Features of a known class lie mostly within the subspace, those
    of other pictures less so: the residual of ViM (Wang et al. 2022), here relative to the feature's norm, so that
    pictures of low contrast are comparable.
    """

    mean: Float32s
    scale: Float32s
    directions: Float32s

    @classmethod
    def fit(cls, features: FeatureMatrix, *, seed: int = 0) -> PrincipalSubspace:
        """Fit the subspace to training features (n, channels)."""
        sample = features[subsample_indices(len(features), seed=seed)].astype(np.float32, copy=False)
        mean, scale = sample.mean(axis=0), sample.std(axis=0) + np.float32(1e-3)
        count = max(1, min(DIRECTIONS, len(sample) // 2, sample.shape[1] // 2))
        with single_blas_thread():  # two threads of LAPACK wait for each other: up to ten times the processor time
            directions = _principal_directions((sample - mean) / scale, count)
        return cls(mean, scale, np.ascontiguousarray(directions, np.float32))

    def inside_norm(self, features: FeatureMatrix) -> AnyFloats:
        """Return the fraction of the squared norm of features (n, channels) within the subspace, (n,), 0..1."""
        return np.concatenate([self._inside_norm(chunk) for chunk in iter_chunks(features)])

    def _inside_norm(self, features: AnyFloats) -> AnyFloats:
        scaled = (features.astype(np.float64) - self.mean) / self.scale
        inside = ((scaled @ self.directions) ** 2).sum(axis=1)
        return np.asarray(inside / np.maximum((scaled**2).sum(axis=1), 1e-12))


def _principal_directions(standardised: Float32s, count: int) -> Float32s:
    """Return the first principal directions of features (n, channels), orthonormal: (channels, count)."""
    pictures, channels = standardised.shape
    if pictures >= channels:
        return _leading_eigenvectors(standardised.T @ standardised, count)
    scores = _leading_eigenvectors(standardised @ standardised.T, count)  # of the smaller of the two matrices
    directions, _ = np.linalg.qr(standardised.T @ scores)
    return directions


def _leading_eigenvectors(matrix: Float32s, count: int) -> Float32s:
    """Return the eigenvectors of the largest eigenvalues of a symmetric matrix (n, n), in that order: (n, count)."""
    _, vectors = np.linalg.eigh(matrix)
    return vectors[:, ::-1][:, :count]
