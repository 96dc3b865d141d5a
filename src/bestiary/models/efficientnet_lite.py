"""Pretrained EfficientNet-Lite backbones as ONNX graphs from images to feature maps, without torch.

EfficientNet-Lite is EfficientNet without squeeze-and-excitation and with ReLU6, made to run well on CPUs:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Weights: ImageNet, Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bestiary.array_types import Array
from bestiary.errors import RecipeError, did_you_mean, import_optional
from bestiary.models.graph_cache import cached_graph
from bestiary.models.pretrained_weights import LITE_WEIGHTS, PackagedWeights, lite_weights_path, read_legacy_checkpoint

if TYPE_CHECKING:
    import onnx

GRAPH_VERSION = 1  # raise it when the written graph changes: cached graphs of other versions are ignored
OPSET, IR_VERSION = 18, 8  # supported by ONNX Runtime since 1.14 and by OpenVINO since 2022
BATCH_NORM_EPSILON = 1e-3  # TensorFlow's default; torch's 1e-5 gives wrong features
STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block in each of the seven stages
REDUCTION = 32  # input pixels per cell of the feature maps, along each side


@dataclass(frozen=True)
class LiteNetwork:
    """A bundled backbone: its input size in pixels, its number of blocks per stage, the channels of its maps.

    Kernels and widths follow from the weights.
    """

    name: str
    size: int
    blocks: tuple[int, ...]
    weights: PackagedWeights
    channels: int = 1280


BACKBONES = {
    "lite0": LiteNetwork("lite0", size=224, blocks=(1, 2, 2, 3, 3, 4, 1), weights=LITE_WEIGHTS["lite0"]),
    "lite1": LiteNetwork("lite1", size=240, blocks=(1, 3, 3, 4, 4, 5, 1), weights=LITE_WEIGHTS["lite1"]),
    "lite2": LiteNetwork("lite2", size=260, blocks=(1, 3, 3, 4, 4, 5, 1), weights=LITE_WEIGHTS["lite2"]),
}


def lite_backbone(name: str) -> LiteNetwork:
    """Return the bundled backbone of that name; raises RecipeError, with the valid names, if there is none."""
    if name not in BACKBONES:
        raise RecipeError(f'No pretrained backbone is called "{name}". {did_you_mean(name, BACKBONES)}')
    return BACKBONES[name]


def build_backbone_graph(name: str, size: int | None = None) -> onnx.ModelProto:
    """Return the graph from images to feature maps; `size` in pixels defaults to the backbone's own.

    Input `images`: uint8 (n, size, size, 3), RGB, any n. Output `maps`: float32 (n, 1280, h, w) in [0, 6] with
    h = w = size / 32 rounded up; their mean over h and w was the input of the ImageNet classifier.
    Raises RecipeError for an unknown name or a size below 32; IntegrityError if the weights are damaged;
    MissingExtraError if they or onnx are not installed.
    """
    backbone = lite_backbone(name)
    pixels = _check_size(backbone, size)
    onnx = import_optional("onnx", extra="train")
    checkpoint = read_legacy_checkpoint(lite_weights_path(name), backbone.weights.sha256)
    builder = _GraphBuilder(onnx.helper, onnx.numpy_helper, checkpoint)
    _add_backbone(builder, backbone)
    cells = -(-pixels // REDUCTION)
    tensor, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        builder.nodes,
        f"efficientnet-{name}",
        [tensor("images", types.UINT8, ["n", pixels, pixels, 3])],
        [tensor("maps", types.FLOAT, ["n", backbone.channels, cells, cells])],
        builder.initializers,
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bestiary",
        doc_string=f"EfficientNet-{name.capitalize()} up to its last feature maps, ImageNet weights, Apache-2.0.",
    )


def cached_backbone_graph(name: str, cache_folder: Path, size: int | None = None) -> Path:
    """Return the path of the graph of `build_backbone_graph` in the cache folder; a missing one is written first.

    The file name contains the input size, GRAPH_VERSION, the digest of the weights and that of the file itself; a
    damaged file is removed and written again. Safe with concurrent processes.
    Raises as `build_backbone_graph` does, and MachineError if the folder cannot be written.
    """
    backbone = lite_backbone(name)
    pixels = _check_size(backbone, size)
    stem = f"trunk-{name}-{pixels}px-v{GRAPH_VERSION}-{backbone.weights.sha256[:8]}"
    return cached_graph(cache_folder, stem, lambda: build_backbone_graph(name, pixels))


def _check_size(backbone: LiteNetwork, size: int | None) -> int:
    if size is not None and size < REDUCTION:
        raise RecipeError(
            f'"{backbone.name}" does not accept an input size of {size} pixels; the minimum is {REDUCTION}, its own'
            f" {backbone.size}. Set a larger size, or leave it out."
        )
    return size or backbone.size


class _GraphBuilder:
    """Collects the nodes and weights of the graph, from images to maps.

    Each method that adds a node returns the name of its output, which is the name of the node.
    """

    def __init__(self, helper: Any, numpy_helper: Any, checkpoint: dict[str, Array]) -> None:
        self._helper, self._numpy_helper = helper, numpy_helper
        self.checkpoint = checkpoint
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, kind: str, name: str, inputs: Sequence[str], attributes: dict[str, Any] | None = None) -> str:
        self.nodes.append(self._helper.make_node(kind, inputs, [name], name=name, **(attributes or {})))
        return name

    def constant(self, name: str, numbers: Array) -> str:
        self.initializers.append(self._numpy_helper.from_array(numbers, name))
        return name

    def convolution(self, x: str, name: str, convolution: str, norm: str, *, stride: int = 1) -> str:
        """Add a convolution with its BatchNorm folded in; `convolution` and `norm` are keys of the checkpoint."""
        kernel, bias = _fold_batch_norm(self.checkpoint, convolution, norm)
        attributes = {
            "auto_pad": "SAME_UPPER",  # TensorFlow's padding: the odd pixel is added right and below
            "group": len(kernel) if convolution.endswith("_depthwise_conv") else 1,
            "kernel_shape": kernel.shape[2:],
            "strides": [stride, stride],
        }
        inputs = [x, self.constant(f"{name}.weight", kernel), self.constant(f"{name}.bias", bias)]
        return self.node("Conv", name, inputs, attributes)

    def relu6(self, x: str, name: str) -> str:
        return self.node("Clip", name, [x, "zero", "six"])


def _fold_batch_norm(checkpoint: dict[str, Array], convolution: str, norm: str) -> tuple[Array, Array]:
    """Return the kernel (out, in, h, w) and bias (out,), float32, of a convolution followed by its BatchNorm."""
    gamma, beta, mean, variance = (
        checkpoint[f"{norm}.{key}"].astype(np.float64) for key in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
    kernel = checkpoint[f"{convolution}.weight"] * scale[:, None, None, None]
    return kernel.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _add_backbone(builder: _GraphBuilder, backbone: LiteNetwork) -> None:
    """Add every node from `images` to `maps`."""
    builder.constant("zero", np.array(0, np.float32))
    builder.constant("six", np.array(6, np.float32))
    x = _normalise_input(builder)
    x = builder.convolution(x, "stem", "_conv_stem", "_bn0", stride=2)
    x = builder.relu6(x, "stem.relu6")
    strides = zip(backbone.blocks, STAGE_STRIDES, strict=True)
    for index, stride in enumerate(part for blocks, first in strides for part in (first, *[1] * (blocks - 1))):
        x = _block(builder, x, index, stride)
    x = builder.convolution(x, "head", "_conv_head", "_bn1")
    builder.relu6(x, "maps")


def _normalise_input(builder: _GraphBuilder) -> str:
    """Add the normalisation from uint8 (n, size, size, 3) to float32 (n, 3, size, size) in [-1, 1]."""
    half = builder.constant("half", np.array(127.5, np.float32))
    x = builder.node("Transpose", "images.channels_first", ["images"], {"perm": [0, 3, 1, 2]})
    x = builder.node("Cast", "images.float", [x], {"to": 1})  # TensorProto.FLOAT
    x = builder.node("Sub", "images.centred", [x, half])
    return builder.node("Div", "images.normalised", [x, half])


def _block(builder: _GraphBuilder, x: str, index: int, stride: int) -> str:
    """Add an inverted residual block: expand, depthwise, project; with a skip connection where the shapes allow it."""
    key, name = f"_blocks.{index}", f"blocks.{index}"
    inside, weights = x, builder.checkpoint
    channels_in = len(weights[f"{key}._depthwise_conv.weight"])
    if f"{key}._expand_conv.weight" in weights:  # the first stage does not expand
        channels_in = weights[f"{key}._expand_conv.weight"].shape[1]
        inside = builder.convolution(inside, f"{name}.expand", f"{key}._expand_conv", f"{key}._bn0")
        inside = builder.relu6(inside, f"{name}.expand.relu6")
    inside = builder.convolution(inside, f"{name}.filter", f"{key}._depthwise_conv", f"{key}._bn1", stride=stride)
    inside = builder.relu6(inside, f"{name}.filter.relu6")
    inside = builder.convolution(inside, f"{name}.project", f"{key}._project_conv", f"{key}._bn2")
    if stride == 1 and channels_in == len(weights[f"{key}._project_conv.weight"]):
        return builder.node("Add", f"{name}.sum", [inside, x])
    return inside
