"""Distributed training: several processes started by `torchrun` train one network; with one process nothing happens.

Every process computes a slice of each batch. Gradients, losses and batch normalisation statistics are summed over
the processes, so that the weights equal those of a single process but for rounding. Random numbers are drawn for the
whole batch; only dropout draws in each process. Rank 0 alone writes and reports.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from bestiary.errors import RecipeError
from bestiary.machine import TrainDevice, world_size

PROCESS_GROUP_TIMEOUT = timedelta(days=1)  # the workers wait while rank 0 audits the pictures


@dataclass(frozen=True)
class ProcessGroup:
    """The rank of this process among `world_size` processes; rank 0 is the main one."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def local_slice(self, count: int) -> slice:
        """Return the slice of a batch of `count` pictures that this process computes; sizes differ by at most one."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def batch_offsets(self, count: int) -> tuple[int, int]:
        """Return how many pictures of a batch of `count` come before and after the local slice."""
        own = self.local_slice(count)
        return own.start, count - own.stop

    def __str__(self) -> str:
        """Return the description of a group for messages, empty for a single process."""
        return f", distributed over {self.world_size} processes" if self.world_size > 1 else ""

    def check_batch_size(self, batch_pictures: int) -> None:
        """Raise RecipeError if a batch has fewer pictures than there are processes."""
        if batch_pictures < self.world_size:
            raise RecipeError(
                f"A batch of {batch_pictures} pictures cannot be distributed over {self.world_size} processes. Start"
                " fewer, or raise train.batch_size."
            )

    def wrap_network(self, network: nn.Module) -> None:
        """Broadcast the weights of rank 0, and synchronise the statistics of batch normalisation."""
        if self.world_size == 1:
            return
        for tensor in network.state_dict().values():
            distributed.broadcast(tensor, src=0)
        _change_class(network, nn.BatchNorm2d, SyncBatchNormCPU)

    def unwrap_network(self, network: nn.Module) -> None:
        """Undo `wrap_network`."""
        _change_class(network, SyncBatchNormCPU, nn.BatchNorm2d)

    def all_reduce_gradients(self, weights: Sequence[nn.Parameter], tally: Tensor) -> Tensor:
        """Sum the gradients over all processes, in place, and return the sum of their tallies."""
        if self.world_size == 1:
            return tally
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([tally.float(), *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(flat)
        start = len(tally)
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return flat[: len(tally)]

    def broadcast_from_main(
        self, numbers: Callable[[], tuple[float, ...]], count: int, device: torch.device
    ) -> list[float]:
        """Return `count` numbers that rank 0 computes while the workers wait."""
        if self.world_size == 1:
            return list(numbers())
        values = torch.tensor(numbers() if self.is_main_process else [0.0] * count, dtype=torch.float32, device=device)
        distributed.broadcast(values, src=0)
        return [float(value) for value in values]


SINGLE_PROCESS = ProcessGroup()


def choose_backend(device: TrainDevice) -> Literal["nccl", "gloo"]:
    """Return what processes that train on a device exchange tensors by: NCCL has those of CUDA only, gloo the others.

    device: as requested; "auto" trains on CUDA where there is a card.
    """
    return "nccl" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "gloo"


def init_process_group(
    message: dict[str, Any] | None = None, device: TrainDevice = "auto"
) -> tuple[ProcessGroup, dict[str, Any]]:
    """Return the process group of the environment (RANK, WORLD_SIZE: see torchrun), and the message of rank 0.

    The first call joins the group; `message` is broadcast by rank 0. device: that the processes train on, the same in
    all of them.
    """
    if world_size() == 1:
        return SINGLE_PROCESS, message or {}
    if not distributed.is_initialized():
        backend = choose_backend(device)
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group(backend, timeout=PROCESS_GROUP_TIMEOUT)
        messages = [message]
        distributed.broadcast_object_list(messages, src=0)
        message = messages[0]
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size()), message or {}


def is_lost_connection(error: Exception) -> bool:
    """Return whether an error says that another process of the group has gone."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def destroy_process_group() -> None:
    """Destroy the process group, if any."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


class SyncBatchNormCPU(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the whole batch; torch has it for GPUs only."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised maps (n, channels, h, w)."""
        if not self.training:
            return super().forward(input)
        maps = input.float()
        local = torch.tensor([maps.numel() / maps.shape[1]], device=maps.device)
        count = _all_reduce_sum(local)
        mean = _all_reduce_with_gradient(maps.sum(dim=(0, 2, 3))) / count
        centred = maps - mean[:, None, None]
        variance = _all_reduce_with_gradient(centred.square().sum(dim=(0, 2, 3))) / count
        self._update_running_stats(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(input.dtype)

    def _update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def _all_reduce_sum(tensor: Tensor) -> Tensor:
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


def _all_reduce_with_gradient(tensor: Tensor) -> Tensor:
    """The sum over all processes, whose gradient is the sum of their gradients."""
    total = tensor + (_all_reduce_sum(tensor) - tensor.detach())
    if total.requires_grad:
        total.register_hook(_all_reduce_sum)  # type: ignore[no-untyped-call]
    return total


def _change_class(network: nn.Module, before: type[nn.Module], after: type[nn.Module]) -> None:
    """Let layers of one class behave as another with the same weights and buffers."""
    for module in network.modules():
        if type(module) is before:
            module.__class__ = after
