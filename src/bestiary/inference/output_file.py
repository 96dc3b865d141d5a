"""Predictions in a file: each is written as soon as it is predicted, and an interrupted command can be resumed."""

from __future__ import annotations

import csv
import glob
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO, TypeVar

from bestiary.box import PictureFile, name_of
from bestiary.errors import MachineError, UserError, import_optional
from bestiary.files import atomic_path
from bestiary.inference import writers, written_predictions
from bestiary.inference.predictor import Prediction
from bestiary.inference.resume_record import (
    PictureState,
    ResumeRecord,
    read_file_state,
    read_picture_state,
    write_picture_state,
)
from bestiary.text import printable

File = TypeVar("File", bound=PictureFile)

FORMATS_BY_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "table"}
ROWS_AT_ONCE = 10_000  # of a parquet file that is read back


def format_from_suffix(path: Path) -> str:
    """Return the format for the suffix of a file; raises UserError for an unknown suffix."""
    if (suffix := path.suffix.lower()) in FORMATS_BY_SUFFIX:
        return FORMATS_BY_SUFFIX[suffix]
    raise UserError(
        f"{path} has the suffix {suffix!r}; expected one of {', '.join(FORMATS_BY_SUFFIX)}, or give --format."
    )


def list_facts(output_format: str, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file of predictions depends on, beside its pictures: the conditions of its record."""
    return {**conditions, "format": output_format}


class PredictionFile:
    """A file of predictions, new or resumed.

    JSON lines and CSV are appended to. Parquet has no append: its rows are collected beside it in `NAME.part.jsonl`,
    and converted at the end. `NAME.resume` beside it records what the predictions depend on.
    """

    def __init__(
        self,
        path: Path,
        output_format: str,
        classes: Sequence[str],
        *,
        resume: bool,
        sets: bool = False,
        boxes: bool = False,
        reasons: bool = False,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        """Read which pictures are done. Raises UserError if the file exists, unless `resume`.

        conditions: of `resume_record.prediction_conditions`; then it also raises if the predictions in the file are of
        another model, were made with other options, or of a picture that was changed since. None: nothing is recorded.
        """
        if output_format == "table":
            raise UserError("The format table is for the terminal; with --out use --format jsonl, csv or parquet.")
        self._path, self._output_format, self._classes = path, output_format, tuple(classes)
        self._live = path.with_name(f"{path.name}.part.jsonl") if output_format == "parquet" else path
        self._polars: Any = import_optional("polars", extra="train") if output_format == "parquet" else None
        self._extra = {"sets": sets, "reasons": reasons, "boxes": boxes}
        self._columns = writers.prediction_columns(classes, **self._extra)
        for file in () if resume else (self._path, self._live):
            if file.exists():
                raise UserError(f"{file} exists already. Add --resume to append to it, or choose another name.")
        facts = None if conditions is None else list_facts(output_format, conditions)
        self._record = None if facts is None else ResumeRecord(path, facts)
        self._states: dict[str, PictureState] = {}  # of the pictures that are being predicted
        has_rows = any(file.exists() and file.stat().st_size for file in (self._path, self._live))
        if self._record is not None and self._record.path.exists() and has_rows:
            self._record.check_conditions()
        self._written = Counter(self._iter_written_paths())
        if self._record is not None and self._written:
            self._record.check_conditions()  # raises if it is missing, after the content was checked
            self._record.check_pictures(self._written)

    def pending(self, sources: Iterable[File]) -> Iterator[File]:
        """Yield the sources without a prediction in the file; a source that is listed twice has two.

        The state of each is recorded as it is when it is yielded: pass them on one by one, and predict at once.
        """
        for source in sources:
            name = name_of(source)
            if self._written[key := printable(name)]:
                self._written[key] -= 1
            else:
                self._states[name] = read_picture_state(source) if self._record is not None else None
                yield source

    def check_stored(self, sources: Iterable[PictureFile]) -> None:
        """Raise UserError, naming them, if stored pictures with a prediction in the file were replaced since.

        Their state is that of the list, so that nothing is asked for each; `PredictionFile` itself asks for files.
        """
        if self._record is not None and self._written:
            self._record.check_stored(sources, self._written)

    def note_state(self, path: str, state: PictureState) -> None:
        """Take how a picture was when it was read, just before its prediction is passed to `write`."""
        self._states[path] = state

    def count_pending(self, sources: Iterable[PictureFile]) -> int:
        """Return how many of the sources have no prediction in the file; before `pending` is called."""
        return (Counter(printable(name_of(source)) for source in sources) - self._written).total()

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Write each prediction; those written stay in the file if the process is killed."""
        try:
            self._live.parent.mkdir(parents=True, exist_ok=True)
            is_new = not (self._live.exists() and self._live.stat().st_size > 0)
            with ExitStack() as files:
                if self._record is not None:
                    if not self._written:
                        self._record.start()
                    predictions = self._record_states(predictions, files.enter_context(self._record.open()))
                out = files.enter_context(self._live.open("a", encoding="utf-8", errors="backslashreplace", newline=""))
                self._append(predictions, out, header=is_new)
        except OSError as error:
            raise MachineError(f"Cannot write {self._live}: {error.strerror or error}.") from error
        if self._output_format == "parquet":
            self._finish()

    def iter_predictions(self) -> Iterator[Prediction]:
        """Yield the predictions that are in the file, without their prediction sets; before `write` is called."""
        if self._output_format == "parquet" and self._path.exists():
            frame = self._polars.read_parquet(self._path, glob=False)
            for rows in frame.iter_slices(ROWS_AT_ONCE):
                yield from written_predictions.iter_rows(rows.iter_rows(named=True), self._classes)
        if self._live.exists() and self._live.stat().st_size:
            is_csv = self._output_format == "csv"
            read = written_predictions.iter_csv if is_csv else written_predictions.iter_jsonl
            yield from read(self._live, self._classes)

    def _record_states(self, predictions: Iterable[Prediction], record: TextIO) -> Iterator[Prediction]:
        """Yield the predictions, after recording how each picture was when it was read."""
        for prediction in predictions:
            if prediction.path is not None:
                path = prediction.path
                state = self._states.pop(path) if path in self._states else read_file_state(path)
                write_picture_state(record, path, state)
            yield prediction

    def _append(self, predictions: Iterable[Prediction], out: TextIO, *, header: bool) -> None:
        if self._output_format == "jsonl":
            writers.write_jsonl(predictions, out, boxes=self._extra["boxes"])
        elif self._output_format == "csv":
            writers.write_csv(predictions, out, self._classes, header=header, **self._extra)
        else:
            for prediction in predictions:
                row = writers.prediction_row(prediction, self._classes, **self._extra)
                line = dict(zip(self._columns, row, strict=True)) | {"path": printable(str(prediction.path))}
                out.write(json.dumps(line) + "\n")
                out.flush()

    def _finish(self) -> None:
        """Convert the collected rows to parquet, in constant memory, and remove them."""
        pl, schema = self._polars, writers.polars_schema(self._classes, **self._extra)
        has_rows = self._live.stat().st_size > 0
        live = glob.escape(str(self._live))  # or polars takes brackets in a name for a pattern
        new = pl.scan_ndjson(live, schema=schema) if has_rows else pl.LazyFrame(schema=schema)
        with atomic_path(self._path) as temporary:
            old = [pl.scan_parquet(self._path, glob=False)] if self._path.exists() else []
            pl.concat([*old, new]).sink_parquet(temporary, maintain_order=True)
        self._live.unlink()

    def _iter_written_paths(self) -> Iterator[str]:
        """Yield the paths that have a prediction; an incomplete last row of a killed process is removed."""
        if self._output_format == "parquet" and self._path.exists():
            table = self._polars.read_parquet(self._path, glob=False)
            self._check_columns(table.columns)
            finished = table["path"].to_list()
            yield from finished
            if self._live.exists() and (collected := list(self._iter_jsonl_paths())) == finished[-len(collected) :]:
                self._live.unlink()  # killed between the conversion of these rows and their removal
        if self._live.exists():
            yield from self._iter_csv_paths() if self._output_format == "csv" else self._iter_jsonl_paths()

    def _iter_jsonl_paths(self) -> Iterator[str]:
        n_bytes = 0
        with self._live.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                values = self._parse_line(line)
                if probabilities := values.get("probabilities"):
                    extra = {"sets": "labels" in values, "reasons": "reason" in values, "boxes": "box_left" in values}
                    self._check_columns(writers.prediction_columns(list(probabilities), **extra))
                elif self._output_format == "parquet":
                    self._check_columns(list(values))
                n_bytes += len(line)
                yield printable(str(values.get("path")))
        self._truncate(n_bytes)

    def _iter_csv_paths(self) -> Iterator[str]:
        """Yield the paths of complete rows: a row ends with the first line that closes all quotes."""
        n_bytes, row, is_header = 0, b"", True
        with self._live.open("rb") as lines:
            for line in lines:
                row += line
                if not line.endswith(b"\n") or row.count(b'"') % 2:
                    continue
                [values] = csv.reader([row.decode("utf-8", "replace")], strict=False)
                if is_header:
                    self._check_columns(values)
                else:
                    yield writers.parse_csv_path(values[0])
                n_bytes, row, is_header = n_bytes + len(row), b"", False
        self._truncate(n_bytes)

    def _parse_line(self, line: bytes) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{self._live} has a line that is no prediction: {line[:60]!r}. Choose another name.")
        return values

    def _check_columns(self, names: list[str]) -> None:
        if names != self._columns:
            raise UserError(
                f"{self._path} has predictions of another model: its columns are {', '.join(names)}; expected"
                f" {', '.join(self._columns)}. Choose another name."
            )

    def _truncate(self, n_bytes: int) -> None:
        if n_bytes < self._live.stat().st_size:
            with self._live.open("r+b") as file:
                file.truncate(n_bytes)
