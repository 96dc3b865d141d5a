"""The inference engine of an accelerator: batches run while the next are prepared; a full memory loses no picture."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.array_types import Pixels
from bestiary.errors import MachineError, RunError
from bestiary.machine import is_out_of_memory_error
from bestiary.models.accelerators import TITLES, AcceleratorDevice, open_session
from bestiary.models.engine import OnnxRuntimeEngine, Outputs, Precision, run_batch
from bestiary.progress import Reporter, SilentReporter

BATCH_SIZE = 64  # where none was measured
BATCHES_AHEAD = 1  # that wait while one runs


class DeviceEngine:
    """Runs a graph with ONNX Runtime on an accelerator, in float32 or float16. Thread-safe.

    If the accelerator's memory runs out, a batch is run in halves, and so are the following; if a single picture does
    not fit, or the accelerator fails otherwise, the processor runs the rest in float32. Rows with a number that is not
    finite, which float16 may give, are run on the processor too. The reporter is told each of these once.
    """

    name = "onnxruntime"

    def __init__(
        self,
        model: Path | bytes,
        *,
        device: AcceleratorDevice,
        threads: int,
        precision: Precision = "float32",
        batch_size: int = BATCH_SIZE,
        reporter: Reporter | None = None,
    ) -> None:
        """Load the graph. Raises RunError if it cannot be loaded, MachineError if the accelerator cannot be used."""
        import onnxruntime

        self.device, self.precision, self.batch_size = device, precision, batch_size
        self._model, self._threads, self._reporter = model, threads, reporter or SilentReporter()
        self._lock = threading.Lock()
        self.most_rows = batch_size  # at once: fewer after the memory was full
        self.failure = ""  # why the processor computes instead
        self.replaced_rows = 0  # computed by the processor, because the device gave numbers that are not finite
        self._processor: OnnxRuntimeEngine | None = None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        content = str(model) if isinstance(model, Path) else model
        try:
            self._session = open_session(content if precision == "float32" else to_float16(model), device, options)
        except MachineError:
            raise
        except Exception as error:  # ONNX Runtime's errors share no public class
            title = "given" if isinstance(model, bytes) else str(model)
            raise RunError(f"The graph {title} cannot be loaded on {TITLES[device]}: {error}") from None
        self._names = [output.name for output in self._session.get_outputs()]

    def stream(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; one batch runs while the next is prepared."""
        running: deque[Future[Outputs]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="bestiary-device") as runner:
            for images in batches:
                running.append(runner.submit(self._run, images))
                if len(running) > BATCHES_AHEAD:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()

    def _run(self, images: Pixels) -> Outputs:
        """Return the outputs of a batch: every row once, whatever happens to the accelerator."""
        with self._lock:
            parts: list[Outputs] = []
            start = 0
            while start < len(images) and not self.failure:
                rows = images[start : start + self.most_rows]
                try:
                    values = self._session.run(self._names, {"images": rows})
                except Exception as error:  # ONNX Runtime's errors share no public class
                    self._give_way(len(rows), error)
                    continue
                parts.append(self._replace_not_finite(rows, dict(zip(self._names, values, strict=True))))
                start += len(rows)
            if start < len(images) or not parts:
                parts.append(run_batch(self._load_processor(), images[start:]))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._names}

    def _give_way(self, rows: int, error: Exception) -> None:
        """Use smaller batches after a failure if they can help, else the processor."""
        title = TITLES[self.device]
        if is_out_of_memory_error(error) and rows > 1:
            self.most_rows = rows // 2
            self._reporter.info(
                f"The memory of {title} is full with {rows} pictures at once: the work goes on with {self.most_rows}."
                " No picture is lost."
            )
            return
        self.failure = "its memory is full" if is_out_of_memory_error(error) else str(error).strip()
        self._reporter.info(f"{title} failed: {self.failure}. The processor computes the rest. No picture is lost.")

    def _replace_not_finite(self, rows: Pixels, outputs: Outputs) -> Outputs:
        wrong = np.zeros(len(rows), bool)
        for values in outputs.values():
            wrong |= ~np.isfinite(values.reshape(len(rows), -1)).all(axis=1)
        if not wrong.any():
            return outputs
        if not self.replaced_rows:
            self._reporter.info(
                f"{TITLES[self.device]} in {self.precision} gave numbers that are not finite for {int(wrong.sum())}"
                " pictures; the processor computes such pictures in float32."
            )
        self.replaced_rows += int(wrong.sum())
        replaced = run_batch(self._load_processor(), rows[wrong])
        for name, values in outputs.items():
            values[wrong] = replaced[name]
        return outputs

    def _load_processor(self) -> OnnxRuntimeEngine:
        if self._processor is None:
            self._processor = OnnxRuntimeEngine(self._model, threads=self._threads)
        return self._processor


def to_float16(model: Path | bytes) -> bytes:
    """Return the graph with weights and activations in float16; its inputs and outputs keep their types."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph: Any = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
    content: bytes = convert_float_to_float16(graph, keep_io_types=True).SerializeToString()
    return content
