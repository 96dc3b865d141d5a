"""Muon optimiser: orthogonalised momentum, for the filters of convolutions.

A step of a filter bank, seen as a matrix (outputs, inputs * height * width), is replaced by the nearest matrix whose
singular values are all about 1, so that rare directions move as far as frequent ones. After Jordan et al. 2024, "Muon",
with the quintic Newton-Schulz iteration given there. Everything else learns by SGD with Nesterov momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay for groups with "orthogonal" true, Nesterov SGD for the others.

    Each group has "lr", "momentum", "weight_decay" and "orthogonal".
    """

    def __init__(self, groups: list[dict[str, Any]], *, precision: torch.dtype) -> None:
        """`precision`: of the Newton-Schulz iteration, which bfloat16 is enough for."""
        super().__init__(groups, {"momentum": 0.9, "weight_decay": 0.0, "orthogonal": False})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        gradient, momentum, decay = weight.grad, group["momentum"], group["weight_decay"]
        assert gradient is not None
        if not group["orthogonal"]:
            gradient = gradient.add(weight, alpha=decay)
        velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
        velocity.mul_(momentum).add_(gradient)
        ahead = gradient.add(velocity, alpha=momentum)
        if group["orthogonal"]:
            weight.mul_(1 - group["lr"] * decay)
            ahead = orthogonalise(ahead.flatten(1), self.precision).view_as(weight)
        weight.add_(ahead, alpha=-group["lr"])


def orthogonalise(matrix: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Return the matrix with its singular values moved to about 1, times the root of its height over its width if tall.

    The iteration converges to between 0.7 and 1.2, which is as good as 1 here, and cheaper.
    """
    first, third, fifth = QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    current = (matrix.T if is_tall else matrix).to(precision)
    current = current / (current.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = current @ current.T
        current = first * current + (third * square + fifth * square @ square) @ current
    scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
    result: Tensor = (current.T if is_tall else current).to(matrix.dtype) * scale
    return result
