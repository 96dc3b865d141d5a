"""The predictor: from files, bytes or arrays to labels, without torch; evaluation and users' predictions use it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bestiary.array_types import Float32s, Pixels
from bestiary.batches.decoding import PICTURES_AHEAD, DecodedImage, decode_ahead, iter_batches
from bestiary.box import BOX_PICTURE_SIZE, Box, Crop, StoredPicture, box_fields
from bestiary.class_thresholds import BELOW_THRESHOLD, explain_unknown, least_probabilities
from bestiary.costs import choose_labels
from bestiary.errors import InputError, RunError
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.device_choice import check_device, load_device_engine
from bestiary.inference.proof import check_processor
from bestiary.machine import FeatureDevice, available_cores
from bestiary.models.engine import Engine, OnnxRuntimeEngine, OpenVINOEngine, Outputs, has_openvino, run_batch
from bestiary.preprocess import KINDS, Source
from bestiary.progress import Reporter
from bestiary.summary import Bar, Row, Summary, SummaryRepr
from bestiary.telemetry import import_openvino

FAST_ENGINE_MIN_PICTURES = 300  # from this many pictures on, the faster engine makes up for its slower start
NEXT_CLASSES, THUMBNAIL = 4, 72  # shown in a notebook beside the label; pixels
UNREAD_AT_ONCE = 64  # batches without a readable picture are held back, at most so many in a row

Named = tuple[str | None, Box | None]  # the path of a picture, and the box in it
EngineName = Literal["onnxruntime", "openvino", "fastest"]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(SummaryRepr):
    """The prediction for one picture.

    `label` is the most probable class, or that with the least expected cost if the model has costs; `probability` is
    its calibrated probability. `familiarity` is the in-distribution score (1 - OOD score) in (0, 1);
    `unknown`: it is below the threshold, so the picture is out-of-distribution (like none of the classes), or the
    probability is below the threshold of the class. If the picture cannot be read, `error` is the reason and `label` is
    None. reason: of a model with thresholds by class, why the picture is unknown ("unfamiliar", "below threshold"), or
    empty; of other models None.
    heatmap: float32 (h, w), what each position adds to the logit of `label`; None if the model has none.
    labels: the prediction set, if requested, the most probable label first. box: that was looked at, None for the whole
    picture.
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
    reason: str | None = None
    box: Box | None = None

    @property
    def note(self) -> str:
        """Why the picture is unknown, in words; empty if it is answered."""
        if not self.unknown:
            return ""
        is_uncertain = self.reason == BELOW_THRESHOLD
        return f"unknown: {'below the threshold of its class' if is_uncertain else 'like none of the classes'}"

    def describe(self) -> str:
        """Return the label with its probability, and whether the picture is unknown; or why it cannot be read."""
        if self.error is not None:
            return f"cannot be read: {self.error}"
        return f"{self.label} {self.probability:.3f}{f' ({self.note})' if self.unknown else ''}"

    def summary(self) -> Summary:
        """Return the label, and the in-distribution score; in a notebook the picture and the next classes, too."""
        if self.error is not None:
            return Summary(f"Prediction for {self.path or 'a picture'}", (("error", self.error),))
        rows = [
            self.row("label"),
            Row("familiarity", f"{self.familiarity:.3f}", Bar(self.familiarity)),
        ]
        rows += [] if self.labels is None else [Row("prediction set", ", ".join(self.labels))]
        others = sorted(self.probabilities.items(), key=lambda entry: -entry[1])
        details = [Row(name, f"{value:.3f}", Bar(value)) for name, value in others if name != self.label]
        return Summary(f"Prediction for {self.path or 'a picture'}", tuple(rows), tuple(details[:NEXT_CLASSES]))

    def row(self, name: str) -> Row:
        """Return the label with its probability as a row of a summary; in a notebook with the picture."""
        bar = None if self.error is not None else Bar(self.probability)
        return Row(name, self.describe(), bar, None if self.path is None else self._draw_thumbnail)

    def _draw_thumbnail(self) -> str | None:
        """Return the picture, or the box in it, as a small `data:` address; None if its file cannot be read."""
        from bestiary.thumbnails import thumbnail_data_uri

        path = Path(self.path or "")
        return thumbnail_data_uri(path if self.box is None else Crop(path, self.box), THUMBNAIL)

    def line(self, *, boxes: bool = False) -> dict[str, Any]:
        """Return the fields of one line of `--format jsonl`; boxes: with those of the box, null without one."""
        names = ["path", "label", "probability", "unknown", "familiarity", "probabilities", "error"]
        names += [name for name in ("labels", "reason") if getattr(self, name) is not None]
        fields = {name: getattr(self, name) for name in names}
        if boxes or self.box is not None:
            fields |= box_fields(self.box)
        if self.box is not None and self.box.picture_size is not None:
            fields[BOX_PICTURE_SIZE] = list(self.box.picture_size)
        return fields


class Predictor:
    """A trained model, ready to predict labels. Thread-safe."""

    def __init__(
        self,
        run: Path | str,
        *,
        threads: int | None = None,
        engine: EngineName = "onnxruntime",
        device: FeatureDevice = "auto",
        max_pixels: int | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """Load the model of a run folder or of an export. Raises RunError if it is missing, unfinished or damaged.

        engine: "onnxruntime" starts fastest; "fastest" takes OpenVINO if it is installed, for thousands of pictures;
        "openvino" takes it always. Both run a float32 model in float32 and agree to about 1e-5; an export runs in its
        own precision.
        device: "cuda" or "coreml" for that accelerator, "cpu" for the processor; "auto" takes an accelerator for
        `engine="fastest"`, if there is one that gives the same answers and is faster. MachineError if it is missing.
        max_pixels: of a picture in memory; default: as in training.
        An 8-bit export is verified again on a processor of another kind than the one that it was verified on, and the
        reporter is told; RunError if it fails.
        """
        self.run = Path(run)
        self.bundle: Bundle = read_bundle(self.run)
        if max_pixels is not None:
            self.bundle = replace(self.bundle, max_pixels=max_pixels)
        self._least = least_probabilities(self.bundle.class_thresholds, self.bundle.classes)
        self.threads = threads or available_cores()
        self._engine = _load_engine(self.run, self.bundle, engine, device, self.threads, reporter)
        self._blank = np.zeros((self.bundle.size, self.bundle.size, 3), np.uint8)  # in place of an unreadable picture
        self._check_bundle()
        check_processor(self.run, self.bundle, self._engine, reporter)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of this model, in the order of its probabilities."""
        return self.bundle.classes

    @property
    def engine_name(self) -> str:
        """The engine that was chosen, "onnxruntime" or "openvino"."""
        return self._engine.name

    @property
    def batch_size(self) -> int:
        """The number of pictures that the engine computes at a time."""
        return self._engine.batch_size

    def predict(self, source: Source | str) -> Prediction:
        """Return the prediction for one picture: a path, the bytes of a file, a Pillow image, or pixels.

        Pixels are uint8 (height, width, 3), RGB. Raises InputError for anything else; an unreadable picture gives a
        prediction with `error`.
        """
        return next(self.predict_many([source]))

    def predict_many(self, sources: Iterable[Source | str], *, batch_size: int | None = None) -> Iterator[Prediction]:
        """Yield a prediction for each picture, in order, while the next ones are decoded, in constant memory."""
        if isinstance(sources, str | bytes | Path):
            raise InputError("predict_many takes several pictures, for example a list; predict takes a single one.")
        # Names, pictures, and whether the engine skips the batch, because none of its pictures is readable.
        waiting: deque[tuple[list[Named], list[DecodedImage], bool]] = deque()

        def images() -> Iterator[Pixels]:
            unread = 0
            for names, batch in self._decode(sources, batch_size or self._engine.batch_size):
                unread = unread + 1 if all(item.error for item in batch) else 0
                is_skipped = unread % UNREAD_AT_ONCE > 0
                waiting.append((names, batch, is_skipped))
                if not is_skipped:
                    yield np.stack([self._blank if item.pixels is None else item.pixels for item in batch])

        def skipped_batches() -> Iterator[Prediction]:
            while waiting and waiting[0][2]:
                names, batch, _ = waiting.popleft()
                yield from self._predict_batch(names, batch, {})

        for outputs in self._engine.stream(images()):
            yield from skipped_batches()
            names, batch, _ = waiting.popleft()
            yield from self._predict_batch(names, batch, outputs)
        yield from skipped_batches()

    def probabilities(self, images: Pixels) -> Float32s:
        """Return calibrated probabilities float32 (n, classes) for images uint8 (n, size, size, 3)."""
        return run_batch(self._engine, images)["probabilities"]

    def _check_bundle(self) -> None:
        """Raise RunError if the graph has another input size or another number of classes than the bundle."""
        graph = self.run / self.bundle.graph
        try:
            classes = self.probabilities(self._blank[None]).shape[1]
        except Exception as error:  # the engines' errors have no common class
            raise RunError(f"{graph} does not fit its bundle: {error}") from None
        if classes != len(self.classes):
            raise RunError(
                f"{graph} has {classes} classes; its bundle names {len(self.classes)}: {', '.join(self.classes)}. Train"
                " again."
            )

    def _decode(
        self, sources: Iterable[Source | str], batch_size: int
    ) -> Iterator[tuple[list[Named], list[DecodedImage]]]:
        """Yield batches of decoded pictures with their paths; sources are consumed as needed."""
        names: deque[Named] = deque()

        def checked_sources() -> Iterator[Source]:
            for source in sources:
                names.append(_name_source(source))
                yield _as_source(source)

        ahead = max(PICTURES_AHEAD, 2 * batch_size)  # one batch is decoded while a device computes the other
        decoded = decode_ahead(checked_sources(), self.bundle.preprocess, threads=self.threads, ahead=ahead)
        for batch in iter_batches(decoded, batch_size):
            yield [names.popleft() for _ in batch], batch

    def _predict_batch(self, names: list[Named], batch: list[DecodedImage], outputs: Outputs) -> Iterator[Prediction]:
        labels = choose_labels(outputs["probabilities"], self.bundle.costs) if outputs else None
        for row, ((name, box), item) in enumerate(zip(names, batch, strict=True)):
            if item.error or labels is None:
                yield Prediction(name, None, 0.0, True, 0.0, {}, error=str(item.error), box=box)
                continue
            probabilities, familiarity = outputs["probabilities"][row], float(outputs["familiarity"][row])
            best = int(labels[row])
            reason = explain_unknown(
                is_unfamiliar=familiarity < self.bundle.threshold,
                probability=float(probabilities[best]),
                least=self._least[best],
            )
            yield Prediction(
                path=name,
                label=self.classes[best],
                probability=float(probabilities[best]),
                unknown=bool(reason),
                familiarity=familiarity,
                probabilities=dict(zip(self.classes, probabilities.tolist(), strict=True)),
                heatmap=outputs["heatmap"][row, best].copy() if "heatmap" in outputs else None,
                box=box,
                reason=reason if self.bundle.class_thresholds else None,
            )


def _name_source(source: Source | str) -> Named:
    if isinstance(source, Crop):
        return str(source.path), source.part if isinstance(source.part, Box) else None
    if isinstance(source, StoredPicture):
        return source.name, None
    return str(source) if isinstance(source, str | Path) else None, None


def _as_source(source: Source | str) -> Source:
    if isinstance(source, str):
        return Path(source)
    if not isinstance(source, KINDS):
        raise InputError(
            "A picture is a path, the bytes of a file, a Pillow image, or uint8 (height, width, 3); got"
            f" {type(source).__name__}. For several pictures use predict_many."
        )
    return source


def _load_engine(
    run: Path, bundle: Bundle, name: EngineName, device: FeatureDevice, threads: int, reporter: Reporter | None
) -> Engine:
    """Return the engine for a model, on the processor or on an accelerator, which runs graphs in float32 only."""
    check_device(device)
    graph = run / bundle.graph
    load_processor_engine = partial(_make_engine, run, bundle, name, threads)
    if device == "cpu" or (device == "auto" and name != "fastest"):
        return load_processor_engine()
    if bundle.precision != "float32" or graph.suffix != ".onnx":
        if device != "auto":
            raise InputError(
                f"{run} is an export in {bundle.precision} for processors. Use --device cpu, or the run that it was"
                " exported from."
            )
        return load_processor_engine()
    return load_device_engine(graph, bundle.size, device, load_processor_engine, threads=threads, reporter=reporter)


def _make_engine(run: Path, bundle: Bundle, name: EngineName, threads: int) -> Engine:
    """Return the engine for a model; OpenVINO's own format runs in OpenVINO only.

    The fastest for 8 bits is OpenVINO where it is installed; which it is in float32 is measured.
    """
    graph = run / bundle.graph
    if graph.suffix == ".xml" or name == "openvino":
        import_openvino()
        return OpenVINOEngine(graph, threads=threads)
    if name == "fastest" and bundle.precision == "int8" and has_openvino():
        return OpenVINOEngine(graph, threads=threads)
    if name == "fastest":
        from bestiary.models.engine_choice import fastest_float32_engine  # here, for a few pictures need no recipe

        return fastest_float32_engine(graph, threads=threads)
    return OnnxRuntimeEngine(graph, threads=threads)


def load(run: Path | str, *, threads: int | None = None, device: FeatureDevice = "auto") -> Predictor:
    """Return the predictor of a run: `bestiary.load("runs/latest").predict("cat.jpg")`."""
    return Predictor(run, threads=threads, device=device)
