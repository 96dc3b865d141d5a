"""The end of every network, in numpy: what turns the maps of the trunk into one logit per class.

The torch networks hand their heads over in this form; the graph that ships is sealed from it, and `Head.logits` is the
reference both are held against.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from bestiary.array_types import Float32s
from bestiary.errors import IntegrityError


class Dense(NamedTuple):
    """A dense layer with ReLU. weight: float32 (outputs, inputs); bias: float32 (outputs,)."""

    weight: Float32s
    bias: Float32s


@dataclass(frozen=True, eq=False)
class Head:
    """A linear layer on the maps float32 (n, channels, height, width), after pooling and any hidden layers.

    weight: float32 (classes, features) and bias: float32 (classes,). pooling: "average" over height and width, or
    "flatten" in the order channel, row, column. hidden: the dense layers in between, from input to output.
    Raises IntegrityError when the shapes do not fit together.
    """

    weight: Float32s
    bias: Float32s
    pooling: Literal["average", "flatten"]
    hidden: tuple[Dense, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if self.pooling not in ("average", "flatten"):
            raise IntegrityError(f'The head pools by "{self.pooling}"; expected "average" or "flatten".')
        for layer in self.hidden:
            _check_layer("hidden ", layer.weight, layer.bias)
        _check_layer("", self.weight, self.bias)
        layers = [*self.hidden, Dense(self.weight, self.bias)]
        for before, after in pairwise(layers):
            if after.weight.shape[1] != len(before.bias):
                raise IntegrityError(
                    f"A layer of the head takes {after.weight.shape[1]} features; the one before it gives"
                    f" {len(before.bias)}."
                )

    @property
    def classes(self) -> int:
        """How many logits come out."""
        return len(self.bias)

    @property
    def is_linear(self) -> bool:
        """Whether it is average pooling and one linear layer: then the class-activation map is exact."""
        return self.pooling == "average" and not self.hidden

    def features(self, feature_maps: Float32s) -> Float32s:
        """Return what the last layer sees, float32 (n, features)."""
        pooled: Float32s = (
            feature_maps.mean(axis=(2, 3)) if self.pooling == "average" else feature_maps.reshape(len(feature_maps), -1)
        )
        for layer in self.hidden:
            pooled = np.maximum(pooled @ layer.weight.T + layer.bias, 0)
        return pooled

    def logits(self, feature_maps: Float32s) -> Float32s:
        """Return float32 (n, classes) for maps float32 (n, channels, height, width)."""
        result: Float32s = self.features(feature_maps) @ self.weight.T + self.bias
        return result


def _check_layer(name: str, weight: Float32s, bias: Float32s) -> None:
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise IntegrityError(
            f"The head's {name}weight has shape {weight.shape}, its bias {bias.shape}; expected (out, in) and (out,)."
        )
    if weight.dtype != np.float32 or bias.dtype != np.float32:
        raise IntegrityError(f"The head's {name}layer is {weight.dtype} and {bias.dtype}; expected float32.")
