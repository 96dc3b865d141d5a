"""One answer for each event of several pictures, from a stream of predictions, holding the events alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.array_types import Floats, Ints
from bestiary.class_thresholds import least_probabilities
from bestiary.costs import choose_labels
from bestiary.errors import import_optional
from bestiary.files import atomic_path
from bestiary.inference.bundle import Bundle
from bestiary.inference.event_combination import EventCombination
from bestiary.inference.event_names import FindName
from bestiary.inference.predictor import Prediction
from bestiary.inference.writers import escape_formula
from bestiary.text import escape_control_chars, format_points, printable

FIRST_EVENTS = 1024  # room for so many at first, then twice as many
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
EVENTS = ".events"


@dataclass(frozen=True)
class EventAnswer:
    """The answer for one event.

    pictures: those that could be read; unreadable: the others. `label` is chosen as for a picture, by `probabilities`;
    None if no picture could be read. unknown: every picture that could be read is unfamiliar, or the probability is
    below the threshold of the class. picture: the most confident one.
    """

    event: str
    label: str | None
    probability: float
    unknown: bool
    pictures: int
    unreadable: int
    picture: str | None
    probabilities: dict[str, float]

    def line(self) -> dict[str, Any]:
        """Return the fields of one line of JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Return the answer as one line for a terminal."""
        name, n = escape_control_chars(self.event), self.pictures + self.unreadable
        count = f"{n:,} picture{'s' * (n != 1)}"
        if self.label is None:
            return f"{name}  cannot be read ({count})"
        note = ", unknown" if self.unknown else ""
        return f"{name}  {escape_control_chars(self.label)} {format_points(self.probability, 1)} % ({count}{note})"


class EventTracker:
    """Collects predictions by event. Memory is that of the events, not of the pictures."""

    def __init__(
        self,
        bundle: Bundle,
        find_name: FindName,
        unknown_label: str | None = None,
        repeated: Collection[str] = (),
    ) -> None:
        """Take how events are combined from the bundle.

        unknown_label: of unknown events, None for their class. repeated: paths that are predicted more than once, each
        as a whole; they count once, as a picture is no evidence beside itself.
        """
        self.combination = EventCombination.of(bundle.events)
        self.without_event = 0
        self._bundle, self._find_name, self._unknown_label = bundle, find_name, unknown_label
        self._index: dict[str, int] = {}
        self._totals: Floats = np.zeros((FIRST_EVENTS, len(bundle.classes)))
        self._counts: Ints = np.zeros((FIRST_EVENTS, 3), np.int64)  # pictures, unreadable, unfamiliar
        self._best: list[tuple[float, str | None]] = []
        self._repeated, self._counted = frozenset(repeated), set[str]()

    def __len__(self) -> int:
        """Return the number of events so far."""
        return len(self._index)

    def track(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Yield the predictions, after adding each to its event."""
        for prediction in predictions:
            self.add(prediction)
            yield prediction

    def add(self, prediction: Prediction) -> None:
        """Add a picture to its event; one that has no event is counted in `without_event`."""
        path = printable(str(prediction.path))
        name = None if prediction.path is None else self._find_name(path)
        if name is None:
            self.without_event += 1
            return
        if prediction.box is None and path in self._repeated:
            if path in self._counted:
                return
            self._counted.add(path)
        event = self._index.setdefault(name, len(self._index))
        self._make_room(event)
        if prediction.error is not None:
            self._counts[event, 1] += 1
            return
        row = np.array([prediction.probabilities[label] for label in self._bundle.classes])
        values = self.combination.transform(row[None])[0]
        is_first = not self._counts[event, 0]
        self._totals[event] = values if is_first else self.combination.merge(self._totals[event], values)
        self._counts[event] += (1, 0, prediction.familiarity < self._bundle.threshold)
        if (confidence := float(row.max())) > self._best[event][0]:
            self._best[event] = confidence, path

    def answers(self) -> Iterator[EventAnswer]:
        """Yield the answer of each event, in the order of their first pictures."""
        count = len(self._index)
        if not count:
            return
        probabilities = self.combination.probabilities(self._totals[:count], self._counts[:count, 0])
        labels = choose_labels(probabilities, self._bundle.costs)
        classes, least = self._bundle.classes, least_probabilities(self._bundle.class_thresholds, self._bundle.classes)
        for event, name in enumerate(self._index):
            pictures, unreadable, unfamiliar = self._counts[event].tolist()
            if not pictures:
                yield EventAnswer(name, None, 0.0, True, 0, unreadable, None, {})
                continue
            row, best = probabilities[event].tolist(), int(labels[event])
            is_unknown = unfamiliar == pictures or row[best] < least[best]
            label = self._unknown_label if is_unknown and self._unknown_label is not None else classes[best]
            by_class = dict(zip(classes, row, strict=True))
            yield EventAnswer(name, label, row[best], is_unknown, pictures, unreadable, self._best[event][1], by_class)

    def describe(self) -> list[str]:
        """Return how many events there are, how they are combined, and how many pictures have none."""
        several = int((self._counts[: len(self), 0] > 1).sum())
        events = f"{len(self):,} event{'s' * (len(self) != 1)}, {several:,} of several pictures."
        texts = [f"{events} {self.combination.describe()}"]
        if n := self.without_event:
            texts.append(f"{n:,} {'picture belongs' if n == 1 else 'pictures belong'} to no event by --group.")
        return texts

    def _make_room(self, event: int) -> None:
        if event == len(self._best):
            self._best.append((-1.0, None))
        if event == len(self._totals):
            self._totals = np.concatenate([self._totals, np.zeros_like(self._totals)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])


# ---- Files -------------------------------------------------------------------------------------------------------


def default_event_file(out: Path) -> Path:
    """Return the file of events beside a file of predictions: `birds.csv` has `birds.events.csv`.

    It has the format of the predictions if that is csv, jsonl or parquet, else csv.
    """
    suffix = out.suffix.lower() if out.suffix.lower() in SUFFIXES else ".csv"
    return out.with_name(f"{out.stem if out.suffix else out.name}{EVENTS}{suffix}")


def event_columns(classes: Sequence[str]) -> list[str]:
    """Return the columns of a table of events."""
    facts = ["event", "label", "probability", "unknown", "pictures", "unreadable", "picture"]
    return [*facts, *(f"p_{name}" for name in classes)]


def write_events(answers: Iterable[EventAnswer], path: Path, classes: Sequence[str]) -> None:
    """Write a file of events, by its suffix csv, jsonl or parquet, as a whole; raises MachineError.

    In csv no cell can run as a formula in a spreadsheet, as in a table of predictions.
    """
    kind = SUFFIXES[path.suffix.lower()]
    with atomic_path(path) as temporary:
        if kind == "parquet":
            _write_parquet(answers, temporary, classes)
            return
        with temporary.open("w", encoding="utf-8", newline="") as out:
            if kind == "jsonl":
                out.writelines(json.dumps(answer.line(), ensure_ascii=False) + "\n" for answer in answers)
                return
            rows = csv.writer(out, lineterminator="\n")
            rows.writerow(event_columns(classes))
            for answer in answers:
                *cells, picture = _row(answer, ())
                prefixed = [escape_formula(cell, "'") for cell in cells]
                values = (answer.probabilities.get(name) for name in classes)
                rows.writerow([*prefixed, escape_formula(picture, "./"), *values])


def _row(answer: EventAnswer, classes: Sequence[str]) -> list[Any]:
    facts = [getattr(answer, name) for name in event_columns(())]
    return [*facts, *map(answer.probabilities.get, classes)]


def _write_parquet(answers: Iterable[EventAnswer], path: Path, classes: Sequence[str]) -> None:
    pl = import_optional("polars", extra="train")
    kinds = dict.fromkeys(("event", "label", "picture"), pl.String) | {"unknown": pl.Boolean}
    kinds |= dict.fromkeys(("pictures", "unreadable"), pl.Int64)
    schema = {name: kinds.get(name, pl.Float64) for name in event_columns(classes)}
    pl.DataFrame([_row(answer, classes) for answer in answers], schema=schema, orient="row").write_parquet(path)
