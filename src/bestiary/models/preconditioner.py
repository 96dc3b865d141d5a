"""Preconditioning of logistic regression: coordinates in which L-BFGS needs a fraction of the steps.

Features of a network are correlated: standardised, the largest eigenvalue of their covariance is thousands of times
the smallest, and so is the curvature of the objective. Along the principal axes, with each coordinate in units of the
square root of its curvature, all directions curve alike (Nocedal and Wright, Numerical Optimization, 2006, 5.1). The
objective and its minimum are the same: the change of coordinates is linear, and only the way to the minimum is shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bestiary.array_types import Float32s, Floats, Ints
from bestiary.batches.feature_matrix import CHUNK_ROWS, FeatureMatrix, as_float32
from bestiary.machine import single_blas_thread

MAX_ROWS = 8_192  # that the axes are estimated from: they need not be exact
MIN_CURVATURE = 1e-6


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """Principal axes of standardised features: orthonormal columns, float32 (channels, axes), and their variances."""

    vectors: Float32s
    variances: Floats


def fit_principal_axes(features: FeatureMatrix, rows: Ints, scaler: tuple[Float32s, Float32s]) -> PrincipalAxes:
    """Return the principal axes of `rows` of features (n, channels), standardised by mean and scale.

    Of many rows, evenly spaced ones are used.
    """
    from scipy.linalg import eigh

    mean, scale = scaler
    rows = rows[:: max(1, len(rows) // MAX_ROWS)]
    covariance = np.zeros((len(mean), len(mean)), np.float32)
    with single_blas_thread():
        for start in range(0, len(rows), CHUNK_ROWS):
            chunk = (as_float32(features[rows[start : start + CHUNK_ROWS]]) - mean) / scale
            covariance += chunk.T @ chunk
        covariance /= max(1, len(rows))
        variances, vectors = eigh(covariance, overwrite_a=True, check_finite=False, driver="evd")
    return PrincipalAxes(np.asarray(vectors, np.float32), np.maximum(variances, 0).astype(np.float64))


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """Coordinates (classes, channels + 1) of the parameters of a linear head: weights, and the bias last.

    curvature: of the mean loss by each class's logit, mean of p (1 - p), float64 (classes,); penalty: of the weights.
    """

    axes: PrincipalAxes
    curvature: Floats
    penalty: float

    @cached_property
    def _units(self) -> Floats:
        curvature = np.maximum(self.curvature, MIN_CURVATURE)[:, None]
        weights = np.sqrt(curvature * self.axes.variances + self.penalty)
        return np.hstack([weights, np.sqrt(curvature)])

    def to_params(self, coordinates: Floats) -> Floats:
        """Return the parameters with these coordinates."""
        along_axes = coordinates / self._units
        return np.hstack([along_axes[:, :-1].astype(np.float32) @ self.axes.vectors.T, along_axes[:, -1:]])

    def from_params(self, params: Floats) -> Floats:
        """Return the coordinates of parameters."""
        return self._along_axes(params) * self._units

    def to_gradient(self, gradient: Floats) -> Floats:
        """Return the gradient by the coordinates, given that by the parameters."""
        return self._along_axes(gradient) / self._units

    def _along_axes(self, params: Floats) -> Floats:
        # In float32, as the axes: a product in float64 would convert them to a copy twice as large, each time.
        return np.hstack([params[:, :-1].astype(np.float32) @ self.axes.vectors, params[:, -1:]])
