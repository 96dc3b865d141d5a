"""Which classes were learnt by heart: how well each is known in training pictures, and in pictures held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bestiary.evaluation.intervals import wilson

NAMED = 3  # classes in the sentence

Logits = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]


def class_gaps(
    train_logits: Logits, train_labels: Labels, val_logits: Logits, val_labels: Labels, classes: Sequence[str]
) -> dict[str, Any]:
    """Return recall and loss in training and validation, of all and of each class, and a sentence about them.

    Logits (n, classes), of training pictures as they are, without augmentation. A class `overfits` when the 95 %
    interval of its recall in validation lies below that in training.
    """
    train, val = _known(train_logits, train_labels), _known(val_logits, val_labels)
    entries = {name: _entry(*(part.of(label) for part in (train, val))) for label, name in enumerate(classes)}
    overall = _entry(train.of(None), val.of(None))
    return {"all": overall, "classes": entries, "sentence": _sentence(entries, overall)}


class _Known:
    """Which pictures are recognised, and the loss of each."""

    def __init__(self, right: npt.NDArray[np.bool_], losses: npt.NDArray[np.float64], labels: Labels) -> None:
        self._right, self._losses, self._labels = right, losses, labels

    def of(self, label: int | None) -> tuple[int, float, float]:
        """Return of one class, or of all, how many pictures there are, how many are right, and the mean loss."""
        rows = np.ones(len(self._labels), bool) if label is None else self._labels == label
        count = int(rows.sum())
        return count, float(self._right[rows].sum()), float(self._losses[rows].mean()) if count else float("nan")


def _known(logits: Logits, labels: Labels) -> _Known:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return _Known(logits.argmax(axis=1) == labels, losses, labels)


def _entry(train: tuple[int, float, float], val: tuple[int, float, float]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    ends = []
    for name, (count, right, loss) in (("train", train), ("val", val)):
        rate = right / count if count else 0.0
        low, high = wilson(np.array(rate), np.array(count))
        ends.append((float(low), float(high)))
        entry[f"{name}_pictures"] = count
        entry[f"{name}_recall"] = round(rate, 4) if count else None
        entry[f"{name}_loss"] = round(loss, 4) if count else None
    return {**entry, "overfits": bool(train[0] and val[0] and ends[1][1] < ends[0][0])}


def _sentence(entries: dict[str, dict[str, Any]], overall: dict[str, Any]) -> str:
    worst = sorted(
        (name for name, entry in entries.items() if entry["overfits"]),
        key=lambda name: entries[name]["val_recall"] - entries[name]["train_recall"],
    )
    start = (
        f"Of the training pictures {100 * overall['train_recall']:.1f} % are recognised, of the validation pictures"
        f" {100 * overall['val_recall']:.1f} %"
    )
    if not worst:
        return f"{start}; no class is clearly learnt by heart."
    named = ", ".join(
        f"{name} ({100 * entries[name]['train_recall']:.0f} % and {100 * entries[name]['val_recall']:.0f} %)"
        for name in worst[:NAMED]
    )
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    return f"{start}; learnt by heart most: {named}{more}."
