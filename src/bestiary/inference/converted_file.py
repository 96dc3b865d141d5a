"""Predictions in a file of another program's format: collected first, written as a whole when all are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bestiary.box import PictureFile
from bestiary.errors import UserError
from bestiary.files import is_occupied
from bestiary.inference.output_file import File, PredictionFile
from bestiary.inference.output_formats.camtrap_dp import require_package, write_camtrap_dp
from bestiary.inference.output_formats.conversion import Conversion, read_predictions
from bestiary.inference.output_formats.hugging_face import check_file_name, write_hugging_face
from bestiary.inference.output_formats.input_table import check_columns, write_table
from bestiary.inference.output_formats.label_studio import write_label_studio
from bestiary.inference.output_formats.megadetector import write_megadetector
from bestiary.inference.output_formats.timelapse import write_timelapse
from bestiary.inference.predictor import Prediction
from bestiary.inference.resume_record import SUFFIX, PictureState, ResumeRecord

COLLECTED_SUFFIX = ".part.jsonl"
WITHOUT_BOXES = ("huggingface", "timelapse")  # formats without boxes
TABLE = "table with its columns"
Write = Callable[[Iterable[Prediction], Path, Conversion], list[str]]
WRITERS: dict[str, Write] = {
    "megadetector": write_megadetector,
    "camtrap-dp": write_camtrap_dp,
    "label-studio": write_label_studio,
    "huggingface": write_hugging_face,
    "timelapse": write_timelapse,
}


def list_facts(output_format: str, conversion: Conversion, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file in another program's format depends on, beside its pictures: the conditions of its record."""
    table = None if conversion.table is None else conversion.table.digest
    return {**conditions, "output": output_format, "table": table, "format": "jsonl"}  # as it is collected


def count_complete(
    path: Path, output_format: str, conversion: Conversion, conditions: Mapping[str, Any], files: Iterable[PictureFile]
) -> int | None:
    """Return the number of the pictures if a file has all of them, None if there is no file yet.

    Raises UserError as `ResumeRecord.count_complete`.
    """
    if not is_occupied(path):
        return None
    collected = path.with_name(path.name + COLLECTED_SUFFIX)
    recorded = collected if collected.with_name(collected.name + SUFFIX).exists() else path
    facts = list_facts(output_format, conversion, conditions)
    count = ResumeRecord(recorded, facts, str(path)).count_complete(files)
    _finish_record(path, collected)  # only now: a file of another origin may lie where a killed run would write its own
    return count


def _finish_record(path: Path, collected: Path) -> None:
    """Move the record of collected predictions beside the file that was written of them, and remove these.

    A process that was killed after it wrote the file has left them.
    """
    record = collected.with_name(collected.name + SUFFIX)
    if record.exists():
        record.replace(path.with_name(path.name + SUFFIX))
    collected.unlink(missing_ok=True)


class ConvertedFile:
    """A file of predictions in another program's format, new or resumed.

    Predictions are collected in `NAME.part.jsonl`, and the file is written from them, in constant memory, when all are
    there: a killed run leaves no file that looks complete. `NAME.resume` then records what its predictions depend on:
    see `count_complete`.
    """

    def __init__(
        self,
        path: Path,
        output_format: str,
        conversion: Conversion,
        conditions: Mapping[str, Any],
        *,
        resume: bool,
        sets: bool = False,
        reasons: bool = False,
        collected: Path | None = None,
    ) -> None:
        """Check what the format needs, and read which pictures are done.

        output_format: of `WRITERS`, or `TABLE`. sets, reasons: whether the predictions have them. collected: where the
        predictions are collected, if not beside the file. Raises UserError if the file exists, and as `PredictionFile`.
        """
        self._path, self._output_format, self._conversion = path, output_format, conversion
        self._extra = {"sets": sets, "reasons": reasons}
        self._collected = collected or path.with_name(path.name + COLLECTED_SUFFIX)
        self._check()
        if is_occupied(path):
            raise UserError(
                f"{path} {'is complete' if resume else 'exists already'}. A file in the format {output_format} cannot"
                " be appended to; choose another name for further pictures."
            )
        facts = list_facts(output_format, conversion, conditions)
        self._rows = PredictionFile(
            self._collected,
            "jsonl",
            conversion.classes,
            resume=resume,
            boxes=conversion.boxes,
            **self._extra,
            conditions=facts,
        )

    def pending(self, sources: Iterable[File]) -> Iterator[File]:
        """Yield the sources without a prediction; as `PredictionFile.pending`."""
        return self._rows.pending(sources)

    def count_pending(self, sources: Iterable[PictureFile]) -> int:
        """Return how many of the sources have no prediction; before `pending` is called."""
        return self._rows.count_pending(sources)

    def iter_predictions(self) -> Iterator[Prediction]:
        """Yield the predictions that were collected before; as `PredictionFile.iter_predictions`."""
        return self._rows.iter_predictions()

    def check_stored(self, sources: Iterable[PictureFile]) -> None:
        """Raise UserError if stored pictures were replaced; as `PredictionFile.check_stored`."""
        self._rows.check_stored(sources)

    def note_state(self, path: str, state: PictureState) -> None:
        """Take how a picture was when it was read; as `PredictionFile.note_state`."""
        self._rows.note_state(path, state)

    def write(self, predictions: Iterable[Prediction]) -> list[str]:
        """Collect the predictions, then write the file; returns notices about it."""
        self._rows.write(predictions)
        collected = read_predictions(self._collected)
        notices: list[str] = []
        if self._conversion.table is not None and self._output_format == TABLE:
            write_table(collected, self._path, self._conversion.table, self._conversion.classes, self._extra)
        else:
            notices = WRITERS[self._output_format](collected, self._path, self._conversion)
        _finish_record(self._path, self._collected)
        return notices

    def _check(self) -> None:
        if self._output_format == TABLE and self._conversion.table is not None:
            check_columns(self._conversion.table, self._conversion.classes, self._extra)
        elif self._extra["sets"]:
            raise UserError(f"The format {self._output_format} has no prediction sets. Leave out --sets.")
        elif self._conversion.boxes and self._output_format in WITHOUT_BOXES:
            raise UserError(
                f"The format {self._output_format} has one row a picture, and the predictions are of boxes. Choose csv,"
                " jsonl, parquet, megadetector, camtrap-dp or label-studio."
            )
        elif self._output_format == "huggingface":
            check_file_name(self._path)
        elif self._output_format == "camtrap-dp":
            require_package(self._conversion)
