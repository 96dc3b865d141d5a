"""The record beside a file of predictions, by which `predict --resume` knows that it goes on with the same inputs.

`NAME.resume` has one JSON object a line: first the conditions (model, threshold, level of prediction sets …), then each
picture as it was when it was read, by size and time of modification, or as it was listed. Predictions of different
models, or of a picture that was changed since, would otherwise lie in one file and look alike. By the record alone it
is also known that a file which cannot be appended to is complete.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from bestiary.box import PictureFile, StoredPicture, name_of, path_of
from bestiary.class_thresholds import least_probabilities
from bestiary.errors import UserError
from bestiary.files import write_text
from bestiary.inference.bundle import Bundle
from bestiary.inference.conformal import conformal_threshold
from bestiary.text import format_count, format_names, printable
from bestiary.version import __version__

SUFFIX = ".resume"
THRESHOLDS = "thresholds of classes"  # a condition, of a model that has some
MAX_CHANGED = 3  # pictures named in a message
DIGEST_CHARS = 12  # of a model's digest in a message
# Size in bytes and time of modification in ns, or `StoredPicture.state`; None for a file that cannot be found.
PictureState = list[int | str] | None


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

    def __init__(self, output: Path, conditions: Mapping[str, Any], name: str = "") -> None:
        """Name the record; nothing is read or written yet.

        conditions: JSON values by name. name: of the output for the user, if it is not its path.
        """
        self._output, self._conditions = name or str(output), dict(conditions)
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
        states = {path: state for path, state in self.iter_states() if written is None or written[printable(path)]}
        check_unchanged(self._output, ((path, state, read_file_state(path)) for path, state in states.items()))

    def check_stored(self, pictures: Iterable[PictureFile], written: Counter[str]) -> None:
        """Raise UserError, naming them, if stored pictures were replaced since they were predicted.

        pictures: as they are listed now; written: as for `check_pictures`.
        """
        states = dict(self.iter_states())
        stored = (file for file in pictures if isinstance(file, StoredPicture) and written[printable(file.name)])
        check_unchanged(self._output, ((f.name, states[f.name], f.state) for f in stored if f.name in states))

    def count_complete(self, pictures: Iterable[PictureFile]) -> int:
        """Return how many pictures there are, if the record has a prediction of each.

        Raises UserError, naming them, for pictures without one or that were changed since, and as `check_conditions`.
        """
        self.check_conditions()
        count, lacking, states = 0, list[str](), dict[str, list[PictureState]]()
        for path, state in self.iter_states():
            states.setdefault(path, []).append(state)

        def iter_compared() -> Iterator[tuple[str, PictureState, PictureState]]:
            nonlocal count
            for count, picture in enumerate(pictures, start=1):  # noqa: B007 - the last one is the count
                if recorded := states.get(name := name_of(picture)):
                    yield name, recorded.pop(), read_picture_state(picture)
                else:
                    lacking.append(name)

        check_unchanged(self._output, iter_compared())
        if lacking:
            raise UserError(
                f"{self._output} is complete without {format_count(len(lacking), 'picture')} of this command"
                f" ({format_names(list(map(printable, lacking)), MAX_CHANGED)}), and cannot be appended to. Predict"
                " into a new file."
            )
        return count

    def start(self) -> None:
        """Write a new record, without pictures, in place of an old one; raises MachineError."""
        write_text(self.path, json.dumps({"conditions": self._conditions}, ensure_ascii=False) + "\n")

    def open(self) -> TextIO:
        """Return the record, open for `write_picture_state`; an incomplete last line of a killed process is ended."""
        with self.path.open("rb+") as file:
            if file.seek(0, 2) and (file.seek(-1, 2), file.read())[1] != b"\n":
                file.write(b"\n")
        return self.path.open("a", encoding="utf-8")

    def iter_states(self) -> Iterator[tuple[str, PictureState]]:
        """Yield the path and the state of each picture that is recorded, in the order of the predictions."""
        for line in self._iter_lines():
            if line.keys() >= {"path", "state"}:
                yield line["path"], line["state"]

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


def write_picture_state(record: TextIO, path: str, state: PictureState) -> None:
    """Write one picture into an open record, before its prediction is written; JSON escapes what is not UTF-8."""
    record.write(json.dumps({"path": path, "state": state}) + "\n")
    record.flush()


def check_unchanged(output: Path | str, states: Iterable[tuple[str, PictureState, PictureState]]) -> None:
    """Raise UserError, naming them, if pictures were changed since they were read.

    states: paths, states when they were read, and now. One that is no longer there is not asked for again.
    """
    if changed := [printable(path) for path, before, now in states if now is not None and now != before]:
        many = len(changed) > 1
        raise UserError(
            f"{output} has predictions of pictures that were changed since: {len(changed):,}"
            f" {'pictures have' if many else 'picture has'} another size, ETag or time of modification now"
            f" ({format_names(changed, MAX_CHANGED)}). Predict into a new file, or restore"
            f" {'the pictures' if many else 'the picture'}."
        )


def read_picture_state(picture: PictureFile) -> PictureState:
    """Return the state of a picture now; of a stored one as it was listed."""
    return picture.state if isinstance(picture, StoredPicture) else read_file_state(path_of(picture))


def read_file_state(path: Path | str) -> PictureState:
    """Return the size in bytes and the time of modification in ns of a file, None if it cannot be found."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


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
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else str(value)
