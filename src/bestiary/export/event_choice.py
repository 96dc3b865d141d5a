"""Choice of how the pictures of an event are combined, by log loss on validation events, and its temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bestiary.array_types import AnyFloats, Floats, Ints
from bestiary.inference.event_combination import EventCombination

MIN_EVENTS = 30  # validation events of several pictures, below which nothing is chosen
MIN_DIFFERENCE = 2.0  # standard errors by which another combination must be better than the mean of probabilities
LOW, HIGH = 0.02, 50.0  # of the temperature; long events of like pictures need a high one
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
UNIFORM = (1e-4, 1e-2, 0.1)


@dataclass(frozen=True)
class PictureEvents:
    """Pictures by event. probabilities: (n, classes); events: int (n,) from 0; labels: int (events,)."""

    probabilities: AnyFloats
    events: Ints
    labels: Ints
    mixed: int = 0
    ungrouped: int = 0

    def sizes(self) -> Ints:
        """Return the number of pictures of each event."""
        return np.bincount(self.events, minlength=len(self.labels))


def group_events(
    probabilities: AnyFloats, labels: Ints, groups: Sequence[str | None]
) -> tuple[PictureEvents, Ints, list[str]]:
    """Return the events of pictures, the rows (n,) of their pictures, and their names.

    groups: the name of each picture's event; None: it has none, and is left out. Events whose pictures have several
    labels are left out, and counted in `mixed`.
    """
    index: dict[str, int] = {}
    codes = np.array([-1 if name is None else index.setdefault(name, len(index)) for name in groups], np.int64)
    low, high = np.full(len(index), np.iinfo(np.int64).max), np.full(len(index), -1)
    inside = codes >= 0
    np.minimum.at(low, codes[inside], labels[inside])
    np.maximum.at(high, codes[inside], labels[inside])
    pure = low == high
    rows = np.flatnonzero(inside & pure[np.where(inside, codes, 0)]) if len(index) else np.empty(0, np.int64)
    numbers = np.cumsum(pure) - 1
    names = [name for name, is_pure in zip(index, pure.tolist(), strict=True) if is_pure]
    events = PictureEvents(
        np.asarray(probabilities)[rows],
        numbers[codes[rows]] if len(rows) else rows,
        low[pure],
        mixed=int((~pure).sum()),
        ungrouped=int((~inside).sum()),
    )
    return events, rows, names


def choose_combination(validation: PictureEvents) -> EventCombination:
    """Return the combination with the lowest log loss on validation events of several pictures, calibrated on them.

    It is the mean of probabilities unless another one is better by two standard errors of the difference. With fewer
    than 30 such events nothing is chosen: the mean of probabilities, not calibrated. An event of one picture has the
    calibrated probabilities of its picture, and plays no part.
    """
    several = validation.sizes() > 1
    if several.sum() < MIN_EVENTS:
        return EventCombination()
    fitted = [_fit_temperature(candidate, validation, several) for candidate in _candidates(validation)]
    (simplest, base), *_ = fitted
    best, losses = min(fitted, key=lambda pair: float(pair[1].mean()))
    gains = base - losses
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return best if gains.mean() > MIN_DIFFERENCE * error else simplest


def _candidates(validation: PictureEvents) -> list[EventCombination]:
    """Return the combinations to choose from, the mean of probabilities first."""
    k = np.asarray(validation.probabilities).shape[1]
    counts = np.bincount(validation.labels, minlength=k) + 1.0
    prior = tuple((counts / counts.sum()).tolist())
    pools = [
        EventCombination("log-mean", exponent, uniform=uniform, prior=shared)
        for exponent in EXPONENTS
        for uniform in UNIFORM
        for shared in ((), prior)
    ]
    return [EventCombination("mean"), EventCombination("maximum"), *pools]


def _fit_temperature(
    candidate: EventCombination, validation: PictureEvents, several: np.ndarray
) -> tuple[EventCombination, Floats]:
    """Return the calibrated combination, and its loss for each event of several pictures.

    As in `export.calibration`, a standard normal prior on ln(T) keeps a few correct events from claiming certainty.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    totals, sizes = candidate.reduce(validation.probabilities, validation.events)
    offset, scores = (values[several] for values in candidate.scores(totals, sizes))
    rows, labels = np.arange(len(scores)), validation.labels[several]

    def losses(log_temperature: float) -> Floats:
        logits = offset + scores / math.exp(log_temperature)
        values: Floats = logsumexp(logits, axis=1) - logits[rows, labels]
        return values

    def total(log_temperature: float) -> float:
        return float(losses(log_temperature).sum()) + log_temperature**2 / 2

    optimum = minimize_scalar(total, bounds=(math.log(LOW), math.log(HIGH)), method="bounded", options={"xatol": 1e-5})
    best = float(optimum.x)
    return replace(candidate, temperature=math.exp(best), events=int(several.sum())), losses(best)
