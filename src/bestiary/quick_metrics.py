"""Softmax, cross-entropy and macro-F1: the metrics that training monitors; full metrics live in `evaluation`."""

from __future__ import annotations

import numpy as np

from bestiary.array_types import Array, Floats, Ints

TEMPERATURES = 2.0 ** np.linspace(-2, 2, 33)


def loss_and_macro_f1(logits: Array, labels: Ints) -> tuple[float, float]:
    """Return mean cross-entropy in nats, and macro-F1 over the classes that occur, for logits (n, classes)."""
    loss = -log_softmax(logits)[np.arange(len(labels)), labels].mean()
    return float(loss), macro_f1(labels, logits.argmax(axis=1), logits.shape[1])


def calibrated_loss(logits: Array, labels: Ints) -> float:
    """Return the mean cross-entropy in nats at the best of several temperatures from 1/4 to 4.

    A temperature is fitted before a model is used, so networks trained with label smoothing, which are
    underconfident, can be compared with others.
    """
    return min(loss_and_macro_f1(logits / temperature, labels)[0] for temperature in TEMPERATURES)


def macro_f1(y_true: Ints, y_pred: Ints, classes: int) -> float:
    """Return the mean F1 of the classes that occur among `y_true` or `y_pred`."""
    hits = np.bincount(y_true[y_true == y_pred], minlength=classes)
    counts = np.bincount(y_true, minlength=classes) + np.bincount(y_pred, minlength=classes)
    occurs = counts > 0
    return float((2 * hits[occurs] / counts[occurs]).mean())


def softmax(logits: Array) -> Floats:
    """Return the probabilities, float64 (n, classes), of logits (n, classes)."""
    from scipy import special

    return np.asarray(special.softmax(logits.astype(np.float64), axis=1))


def log_softmax(logits: Array) -> Floats:
    """Return the natural logarithms of the probabilities, float64 (n, classes), of logits (n, classes)."""
    from scipy import special

    return np.asarray(special.log_softmax(logits.astype(np.float64), axis=1))
