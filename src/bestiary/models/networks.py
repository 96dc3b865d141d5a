"""Torch networks: two to train from scratch, and one on a pretrained backbone.

Each network is pixels -> normalisation -> backbone -> feature maps -> head -> logits. The backbone is exported as a
graph and the head as numpy arrays (`export_head`), so that the exported graph can compute class activation maps.

>>> network = small_resnet(10)
>>> pixels = torch.zeros(2, 3, 128, 128)  # float, 0 to 255
>>> network(pixels).shape, network.feature_maps(pixels).shape
(torch.Size([2, 10]), torch.Size([2, 192, 8, 8]))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bestiary.array_types import Float32s, Pixels
from bestiary.errors import RecipeError
from bestiary.models.distillation import FeatureDistillation
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.head import Dense, Head
from bestiary.models.layers import ResidualBlock, conv_bn_act
from bestiary.models.timm_backbone import TimmBackbone, create_timm_lite
from bestiary.recipe_sections import Activation, ModelConfig

Colour = tuple[float, ...]  # one number per channel, or one for all
Module = TypeVar("Module", bound=nn.Module)

IMAGENET_MEAN: Colour = (123.675, 116.28, 103.53)  # of 0..255, red, green, blue
IMAGENET_STD: Colour = (58.395, 57.12, 57.375)
HALF: Colour = (127.5, 127.5, 127.5)  # the Lite backbones scale 0..255 to -1..1

PLAIN_FILTERS = (32, 64, 128)
RESNET_FILTERS = (48, 96, 192)
NEARLY_ALL = 0.8  # EfficientNet-Lite0's blocks hold 88 % of its weights, a ResNet's last stage at most 75 %
HEAD_STD = 0.01  # small first logits: the first loss is ln(classes)


class PooledHead(nn.Module):
    """Global average pooling, dropout and one linear layer: maps (n, channels, h, w) -> logits (n, classes)."""

    def __init__(self, channels: int, classes: int, *, dropout: float = 0.0) -> None:
        """Initialise with small random weights and zero biases."""
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
        """`features`: channels * h * w, which fixes the input size; `hidden`: layer widths."""
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

    backbone: normalised pixels -> maps (n, channels, h', w'). head: maps -> logits. mean and std: float32 buffers (3,)
    in units of 0..255, or (1,) for all channels. `frozen_statistics` keeps batch normalisation in evaluation mode while
    training: pretraining saw more pictures than a fine-tuning batch contains. `mirror_mean`: in evaluation,
    average the maps of the picture and of its mirror image (flipped back), and so the logits, as the head is linear; it
    takes twice the time.
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
        """Combine backbone and head."""
        super().__init__()
        self.backbone, self.head = backbone, head
        self.distillation: FeatureDistillation | None = None  # what is learned beside the classes
        self.frozen_statistics, self.mirror_mean = frozen_statistics, mirror_mean
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.head(self.feature_maps(pixels))
        return logits

    def feature_maps(self, pixels: Tensor) -> Tensor:
        """Return the backbone's maps (n, channels, h', w')."""
        normalised = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        maps: Tensor = self.backbone(normalised)
        if self.mirror_mean and not self.training:
            maps = (maps + self.backbone(normalised.flip(-1)).flip(-1)) / 2
        return maps

    def train(self, mode: bool = True) -> Network:
        """Return the network in training mode; frozen batch normalisation stays in evaluation mode."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def stages(self) -> list[list[nn.Parameter]]:
        """Return the weights of the backbone's stages, from input to output; layers in between join the earlier stage.

        A stage is a `nn.Sequential` child of the backbone, or a child of one that holds nearly all the weights, as in
        EfficientNet and ConvNeXt. Weights of the backbone itself, such as position embeddings, are left out.
        """
        total = sum(weight.numel() for weight in self.backbone.parameters())
        stem: list[nn.Parameter] = []
        stages: list[list[nn.Parameter]] = []
        for child in self.backbone.children():
            weights = list(child.parameters())
            if not isinstance(child, nn.Sequential):
                (stages[-1] if stages else stem).extend(weights)
            elif sum(weight.numel() for weight in weights) > NEARLY_ALL * total:
                stages.extend([*part.parameters()] for part in child.children())
            else:
                stages.append(weights)
        stages = [stage for stage in stages if stage]
        return [stem + stages[0], *stages[1:]] if stages else [stem]


@dataclass(frozen=True)
class PlainArchitecture:
    """Layers of a plain CNN. filters: the channels of each stage; kernel_size: by stage, the last for all later."""

    filters: Sequence[int] = PLAIN_FILTERS
    kernel_size: Sequence[int] = (3,)
    batch_norm: bool = False
    pooling: Literal["max", "average"] = "max"
    activation: Activation = "relu"
    stage_dropout: float = 0.0
    hidden: Sequence[int] = (128,)
    dropout: float = 0.5

    @classmethod
    def from_config(cls, config: ModelConfig) -> PlainArchitecture:
        """Return the architecture that a recipe describes."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: value for name in names if (value := getattr(config, name)) != () or name != "filters"})


def plain_cnn(
    classes: int,
    size: int,
    architecture: PlainArchitecture = PlainArchitecture(),
    *,
    mean: Colour = IMAGENET_MEAN,
    std: Colour = IMAGENET_STD,
    seed: int = 0,
) -> Network:
    """Return a plain CNN: per stage a convolution, ReLU and 2x2 max-pooling; then flatten and dense layers.

    size: height and width of the input in pixels. The dense layers have ReLU, so that heatmaps are exact. mean, std:
    see Network. Raises RecipeError if the stages leave no pixel, or for an even kernel size.
    """
    filters, kernel_size = architecture.filters, architecture.kernel_size
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
                *conv_bn_act(
                    inputs,
                    outputs,
                    kernel_size=kernel,
                    batch_norm=architecture.batch_norm,
                    activation=architecture.activation,
                ),
                nn.MaxPool2d(2) if architecture.pooling == "max" else nn.AvgPool2d(2),
                *([nn.Dropout(architecture.stage_dropout)] if architecture.stage_dropout else []),
            )
            for inputs, outputs, kernel in zip((3, *filters), filters, kernels, strict=False)
        ]
        head = FlatHead(filters[-1] * rest**2, architecture.hidden, classes, dropout=architecture.dropout)
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
    """Return a small residual network: a stem of stride 2, stages of `blocks` blocks with stride 2, a pooled head.

    filters: the channels of each stage; the stem has two thirds of the first. Minimum input size: 2**(stages + 1).
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
    colours: tuple[Colour, Colour] = (HALF, HALF),
    weight: Float32s | None = None,
    bias: Float32s | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Network:
    """Return a network with a linear head on a pretrained backbone, whose batch statistics stay frozen.

    The head starts from weight (classes, channels) and bias (classes,), on average-pooled maps, if they are given.
    colours: mean and standard deviation, see Network.
    """
    head = _build_seeded(lambda: PooledHead(channels, classes, dropout=dropout), seed)
    if (weight is None) != (bias is None):
        raise ValueError("A head starts from weight and bias together; only one of them was given.")
    if weight is not None and bias is not None:
        shapes, expected = (weight.shape, bias.shape), ((classes, channels), (classes,))
        if shapes != expected:
            raise ValueError(f"The head's weight and bias have shapes {shapes[0]}, {shapes[1]}; expected {expected}.")
        with torch.no_grad():
            head.linear.weight.copy_(torch.tensor(weight))
            head.linear.bias.copy_(torch.tensor(bias))
    mean, std = colours
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
    """Return the network to fine-tune: a packaged backbone and a linear head, which starts from the probe's if given.

    weight: float32 (classes, 1280), bias: float32 (classes,), for the backbone's average-pooled maps without
    standardisation; a probe folds its standardisation into them first.
    """
    network, channels = create_timm_lite(backbone), BACKBONES[backbone].channels
    return with_linear_head(network, classes, channels=channels, weight=weight, bias=bias, dropout=dropout, seed=seed)


def from_timm(backbone: TimmBackbone, classes: int, *, dropout: float = 0.2, seed: int = 0) -> Network:
    """Return the network to fine-tune on any timm backbone; timm's mean and std of 0..1 become those of 0..255."""
    mean, std = (tuple(255 * part for part in colour) for colour in (backbone.mean, backbone.std))
    network, channels = backbone.network, backbone.channels
    return with_linear_head(network, classes, channels=channels, colours=(mean, std), dropout=dropout, seed=seed)


def reference_logits(network: Network, images: Pixels) -> Float32s:
    """Return float32 logits (n, classes) of images uint8 (n, height, width, 3), to check an exported graph against."""
    with torch.inference_mode():
        logits: Float32s = network(torch.tensor(images).permute(0, 3, 1, 2).float()).numpy()
    return logits


def export_head(network: Network) -> Head:
    """Return the network's head as copied numpy arrays."""
    weight, bias = _export_layer(network.head.linear)
    if isinstance(network.head, PooledHead):
        return Head(weight, bias, pooling="average")
    hidden = tuple(Dense(*_export_layer(layer)) for layer in network.head.hidden if isinstance(layer, nn.Linear))
    return Head(weight, bias, pooling="flatten", hidden=hidden)


def _stack_stages(stages: Sequence[nn.Module]) -> nn.Module:
    """Return the stages nested one level down, where `Network.stages` finds them, as in a pretrained backbone."""
    return nn.Sequential(nn.Sequential(*stages))


def _init_small(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=HEAD_STD)
    nn.init.zeros_(layer.bias)


def _export_layer(layer: nn.Linear) -> tuple[Float32s, Float32s]:
    weight, bias = (part.detach().float().cpu().numpy().copy() for part in (layer.weight, layer.bias))
    return weight, bias


def _build_seeded(build: Callable[[], Module], seed: int) -> Module:
    """Build with random weights drawn from this seed, without changing torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
