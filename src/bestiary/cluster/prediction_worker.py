"""The worker of `predict --cluster`: a process with the model, that turns chunks of the list into rows."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow

from bestiary.box import PictureFile, StoredPicture, path_of
from bestiary.cluster.picture_list import parse_picture
from bestiary.cluster.ray_data import make_rows
from bestiary.cluster.remote_files import prefetch
from bestiary.errors import MachineError, UserError
from bestiary.inference.predictor import EngineName, Predictor
from bestiary.inference.resume_record import read_picture_state
from bestiary.text import printable

PLACEHOLDER = b""  # a picture that cannot be read: it takes its place in a batch as a black one


@dataclass(frozen=True)
class SentModel:
    """What is sent to every worker.

    files: the content of the model's files by name. engine: that the driver chose; max_pixels: of a picture in memory.
    folder: that relative paths start from. count: of all pictures, by which the last batch is known. boxes: whether
    rows have the fields of boxes.
    """

    files: Mapping[str, bytes]
    engine: EngineName
    max_pixels: int
    folder: str
    count: int
    boxes: bool


class PredictionWorker:
    """Holds the model once, and predicts one chunk after another on one thread."""

    def __init__(self, model: SentModel) -> None:
        """Take the model. It is loaded with the first chunk: what a constructor raises, Ray takes for a death."""
        self._model, self._has_folder = model, Path(model.folder).is_dir()
        if self._has_folder:
            os.chdir(model.folder)

    @cached_property
    def _predictor(self) -> Predictor:
        """The model, loaded from a temporary copy of its files; MachineError, with the reason, if that fails here."""
        model = self._model
        try:
            with tempfile.TemporaryDirectory(prefix="bestiary-model-") as folder:
                for name, content in model.files.items():
                    (Path(folder) / name).write_bytes(content)
                return Predictor(folder, threads=1, engine=model.engine, device="cpu", max_pixels=model.max_pixels)
        except (UserError, OSError) as error:
            raise MachineError(f'The node "{platform.node()}" cannot load the model: {error}') from error

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """Return the rows of a chunk."""
        return make_rows(table, self._predict)

    def _predict(self, ids: list[int], lines: list[str]) -> list[dict[str, Any]]:
        pictures = [parse_picture(line) for line in lines]
        self._check_paths(pictures)
        batch_size = self._predictor.batch_size
        slots = list(iter_slots(ids, batch_size, self._model.count))
        states = [read_picture_state(picture) for picture in pictures]
        sources: Iterable[PictureFile | bytes] = [PLACEHOLDER if row is None else pictures[row] for row in slots]
        if any(isinstance(picture, StoredPicture) for picture in pictures):
            sources = prefetch(sources, self._predictor.bundle.max_bytes)
        predictions = self._predictor.predict_many(sources, batch_size=batch_size)
        answers = [prediction for row, prediction in zip(slots, predictions, strict=True) if row is not None]
        return [
            {"state": state, "prediction": prediction.line(boxes=self._model.boxes)}
            for state, prediction in zip(states, answers, strict=True)
        ]

    def _check_paths(self, pictures: Sequence[PictureFile]) -> None:
        """Raise MachineError for a relative path if this node has no folder that it starts from."""
        files = () if self._has_folder else (path_of(file) for file in pictures if not isinstance(file, StoredPicture))
        if (relative := next((path for path in files if not path.is_absolute()), None)) is not None:
            raise MachineError(
                f'The node "{platform.node()}" has no folder {self._model.folder}, from which the path'
                f" {printable(str(relative))} starts. Run the command in a folder that all nodes see, or write absolute"
                " paths."
            )


def iter_slots(ids: Sequence[int], batch_size: int, count: int) -> Iterator[int | None]:
    """Yield the index of the id in each slot of the batches that one process makes of `count` pictures, None for none.

    Only batches with one of the ids are made. ONNX Runtime's last digits depend on the slot of a picture in its batch.

    >>> list(iter_slots([5, 8], 4, 10))
    [None, 0, None, None, 1, None]
    """
    rows = {number: row for row, number in enumerate(ids)}
    for batch in sorted({number // batch_size for number in ids}):
        yield from (rows.get(n) for n in range(batch * batch_size, min((batch + 1) * batch_size, count)))
