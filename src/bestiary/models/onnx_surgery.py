"""ONNX surgery: extract the frozen stages of a backbone, whose activations can be cached; add global pooling."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bestiary.errors import RunError
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


def add_features_output(graph: Path) -> bytes:
    """Return a serialised graph from `images` to `features`, float32 (n, channels): the input of the last layer.

    graph: an inference graph that `export.graph` has built; its other outputs are gone. Raises RunError for a graph
    without logits from a linear layer.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(graph)
    producers = {name: node for node in model.graph.node for name in node.output}
    identity = producers.get("logits")
    layer = None if identity is None else producers.get(identity.input[0])
    if layer is None or layer.op_type not in ("Add", "Gemm") or "maps" not in producers:
        raise RunError(f"{graph} has no features: it is no float32 model of this version. Train again.")
    if layer.op_type == "Gemm":
        node = helper.make_node("Identity", [layer.input[0]], ["features"])
    else:  # average pooling and a linear layer, which `export.graph` applies in the other order
        model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "features.axes"))
        node = helper.make_node("ReduceMean", ["maps", "features.axes"], ["features"], keepdims=0)
    model.graph.node.append(node)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", "channels"]))
    content: bytes = model.SerializeToString()
    return content
