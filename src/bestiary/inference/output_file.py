"""Answers in a file: each is written as soon as it is known, and a run that was killed goes on where it stopped."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from bestiary.errors import MachineError, UserError, import_optional
from bestiary.files import atomic_path
from bestiary.inference import writers
from bestiary.inference.predictor import Prediction
from bestiary.text import printable

FORMATS_BY_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "table"}


def format_from_suffix(path: Path) -> str:
    """Return the format that the name of the file asks for; raises UserError if it asks for none."""
    if (suffix := path.suffix.lower()) in FORMATS_BY_SUFFIX:
        return FORMATS_BY_SUFFIX[suffix]
    raise UserError(
        f"{path} has the ending {suffix!r}; expected one of {', '.join(FORMATS_BY_SUFFIX)}, or give --format."
    )


class PredictionFile:
    """A file of answers, new, or gone on with.

    JSON lines and CSV are written as they are. Parquet cannot be added to: its rows wait beside it in
    `NAME.part.jsonl`, and become the table at the end.
    """

    def __init__(
        self, path: Path, output_format: str, classes: Sequence[str], *, resume: bool, sets: bool = False
    ) -> None:
        """Find what is written already. Raises UserError if the file is there and not to be gone on with."""
        if output_format == "table":
            raise UserError("A table to read goes to the screen; --out takes --format jsonl, csv or parquet.")
        self._path, self._output_format, self._classes, self._sets = path, output_format, tuple(classes), sets
        self._live = path.with_name(f"{path.name}.part.jsonl") if output_format == "parquet" else path
        self._polars: Any = import_optional("polars", extra="train") if output_format == "parquet" else None
        if not resume:
            self._require_new_file()
        self._written = Counter(self._iter_written_paths())

    def pending(self, sources: Iterable[Path]) -> Iterator[Path]:
        """Yield the sources that have no answer in the file yet; one that is listed twice has two."""
        for source in sources:
            if self._written[key := printable(str(source))]:
                self._written[key] -= 1
            else:
                yield source

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Write an answer for each prediction; what is written stays written if the process dies."""
        try:
            self._live.parent.mkdir(parents=True, exist_ok=True)
            begun = self._live.exists() and self._live.stat().st_size > 0
            with self._live.open("a", encoding="utf-8", errors="backslashreplace", newline="") as out:
                self._append(predictions, out, is_continued=begun)
        except OSError as error:
            raise MachineError(f"Cannot write {self._live}: {error.strerror or error}.") from error
        if self._output_format == "parquet":
            self._finish()

    def _append(self, predictions: Iterable[Prediction], out: TextIO, *, is_continued: bool) -> None:
        if self._output_format == "jsonl":
            writers.write_jsonl(predictions, out)
        elif self._output_format == "csv":
            writers.write_csv(predictions, out, self._classes, header=not is_continued, sets=self._sets)
        else:
            names = writers.prediction_columns(self._classes, sets=self._sets)
            for one in predictions:
                line = dict(zip(names, writers.prediction_row(one, self._classes, sets=self._sets), strict=True))
                out.write(json.dumps(line | {"path": printable(str(one.path))}) + "\n")
                out.flush()

    def _finish(self) -> None:
        """Turn the waiting rows into the table, a part at a time, and take them away."""
        pl, kinds = self._polars, writers.polars_schema(self._classes, sets=self._sets)
        new = pl.scan_ndjson(self._live, schema=kinds)
        with atomic_path(self._path) as temporary:
            old = [pl.scan_parquet(self._path)] if self._path.exists() else []
            if self._live.stat().st_size:
                pl.concat([*old, new]).sink_parquet(temporary)
            else:
                pl.concat([*old, pl.LazyFrame(schema=kinds)]).sink_parquet(temporary)
        self._live.unlink()

    def _require_new_file(self) -> None:
        for path in (self._path, self._live):
            if path.exists():
                raise UserError(f"{path} exists already. Add --resume to go on with it, or choose another name.")

    def _iter_written_paths(self) -> Iterator[str]:
        """Yield the paths that have an answer; what a killed process left of a last row is cut off."""
        if self._output_format == "parquet" and self._path.exists():
            table = self._polars.read_parquet(self._path)
            self._check_columns(table.columns)
            finished = table["path"].to_list()
            yield from finished
            if self._live.exists() and (waiting := list(self._iter_jsonl_paths())) == finished[-len(waiting) :]:
                self._live.unlink()  # killed between making the table of these rows and taking them away
        if self._live.exists():
            yield from self._iter_csv_paths() if self._output_format == "csv" else self._iter_jsonl_paths()

    def _iter_jsonl_paths(self) -> Iterator[str]:
        whole = 0
        with self._live.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                values = self._parse_line(line)
                if shares := values.get("probabilities"):
                    self._check_columns(writers.prediction_columns(list(shares), sets="labels" in values))
                elif self._output_format == "parquet":
                    self._check_columns(list(values))
                whole += len(line)
                yield printable(str(values.get("path")))
        self._truncate(whole)

    def _iter_csv_paths(self) -> Iterator[str]:
        """A row ends with the first line at whose end every quotation is closed: names may hold line ends."""
        whole, row, first = 0, b"", True
        with self._live.open("rb") as lines:
            for line in lines:
                row += line
                if not line.endswith(b"\n") or row.count(b'"') % 2:
                    continue
                [values] = csv.reader([row.decode("utf-8", "replace")], strict=False)
                if first:
                    self._check_columns(values)
                else:
                    yield writers.parse_csv_path(values[0])
                whole, row, first = whole + len(row), b"", False
        self._truncate(whole)

    def _parse_line(self, line: bytes) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{self._live} has a line that is no answer: {line[:60]!r}. Choose another name.")
        return values

    def _check_columns(self, names: list[str]) -> None:
        expected = writers.prediction_columns(self._classes, sets=self._sets)
        if names != expected:
            raise UserError(
                f"{self._path} holds answers of another model: its columns are {', '.join(names)}; this one's are"
                f" {', '.join(expected)}. Choose another name."
            )

    def _truncate(self, whole: int) -> None:
        if whole < self._live.stat().st_size:
            with self._live.open("r+b") as file:
                file.truncate(whole)
