"""Event answers: the calibrated probabilities of the pictures of one event, combined into those of the event.

Three ways: the mean of the logarithms (a logarithmic opinion pool, Genest and Zidek 1986) times a power of the number
of pictures, from 0 (pictures that say the same) to 1 (independent pictures, as in naive Bayes); the mean of the
probabilities; the maximum of each class. `export.event_choice` chooses one and calibrates it on validation events. An
event of one picture has the probabilities of its picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from bestiary.array_types import AnyFloats, Floats, Ints

Way = Literal["log-mean", "mean", "maximum"]
UNIFORM_FRACTION = 1e-3  # mixed into each picture's probabilities, so that none of them is a veto
_TINY = 1e-12


@dataclass(frozen=True)
class EventCombination:
    """How the pictures of an event are combined.

    exponent: of the number of pictures, for "log-mean". prior: probability of each class among the events, which the
    pictures of an event share and which counts once; empty: it is left out. uniform: fraction of an equal distribution
    that is mixed into each picture's probabilities, for "log-mean". temperature: fitted on so many validation events of
    several pictures, `events`; 0: not calibrated.
    """

    way: Way = "mean"
    exponent: float = 0.0
    temperature: float = 1.0
    uniform: float = UNIFORM_FRACTION
    prior: tuple[float, ...] = ()
    events: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError, naming the field, for an invalid value: the file may have been edited by hand."""
        if self.way not in get_args(Way):
            raise ValueError(f'events.way is "{self.way}"; expected one of {", ".join(get_args(Way))}')
        for name, low, high in (("exponent", 0.0, 1.0), ("temperature", _TINY, math.inf), ("uniform", _TINY, 0.5)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f"events.{name} is {value!r}; expected a number from {low:g} to {high:g}")
        if not isinstance(self.events, int) or self.events < 0:
            raise ValueError(f"events.events is {self.events!r}; expected a number from 0")
        if any(not isinstance(value, int | float) or not 0 < value <= 1 for value in self.prior):
            raise ValueError(f"events.prior is {self.prior!r}; expected probabilities above 0")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> EventCombination:
        """Return the combination of a bundle; without one, the mean of probabilities, which was not calibrated."""
        return cls(**{**values, "prior": tuple(values.get("prior", ()))}) if values else cls()

    def to_json(self) -> dict[str, Any]:
        """Return the values for a bundle."""
        return asdict(self) | {"prior": list(self.prior)}

    def describe(self) -> str:
        """Return the combination in a sentence."""
        names = {
            "log-mean": f"the mean of log probabilities times the number of pictures to the power {self.exponent:g}",
            "mean": "the mean of the probabilities",
            "maximum": "the maximum probability of each class",
        }
        calibrated = (
            f"chosen and calibrated on {self.events:,} validation events of several pictures"
            if self.events
            else "which is not calibrated: the model was trained with too few validation events, or none"
        )
        return f"Events are combined by {names[self.way]}, {calibrated}."

    # ---- Sums of pictures, and the probabilities of events -------------------------------------------------------

    def transform(self, probabilities: AnyFloats) -> Floats:
        """Return what is added up over the pictures of an event, or maximised: (n, classes) of probabilities."""
        rows = np.asarray(probabilities, np.float64)
        if self.way != "log-mean":
            return rows
        logs: Floats = np.log((1 - self.uniform) * rows + self.uniform / rows.shape[1])
        return logs

    def merge(self, total: Floats, more: Floats) -> Floats:
        """Return the total of an event with further transformed rows, of one shape."""
        return np.maximum(total, more) if self.way == "maximum" else total + more

    def reduce(self, probabilities: AnyFloats, events: Ints) -> tuple[Floats, Ints]:
        """Return the total of each event (events, classes), and its number of pictures; events: int (n,) from 0."""
        rows = self.transform(probabilities)
        sizes = np.bincount(events)
        order = np.argsort(events, kind="stable")
        starts = np.cumsum(sizes) - sizes
        operation = np.maximum if self.way == "maximum" else np.add
        return operation.reduceat(rows[order], starts, axis=0), sizes

    def probabilities(self, totals: Floats, sizes: Ints) -> Floats:
        """Return the probabilities (events, classes) of totals (events, classes) and numbers of pictures (events,)."""
        offset, scores = self.scores(totals, sizes)
        logits = offset + scores / self.temperature
        several: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
        several /= several.sum(axis=1, keepdims=True)
        return np.where((sizes == 1)[:, None], self._single(totals), several)

    def scores(self, totals: Floats, sizes: Ints) -> tuple[Floats, Floats]:
        """Return offset and scores, each (events, classes): the logits are offset + scores / temperature."""
        prior = np.log(np.asarray(self.prior)) if self.prior else np.zeros(totals.shape[1])
        if self.way == "maximum":
            return np.zeros_like(totals), np.log(np.maximum(totals, _TINY))
        means = totals / np.maximum(sizes, 1)[:, None]
        if self.way == "mean":
            return np.zeros_like(totals), np.log(np.maximum(means, _TINY))
        powers = np.maximum(sizes, 1)[:, None].astype(np.float64) ** self.exponent
        return np.broadcast_to(prior, totals.shape), powers * (means - prior)

    def _single(self, totals: Floats) -> Floats:
        """Return the probabilities of the only picture of each event."""
        if self.way != "log-mean":
            return totals
        rows: Floats = (np.exp(totals) - self.uniform / totals.shape[1]) / (1 - self.uniform)
        return np.clip(rows, 0.0, 1.0)


def combine_events(combination: EventCombination, probabilities: AnyFloats, events: Ints) -> Floats:
    """Return the probabilities (events, classes) of the events of pictures: (n, classes), and int (n,) from 0.

    >>> rows = np.array([[0.6, 0.4], [0.8, 0.2], [0.1, 0.9]])
    >>> combine_events(EventCombination(), rows, np.array([0, 0, 1])).round(3).tolist()
    [[0.7, 0.3], [0.1, 0.9]]
    """
    return combination.probabilities(*combination.reduce(probabilities, events))


def majority_vote(labels: Sequence[int] | Ints, probabilities: AnyFloats, events: Ints) -> Ints:
    """Return the most frequent label of each event, int64 (events,); of equal ones that with more probability."""
    k = np.asarray(probabilities).shape[1]
    votes = np.zeros((int(events.max()) + 1, k))
    np.add.at(votes, (events, np.asarray(labels)), 1.0)
    means, _ = EventCombination().reduce(probabilities, events)
    winners: Ints = (votes + means / (2 * means.sum(axis=1, keepdims=True))).argmax(axis=1)
    return winners


def most_confident(probabilities: AnyFloats, events: Ints) -> Ints:
    """Return the row of the picture with the largest probability of each event, int64 (events,)."""
    order = np.lexsort((-np.asarray(probabilities).max(axis=1), events))
    _, first = np.unique(events[order], return_index=True)
    rows: Ints = order[first]
    return rows
