"""Classification metrics of metrics.json, each with its 95 % confidence interval.

Every metric is a function of sums over pictures: correct predictions, pictures and predictions by class, losses,
calibration gaps by bin. The same function takes the sums over all pictures (the value) and the sums over each resample
(the interval), so the two always agree on the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bestiary.array_types import Array, Bools, Floats, Ints
from bestiary.errors import UserError
from bestiary.evaluation import intervals
from bestiary.evaluation.calibration import ece_bin_index
from bestiary.stats import wilson_interval

if TYPE_CHECKING:
    from scipy import sparse

ECE_BINS = 15
LOSSES = ("log_loss", "brier", "ece")
CLASS_AVERAGES = ("balanced_accuracy", "macro_f1", "macro_precision", "macro_recall")


def compute_metrics(
    y_true: Array,
    probabilities: Array,
    labels: list[str],
    groups: Array | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    unknown: Bools | None = None,
    y_pred: Array | None = None,
) -> dict[str, Any]:
    """Return the body of metrics.json that follows from predictions: plain numbers, ready for JSON.

    `y_true`: int (n,) in [0, k); `probabilities`: float (n, k), rows sum to 1; `y_pred`: int (n,), by default the
    largest of each row (the first of equals); `labels`: the k names; `groups`: int (n,), equal for duplicates, by
    default every picture on its own;
    `unknown`: bool (n,), pictures rejected as out-of-distribution: their familiarity, the in-distribution score
    (1 - OOD score), is below the threshold. They count towards `unknown.coverage` only: every other metric is over all
    n pictures and their predicted class.

    Values are scikit-learn's, computed in float64:
    - macro averages are plain means over all k labels, and a rate with denominator 0 is 0. A label without pictures
      therefore lowers them; `balanced_accuracy` is over the labels that do have pictures.
    - `log_loss` clips probabilities to [eps, 1 - eps] of float64. `brier` is the mean over pictures of the sum of
      squares over classes, in [0, 2] (`brier_score_loss(..., scale_by_half=False)`).
    - `ece` is the mean gap between top probability and correctness over 15 equal bins [low, high), and one more for
      probabilities of exactly 1: torchmetrics's, with its edges.

    Intervals are 95 %, always contain the value, and count a group of duplicates as one piece of evidence:
    - losses and ece: stratified bootstrap over groups. Resampling adds noise, which ece counts as error: its interval
      is biased upwards. If a class has a single group, groups are drawn without strata, because nothing varies within
      that class. If all pictures are of one group, the interval is all that is possible.
    - accuracy, and precision, recall and F1 of a class: Wilson, with the number of groups as trials.
    - averages over classes: the wider, on either side, of the bootstrap and the classes' combined Wilson intervals.

    Raises UserError if there is no picture, ValueError if shapes, labels or values do not fit each other.
    """
    y_true, probabilities, groups = _check_inputs(y_true, probabilities, labels, groups)
    k = len(labels)
    y_pred = probabilities.argmax(axis=1) if y_pred is None else np.asarray(y_pred, np.int64)
    rows = sums_by_picture(y_true, y_pred, probabilities)
    sums = MetricSums.total(rows, k)
    draws = unstratified = MetricSums.resample(rows, y_true, groups, k, resamples=resamples, seed=seed)
    if intervals.has_single_group(y_true, groups):
        unstratified = MetricSums.resample(rows, np.zeros_like(y_true), groups, k, resamples=resamples, seed=seed)
    per_class = _per_class(sums, y_true, y_pred, groups)
    counts = np.bincount(y_true * k + y_pred, minlength=k * k).reshape(k, k)
    return {
        "n": len(y_true),
        "accuracy": intervals.rate_metric(float(sums.metric("accuracy")[0]), int(groups.max()) + 1),
        **{name: _class_average(name, sums, draws, per_class) for name in CLASS_AVERAGES},
        **{name: _bootstrap_metric(name, sums, unstratified, groups) for name in LOSSES},
        "per_class": {label: _class_entry(per_class, sums, c) for c, label in enumerate(labels)},
        "confusion": {"labels": list(labels), "counts": counts.tolist()},
        "unknown": {"coverage": _coverage(unknown, len(y_true))},
    }


@dataclass(frozen=True)
class MetricSums:
    """Sums over pictures, one row per resample, shape (resamples, 3k + 3 + bins); each metric is a function of them."""

    columns: Floats
    k: int

    @classmethod
    def total(cls, rows: sparse.csr_array, k: int) -> MetricSums:
        """Return the sums over all pictures, a single row."""
        return cls(np.asarray(rows.sum(axis=0), dtype=np.float64).reshape(1, -1), k)

    @classmethod
    def resample(
        cls, rows: sparse.csr_array, strata: Ints, groups: Ints, k: int, *, resamples: int, seed: int
    ) -> MetricSums:
        """Return the sums of bootstrap resamples of whole groups, drawn within `strata`."""
        return cls(intervals.resampled_sums(rows, strata, groups, resamples=resamples, seed=seed), k)

    @property
    def correct(self) -> Floats:
        """Correct predictions by class."""
        return self.columns[:, : self.k]

    @property
    def pictures(self) -> Floats:
        """Pictures by class."""
        return self.columns[:, self.k : 2 * self.k]

    @property
    def predictions(self) -> Floats:
        """Predictions by class."""
        return self.columns[:, 2 * self.k : 3 * self.k]

    @property
    def n(self) -> Floats:
        """All pictures."""
        return np.asarray(self.pictures.sum(axis=1))

    def precision(self) -> Floats:
        """Precision of each class."""
        return _ratio(self.correct, self.predictions)

    def recall(self) -> Floats:
        """Recall of each class."""
        return _ratio(self.correct, self.pictures)

    def f1(self) -> Floats:
        """F1 of each class."""
        return _ratio(2 * self.correct, self.pictures + self.predictions)

    def jaccard(self) -> Floats:
        """The Jaccard index of each class."""
        return _ratio(self.correct, self.pictures + self.predictions - self.correct)

    def metric(self, name: str) -> Floats:
        """Return one value per resample, shape (resamples,)."""
        return _METRICS[name](self)


_METRICS: dict[str, Callable[[MetricSums], Floats]] = {
    "accuracy": lambda sums: sums.correct.sum(axis=1) / sums.n,
    "balanced_accuracy": lambda sums: sums.recall().sum(axis=1) / (sums.pictures > 0).sum(axis=1),
    "macro_f1": lambda sums: sums.f1().mean(axis=1),
    "macro_precision": lambda sums: sums.precision().mean(axis=1),
    "macro_recall": lambda sums: sums.recall().mean(axis=1),
    "log_loss": lambda sums: sums.columns[:, 3 * sums.k] / sums.n,
    "brier": lambda sums: sums.columns[:, 3 * sums.k + 1] / sums.n,
    "ece": lambda sums: np.abs(sums.columns[:, 3 * sums.k + 2 :]).sum(axis=1) / sums.n,
}


def sums_by_picture(y_true: Ints, y_pred: Ints, probabilities: Floats) -> sparse.csr_array:
    """Return what each picture adds to each sum, shape (n, 3k + 3 + bins): see `MetricSums` for the order."""
    from scipy import sparse

    n, k = probabilities.shape
    correct = (y_true == y_pred).astype(np.float64)
    own = probabilities[np.arange(n), y_true]
    top = probabilities.argmax(axis=1)  # of ECE, whichever class is predicted
    confidence, hits = probabilities[np.arange(n), top], (y_true == top).astype(np.float64)
    misses = probabilities.copy()
    misses[np.arange(n), y_true] -= 1
    eps = np.finfo(np.float64).eps
    entries = [
        (y_true, correct),
        (k + y_true, np.ones(n)),
        (2 * k + y_pred, np.ones(n)),
        (np.full(n, 3 * k), -np.log(np.clip(own, eps, 1 - eps))),
        (np.full(n, 3 * k + 1), (misses**2).sum(axis=1)),
        (3 * k + 2 + ece_bin_index(confidence, ECE_BINS), confidence - hits),
    ]
    columns = np.stack([column for column, _ in entries], axis=1).ravel()
    values = np.stack([value for _, value in entries], axis=1).ravel()
    starts = np.arange(0, len(columns) + 1, len(entries))
    return sparse.csr_array((values, columns, starts), shape=(n, 3 * k + 3 + ECE_BINS))


Rates = dict[str, tuple[Floats, Floats, Floats]]  # precision, recall, f1 -> value, low, high; shape (k,) each


def _per_class(sums: MetricSums, y_true: Ints, y_pred: Ints, groups: Ints) -> Rates:
    """Return the rates of each class; the trials of an interval are the groups of duplicates that it rests on."""
    precision, recall = sums.precision()[0], sums.recall()[0]
    in_precision, in_recall, in_f1 = (
        intervals.groups_per_class(columns, groups, sums.k) for columns in ([y_pred], [y_true], [y_true, y_pred])
    )
    return {
        "precision": (precision, *wilson_interval(precision, in_precision)),
        "recall": (recall, *wilson_interval(recall, in_recall)),
        "f1": (sums.f1()[0], *intervals.f1_interval(sums.jaccard()[0], in_f1)),
    }


def _class_entry(per_class: Rates, sums: MetricSums, c: int) -> dict[str, Any]:
    rates = {name: intervals.metric_value(value[c], low[c], high[c]) for name, (value, low, high) in per_class.items()}
    return {**rates, "support": int(sums.pictures[0, c])}


def _bootstrap_metric(name: str, sums: MetricSums, draws: MetricSums, groups: Ints | None = None) -> dict[str, float]:
    span = None if groups is None else intervals.single_group_span(groups, 0.0, highest_value(name))
    return intervals.bootstrap_metric(float(sums.metric(name)[0]), draws.metric(name), span)


def highest_value(name: str) -> float:
    """Return the highest value that a metric can have; the lowest is 0."""
    return {"log_loss": float(-np.log(np.finfo(np.float64).eps)), "brier": 2.0}.get(name, 1.0)


def macro_f1_interval(used: Bools, sums: MetricSums, y_true: Ints, y_pred: Ints, groups: Ints) -> tuple[float, float]:
    """Return the low and high ends of the mean F1 of the classes `used`, bool (k,), from Wilson's of each of them."""
    trials = intervals.groups_per_class([y_true, y_pred], groups, sums.k)
    low, high = intervals.f1_interval(sums.jaccard()[0], trials)
    return intervals.mover_interval(sums.f1()[0][used], low[used], high[used])


def _class_average(name: str, sums: MetricSums, draws: MetricSums, per_class: Rates) -> dict[str, float]:
    values, lows, highs = per_class[name.removeprefix("macro_") if name.startswith("macro_") else "recall"]
    used = sums.pictures[0] > 0 if name == "balanced_accuracy" else np.ones(sums.k, dtype=bool)
    ends = intervals.mover_interval(values[used], lows[used], highs[used])
    return intervals.widen_metric(_bootstrap_metric(name, sums, draws), *ends)


def _ratio(numerator: Array, denominator: Array) -> Floats:
    """Return the quotient, and 0 where the denominator is 0."""
    quotient: Floats = np.zeros(np.shape(numerator))
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def _coverage(unknown: Bools | None, n: int) -> float:
    if unknown is None:
        return 1.0
    if np.shape(unknown) != (n,):
        raise ValueError(f"`unknown` has shape {np.shape(unknown)}; expected ({n},), one value per picture.")
    return 1.0 - float(np.mean(unknown))


def _check_inputs(
    y_true: Array, probabilities: Array, labels: list[str], groups: Array | None
) -> tuple[Ints, Floats, Ints]:
    """Return the three arrays in the types used here, groups renumbered from 0; raises as `compute_metrics` does."""
    n, k = len(y_true), len(labels)
    if n == 0:
        raise UserError("There is no picture to score: the table has no readable, labelled row in this split.")
    if np.shape(probabilities) != (n, k):
        raise ValueError(f"`probabilities` has shape {np.shape(probabilities)}; expected ({n}, {k}): pictures, labels.")
    if len(set(labels)) != k:
        raise ValueError(f"`labels` contains a name twice: {labels}.")
    if np.min(y_true) < 0 or np.max(y_true) >= k:
        raise ValueError(f"`y_true` is in [{np.min(y_true)}, {np.max(y_true)}]; expected [0, {k - 1}], for {k} labels.")
    indices = np.arange(n) if groups is None else intervals.group_indices(groups)
    if len(indices) != n:
        raise ValueError(f"`groups` has {len(indices)} rows; expected {n}, one per picture.")
    return np.asarray(y_true, dtype=np.int64), _check_probabilities(probabilities), indices


def _check_probabilities(probabilities: Array) -> Floats:
    checked = np.asarray(probabilities, dtype=np.float64)
    if not (np.isfinite(checked).all() and checked.min() >= 0 and checked.max() <= 1 + 1e-6):
        raise ValueError("`probabilities` contains a value that is not in [0, 1]. Pass softmax outputs, not logits.")
    furthest = float(np.abs(checked.sum(axis=1) - 1).max())
    if furthest > 1e-3:
        raise ValueError(f"A row of `probabilities` is {furthest:.3g} away from a sum of 1. Pass softmax outputs.")
    return np.minimum(checked, 1.0)
