"""The predictor: from files, bytes or arrays to labels, without torch. Scores and users' answers come from here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bestiary.array_types import Float32s, Pixels
from bestiary.batches.decoding import DecodedImage, decode_ahead, iter_batches
from bestiary.errors import InputError, PictureError, RunError, import_optional
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.machine import available_cores
from bestiary.models.engine import Engine, OnnxRuntimeEngine, OpenVINOEngine, Outputs, fastest_engine, run_batch
from bestiary.preprocess import KINDS, Source

FAST_ENGINE_MIN_PICTURES = 300  # pictures from which the faster engine makes up for its slower start
UNREAD_AT_ONCE = 64  # batches without any picture that can be read: more of them are not held back

EngineName = Literal["onnxruntime", "fastest"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one picture.

    `label` is the likeliest class and `probability` its calibrated probability; `unknown` says that the picture is
    like none of the classes. When the picture could not be read, `error` says why and `label` is None.
    heatmap: float32 (h, w), what each place adds to the evidence for `label`. labels: where a prediction set was asked
    for, its labels, the likeliest first.
    """

    path: str | None
    label: str | None
    probability: float
    unknown: bool
    familiarity: float
    probabilities: dict[str, float]
    heatmap: Float32s | None = None
    error: str | None = None
    labels: list[str] | None = None

    def line(self) -> dict[str, Any]:
        """Return the fields of one line of `--format jsonl`."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "unknown": self.unknown,
            "familiarity": self.familiarity,
            "probabilities": self.probabilities,
            "error": self.error,
            **({} if self.labels is None else {"labels": self.labels}),
        }


class Predictor:
    """A trained model, ready to name pictures. Safe to use from several threads at once."""

    def __init__(self, run: Path | str, *, threads: int | None = None, engine: EngineName = "onnxruntime") -> None:
        """Load the model of a run folder or an exported one. Raises RunError if it is missing, unfinished or damaged.

        engine: "onnxruntime" starts fastest; "fastest" takes OpenVINO where it is installed, for thousands of
        pictures. Both compute a run in float32 and agree to about 1e-5; an exported model in the precision it names.
        """
        self.run = Path(run)
        self.bundle: Bundle = read_bundle(self.run)
        self.threads = threads or available_cores()
        self._engine: Engine = _make_engine(self.run / self.bundle.graph, engine, self.threads)
        self._blank = np.zeros((self.bundle.size, self.bundle.size, 3), np.uint8)  # stands in for what is unreadable
        self._check_bundle()

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels this model can give, in the order of its probabilities."""
        return self.bundle.classes

    def predict(self, source: Source | str) -> Prediction:
        """Return the answer for one picture: a path, the bytes of a file, an image of Pillow's, or pixels.

        Pixels are uint8 (height, width, 3), RGB. Raises InputError for anything else; what cannot be read is an answer.
        """
        return next(self.predict_many([source]))

    def predict_many(self, sources: Iterable[Source | str], *, batch_size: int | None = None) -> Iterator[Prediction]:
        """Yield an answer for each picture, in order, while the next ones are decoded; memory does not grow."""
        if isinstance(sources, str | bytes | Path):
            raise InputError("predict_many takes several pictures, for example a list; for one there is predict.")
        # Names, pictures, and whether the engine was not given them: none of them could be read.
        waiting: deque[tuple[list[str | None], list[DecodedImage], bool]] = deque()

        def images() -> Iterator[Pixels]:
            unread = 0
            for names, batch in self._decode(sources, batch_size or self._engine.batch_size):
                unread = unread + 1 if all(item.error for item in batch) else 0
                unseen = unread % UNREAD_AT_ONCE > 0
                waiting.append((names, batch, unseen))
                if not unseen:
                    yield np.stack([self._blank if item.pixels is None else item.pixels for item in batch])

        def passed_over() -> Iterator[Prediction]:
            while waiting and waiting[0][2]:
                names, batch, _ = waiting.popleft()
                yield from self._predict_batches(names, batch, {})

        for outputs in self._engine.stream(images()):
            yield from passed_over()
            names, batch, _ = waiting.popleft()
            yield from self._predict_batches(names, batch, outputs)
        yield from passed_over()

    def probabilities(self, images: Pixels) -> Float32s:
        """Return calibrated probabilities float32 (n, classes) for images uint8 (n, size, size, 3)."""
        return run_batch(self._engine, images)["probabilities"]

    def _check_bundle(self) -> None:
        """Raise RunError if the graph does not take pictures of this size, or does not give these classes."""
        try:
            found = self.probabilities(self._blank[None]).shape[1]
        except Exception as error:  # the engines' errors share no class
            raise RunError(f"{self.run / self.bundle.graph} does not do what its bundle says: {error}") from None
        if found != len(self.classes):
            raise RunError(
                f"{self.run / self.bundle.graph} gives {found} classes; its bundle names {len(self.classes)}:"
                f" {', '.join(self.classes)}. Train again."
            )

    def _decode(
        self, sources: Iterable[Source | str], batch_size: int
    ) -> Iterator[tuple[list[str | None], list[DecodedImage]]]:
        """Yield batches of decoded pictures with the paths they came from; sources are taken as they are needed."""
        names: deque[str | None] = deque()

        def named() -> Iterator[Source]:
            for source in sources:
                names.append(str(source) if isinstance(source, str | Path) else None)
                yield _as_source(source)

        for batch in iter_batches(decode_ahead(named(), self.bundle.preprocess, threads=self.threads), batch_size):
            yield [names.popleft() for _ in batch], batch

    def _predict_batches(
        self, names: list[str | None], batch: list[DecodedImage], outputs: Outputs
    ) -> Iterator[Prediction]:
        for row, (name, item) in enumerate(zip(names, batch, strict=True)):
            yield _unreadable_prediction(name, item.error) if item.error else self._make_prediction(name, outputs, row)

    def _make_prediction(self, name: str | None, outputs: Outputs, row: int) -> Prediction:
        probabilities, familiarity = outputs["probabilities"][row], float(outputs["familiarity"][row])
        best = int(probabilities.argmax())
        return Prediction(
            path=name,
            label=self.classes[best],
            probability=float(probabilities[best]),
            unknown=familiarity < self.bundle.threshold,
            familiarity=familiarity,
            probabilities=dict(zip(self.classes, probabilities.tolist(), strict=True)),
            heatmap=outputs["heatmap"][row, best].copy(),
        )


def _as_source(source: Source | str) -> Source:
    if isinstance(source, str):
        return Path(source)
    if not isinstance(source, KINDS):
        raise InputError(
            "A picture is a path, the bytes of a file, an image of Pillow's, or uint8 (height, width, 3); got"
            f" {type(source).__name__}. For several pictures there is predict_many."
        )
    return source


def _make_engine(graph: Path, name: EngineName, threads: int) -> Engine:
    """Return the engine for a graph: OpenVINO's own format is for OpenVINO alone."""
    if graph.suffix == ".xml":
        import_optional("openvino", extra="train")
        return OpenVINOEngine(graph, threads=threads)
    return (fastest_engine if name == "fastest" else OnnxRuntimeEngine)(graph, threads=threads)


def _unreadable_prediction(name: str | None, error: PictureError) -> Prediction:
    return Prediction(name, None, 0.0, True, 0.0, {}, error=str(error))


def load(run: Path | str, *, threads: int | None = None) -> Predictor:
    """Return the predictor of a run: `bestiary.load("runs/latest").predict("cat.jpg")`."""
    return Predictor(run, threads=threads)
