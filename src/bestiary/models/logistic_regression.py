"""Logistic regression on features: at once, with scikit-learn, or in pieces where that would take too much memory.

scikit-learn wants all rows in float32 and a copy of those it learns from. That is the fastest, and what happens up to
some size (`batches.rows.AT_ONCE`). The features of larger collections stay on disk in half precision, and each step of
the solver takes them up a piece at a time: the same objective, the same optimiser (L-BFGS), the same point at which it
stops.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Protocol

import numpy as np

from bestiary.array_types import Array, Bools, Float32s, Floats, Ints
from bestiary.batches.feature_matrix import FeatureMatrix, fit_scaler
from bestiary.machine import available_cores, single_blas_thread
from bestiary.quick_metrics import log_softmax

ROWS_AT_ONCE, WARM_START_ROWS = 1_024, 8_192
MAX_ITERATIONS, TOLERANCE = 500, 1e-4  # of the largest gradient of the mean loss, as in scikit-learn
MANY_CLASSES = "The number of unique classes is greater than 50%"  # "could be a regression problem": it is none
EPSILON = float(np.finfo(float).eps)


def linear_logits(features: FeatureMatrix, weights: Array, biases: Array, rows: Ints | None = None) -> Float32s:
    """Return the logits, float32 (n, classes), of features (n, channels) or some of their rows: float16 in pieces."""
    if isinstance(features, np.ndarray) and features.dtype != np.float16:
        return np.asarray((features if rows is None else features[rows]) @ weights.T + biases, np.float32)
    starts = range(0, len(features if rows is None else rows), ROWS_AT_ONCE)
    places = (slice(at, at + ROWS_AT_ONCE) for at in starts)
    pieces = (features[place if rows is None else rows[place]].astype(np.float32) for place in places)
    return np.concatenate([piece @ weights.T + biases for piece in pieces]).astype(np.float32)


class Solver(Protocol):
    """Fits heads to the same rows, one after another; each starts where the one before ended.

    mean, scale: float32 (channels,), by which the rows were standardised.
    """

    mean: Float32s
    scale: Float32s

    def fit(self, c_value: float) -> tuple[Array, Array]:
        """Return weights (classes, channels) and biases (classes,) for standardised features. strength: C."""

    def logits(self, weights: Array, biases: Array) -> Float32s:
        """Return what they say of the rows that were learned from, float32 (n, classes)."""


def make_solver(
    features: FeatureMatrix,
    labels: Ints,
    classes: int,
    *,
    weights: Array | None = None,
    train_mask: Bools | None = None,
    scaler: tuple[Float32s, Float32s] | None = None,
) -> Solver:
    """Return a solver for features (n, channels): float32 ones at once, float16 ones in pieces.

    labels: int64 (n,) in 0..classes-1. weights: how much each row counts, (n,). learned: which rows to learn from,
    bool (n,). standard: mean and scale, if not those of these rows. Features in float32 are standardised in place
    unless `train_mask` is given; others are not changed.
    """
    mean, scale = fit_scaler(features) if scaler is None else scaler
    if isinstance(features, np.ndarray) and features.dtype != np.float16:
        rows, own = (features, labels) if train_mask is None else (features[train_mask], labels[train_mask])
        rows -= mean
        rows /= scale
        return InMemorySolver(
            rows, own, classes, weights if train_mask is None or weights is None else weights[train_mask], mean, scale
        )
    counts = np.ones(len(labels), np.float32) if weights is None else weights.astype(np.float32)
    return OutOfCoreSolver(
        features, labels, classes, counts if train_mask is None else counts * train_mask, mean, scale
    )


class InMemorySolver:
    """scikit-learn's solver on rows that are standardised."""

    def __init__(
        self, rows: Float32s, labels: Ints, classes: int, weights: Array | None, mean: Float32s, scale: Float32s
    ) -> None:
        """Nothing is fitted yet."""
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
        if self._classes == 2:  # of which scikit-learn keeps one row; the softmax of minus and plus half is the same
            coefficients = np.vstack([-coefficients, coefficients]) / 2
            intercept = np.hstack([-intercept, intercept]) / 2
        return coefficients, intercept

    def logits(self, weights: Array, biases: Array) -> Float32s:
        """Return the logits of the rows."""
        return linear_logits(self._rows, weights, biases)


class OutOfCoreSolver:
    """The same objective with L-BFGS, over rows that are turned into float32 a piece at a time."""

    def __init__(
        self, features: FeatureMatrix, labels: Ints, classes: int, counts: Float32s, mean: Float32s, scale: Float32s
    ) -> None:
        """Nothing is fitted yet. counts: how much each row counts, (n,); 0 leaves it out."""
        self.mean, self.scale = mean, scale
        self._features, self._labels, self._counts = features, labels, counts
        self._solution: Floats = np.zeros((classes, features.shape[1] + 1))
        # For pieces in float32, one a thread: the C library keeps what threads allocate themselves for each of them.
        self._buffers = SimpleQueue[Float32s]()
        for _ in range(available_cores()):
            self._buffers.put(np.empty((min(ROWS_AT_ONCE, len(features)), features.shape[1]), np.float32))

    def fit(self, c_value: float) -> tuple[Array, Array]:
        """Return weights and biases."""
        from scipy.optimize import minimize

        # Of two classes scikit-learn weighs the difference w of both rows: w**2 / 2, where two of w / 2 have w**2 / 4.
        penalty = (2 if len(self._solution) == 2 else 1) / (c_value * float(self._counts.sum(dtype=np.float64)))
        start = self._solution if self._solution.any() else self._warm_start(c_value)
        with single_blas_thread(), ThreadPoolExecutor(available_cores()) as workers:
            found = minimize(
                self._loss,
                start.ravel(),
                args=(penalty, workers),
                method="L-BFGS-B",
                jac=True,
                options={"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": 64 * EPSILON, "maxls": 50},
            )
        self._solution = found.x.reshape(self._solution.shape)
        return self._solution[:, :-1].astype(np.float32), self._solution[:, -1].astype(np.float32)

    def logits(self, weights: Array, biases: Array) -> Float32s:
        """Return the logits of the rows."""
        return linear_logits(self._features, weights / self.scale, biases - (weights / self.scale) @ self.mean)

    def _warm_start(self, c_value: float) -> Floats:
        """Return the solution for some of the rows, where there are many more: most steps are then taken with few."""
        rows = np.flatnonzero(self._counts)
        if len(rows) < 2 * WARM_START_ROWS:
            return self._solution
        some = rows[:: len(rows) // WARM_START_ROWS]
        counts = self._counts[some]
        few = OutOfCoreSolver(
            self._features[some], self._labels[some], len(self._solution), counts, self.mean, self.scale
        )
        few.fit(c_value * float(self._counts.sum(dtype=np.float64) / counts.sum(dtype=np.float64)))
        return few._solution

    def _loss(self, flat: Floats, penalty: float, workers: ThreadPoolExecutor) -> tuple[float, Floats]:
        """Return the mean loss with its penalty, and the gradient."""
        known = flat.reshape(self._solution.shape)
        scaled = known[:, :-1] / self.scale  # the rows need not be standardised for it
        bias = (known[:, -1] - scaled @ self.mean).astype(np.float32)
        piece = partial(self._chunk_loss, scaled.T.astype(np.float32), bias)
        starts = range(0, len(self._features), ROWS_AT_ONCE)
        loss, slope, total = 0.0, np.zeros((len(self.mean), len(known))), np.zeros(len(known))
        for own_loss, own_slope, own_total in workers.map(piece, starts):  # in order: the same sum every time
            loss += own_loss
            slope += own_slope
            total += own_total
        whole = float(self._counts.sum(dtype=np.float64))
        by_weight = (slope.T - total[:, None] * self.mean) / self.scale / whole + penalty * known[:, :-1]
        gradient = np.hstack([by_weight, total[:, None] / whole])
        return loss / whole + penalty / 2 * float((known[:, :-1] ** 2).sum()), gradient.ravel()

    def _chunk_loss(self, weights: Float32s, bias: Float32s, start: int) -> tuple[float, Array, Array]:
        """Return the summed loss of a piece, its gradient by `weights` (channels, classes), and by `bias`."""
        rows = slice(start, start + ROWS_AT_ONCE)
        labels, counts = self._labels[rows], self._counts[rows]
        room = self._buffers.get()
        seen = room[: len(labels)]
        seen[:] = self._features[rows]
        logs, at = log_softmax(seen @ weights + bias), np.arange(len(labels))
        wrong = np.exp(logs)
        wrong[at, labels] -= 1
        wrong *= counts[:, None]
        slope = seen.T @ wrong.astype(np.float32)
        self._buffers.put(room)
        return -float(counts @ logs[at, labels]), slope, wrong.sum(axis=0)
