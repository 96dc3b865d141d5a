"""Proof of a model on an accelerator before it predicts there: its outputs equal those of the processor.

Graph, accelerator, driver and versions decide whether the proof still holds; it is remembered in the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bestiary.array_types import Pixels
from bestiary.errors import MachineError, RunError
from bestiary.files import cache_folder, read_json, write_json
from bestiary.models.accelerators import Accelerator
from bestiary.models.device_measurement import draw_test_images, measure_device
from bestiary.models.engine import Engine, Outputs, engine_version
from bestiary.processor import read_processor
from bestiary.text import format_count

FOLDER = "devices"  # in the cache folder
OUTPUTS = ("probabilities", "familiarity", "logits", "features")  # that are compared, where the graph has them


@dataclass(frozen=True)
class DeviceProof:
    """The proof of a graph on an accelerator in float32.

    graph: its SHA-256. differences: from the processor, by output. error: why it must not be used; empty if it may.
    """

    graph: str
    accelerator: str
    processor: str
    onnxruntime: str
    pictures_per_second: float
    processor_pictures_per_second: float
    batch_size: int
    differences: dict[str, float]
    error: str = ""

    @property
    def is_faster(self) -> bool:
        """Whether the accelerator is faster than all threads of the processor."""
        return not self.error and self.pictures_per_second > self.processor_pictures_per_second


def load_or_prove(
    model: Path | bytes,
    size: int,
    accelerator: Accelerator,
    load_processor_engine: Callable[[], Engine],
    *,
    threads: int,
) -> DeviceProof:
    """Return the proof of a graph: remembered, or made now in some seconds and remembered.

    size: of its input in pixels. load_processor_engine: of the same graph in float32, which it is compared with.
    """
    content = model if isinstance(model, bytes) else model.read_bytes()
    facts = {
        "graph": hashlib.sha256(content).hexdigest(),
        "accelerator": str(accelerator),
        "processor": f"{read_processor()}, {format_count(threads, 'thread')}",
        "onnxruntime": engine_version("onnxruntime"),
    }
    key = hashlib.sha256(json.dumps(list(facts.values())).encode()).hexdigest()[:24]
    path = cache_folder() / FOLDER / f"{key}.json"
    with contextlib.suppress(RunError, TypeError, KeyError):  # there is none, or it is damaged: prove
        proof = DeviceProof(**read_json(path))
        if {name: getattr(proof, name) for name in facts} == facts:
            return proof
    images = draw_test_images(size)
    outputs, speed = _run_on_processor(load_processor_engine(), images)
    expected = {name: outputs[name] for name in OUTPUTS if name in outputs}
    measured = measure_device(model, accelerator, "float32", images, expected, threads=threads)
    proof = DeviceProof(
        **facts,
        pictures_per_second=measured.pictures_per_second,
        processor_pictures_per_second=round(speed, 1),
        batch_size=measured.batch_size,
        differences=measured.differences,
        error=measured.error,
    )
    with contextlib.suppress(MachineError):  # a cache that cannot be written: it is proven again next time
        write_json(path, asdict(proof))
    return proof


def iter_proofs(cache: Path) -> Iterator[DeviceProof]:
    """Yield the proofs in the cache folder, also those of other drivers and versions."""
    for path in sorted((cache / FOLDER).glob("*.json")):
        with contextlib.suppress(RunError, TypeError):  # damaged
            yield DeviceProof(**read_json(path))


def _run_on_processor(engine: Engine, images: Pixels) -> tuple[Outputs, float]:
    """Return the outputs of the images, and pictures a second of a second pass."""
    batches = [images[start : start + engine.batch_size] for start in range(0, len(images), engine.batch_size)]
    parts = list(engine.stream(batches))
    began = time.perf_counter()
    for _ in engine.stream(batches):
        pass
    seconds = time.perf_counter() - began
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return outputs, len(images) / max(seconds, 1e-9)
