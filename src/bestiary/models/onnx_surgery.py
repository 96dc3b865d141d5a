"""A pretrained trunk cut in two: the lower stages as a graph, whose output can be kept, and what it looks like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bestiary.models.efficientnet_lite import BACKBONES, STAGE_STRIDES, lite_backbone
from bestiary.recipe import Recipe

STAGES = len(STAGE_STRIDES)
OUTPUT = "activations"


def count_frozen_stages(recipe: Recipe) -> int | None:
    """Return how many stages a resolved recipe leaves as they came and has computed once; None: it sees pixels."""
    model, learning = recipe.model, recipe.train.unfreeze_stages
    if model.method != "finetune" or model.backbone not in BACKBONES or learning >= STAGES:
        return None
    return STAGES - learning


@dataclass(frozen=True)
class FrozenStages:
    """The first stages of a trunk. graph: serialised, from `images` to `activations` float32 (n, *shape).

    shape: (height, width, channels), as pictures have it, so that whatever reads pictures reads these.
    """

    graph: bytes
    shape: tuple[int, int, int]


def extract_frozen_stages(backbone_graph: Path, backbone: str, size: int, stages: int) -> FrozenStages:
    """Return the first `stages` of the trunk's seven stages, stem included; with all seven it ends in the maps.

    trunk: a graph of `built_trunk`. size: height and width of its pictures in pixels.
    """
    import onnx

    model = onnx.load(backbone_graph)
    graph = model.graph
    cut = _stage_output_name(backbone, stages, {node.name for node in graph.node})
    place = next(number for number, node in enumerate(graph.node) if node.name == cut)
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    last = [node for node in graph.node[: place + 1] if node.op_type == "Conv"][-1]
    channels = weights[last.input[1]][0]
    del graph.node[place + 1 :]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.node.append(onnx.helper.make_node("Transpose", [cut], [OUTPUT], name=OUTPUT, perm=[0, 2, 3, 1]))
    cells = _cells(size, stages)
    shape = (cells, cells, channels)
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["n", *shape]))
    return FrozenStages(model.SerializeToString(), shape)


def _stage_output_name(backbone: str, stages: int, names: set[str]) -> str:
    """Return the name of the node whose output the stages give."""
    if stages == STAGES:
        return "maps"
    if not 0 < stages < STAGES:
        raise ValueError(f"A trunk has {STAGES} stages; it cannot be cut after {stages}.")
    block = sum(lite_backbone(backbone).blocks[:stages]) - 1
    added = f"blocks.{block}.sum"
    return added if added in names else f"blocks.{block}.project"


def _cells(size: int, stages: int) -> int:
    for stride in (2, *STAGE_STRIDES[:stages]):  # the stem halves first
        size = -(-size // stride)
    return size


def add_global_pool(backbone: Path) -> bytes:
    """Return a serialised graph from `images` to `features`, float32 (n, channels): the maps' mean over all places."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(backbone)
    maps = model.graph.output[0]
    channels = maps.type.tensor_type.shape.dim[1].dim_value
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "pooling.axes"))
    model.graph.node.append(helper.make_node("ReduceMean", ["maps", "pooling.axes"], ["features"], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", channels]))
    content: bytes = model.SerializeToString()
    return content
