"""ONNX surgery: extract the frozen stages of a backbone, whose activations can be cached; add global pooling."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bestiary.models.efficientnet_lite import BACKBONES, STAGE_STRIDES, lite_backbone
from bestiary.recipe import Recipe

STAGES = len(STAGE_STRIDES)
OUTPUT = "activations"


def count_frozen_stages(recipe: Recipe) -> int | None:
    """Return how many stages a resolved recipe freezes, whose activations are computed once; None if it caches none."""
    model, trainable = recipe.model, recipe.train.unfreeze_stages
    if model.method != "finetune" or model.backbone not in BACKBONES or trainable >= STAGES:
        return None
    return STAGES - trainable


@dataclass(frozen=True)
class FrozenStages:
    """The first stages of a backbone. graph: serialised, from `images` to `activations` float32 (n, *shape).

    shape: (height, width, channels), the layout of pictures, so that the same loaders read both.
    """

    graph: bytes
    shape: tuple[int, int, int]


def extract_frozen_stages(backbone_graph: Path, backbone: str, size: int, stages: int) -> FrozenStages:
    """Return the first `stages` of the backbone's seven stages, stem included; all seven end in the feature maps.

    backbone_graph: written by `cached_backbone_graph`. size: height and width of its input in pixels.
    """
    import onnx

    model = onnx.load(backbone_graph)
    graph = model.graph
    names = [node.name for node in graph.node]
    last = _stage_output_name(backbone, stages, names)
    del graph.node[names.index(last) + 1 :]
    used = {name for node in graph.node for name in node.input}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name in used}
    convolution = [node for node in graph.node if node.op_type == "Conv"][-1]
    cells = _cells(size, stages)
    shape = (cells, cells, weights[convolution.input[1]].dims[0])
    del graph.initializer[:]
    graph.initializer.extend(weights.values())
    graph.node.append(onnx.helper.make_node("Transpose", [last], [OUTPUT], name=OUTPUT, perm=[0, 2, 3, 1]))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["n", *shape]))
    return FrozenStages(model.SerializeToString(), shape)


def _stage_output_name(backbone: str, stages: int, names: Container[str]) -> str:
    """Return the name of the node that ends the stages."""
    if stages == STAGES:
        return "maps"
    if not 0 < stages < STAGES:
        raise ValueError(f"A backbone has {STAGES} stages; it cannot be cut after {stages}.")
    block = sum(lite_backbone(backbone).blocks[:stages]) - 1
    skip = f"blocks.{block}.sum"
    return skip if skip in names else f"blocks.{block}.project"


def _cells(size: int, stages: int) -> int:
    for stride in (2, *STAGE_STRIDES[:stages]):  # the stem has stride 2
        size = -(-size // stride)
    return size


def add_global_pool(backbone: Path) -> bytes:
    """Return a serialised graph from `images` to `features`, float32 (n, channels): globally average-pooled maps."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(backbone)
    channels = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "pooling.axes"))
    model.graph.node.append(helper.make_node("ReduceMean", ["maps", "pooling.axes"], ["features"], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", channels]))
    content: bytes = model.SerializeToString()
    return content
