"""Temperature scaling and the out-of-distribution threshold, fitted on the validation split."""

from __future__ import annotations

import math

import numpy as np

from bestiary.array_types import Array, Floats, Ints
from bestiary.errors import UserError

TEMPERATURE_LOW, TEMPERATURE_HIGH = 0.05, 20.0
# A probability that a float32 softmax rounded to 0 counts as its smallest normal number: ln(1.2e-38).
_LOG_FLOOR = float(np.log(np.finfo(np.float32).tiny))


def fit_temperature(logits: Array, y_true: Array) -> float:
    """Return the temperature T in [0.05, 20] for which softmax(logits / T) has the lowest loss on these pictures.

    `logits`: float (n, k), or log-probabilities; `y_true`: int (n,) in [0, k). T > 1 if the model is overconfident.
    Guo et al., "On Calibration of Modern Neural Networks" (2017), with one addition: ln(T)^2 / 2 is added to the total
    loss, a standard normal prior on ln(T). It has no effect with hundreds of pictures; with a dozen that are all
    correct, the likelihood alone would give T = 0.05 and claim certainty.
    Raises UserError if there is no picture, ValueError if shapes do not fit or a logit is not a number.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores, classes = _check_logits(logits, y_true)
    own = scores[np.arange(len(classes)), classes]

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        total = float((logsumexp(scores / temperature, axis=1) - own / temperature).sum())
        return (total + log_temperature**2 / 2) / len(classes)

    bounds = (math.log(TEMPERATURE_LOW), math.log(TEMPERATURE_HIGH))
    return math.exp(float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def choose_threshold(familiarity: Array, coverage: float = 0.95) -> float:
    """Return the highest threshold at which at least the fraction `coverage` of these pictures is in-distribution.

    `familiarity`: float (n,), the in-distribution score (1 - OOD score) of validation pictures; a picture is answered
    if it is >= the threshold, else "unknown". `coverage` in (0, 1]. Raises UserError if there is no picture, ValueError
    for other values.
    """
    values = np.sort(np.asarray(familiarity, dtype=np.float64))
    if len(values) == 0:
        raise UserError("There is no validation picture to choose the threshold for unknown pictures on.")
    if not 0 < coverage <= 1:
        raise ValueError(f"`coverage` is {coverage}; expected a fraction above 0 and at most 1.")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {len(values)} familiarities are not a number.")
    # Rounded before it is raised to a whole picture: 0.55 * 100 is 55 pictures, not 55.00000000000001.
    answered = math.ceil(round(coverage * len(values), 9))
    return float(values[len(values) - answered])


def _check_logits(logits: Array, y_true: Array) -> tuple[Floats, Ints]:
    """Return logits shifted so that each row's largest is 0, none below the floor, and the classes as int64."""
    scores = np.asarray(logits, dtype=np.float64)
    if len(y_true) == 0:
        raise UserError("There is no validation picture to fit the temperature on.")
    if scores.ndim != 2 or len(scores) != len(y_true):
        raise ValueError(f"`logits` has shape {scores.shape}; expected ({len(y_true)}, classes).")
    if np.isnan(scores).any() or not np.isfinite(scores.max(axis=1)).all():
        raise ValueError("A row of `logits` contains a value that is not a number, or nothing finite.")
    return np.maximum(scores - scores.max(axis=1, keepdims=True), _LOG_FLOOR), np.asarray(y_true, dtype=np.int64)
