"""Export of a torch backbone to an ONNX graph with uint8 input, checked to equal the network."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from bestiary.array_types import Float32s
from bestiary.errors import IntegrityError
from bestiary.models.networks import Network

OPSET = 18
TOLERANCE = 1e-4  # relative to the largest value of the maps, or absolute if that is below 1
CHATTY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class _ExportWrapper(nn.Module):
    """The backbone with layout, type conversion and normalisation in front."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.feature_maps(images.permute(0, 3, 1, 2).float())


def export_backbone(network: Network, size: int) -> onnx.ModelProto:
    """Return the graph `images`: uint8 (n, size, size, 3), any n -> `maps`: float32 (n, channels, h, w).

    It contains layout, type conversion, normalisation and backbone with all weights, in opset 18. The network is not
    changed. Raises IntegrityError if the maps of ONNX Runtime and torch differ in fp32, for one picture or for five.
    """
    wrapper = _ExportWrapper(_plain_copy(network)).eval()
    with _quiet_loggers():
        program = torch.onnx.export(
            wrapper,
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["maps"],
            dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}},
            verbose=False,
        )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    _strip_metadata(graph)
    _check_equal(graph, wrapper, size)
    return graph


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's source locations, which contain folders of this machine."""
    parts = [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer]
    parts += [*model.graph.input, *model.graph.output, *model.functions]
    for part in [*parts, *(node for function in model.functions for node in function.node)]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _plain_copy(network: Network) -> Network:
    return copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)


def _check_equal(graph: onnx.ModelProto, wrapper: _ExportWrapper, size: int) -> None:
    """Compare the maps of random pictures; batches of one and five test that the batch size is free."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for count in (1, 5):
        images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected: Float32s = wrapper(torch.from_numpy(images)).numpy()
        (maps,) = session.run(["maps"], {"images": images})
        _compare_maps(np.asarray(maps), expected, count)


def _compare_maps(maps: Float32s, expected: Float32s, count: int) -> None:
    if maps.shape != expected.shape:
        message = f"The exported backbone gives maps {maps.shape} for {count} pictures; torch {expected.shape}."
        raise IntegrityError(message)
    difference = float(np.abs(maps - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not difference <= TOLERANCE:
        raise IntegrityError(
            f"The exported backbone differs from the network by {difference:.1e} of the largest value for {count} "
            f"pictures; expected at most {TOLERANCE:.0e}. Nothing was written; please report this."
        )


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Suppress the exporter's warnings and log lines below the level of errors."""
    loggers = [logging.getLogger(name) for name in CHATTY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
