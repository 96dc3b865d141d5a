"""Thresholds by class: the least calibrated probability with which a class is answered, for a stated precision.

The threshold of a class is the smallest for which the precision on validation is at least the stated one (selective
classification: El-Yaniv and Wiener, JMLR 11, 2010). A picture below the threshold of its class is unknown.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.array_types import Array, Bools, Floats, Ints
from bestiary.costs import ANY
from bestiary.errors import RecipeError, did_you_mean
from bestiary.stats import wilson_interval
from bestiary.text import format_percent

ThresholdEntry = tuple[str, float]  # class, stated precision
HEADER = ["class", "precision"]
EXAMPLE = "wolf=0.95,dog=0.9"
MAX_WARNINGS = 3  # about classes; tables have all of them
UNFAMILIAR, BELOW_THRESHOLD = "unfamiliar", "below threshold"  # why a picture is unknown


@dataclass(frozen=True)
class ClassThreshold:
    """The threshold of a class, and what it was chosen by.

    precision: the stated one; is_met: whether it is reached on validation. predicted, answered, correct: validation
    pictures predicted as the class, those at or above the threshold, and the correct ones of these; low, high: the
    95 % interval of correct / answered, by groups. groups: of the split (duplicates, and given groups and sites), that
    the predicted pictures are of; 0 in older models.
    """

    precision: float
    threshold: float
    is_met: bool
    predicted: int
    answered: int
    correct: int
    low: float
    high: float
    groups: int = 0


# ---- Settings ------------------------------------------------------------------------------------------------------


def read_thresholds(text: str) -> list[ThresholdEntry]:
    """Return the entries of a text such as `wolf=0.95,*=0.9`, or of a CSV with the header `class,precision`.

    Raises RecipeError that names the file and the row.

    >>> read_thresholds("wolf=0.95,*=0.9")
    [('wolf', 0.95), ('*', 0.9)]
    """
    path = Path(text)
    if "=" in text and not path.exists():
        pairs = [part.rpartition("=") for part in text.split(",")]
        rows = [("--thresholds", name.strip(), cell.strip()) for name, _, cell in pairs]
    else:
        rows = _read_rows(path)
    entries = [(name, _parse_precision(cell, where)) for where, name, cell in rows]
    try:
        check_thresholds(entries)
    except ValueError as error:
        raise RecipeError(f"The thresholds {text}: {error}.") from None
    return entries


def check_thresholds(entries: Sequence[ThresholdEntry]) -> Sequence[ThresholdEntry]:
    """Return the entries; raises ValueError for a precision outside (0, 1), an empty name, and a class named twice."""
    names: set[str] = set()
    for name, precision in entries:
        if not name:
            raise ValueError(f"a class is empty; expected a class or {ANY}, as in {EXAMPLE}")
        if not 0 < precision < 1:
            raise ValueError(f'the precision of "{name}" is {precision}; expected a number above 0 and below 1')
        if name in names:
            raise ValueError(f'"{name}" has two precisions; keep one of them')
        names.add(name)
    return entries


def check_threshold_classes(entries: Iterable[ThresholdEntry], classes: Collection[str]) -> None:
    """Raise RecipeError for the first entry that is not of a class."""
    for name, _ in entries:
        if name != ANY and name not in classes:
            hint = did_you_mean(name, classes)
            raise RecipeError(f'The thresholds name "{name}", which is not a class of these pictures. {hint}')


def stated_precisions(entries: Sequence[ThresholdEntry], classes: Sequence[str]) -> dict[str, float]:
    """Return the stated precision of each class that has one; an entry with `*` holds for the classes without one.

    >>> stated_precisions([("*", 0.9), ("wolf", 0.95)], ["dog", "wolf"])
    {'dog': 0.9, 'wolf': 0.95}
    """
    check_threshold_classes(entries, classes)
    by_name = dict(entries)
    named = {name: by_name.get(name, by_name.get(ANY)) for name in classes}
    return {name: precision for name, precision in named.items() if precision is not None}


def _read_rows(path: Path) -> list[tuple[str, str, str]]:
    """Return place, class and precision of each row of a CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"The thresholds {path} cannot be read: {reason}. Give a CSV, or {EXAMPLE}.") from None
    numbered = [(f"{path}, row {number}", row) for number, row in enumerate(rows, start=1) if any(row)]
    if len(numbered) < 2 or [cell.lower() for cell in numbered[0][1]] != HEADER:
        raise RecipeError(f"The thresholds {path} need the header class,precision and rows such as wolf,0.95.")
    for where, row in numbered[1:]:
        if len(row) != len(HEADER):
            raise RecipeError(f"{where}: expected {len(HEADER)} cells, class and precision; got {len(row)}.")
    return [(where, row[0], row[1]) for where, row in numbered[1:]]


def _parse_precision(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise RecipeError(f"{where}: {cell!r} is not a precision; expected a number such as 0.95.") from None


# ---- Choice on validation ------------------------------------------------------------------------------------------


def fit_class_thresholds(
    stated: Mapping[str, float],
    classes: Sequence[str],
    *,
    y_true: Ints,
    y_pred: Ints,
    probability: Floats,
    groups: Array,
) -> dict[str, ClassThreshold]:
    """Return the threshold of each class with a stated precision.

    y_true, y_pred, probability of the prediction, groups of the split: (n,), of the validation pictures that are
    familiar to the model, since the others are unknown already.

    One picture says nothing about a precision of 95 %: at least 1 / (1 - precision) must be answered, so that a mistake
    does not break it at once; pictures of one group, such as a burst, count once for that. If no threshold reaches the
    precision with so many, the one of the highest precision is taken, but at least the stated precision itself, which
    is what a calibrated probability promises.
    """
    thresholds = {}
    for name, precision in stated.items():
        own = np.flatnonzero(y_pred == list(classes).index(name))
        correct, scores = y_true[own] == y_pred[own], probability[own]
        threshold, is_met = _choose_threshold(precision, correct, scores, groups[own])
        answered = scores >= threshold
        n, hits = int(answered.sum()), int(correct[answered].sum())
        trials = len(np.unique(groups[own][answered]))
        low, high = wilson_interval(np.array(hits / n if n else 0.0), np.array(trials))
        thresholds[name] = ClassThreshold(
            *(precision, threshold, is_met, len(own), n, hits, float(low), float(high)),
            groups=len(np.unique(groups[own])),
        )
    return thresholds


def pictures_needed(precision: float) -> int:
    """Return how many independent pictures must be answered, so that one mistake still leaves this precision.

    >>> pictures_needed(0.95), pictures_needed(0.5)
    (20, 2)
    """
    return math.ceil(round(1 / (1 - precision), 9))


def _choose_threshold(precision: float, correct: Bools, scores: Floats, groups: Array) -> tuple[float, bool]:
    """Return the threshold, and whether it reaches the precision; all arrays (n,), of pictures of one prediction."""
    if not len(scores):
        return precision, False
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[:-1] > ranked[1:], True))  # equal scores are answered together
    counts, needed = ends + 1, pictures_needed(precision)
    is_new = np.zeros(len(scores), bool)
    is_new[np.unique(groups[order], return_index=True)[1]] = True
    independent = np.cumsum(is_new)[ends]
    precisions = np.cumsum(correct[order])[ends] / counts
    reached = np.flatnonzero((independent >= needed) & (precisions >= precision - 1e-9))
    if len(reached):
        return _threshold_below(ranked, int(ends[reached[-1]])), True
    usable = independent >= min(needed, independent[-1])
    best = np.flatnonzero(usable & (precisions >= precisions[usable].max() - 1e-9))[-1]
    return max(_threshold_below(ranked, int(ends[best])), precision), False


def _threshold_below(ranked: Floats, last: int) -> float:
    """Return the threshold that answers the first pictures up to `last`: half way to the next one, or 0 for all."""
    return float(ranked[last : last + 2].mean()) if last + 1 < len(ranked) else 0.0


# ---- Use -----------------------------------------------------------------------------------------------------------


def as_bundle_values(thresholds: Mapping[str, ClassThreshold]) -> dict[str, dict[str, Any]]:
    """Return the thresholds as they stand in `bundle.json`."""
    return {name: asdict(threshold) for name, threshold in thresholds.items()}


def check_bundle_values(values: Mapping[str, Mapping[str, Any]], classes: Collection[str]) -> None:
    """Raise ValueError unless each is the threshold of a class, from 0 to 1: the file may have been edited by hand."""
    if not isinstance(values, Mapping):
        raise ValueError(f"class_thresholds is {values!r}; expected thresholds by class")
    for name, value in values.items():
        threshold = value.get("threshold") if isinstance(value, Mapping) else None
        if name not in classes or not is_fraction(threshold):
            raise ValueError(f'class_thresholds has "{name}": {value!r}; expected a class with a "threshold" in 0 to 1')
        _check_entry(name, value)


def is_fraction(value: object) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _check_entry(name: str, value: Mapping[str, Any]) -> None:
    """Raise ValueError unless a value has the fields of a `ClassThreshold`, each of its kind."""
    try:
        entry = ClassThreshold(**value)
    except TypeError:
        expected = ", ".join(field.name for field in fields(ClassThreshold))
        raise ValueError(f'class_thresholds has "{name}" with {", ".join(value)}; expected {expected}') from None
    counts = (entry.predicted, entry.answered, entry.correct)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts):
        raise ValueError(f'class_thresholds has "{name}" with counts {counts}; expected whole numbers from 0')
    if not isinstance(entry.is_met, bool):
        raise ValueError(f'class_thresholds has "{name}" with is_met {entry.is_met!r}; expected true or false')
    if not 0 < float(entry.precision if is_fraction(entry.precision) else 0) < 1:
        raise ValueError(f'class_thresholds has "{name}" with precision {entry.precision!r}; expected 0 to 1')
    if not (is_fraction(entry.low) and is_fraction(entry.high)):
        raise ValueError(f'class_thresholds has "{name}" from {entry.low!r} to {entry.high!r}; expected 0 to 1')


def least_probabilities(values: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> list[float]:
    """Return the least probability with which each class is answered, 0 for a class without a threshold.

    >>> least_probabilities({"wolf": {"threshold": 0.9}}, ["dog", "wolf"])
    [0.0, 0.9]
    """
    return [float(values[name]["threshold"]) if name in values else 0.0 for name in classes]


def explain_unknown(*, is_unfamiliar: bool, probability: float, least: float) -> str:
    """Return why a picture is unknown: "unfamiliar" or "below threshold"; empty if it is answered."""
    if is_unfamiliar:
        return UNFAMILIAR
    return BELOW_THRESHOLD if probability < least else ""


def warn_unmet(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each class whose stated precision validation does not show; of many, the first."""
    warnings = [*_iter_unmet(values)]
    more = len(warnings) - MAX_WARNINGS
    if more <= 1:
        return warnings
    return [*warnings[:MAX_WARNINGS], f"{more:,} more classes do not meet their stated precision: see the report."]


def _describe_lack(name: str, entry: ClassThreshold, needed: int) -> str:
    """Return why validation does not show the precision of a class, as a clause."""
    independent = entry.groups or entry.predicted
    is_grouped = independent < entry.predicted
    if independent >= needed:
        noun = "groups of validation pictures" if is_grouped else "validation pictures"
        return f"no threshold that leaves {needed:,} {noun} reaches it"
    groups = f" of {independent:,} group{'s' * (independent != 1)}" if is_grouped else ""
    pictures = f"pictures{groups} are" if entry.predicted != 1 else "picture is"
    return (
        f"{entry.predicted:,} validation {pictures} predicted as {name}, and {needed:,}"
        f"{' groups' if is_grouped else ''} are needed to measure it"
    )


def _iter_unmet(values: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, value in values.items():
        entry = ClassThreshold(**value)
        if entry.is_met:
            continue
        stated, needed = format_percent(entry.precision), pictures_needed(entry.precision)
        cause = _describe_lack(name, entry, needed)
        reached = "no validation picture is"
        if entry.answered:
            interval = f"95 % interval {format_percent(entry.low)} to {format_percent(entry.high)}"
            reached = f"{entry.correct:,} of {entry.answered:,} validation pictures are correct ({interval})"
        yield (
            f'The stated precision of "{name}", {stated}, is not met: {cause}. It is answered from a probability of'
            f" {entry.threshold:.3f} on, where {reached}."
        )
