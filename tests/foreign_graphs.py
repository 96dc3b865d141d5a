"""Draws ONNX graphs as other people write them: small feature extractors with seeded random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, STRIDE = 12, 8


def draw_graph(
    path: Path,
    *,
    size: int | str = 64,
    batch: int | str = "batch",
    layout: str = "nchw",
    ends: Sequence[str] = ("maps",),
    element: int = TensorProto.FLOAT,
    opset: int = 18,
    metadata: Mapping[str, str] | None = None,
    broken: bool = False,
) -> Path:
    """Write a graph of one convolution with ReLU and return its path.

    ends: its outputs, of maps (n, c, h, w), last (n, h, w, c), tokens (n, t, c), vector (n, c), probabilities (n, 4).
    broken: with a weight that is NaN.
    """
    rng = np.random.default_rng(7)
    kernel = rng.normal(0, 0.3, (CHANNELS, 3, STRIDE, STRIDE)).astype(np.float32)
    kernel[0, 0, 0, 0] = np.nan if broken else kernel[0, 0, 0, 0]
    classes = rng.normal(0, 1, (CHANNELS, 4)).astype(np.float32)
    weights = [
        numpy_helper.from_array(kernel, "kernel"),
        numpy_helper.from_array(classes, "classes"),
        numpy_helper.from_array(np.array([0, CHANNELS, -1], np.int64), "flat"),
    ]
    nodes, value = [], "pixels"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [value], ["first"], perm=[0, 3, 1, 2]))
        value = "first"
    if element != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [value], ["float"], to=TensorProto.FLOAT))
        value = "float"
    if element == TensorProto.UINT8:
        weights.append(numpy_helper.from_array(np.array(255, np.float32), "white"))
        nodes.append(helper.make_node("Div", [value, "white"], ["unit"]))
        value = "unit"
    nodes.append(helper.make_node("Conv", [value, "kernel"], ["raw"], strides=[STRIDE, STRIDE]))
    nodes.append(helper.make_node("Relu", ["raw"], ["maps"]))
    nodes.append(helper.make_node("Transpose", ["maps"], ["last"], perm=[0, 2, 3, 1]))
    nodes.append(helper.make_node("Reshape", ["maps", "flat"], ["by_channel"]))
    nodes.append(helper.make_node("Transpose", ["by_channel"], ["tokens"], perm=[0, 2, 1]))
    if opset >= 18:
        weights.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
        nodes.append(helper.make_node("ReduceMean", ["maps", "axes"], ["vector"], keepdims=0))
    else:
        nodes.append(helper.make_node("ReduceMean", ["maps"], ["vector"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["vector", "classes"], ["scores"]))
    nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
    shape: list[Any] = [batch, 3, size, size] if layout == "nchw" else [batch, size, size, 3]
    ranks = {"maps": 4, "last": 4, "tokens": 3, "vector": 2, "probabilities": 2}
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info("pixels", element, shape)],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, [None] * ranks[end]) for end in ends],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path


def run_in_numpy(images: np.ndarray, *, bgr: bool, white: float, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Return the maps (n, c, h, w) of a drawn graph for images uint8 (n, size, size, 3), RGB, computed in numpy."""
    rng = np.random.default_rng(7)
    kernel = rng.normal(0, 0.3, (CHANNELS, 3, STRIDE, STRIDE)).astype(np.float32)
    pixels = images[..., ::-1] if bgr else images
    pixels = (pixels.astype(np.float64) / 255 * white - np.array(mean)) / np.array(std)
    n, size = images.shape[:2]
    cells = size // STRIDE
    blocks = pixels.reshape(n, cells, STRIDE, cells, STRIDE, 3)
    return np.maximum(np.einsum("nhywxc,kcyx->nkhw", blocks, kernel), 0)
