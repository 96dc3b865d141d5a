"""Logistic regression on features: in memory with scikit-learn, or out-of-core in chunks.

scikit-learn needs all rows in float32 and a copy of the training rows. That is the fastest, and used up to
`feature_matrix.MAX_MEMORY_BYTES`. The features of larger collections stay on disk, as they are cached, and each step of
the solver reads them in chunks: same objective, same optimiser (L-BFGS), same stopping criterion. A pass over all rows
is dear, so the optimiser works in coordinates in which the objective is nearly round (`preconditioner`).
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Protocol, TypeGuard

import numpy as np

from bestiary.array_types import Array, Bools, Float32s, Floats, Ints
from bestiary.batches.feature_matrix import CHUNK_ROWS, FeatureMatrix, as_float32, copy_as_float32, fit_scaler
from bestiary.machine import available_cores, single_blas_thread
from bestiary.models.preconditioner import Preconditioner, PrincipalAxes, fit_principal_axes
from bestiary.quick_metrics import log_softmax

WARM_START_ROWS = 8_192
MAX_ITERATIONS, TOLERANCE = 500, 1e-4  # on the largest gradient of the mean loss, as in scikit-learn
SLOPE_WEIGHT = 3.0  # of the gradient by preconditioned coordinates, which is small only near the minimum
MANY_CLASSES = "The number of unique classes is greater than 50%"  # a warning: "could be a regression problem"
EPSILON = float(np.finfo(float).eps)


def linear_logits(features: FeatureMatrix, weights: Array, biases: Array, rows: Ints | None = None) -> Float32s:
    """Return the logits, float32 (n, classes), of features (n, channels) or of `rows`; on disk or float16 in chunks."""
    if _is_in_memory(features):
        return np.asarray((features if rows is None else features[rows]) @ weights.T + biases, np.float32)
    starts = range(0, len(features if rows is None else rows), CHUNK_ROWS)
    slices = (slice(start, start + CHUNK_ROWS) for start in starts)
    chunks = (as_float32(features[part if rows is None else rows[part]]) for part in slices)
    return np.concatenate([chunk @ weights.T + biases for chunk in chunks]).astype(np.float32)


def _is_in_memory(features: FeatureMatrix) -> TypeGuard[Float32s]:
    return isinstance(features, np.ndarray) and features.dtype != np.float16


class Solver(Protocol):
    """Fits linear heads to the same rows; each fit starts from the previous solution.

    mean, scale: float32 (channels,), which standardise the rows.
    """

    mean: Float32s
    scale: Float32s

    def fit(self, c_value: float) -> tuple[Array, Array]:
        """Return weights (classes, channels) and biases (classes,) for standardised features."""

    def logits(self, weights: Array, biases: Array) -> Float32s:
        """Return the logits of the training rows, float32 (n, classes)."""


def shared_axes(features: FeatureMatrix, scaler: tuple[Float32s, Float32s]) -> PrincipalAxes | None:
    """Return the principal axes for solvers of several subsets of these rows; None if they are solved in memory."""
    return None if _is_in_memory(features) else fit_principal_axes(features, np.arange(len(features)), scaler)


def make_solver(
    features: FeatureMatrix,
    labels: Ints,
    classes: int,
    *,
    weights: Array | None = None,
    train_mask: Bools | None = None,
    scaler: tuple[Float32s, Float32s] | None = None,
    axes: PrincipalAxes | None = None,
) -> Solver:
    """Return a solver for features (n, channels): in memory for float32 arrays, else out-of-core.

    labels: int64 (n,) in 0..classes-1. weights: sample weights (n,). train_mask: the training rows, bool (n,). scaler:
    mean and scale, if not those of these rows; axes: see `shared_axes`. Features in float32 are standardised in place
    unless `train_mask` is given; others are not changed.
    """
    mean, scale = fit_scaler(features) if scaler is None else scaler
    if _is_in_memory(features):
        if train_mask is not None:
            features, labels = features[train_mask], labels[train_mask]
            weights = None if weights is None else weights[train_mask]
        features -= mean
        features /= scale
        return InMemorySolver(features, labels, classes, weights, mean, scale)
    counts = np.ones(len(labels), np.float32) if weights is None else weights.astype(np.float32)
    counts = counts if train_mask is None else counts * train_mask
    return OutOfCoreSolver(features, labels, classes, counts, (mean, scale), axes)


class InMemorySolver:
    """scikit-learn's solver on standardised rows."""

    def __init__(
        self, rows: Float32s, labels: Ints, classes: int, weights: Array | None, mean: Float32s, scale: Float32s
    ) -> None:
        """Store the rows."""
        from sklearn.linear_model import LogisticRegression

        self.mean, self.scale = mean, scale
        self._rows, self._labels, self._classes, self._weights = rows, labels, classes, weights
        self._model = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True)

    def fit(self, c_value: float) -> tuple[Array, Array]:
        """Return weights and biases."""
        with single_blas_thread(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", MANY_CLASSES, UserWarning)
            self._model.set_params(C=c_value).fit(self._rows, self._labels, self._weights)
        coefficients: Array = self._model.coef_
        intercept: Array = self._model.intercept_
        if self._classes == 2:  # scikit-learn keeps one row; the softmax of minus and plus half of it is equal
            coefficients = np.vstack([-coefficients, coefficients]) / 2
            intercept = np.hstack([-intercept, intercept]) / 2
        return coefficients, intercept

    def logits(self, weights: Array, biases: Array) -> Float32s:
        """Return the logits of the rows."""
        return linear_logits(self._rows, weights, biases)


class OutOfCoreSolver:
    """The same objective with preconditioned L-BFGS, on rows that are converted to float32 in chunks."""

    def __init__(
        self,
        features: FeatureMatrix,
        labels: Ints,
        classes: int,
        counts: Float32s,
        scaler: tuple[Float32s, Float32s],
        axes: PrincipalAxes | None = None,
    ) -> None:
        """Store the rows. counts: sample weights (n,); 0 excludes a row."""
        self.mean, self.scale = scaler
        self._features, self._labels, self._counts = features, labels, counts
        self._axes = axes or fit_principal_axes(features, np.flatnonzero(counts), scaler)
        self._total = float(counts.sum(dtype=np.float64))
        self._solution: Floats = np.zeros((classes, features.shape[1] + 1))
        shares = np.bincount(labels, counts, classes) / self._total
        self._curvature: Floats = shares * (1 - shares)
        # One float32 buffer per thread: the C library never returns what the threads would allocate themselves.
        self._buffers = SimpleQueue[Float32s]()
        for _ in range(available_cores()):
            self._buffers.put(np.empty((min(CHUNK_ROWS, len(features)), features.shape[1]), np.float32))

    def fit(self, c_value: float) -> tuple[Array, Array]:
        """Return weights and biases."""
        # For two classes scikit-learn penalises the difference w of both rows, w**2 / 2; rows of w / 2 sum to w**2 / 4.
        penalty = (2 if len(self._solution) == 2 else 1) / (c_value * self._total)
        if not self._solution.any():
            self._warm_start(c_value)
        coordinates = Preconditioner(self._axes, self._curvature, penalty)
        with single_blas_thread(), ThreadPoolExecutor(available_cores()) as workers:
            self._minimize(coordinates, penalty, workers)
        return self._solution[:, :-1].astype(np.float32), self._solution[:, -1].astype(np.float32)

    def logits(self, weights: Array, biases: Array) -> Float32s:
        """Return the logits of the rows."""
        return linear_logits(self._features, weights / self.scale, biases - (weights / self.scale) @ self.mean)

    def _warm_start(self, c_value: float) -> None:
        """Begin at the solution for a subset of many rows, so that most steps run on few rows."""
        rows = np.flatnonzero(self._counts)
        if len(rows) < 2 * WARM_START_ROWS:
            return
        subset = rows[:: len(rows) // WARM_START_ROWS]
        features, labels, counts = self._features[subset], self._labels[subset], self._counts[subset]
        scaler = self.mean, self.scale
        solver = OutOfCoreSolver(features, labels, len(self._solution), counts, scaler, self._axes)
        solver.fit(c_value * self._total / solver._total)
        self._solution, self._curvature = solver._solution, solver._curvature

    def _minimize(self, coordinates: Preconditioner, penalty: float, workers: ThreadPoolExecutor) -> None:
        """Minimise the loss from the solution so far, until its gradient is small by the parameters and coordinates."""
        from scipy.optimize import minimize

        shape, steepest = self._solution.shape, np.inf

        def loss(flat: Floats) -> tuple[float, Floats]:
            nonlocal steepest
            value, gradient = self._loss(coordinates.to_params(flat.reshape(shape)), penalty, workers)
            slope = coordinates.to_gradient(gradient)
            steepest = max(np.abs(gradient).max(), SLOPE_WEIGHT * np.abs(slope).max())
            return value, slope.ravel()

        def stop_if_flat(xk: Floats) -> None:  # noqa: ARG001 - scipy's name
            if steepest <= TOLERANCE:
                raise StopIteration

        result = minimize(
            loss,
            coordinates.from_params(self._solution).ravel(),
            method="L-BFGS-B",
            jac=True,
            callback=stop_if_flat,
            options={"maxiter": MAX_ITERATIONS, "gtol": 0.0, "ftol": 64 * EPSILON, "maxls": 50},
        )
        self._solution = coordinates.to_params(result.x.reshape(shape))

    def _loss(self, params: Floats, penalty: float, workers: ThreadPoolExecutor) -> tuple[float, Floats]:
        """Return the mean loss with its penalty, and the gradient; keep the curvature by class."""
        weights = params[:, :-1]
        scaled = weights / self.scale  # so that the rows need not be standardised
        bias = (params[:, -1] - scaled @ self.mean).astype(np.float32)
        chunk_loss = partial(self._chunk_loss, scaled.T.astype(np.float32), bias)
        starts = range(0, len(self._features), CHUNK_ROWS)
        loss, slope, sums = 0.0, np.zeros((len(self.mean), len(params))), np.zeros((2, len(params)))
        for part, part_slope, part_sums in workers.map(chunk_loss, starts):  # in order: a deterministic sum
            loss += part
            slope += part_slope
            sums += part_sums
        bias_slope, self._curvature = sums[0], sums[1] / self._total
        weight_slope = (slope.T - bias_slope[:, None] * self.mean) / self.scale / self._total + penalty * weights
        gradient = np.hstack([weight_slope, bias_slope[:, None] / self._total])
        return loss / self._total + penalty / 2 * float((weights**2).sum()), gradient

    def _chunk_loss(self, weights: Float32s, bias: Float32s, start: int) -> tuple[float, Array, Floats]:
        """Return the summed loss of a chunk, its gradient by `weights` (channels, classes), and sums (2, classes).

        The sums are of the gradient by `bias` and of p (1 - p), the second derivative.
        """
        rows = slice(start, start + CHUNK_ROWS)
        labels, counts = self._labels[rows], self._counts[rows]
        buffer = self._buffers.get()
        features = buffer[: len(labels)]
        copy_as_float32(self._features[rows], features)
        log_probabilities, index = log_softmax(features @ weights + bias), np.arange(len(labels))
        residuals = np.exp(log_probabilities)
        curvature = counts @ (residuals * (1 - residuals))
        residuals[index, labels] -= 1
        residuals *= counts[:, None]
        slope = features.T @ residuals.astype(np.float32)
        self._buffers.put(buffer)
        return -float(counts @ log_probabilities[index, labels]), slope, np.stack([residuals.sum(axis=0), curvature])
