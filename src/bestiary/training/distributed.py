"""Distributed training: several processes started by `torchrun` train one network; with one process nothing happens.

Every process computes a slice of each batch. Gradients and losses are summed over the processes. Where slices are
small, batch normalisation takes its statistics from all of them, so that the weights equal those of a single process
but for rounding; otherwise each slice has its own, and the running statistics are averaged after each step. Random
numbers are drawn for the whole batch; only dropout draws in each process. Rank 0 alone writes and reports.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from bestiary.errors import RecipeError
from bestiary.machine import TrainDevice, world_size
from bestiary.recipe_sections import SyncBatchNorm

# Statistics of a slice are as good from here on: networks for ImageNet are trained with 32 pictures a graphics card
# (Goyal et al. 2017). Synchronised, processes wait for each other twice a layer, which costs a third of their time.
MIN_UNSYNCHRONISED_PICTURES = 32
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

    def wrap_network(self, network: nn.Module, batch_pictures: int, sync_batch_norm: SyncBatchNorm) -> None:
        """Broadcast the weights of rank 0, and let batch normalisation take its statistics over the processes together.

        batch_pictures: in the batches that there are, which may be smaller than train.batch_size. sync_batch_norm:
        "on"; "off", for statistics of each process's slice alone; or "auto", which is "off" where every slice has at
        least 32 pictures.
        """
        if self.world_size == 1:
            return
        for tensor in network.state_dict().values():
            distributed.broadcast(tensor, src=0)
        if sync_batch_norm == "on" or (
            sync_batch_norm == "auto" and batch_pictures // self.world_size < MIN_UNSYNCHRONISED_PICTURES
        ):
            _change_class(network, nn.BatchNorm2d, SyncBatchNormCPU)

    def unwrap_network(self, network: nn.Module) -> None:
        """Undo `wrap_network`."""
        _change_class(network, SyncBatchNormCPU, nn.BatchNorm2d)

    def all_reduce_gradients(self, network: nn.Module, tally: Tensor) -> Tensor:
        """Sum the gradients of a network over all processes, in place, and return the sum of their tallies.

        Running statistics of slices are averaged by the same message, so that the state of all processes stays the
        same, and a checkpoint of rank 0 that of all.
        """
        if self.world_size == 1:
            return tally
        summed = [weight.grad for weight in network.parameters() if weight.grad is not None]
        averaged = _running_statistics(network)
        flat = torch.cat([tally.float(), *(tensor.flatten() for tensor in summed + averaged)])
        distributed.all_reduce(flat)
        total, *sums = torch.split(flat, [len(tally), *(tensor.numel() for tensor in summed + averaged)])
        for tensor, value in zip(summed + averaged, sums, strict=True):
            tensor.copy_(value.view_as(tensor))
        for tensor in averaged:
            tensor.div_(self.world_size)
        return total

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
    """Batch normalisation with the statistics of the whole batch; torch has it for GPUs only.

    Processes wait for each other twice a layer and step: for the statistics, and for the sums of their gradient.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised maps (n, channels, h, w)."""
        if not self.training:
            return super().forward(input)
        maps = input.float()
        mean, variance, count = _gather_statistics(maps.detach())
        self._update_running_stats(mean, variance * count / (count - 1))
        normalised: Tensor = _Normalisation.apply(maps, self.weight, self.bias, mean, variance, count, self.eps)
        return normalised.to(input.dtype)

    def _update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def _gather_statistics(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel (channels,) of the maps of all processes, and the number of pixels.

    The parts' means and variances are combined (Chan, Golub and LeVeque 1979): sums of squares would lose digits.
    """
    own = maps.new_zeros(2 * maps.shape[1] + 1)
    if len(maps):  # the last batch of an epoch may have fewer pictures than there are processes
        variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
        own = torch.cat([mean, variance, maps.new_tensor([maps.numel() / maps.shape[1]])])
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own)
    table = torch.stack(parts)
    counts, (means, variances) = table[:, -1:], table[:, :-1].chunk(2, dim=1)
    count = counts.sum()
    mean = (counts * means).sum(dim=0) / count
    return mean, (counts * (variances + (means - mean).square())).sum(dim=0) / count, count


class _Normalisation(torch.autograd.Function):
    """Maps normalised by statistics of the batch, which depend on the maps of all processes.

    The gradient is that of batch normalisation (Ioffe and Szegedy 2015), with sums over all processes.
    """

    @staticmethod
    def forward(
        context: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        epsilon: float,
    ) -> Tensor:
        context.save_for_backward(maps, weight, mean, variance, count)
        context.epsilon = epsilon
        return nn.functional.batch_norm(maps, mean, variance, weight, bias, training=False, eps=epsilon)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, mean, variance, count = context.saved_tensors
        gradient, inverse = gradients[0], (variance + context.epsilon).rsqrt()
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        if len(maps):
            _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                gradient, maps, weight, mean, variance, None, None, False, context.epsilon, [False, True, True]
            )
        sums = torch.cat([of_weight, of_bias])
        distributed.all_reduce(sums)
        of_normalised, of_shift = (sums / count).chunk(2)
        scale = weight * inverse
        slope = -scale * inverse * of_normalised
        offset = -scale * of_shift - slope * mean
        shift, by_maps, by_gradient = (value[:, None, None] for value in (offset, slope, scale))
        of_maps = torch.addcmul(shift, maps, by_maps).addcmul_(gradient, by_gradient)
        return of_maps, of_weight, of_bias, None, None, None, None


def _running_statistics(network: nn.Module) -> list[Tensor]:
    """Return the running means and variances that each process takes from its own slices, (channels,) each."""
    return [
        statistics
        for module in network.modules()
        if type(module) is nn.BatchNorm2d and module.training
        for statistics in (module.running_mean, module.running_var)
        if statistics is not None
    ]


def _change_class(network: nn.Module, before: type[nn.Module], after: type[nn.Module]) -> None:
    """Let layers of one class behave as another with the same weights and buffers."""
    for module in network.modules():
        if type(module) is before:
            module.__class__ = after
