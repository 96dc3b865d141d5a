"""The end of every network, in numpy: what turns the maps of the trunk into one logit per class.

The torch networks hand their heads over in this form; the graph that ships is sealed from it, and `Head.logits` is the
reference both are held against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bestiary.errors import IntegrityError

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Head:
    """A linear layer on the maps float32 (n, channels, height, width), after pooling and at most one hidden layer.

    weight: float32 (classes, features) and bias: float32 (classes,). pooling: "average" over height and width, or
    "flatten" in the order channel, row, column. hidden_weight: float32 (hidden, pooled) and hidden_bias: float32
    (hidden,) belong to a dense layer with ReLU in between, and come together or not at all.
    Raises IntegrityError when the shapes do not fit together.
    """

    weight: Floats
    bias: Floats
    pooling: Literal["average", "flatten"]
    hidden_weight: Floats | None = None
    hidden_bias: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if self.pooling not in ("average", "flatten"):
            raise IntegrityError(f'The head pools by "{self.pooling}"; expected "average" or "flatten".')
        _check_layer("", self.weight, self.bias)
        if (self.hidden_weight is None) != (self.hidden_bias is None):
            raise IntegrityError("The head has one of hidden_weight and hidden_bias; expected both or none.")
        if self.hidden_weight is not None and self.hidden_bias is not None:
            _check_layer("hidden ", self.hidden_weight, self.hidden_bias)
            if self.weight.shape[1] != len(self.hidden_bias):
                raise IntegrityError(
                    f"The head's weight takes {self.weight.shape[1]} features; its hidden layer gives "
                    f"{len(self.hidden_bias)}."
                )

    @property
    def classes(self) -> int:
        """How many logits come out."""
        return len(self.bias)

    @property
    def is_linear(self) -> bool:
        """Whether it is average pooling and one linear layer: then the class-activation map is exact."""
        return self.pooling == "average" and self.hidden_weight is None

    def features(self, maps: Floats) -> Floats:
        """Return what the last layer sees, float32 (n, features)."""
        pooled: Floats = maps.mean(axis=(2, 3)) if self.pooling == "average" else maps.reshape(len(maps), -1)
        if self.hidden_weight is None or self.hidden_bias is None:
            return pooled
        hidden: Floats = np.maximum(pooled @ self.hidden_weight.T + self.hidden_bias, 0)
        return hidden

    def logits(self, maps: Floats) -> Floats:
        """Return float32 (n, classes) for maps float32 (n, channels, height, width)."""
        result: Floats = self.features(maps) @ self.weight.T + self.bias
        return result


def _check_layer(name: str, weight: Floats, bias: Floats) -> None:
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise IntegrityError(
            f"The head's {name}weight has shape {weight.shape}, its bias {bias.shape}; expected (out, in) and (out,)."
        )
    if weight.dtype != np.float32 or bias.dtype != np.float32:
        raise IntegrityError(f"The head's {name}layer is {weight.dtype} and {bias.dtype}; expected float32.")
