"""Classification heads in numpy: from the feature maps of a backbone to one logit per class.

Torch networks export their heads in this form; the exported graph is built from it, and both are tested against
`Head.logits`.
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
    """A linear layer on feature maps float32 (n, channels, height, width), after pooling and any hidden layers.

    weight: float32 (classes, features); bias: float32 (classes,). pooling: "average" over height and width, or
    "flatten" in the order channel, row, column. hidden: the dense layers in between, from input to output.
    Raises IntegrityError if the shapes do not match.
    """

    weight: Float32s
    bias: Float32s
    pooling: Literal["average", "flatten"]
    hidden: tuple[Dense, ...] = ()

    def __post_init__(self) -> None:
        """Check pooling, shapes and types."""
        if self.pooling not in ("average", "flatten"):
            raise IntegrityError(f'The head pools by "{self.pooling}"; expected "average" or "flatten".')
        for layer in self.hidden:
            _check_layer("hidden ", layer.weight, layer.bias)
        _check_layer("", self.weight, self.bias)
        for before, after in pairwise([*self.hidden, Dense(self.weight, self.bias)]):
            inputs, outputs = after.weight.shape[1], len(before.bias)
            if inputs != outputs:
                raise IntegrityError(f"A layer of the head takes {inputs} features; the one before it gives {outputs}.")

    @property
    def classes(self) -> int:
        """The number of logits."""
        return len(self.bias)

    @property
    def is_linear(self) -> bool:
        """Whether the head is average pooling and one linear layer: then class activation maps are exact."""
        return self.pooling == "average" and not self.hidden

    def features(self, feature_maps: Float32s) -> Float32s:
        """Return the input of the last layer, float32 (n, features)."""
        flat = feature_maps.reshape(len(feature_maps), -1)
        pooled: Float32s = feature_maps.mean(axis=(2, 3)) if self.pooling == "average" else flat
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
