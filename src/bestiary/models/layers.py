"""Building blocks of the networks trained from scratch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from bestiary.recipe_sections import Activation

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        """Initialise the second batch normalisation to zero, so that the block starts as its shortcut."""
        super().__init__()
        self.first = conv_bn_act(inputs, outputs, stride=stride)
        self.second = conv_bn_act(outputs, outputs, activation=None)
        norm = self.second[1]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's maps."""
        return functional.relu(self.second(self.first(maps)) + self.shortcut(maps))


def conv_bn_act(
    inputs: int,
    outputs: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    batch_norm: bool = True,
    activation: Activation | None = "relu",
) -> nn.Sequential:
    """Return a "same"-padded convolution, then optional batch normalisation and activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=not batch_norm),
        *([nn.BatchNorm2d(outputs)] if batch_norm else []),
        *([ACTIVATIONS[activation]()] if activation else []),
    )


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    pooling = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
    return nn.Sequential(*pooling, *conv_bn_act(inputs, outputs, kernel_size=1, activation=None))
