"""The tensor of a foreign graph that has the features: maps, tokens or a vector, and how it becomes maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bestiary.array_types import Array, Float32s
from bestiary.errors import RecipeError
from bestiary.models.backbone import OutputKind
from bestiary.recipe_sections import OnnxConfig

TensorLayout = Literal["nchw", "nhwc", "tokens", "vector"]


@dataclass(frozen=True)
class FeatureTensor:
    """The tensor that has the features. name: in the graph; shape: of one picture's.

    layout: "nchw", "nhwc", "tokens" or "vector"; prefix: tokens before the patches; class_token: the first token counts
    alone.
    """

    name: str
    shape: tuple[int, ...]
    layout: TensorLayout
    prefix: int = 0
    class_token: bool = False

    @property
    def maps_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its maps."""
        match self.layout:
            case "nchw":
                return (self.shape[1], self.shape[2], self.shape[3])
            case "nhwc":
                return (self.shape[3], self.shape[1], self.shape[2])
            case "vector":
                return (self.shape[1], 1, 1)
        side = 1 if self.class_token else round((self.shape[1] - self.prefix) ** 0.5)
        return (self.shape[2], side, side)

    @property
    def kind(self) -> OutputKind:
        """What the features are the mean of."""
        if self.layout == "tokens":
            return "vector" if self.class_token else "tokens"
        return "vector" if self.layout == "vector" else "maps"

    @property
    def no_heatmap(self) -> str:
        """Why a heatmap would not be exact; empty if it is."""
        if self.class_token:
            return "its features are its class token"
        return "" if self.maps_shape[1:] != (1, 1) else "its features are one vector for the whole picture"


def read_feature_tensor(name: str, features: Array, settings: OnnxConfig, path: Path) -> FeatureTensor:
    """Return what the tensor of features is, from its shape and the settings."""
    shape, layout = features.shape, settings.output_layout
    by_dimensions = {2: ("vector",), 3: ("tokens",), 4: ("nchw", "nhwc")}.get(len(shape), ())
    if not by_dimensions or (layout != "auto" and layout not in by_dimensions):
        wanted = "" if layout == "auto" else f" and onnx.output_layout is {layout}"
        raise RecipeError(
            f"{path}: {name} has the shape {shape} for {len(features)} picture(s){wanted}; features are maps"
            " (n, c, h, w) or (n, h, w, c), tokens (n, t, c), or a vector (n, c). Set onnx.output to another tensor."
        )
    if layout == "auto":
        layout = _guess_layout(name, shape, path)
    if layout != "tokens":
        return FeatureTensor(name, shape, layout)
    if settings.pooling == "class-token":
        return FeatureTensor(name, shape, "tokens", class_token=True)
    prefixes = [settings.prefix_tokens] if settings.prefix_tokens >= 0 else [0, 1]
    for prefix in prefixes:
        if (patches := shape[1] - prefix) > 0 and round(patches**0.5) ** 2 == patches:
            return FeatureTensor(name, shape, "tokens", prefix)
    raise RecipeError(
        f"{path}: the {shape[1]} tokens of {name} form no square after {' or '.join(map(str, prefixes))} of them. Set"
        " onnx.prefix_tokens to the number before the patches (class token and registers), or onnx.pooling to"
        ' "class-token".'
    )


def _guess_layout(name: str, shape: tuple[int, ...], path: Path) -> TensorLayout:
    if len(shape) != 4:
        return "vector" if len(shape) == 2 else "tokens"
    first, last = shape[2] == shape[3], shape[1] == shape[2]  # sides are equal, channels differ from them
    if first == last:
        raise RecipeError(
            f'{path}: its tensor "{name}" has the shape {shape}, which does not say where its channels are. Set'
            ' onnx.output_layout to "nchw" or "nhwc".'
        )
    return "nchw" if first else "nhwc"


def as_maps(features: Array, tensor: FeatureTensor) -> Float32s:
    """Return features of n pictures as maps, float32 (n, channels, h, w), in numpy."""
    values = features.astype(np.float32)
    if tensor.layout == "nhwc":
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    if tensor.layout == "tokens":
        values = (values[:, :1] if tensor.class_token else values[:, tensor.prefix :]).transpose(0, 2, 1)
    return np.ascontiguousarray(values).reshape(len(values), *tensor.maps_shape)
