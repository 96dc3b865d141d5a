"""Inference engines: ONNX Runtime, on an accelerator too, or OpenVINO (if installed) for bulk work."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from bestiary.array_types import Float32s, Pixels
from bestiary.errors import RunError
from bestiary.models.accelerators import TITLES, DeviceName
from bestiary.progress import Reporter
from bestiary.telemetry import import_openvino

Outputs = dict[str, Float32s]
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
ISA_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI")
EngineName = Literal["openvino", "onnxruntime"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class EngineChoice:
    """An inference engine, the precision that it computes in, and the device that it computes on."""

    engine: EngineName
    precision: Precision
    device: DeviceName = "cpu"

    def __post_init__(self) -> None:
        """Raise ValueError for other names: they may come from a file."""
        if self.engine not in get_args(EngineName) or self.precision not in get_args(Precision):
            raise ValueError(f"The engine {self.engine} does not support {self.precision}.")
        if self.device not in get_args(DeviceName) or (self.device != "cpu" and self.engine == "openvino"):
            raise ValueError(f"The engine {self.engine} does not support the device {self.device}.")

    def __str__(self) -> str:
        """Return engine, device and precision in words."""
        device = "" if self.device == "cpu" else f" on {TITLES[self.device]}"
        return f"{ENGINE_TITLES[self.engine]}{device} in {self.precision}"


ENGINE_TITLES: dict[EngineName, str] = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}


class Engine(Protocol):
    """A loaded graph."""

    name: str
    batch_size: int
    """The fastest batch size."""

    def stream(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, uint8 (n, size, size, 3), by name, float32 of n rows, in order."""


class OnnxRuntimeEngine:
    """Runs a graph in float32 with ONNX Runtime, one batch after another."""

    name = "onnxruntime"
    batch_size = 8

    def __init__(self, model: Path | bytes, *, threads: int) -> None:
        """Load the graph; raises RunError if it cannot be loaded."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        content = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no public class
            raise RunError(f"The graph {_title(model)} cannot be loaded: {error}") from None
        self._names = [output.name for output in self._session.get_outputs()]

    def stream(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        """Yield the outputs of each batch."""
        for images in batches:
            yield dict(zip(self._names, self._session.run(self._names, {"images": images}), strict=True))


class OpenVINOEngine:
    """Runs a graph with OpenVINO, several batches at a time."""

    name = "openvino"
    batch_size = 1

    def __init__(self, model: Path | bytes, *, threads: int, precision: Precision = "float32") -> None:
        """Compile the graph, in bfloat16 only if the processor supports it; raises RunError if it cannot be loaded."""
        openvino = import_openvino()
        kind = openvino.Type.bf16 if precision == "bfloat16" else openvino.Type.f32
        # Not pinned to cores: every process would take the same first ones, however many of them run (2026.4).
        hints = {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": str(threads)}
        hints["ENABLE_CPU_PINNING"] = False
        core = openvino.Core()
        try:
            graph = core.read_model(model if isinstance(model, bytes) else str(model))
            self._compiled = core.compile_model(graph, "CPU", hints)
        except RuntimeError as error:
            raise RunError(f"The graph {_title(model)} cannot be loaded: {error}") from None
        self._names = [output.get_any_name() for output in self._compiled.outputs]
        self._jobs = 2 * threads  # per stream one running and one queued

    def stream(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order."""
        free = [self._compiled.create_infer_request() for _ in range(self._jobs)]
        running: deque[Any] = deque()
        for images in batches:
            if not free:
                free.append(running.popleft())
                yield self._outputs(free[-1])
            request = free.pop()
            request.start_async({"images": images}, share_inputs=False)
            running.append(request)
        while running:
            yield self._outputs(running.popleft())

    def _outputs(self, request: Any) -> Outputs:
        request.wait()
        return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(self._names)}


def has_openvino() -> bool:
    """Return whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def engine_version(engine: str) -> str:
    """Return the version of an installed engine, also of a build with another package name (onnxruntime-gpu).

    Where both packages are installed, whose files lie in one folder, the module knows its version.
    """
    versions = []
    for package in (engine, f"{engine}-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version(package))
    if len(versions) == 1:
        return versions[0]
    return str((import_openvino() if engine == "openvino" else importlib.import_module(engine)).__version__)


def has_bfloat16() -> bool:
    """Return whether OpenVINO is installed, and computes in bfloat16 on this processor.

    Where oneDNN's instruction sets are limited to AVX2 by its environment variable, OpenVINO 2026.4 still announces
    bfloat16, and the process ends with a segmentation fault.
    """
    if not has_openvino() or any(os.environ.get(name, "").upper() in ISA_WITHOUT_BFLOAT16 for name in ISA_LIMITS):
        return False
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def make_engine(
    choice: EngineChoice,
    model: Path | bytes,
    *,
    threads: int,
    reporter: Reporter | None = None,
    batch_size: int | None = None,
) -> Engine:
    """Return a loaded graph. reporter: is told if an accelerator fails; batch_size: of an accelerator.

    Raises RunError if it cannot be loaded, MachineError if its accelerator cannot be used, ImportError without the
    engine's package, ValueError for a precision that the engine does not compute in.
    """
    if choice.device != "cpu":
        from bestiary.models.device_engine import BATCH_SIZE, DeviceEngine

        return DeviceEngine(
            model,
            device=choice.device,
            threads=threads,
            precision=choice.precision,
            batch_size=batch_size or BATCH_SIZE,
            reporter=reporter,
        )
    if choice.engine == "openvino":
        return OpenVINOEngine(model, threads=threads, precision=choice.precision)
    if choice.precision != "float32":
        raise ValueError(f"{choice} is not possible: ONNX Runtime computes in float32.")
    return OnnxRuntimeEngine(model, threads=threads)


def run_batch(engine: Engine, images: Pixels) -> Outputs:
    """Return the outputs for one batch."""
    return next(iter(engine.stream([images])))


def _title(model: Path | bytes) -> str:
    return "given" if isinstance(model, bytes) else str(model)
