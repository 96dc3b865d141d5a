"""The record beside a file of predictions, by which `predict --resume` knows that it goes on with the same inputs.

`NAME.resume` has one JSON object a line: first the conditions (model, threshold, level of prediction sets …), then each
picture as it was when it was read, by size and time of modification. Predictions of different models, or of a picture
that was changed since, would otherwise lie in one file and look alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from bestiary.class_thresholds import least_probabilities
from bestiary.errors import UserError
from bestiary.files import write_text
from bestiary.inference.bundle import Bundle
from bestiary.inference.conformal import conformal_threshold
from bestiary.text import format_names, printable
from bestiary.version import __version__

SUFFIX = ".resume"
THRESHOLDS = "thresholds of classes"  # a condition, of a model that has some
MAX_CHANGED = 3  # pictures named in a message
DIGEST_CHARS = 12  # of a model's digest in a message
PictureState = list[int] | None  # size in bytes, time of modification in ns; None for a file that cannot be found


def prediction_conditions(
    bundle: Bundle, level: float | None, unknown_label: str | None = None, boxes: str | None = None
) -> dict[str, Any]:
    """Return what a prediction depends on beside its picture.

    level: of the prediction sets, None without them; unknown_label: of unknown pictures, None for their nearest class.
    boxes: digest of them, None for whole pictures.
    """
    conditions: dict[str, Any] = {
        "model": bundle.graph_sha256,
        "classes": list(bundle.classes),
        "input size": bundle.size,
        "fit": bundle.fit,
        "max_pixels": bundle.max_pixels,
        "max_bytes": bundle.max_bytes,
        "threshold of unknown": bundle.threshold,
        "level of prediction sets": level,
        "bound of prediction sets": None if level is None else conformal_threshold(bundle.sets, level),
        "version of bestiary": __version__,
    }
    if bundle.costs:
        conditions["costs"] = json.dumps(bundle.costs)
    if bundle.class_thresholds:
        least = least_probabilities(bundle.class_thresholds, bundle.classes)
        conditions[THRESHOLDS] = json.dumps(least)
    if unknown_label is not None:
        conditions["label of unknown pictures"] = unknown_label
    if boxes is not None:
        conditions["boxes of the pictures"] = boxes
    return conditions


class ResumeRecord:
    """The record of one file of predictions."""

    def __init__(self, output: Path, conditions: Mapping[str, Any]) -> None:
        """Name the record; nothing is read or written yet. conditions: JSON values by name."""
        self._output, self._conditions = output, dict(conditions)
        self.path = output.with_name(output.name + SUFFIX)

    def check_conditions(self) -> None:
        """Raise UserError, naming each condition that differs, or if the record is missing or damaged."""
        before = next(self._iter_lines(), {}).get("conditions")
        if not isinstance(before, dict):
            raise UserError(
                f"{self._output} has predictions, but {self.path.name} beside it, which records their model and"
                " pictures, is missing or damaged: they are from an older version of bestiary, or the file was moved"
                " or renamed without it. Predict into a new file."
            )
        if differences := list(iter_differences(before, self._conditions)):
            raise UserError(
                f"{self._output} has predictions of another model or with other options: {'; '.join(differences)}."
                " Resume with the same model and options, or predict into a new file."
            )

    def check_pictures(self, written: Counter[str] | None = None) -> None:
        """Raise UserError, naming them, if pictures were changed since they were predicted.

        written: how many predictions each path has, by `text.printable`; None: each that is recorded has one.
        """
        lines = (line for line in self._iter_lines() if line.keys() >= {"path", "state"})
        states = {line["path"]: line["state"] for line in lines if written is None or written[printable(line["path"])]}
        check_unchanged(self._output, states.items())

    def start(self) -> None:
        """Write a new record, without pictures, in place of an old one; raises MachineError."""
        write_text(self.path, json.dumps({"conditions": self._conditions}, ensure_ascii=False) + "\n")

    def open(self) -> TextIO:
        """Return the record, open for `write_state`; an incomplete last line of a killed process is ended."""
        with self.path.open("rb+") as file:
            if file.seek(0, 2) and (file.seek(-1, 2), file.read())[1] != b"\n":
                file.write(b"\n")
        return self.path.open("a", encoding="utf-8")

    def _iter_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the record; an incomplete one is passed over: its prediction was not written."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    values = json.loads(line)
                except ValueError:
                    continue
                if isinstance(values, dict):
                    yield values


def write_state(record: TextIO, path: str, state: PictureState) -> None:
    """Write one picture into an open record, before its prediction is written; JSON escapes what is not UTF-8."""
    record.write(json.dumps({"path": path, "state": state}) + "\n")
    record.flush()


def check_unchanged(output: Path, states: Iterable[tuple[str, PictureState]]) -> None:
    """Raise UserError, naming them, if pictures were changed since they were read. states: by their paths."""
    if changed := [printable(path) for path, state in states if _is_changed(path, state)]:
        many = len(changed) > 1
        raise UserError(
            f"{output} has predictions of pictures that were changed since: {len(changed):,}"
            f" {'pictures have' if many else 'picture has'} another size or time of modification now"
            f" ({format_names(changed, MAX_CHANGED)}). Predict into a new file, or restore"
            f" {'the pictures' if many else 'the picture'}."
        )


def read_state(path: Path | str) -> PictureState:
    """Return the size in bytes and the time of modification in ns of a file, None if it cannot be found."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _is_changed(path: str, state: PictureState) -> bool:
    """Return whether a picture is not as recorded; one that is no longer there is not asked for again."""
    now = read_state(path)
    return now is not None and now != state


def iter_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a phrase for each condition that differs."""
    for name in [*now, *(name for name in before if name not in now)]:
        if before.get(name) != now.get(name):
            yield f"{name} {_format_value(before.get(name))} before, {_format_value(now.get(name))} now"


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return format_names([str(item) for item in value], MAX_CHANGED)
    if isinstance(value, str) and len(value) > 2 * DIGEST_CHARS:
        return value[:DIGEST_CHARS]
    return "none" if value is None else str(value)
