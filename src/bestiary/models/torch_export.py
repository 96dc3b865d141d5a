"""A torch network's trunk as an ONNX graph that takes pictures as they are, proven equal to the network."""

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
TOLERANCE = 1e-4  # of the largest value in the maps, or of 1 where they are smaller
CHATTY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class _ExportWrapper(nn.Module):
    """The trunk behind everything a caller could get wrong: layout, type and normalisation."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.feature_maps(images.permute(0, 3, 1, 2).float())


def export_backbone(network: Network, size: int) -> onnx.ModelProto:
    """Return the graph `images`: uint8 (n, size, size, 3), any n -> `maps`: float32 (n, channels, h, w).

    It holds layout, type, normalisation and trunk, with all weights inside, in opset 18. The network itself is not
    changed. Raises IntegrityError when ONNX Runtime's maps differ from torch's in fp32, for one picture or for five.
    """
    shipped = _ExportWrapper(_plain_copy(network)).eval()
    with _quiet_loggers():
        program = torch.onnx.export(
            shipped,
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
    _forget_where(graph)
    _prove(graph, shipped, size)
    return graph


def _forget_where(model: onnx.ModelProto) -> None:
    """Take out what the exporter notes of the code that each node came from: it names folders of this machine."""
    noted = [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer]
    noted += [*model.graph.input, *model.graph.output, *model.functions]
    noted += [node for function in model.functions for node in function.node]
    for one in noted:
        one.ClearField("metadata_props")
        one.ClearField("doc_string")


def _plain_copy(network: Network) -> Network:
    return copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)


def _prove(graph: onnx.ModelProto, wrapper: _ExportWrapper, size: int) -> None:
    """Compare on random pictures; one and five show that the number of pictures is free."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for count in (1, 5):
        images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected: Float32s = wrapper(torch.from_numpy(images)).numpy()
        (maps,) = session.run(["maps"], {"images": images})
        _compare(np.asarray(maps), expected, count)


def _compare(maps: Float32s, expected: Float32s, count: int) -> None:
    if maps.shape != expected.shape:
        raise IntegrityError(
            f"The exported trunk gives maps {maps.shape} for {count} pictures; torch {expected.shape}."
        )
    difference = float(np.abs(maps - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not difference <= TOLERANCE:
        raise IntegrityError(
            f"The exported trunk differs from the network by {difference:.1e} of the largest value for {count} "
            f"pictures; at most {TOLERANCE:.0e} is expected. Nothing was written; please report this."
        )


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Hold back the exporter's own warnings and log lines below errors; exceptions pass."""
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
