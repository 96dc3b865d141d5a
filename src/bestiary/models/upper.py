"""The stages of a fine-tuned network above a cut, as a network of their own that shares their weights."""

from __future__ import annotations

from torch import nn

from bestiary.models.cut import STAGES
from bestiary.models.networks import Network


def upper_part(network: Network, stages: int) -> Network:
    """Return the network above the first `stages` stages of a Lite backbone: activations (n, channels, h, w) -> logits.

    Its modules are the whole network's own: training it trains the whole network, and nothing need be put together.
    """
    trunk = network.trunk
    blocks = trunk.get_submodule("blocks")
    assert isinstance(blocks, nn.Sequential)
    above: list[nn.Module] = []
    if stages < STAGES:
        above = [*blocks[stages:], trunk.get_submodule("conv_head"), trunk.get_submodule("bn2")]
    return Network(nn.Sequential(*above), network.head, mean=(0.0,), std=(1.0,), frozen_statistics=True)
