"""Torch networks: two to train from scratch, and one on top of a pretrained backbone.

Every network is pixels -> normalisation -> trunk -> maps -> head -> logits. The trunk ships as a graph and the head as
numpy arrays (`export_head`), so that the sealed graph can show where in the maps a label comes from.

>>> network = small_resnet(10)
>>> pixels = torch.zeros(2, 3, 128, 128)  # float, 0 to 255
>>> network(pixels).shape, network.maps(pixels).shape
(torch.Size([2, 10]), torch.Size([2, 192, 8, 8]))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bestiary.array_types import Float32s, Pixels
from bestiary.errors import RecipeError
from bestiary.models.head import Dense, Head
from bestiary.models.layers import ResidualBlock, conv_bn_act
from bestiary.models.timm_backbone import TimmBackbone, create_timm_lite
from bestiary.recipe import Activation

Colour = tuple[float, ...]  # one number for each channel, or one for all of them
Module = TypeVar("Module", bound=nn.Module)

IMAGENET_MEAN: Colour = (123.675, 116.28, 103.53)  # of 0..255, red, green, blue
IMAGENET_STD: Colour = (58.395, 57.12, 57.375)
HALF: Colour = (127.5, 127.5, 127.5)  # the Lite backbones see 0..255 as -1..1

PLAIN_FILTERS = (32, 64, 128)
RESNET_FILTERS = (48, 96, 192)
BACKBONE_CHANNELS = 1280
NEARLY_ALL = 0.8  # EfficientNet-Lite0's blocks hold 88 % of its weights, a ResNet's last stage at most 75 %
HEAD_STD = 0.01  # small first logits: the first loss is ln(classes)


class PooledHead(nn.Module):
    """Global average pooling, dropout and one linear layer: maps (n, channels, h, w) -> logits (n, classes)."""

    def __init__(self, channels: int, classes: int, *, dropout: float = 0.0) -> None:
        """Start with small random weights and zero biases."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, classes)
        _init_small(self.linear)

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.linear(self.dropout(feature_maps.mean(dim=(2, 3))))
        return logits


class FlatHead(nn.Module):
    """Flatten, dense layers with ReLU and dropout, and one linear layer: maps (n, channels, h, w) -> logits."""

    def __init__(self, features: int, hidden: Sequence[int], classes: int, *, dropout: float) -> None:
        """`features` is channels * h * w, which ties the network to one input size; `hidden` are widths."""
        super().__init__()
        widths = [features, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], classes)
        _init_small(self.linear)

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        features = feature_maps.flatten(1)
        for layer in self.hidden:
            features = self.dropout(functional.relu(layer(features)))
        logits: Tensor = self.linear(features)
        return logits


class Network(nn.Module):
    """Pixels float (n, 3, h, w) in 0..255 -> logits (n, classes).

    trunk: normalised pixels -> maps (n, channels, h', w'). head: maps -> logits. mean and std: float32 buffers (3,) in
    units of 0..255, or (1,) for all channels alike. `frozen_statistics` keeps batch normalisation as it came, in
    training too: a pretrained backbone has seen more pictures than a fine-tuning batch. `mirror_mean`: when not
    training, maps are the mean of those of the picture and of its mirror image (mirrored back); as the head is linear,
    so are the logits. It costs twice the time.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: PooledHead | FlatHead,
        *,
        mean: Colour = IMAGENET_MEAN,
        std: Colour = IMAGENET_STD,
        frozen_statistics: bool = False,
        mirror_mean: bool = False,
    ) -> None:
        """Put trunk and head together."""
        super().__init__()
        self.mirror_mean = mirror_mean
        self.trunk = backbone
        self.head = head
        self.frozen_statistics = frozen_statistics
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.head(self.feature_maps(pixels))
        return logits

    def feature_maps(self, pixels: Tensor) -> Tensor:
        """Return the trunk's maps (n, channels, h', w')."""
        normalised = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        maps: Tensor = self.trunk(normalised)
        if self.mirror_mean and not self.training:
            maps = (maps + self.trunk(normalised.flip(-1)).flip(-1)) / 2
        return maps

    def train(self, mode: bool = True) -> Network:
        """Return the network in training mode; frozen batch normalisation stays in evaluation mode."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.trunk.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def stages(self) -> list[list[nn.Parameter]]:
        """Return the weights of the trunk's stages, from input to output; what lies between two joins the earlier.

        A stage is a `nn.Sequential` of the trunk, or one level down where a single one holds nearly all the weights,
        as EfficientNet's and ConvNeXt's do. Weights of the trunk itself, such as position embeddings, are left out.
        """
        total = sum(weight.numel() for weight in self.trunk.parameters())
        stem: list[nn.Parameter] = []
        stages: list[list[nn.Parameter]] = []
        for child in self.trunk.children():
            weights = list(child.parameters())
            if not isinstance(child, nn.Sequential):
                (stages[-1] if stages else stem).extend(weights)
            elif sum(weight.numel() for weight in weights) > NEARLY_ALL * total:
                stages.extend([*part.parameters()] for part in child.children())
            else:
                stages.append(weights)
        stages = [stage for stage in stages if stage]
        return [stem + stages[0], *stages[1:]] if stages else [stem]


def plain_cnn(
    classes: int,
    size: int,
    *,
    filters: Sequence[int] = PLAIN_FILTERS,
    kernel_size: Sequence[int] = (3,),
    batch_norm: bool = False,
    pooling: Literal["max", "average"] = "max",
    activation: Activation = "relu",
    stage_dropout: float = 0.0,
    hidden: Sequence[int] = (128,),
    dropout: float = 0.5,
    mean: Colour = IMAGENET_MEAN,
    std: Colour = IMAGENET_STD,
    seed: int = 0,
) -> Network:
    """Return the textbook CNN: per stage a convolution, ReLU and 2x2 max-pooling; then flatten and dense layers.

    size: height and width of the input in pixels. filters: the channels of each stage. kernel_size: of each stage; the
    last one counts for those after it. The dense layers have ReLU, so that heatmaps are exact. mean, std: see Network.
    Raises RecipeError when the stages leave no pixel, or for an even kernel, which has no centre.
    """
    rest = size // 2 ** len(filters)
    if not filters or rest < 1:
        raise RecipeError(
            f"A plain network with {len(filters)} stages halves {size} pixels to {rest}; expected 1 to "
            f"{int(math.log2(size))} stages. Change model.filters or picture.size."
        )
    if even := [size for size in kernel_size if size % 2 == 0]:
        raise RecipeError(f"model.kernel_size is {even[0]}; expected an odd number, such as {even[0] + 1}.")
    kernels = [kernel_size[min(stage, len(kernel_size) - 1)] for stage in range(len(filters))]

    def build() -> Network:
        stages = [
            nn.Sequential(
                *conv_bn_act(inputs, outputs, kernel_size=kernel, batch_norm=batch_norm, activation=activation),
                nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2),
                *([nn.Dropout(stage_dropout)] if stage_dropout else []),
            )
            for inputs, outputs, kernel in zip((3, *filters), filters, kernels, strict=False)
        ]
        head = FlatHead(filters[-1] * rest**2, hidden, classes, dropout=dropout)
        return Network(_stack_stages(stages), head, mean=mean, std=std)

    return _build_seeded(build, seed)


def small_resnet(
    classes: int,
    *,
    filters: Sequence[int] = RESNET_FILTERS,
    blocks: int = 2,
    dropout: float = 0.0,
    mean: Colour = IMAGENET_MEAN,
    std: Colour = IMAGENET_STD,
    mirror_mean: bool = False,
    seed: int = 0,
) -> Network:
    """Return a small residual network: a stem that halves, stages of `blocks` blocks that halve, average, linear.

    filters: the channels of each stage; the stem has two thirds of the first. Any input size from 2**(stages + 1) on.
    After He et al. 2015; the shortcuts average before their 1x1 convolution (He et al. 2018, "Bag of Tricks").
    """
    if not filters:
        raise RecipeError("A resnet needs at least one stage; expected model.filters such as 48, 96, 192.")

    def build() -> Network:
        stem = max(8, filters[0] * 2 // 3)
        stages = [conv_bn_act(3, stem, stride=2)]
        for inputs, outputs in zip((stem, *filters), filters, strict=False):
            rest = [ResidualBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(ResidualBlock(inputs, outputs, stride=2), *rest))
        head = PooledHead(filters[-1], classes, dropout=dropout)
        return Network(_stack_stages(stages), head, mean=mean, std=std, mirror_mean=mirror_mean)

    return _build_seeded(build, seed)


def with_linear_head(
    backbone: nn.Module,
    classes: int,
    *,
    channels: int,
    mean: Colour = HALF,
    std: Colour = HALF,
    weight: Float32s | None = None,
    bias: Float32s | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Network:
    """Return a network with a linear head on a pretrained trunk, whose batch statistics stay frozen.

    The head starts from weight (classes, channels) and bias (classes,), on average-pooled maps, when they are given.
    """
    head = _build_seeded(lambda: PooledHead(channels, classes, dropout=dropout), seed)
    if weight is not None and bias is not None:
        expected = (tuple(head.linear.weight.shape), tuple(head.linear.bias.shape))
        if (weight.shape, bias.shape) != expected:
            raise ValueError(
                f"The head's weight and bias have shapes {weight.shape}, {bias.shape}; expected {expected}."
            )
        with torch.no_grad():
            head.linear.weight.copy_(torch.tensor(weight))
            head.linear.bias.copy_(torch.tensor(bias))
    elif weight is not None or bias is not None:
        raise ValueError("A head starts from weight and bias together; one of them was given.")
    return Network(backbone, head, mean=mean, std=std, frozen_statistics=True)


def finetune_network(
    classes: int,
    backbone: str,
    *,
    weight: Float32s | None = None,
    bias: Float32s | None = None,
    dropout: float = 0.2,
    seed: int = 0,
) -> Network:
    """Return the network to fine-tune: a bundled pretrained backbone and a linear head, from the probe's if given.

    weight: float32 (classes, 1280), bias: float32 (classes,), on the backbone's average-pooled maps as they are; a
    probe that standardises its features folds that into them first.
    """
    return with_linear_head(
        create_timm_lite(backbone),
        classes,
        channels=BACKBONE_CHANNELS,
        weight=weight,
        bias=bias,
        dropout=dropout,
        seed=seed,
    )


def from_timm(backbone: TimmBackbone, classes: int, *, dropout: float = 0.2, seed: int = 0) -> Network:
    """Return the network to fine-tune on any timm backbone; timm's mean and std of 0..1 become those of 0..255."""
    mean, std = _in_bytes(backbone.mean), _in_bytes(backbone.std)
    return with_linear_head(
        backbone.network, classes, channels=backbone.channels, mean=mean, std=std, dropout=dropout, seed=seed
    )


def reference_logits(network: Network, images: Pixels) -> Float32s:
    """Return float32 logits (n, classes) of images uint8 (n, height, width, 3): what a sealed graph is held against."""
    with torch.inference_mode():
        logits: Float32s = network(torch.tensor(images).permute(0, 3, 1, 2).float()).numpy()
    return logits


def export_head(network: Network) -> Head:
    """Return the network's head as numpy arrays, copied, ready to be sealed into a graph."""
    weight, bias = _export_layer(network.head.linear)
    if isinstance(network.head, PooledHead):
        return Head(weight, bias, pooling="average")
    hidden = tuple(Dense(*_export_layer(layer)) for layer in network.head.hidden if isinstance(layer, nn.Linear))
    return Head(weight, bias, pooling="flatten", hidden=hidden)


def _stack_stages(stages: Sequence[nn.Module]) -> nn.Module:
    """The stages in a row, one level down: `Network.stages` finds the same parts here as in a backbone's blocks."""
    return nn.Sequential(nn.Sequential(*stages))


def _init_small(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=HEAD_STD)
    nn.init.zeros_(layer.bias)


def _in_bytes(colour: Colour) -> Colour:
    return tuple(255 * part for part in colour)


def _export_layer(layer: nn.Linear) -> tuple[Float32s, Float32s]:
    weight, bias = (part.detach().float().cpu().numpy().copy() for part in (layer.weight, layer.bias))
    return weight, bias


def _build_seeded(build: Callable[[], Module], seed: int) -> Module:
    """Build with random weights drawn from this seed, leaving torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
