"""Two processes that train together, against one: real processes, joined by gloo."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from bestiary.batches.augmentation import BatchRandom, random_hflip
from bestiary.errors import RecipeError
from bestiary.machine import TrainDevice
from bestiary.models.networks import Network, small_resnet
from bestiary.recipe_sections import AugmentConfig, SyncBatchNorm
from bestiary.training import distributed, loop
from bestiary.training.device import seed_for_step
from bestiary.training.distributed import SINGLE_PROCESS, ProcessGroup, SyncBatchNormCPU
from bestiary.training.loop import LoopControl, ValidationMetrics, fit
from bestiary.training.loop_settings import LoopSettings

T = TypeVar("T")

NETWORKS = ("resnet", "plain")
PROGRAM = """
    import sys
    from pathlib import Path

    import numpy as np
    import torch

    from bestiary.models.networks import PlainArchitecture, plain_cnn, small_resnet
    from bestiary.progress import SilentReporter
    from bestiary.recipe_sections import (AugmentConfig)
    from bestiary.training.loop import LoopControl, LoopSettings, ValidationMetrics, fit, predict_logits
    from bestiary.training.distributed import destroy_process_group, init_process_group

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(37) % 3
    images = rng.integers(0, 120, (37, 16, 16, 3), dtype=np.uint8)
    images[np.arange(37), :, :, labels] += 100

    def evaluate(network):
        logits = predict_logits(network, lambda rows: images[rows], 37, batch_size=37, precision="float32")
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        return ValidationMetrics(float(loss), float((logits.argmax(axis=1) == labels).mean()))

    here, told = init_process_group({"from": "the first"})
    assert told == {"from": "the first"}
    seed = here.rank  # the first one's weights count
    networks = {
        "resnet": small_resnet(3, filters=(8, 16), blocks=1, seed=seed),
        "plain": plain_cnn(3, 16, PlainArchitecture(filters=(8,), hidden=(8,), dropout=0.0), seed=seed),
    }
    settings = LoopSettings(
        epochs=2, batch_size=9, learning_rate=0.05, weight_decay=5e-4, momentum=0.9, label_smoothing=0.1,
        schedule="one-cycle", warmup_epochs=1, patience_epochs=9, seed=0, threads=1, precision="float32",
        balance="class-weights", sync_batch_norm=sys.argv[2],
    )
    for name, network in networks.items():
        out = Path(sys.argv[1]) / name
        result = fit(network, lambda rows: images[rows], labels, evaluate, settings, AugmentConfig(), out,
                     LoopControl(SilentReporter(), process_group=here))
        assert all(type(module).__name__ != "SyncBatchNormCPU" for module in network.modules())
        torch.save((network.state_dict(), list(result.history)), out / f"result-{here.rank}.pt")
    destroy_process_group()
"""


def train_both(folder: Path, processes: int, sync_batch_norm: SyncBatchNorm = "auto") -> Path:
    """Let so many processes train both networks, and return the folder with what each ended with."""
    for name in NETWORKS:
        (folder / name).mkdir()
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    if processes == 1:
        command = [sys.executable]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += [str(program), str(folder), sync_batch_norm]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_both(tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_both(tmp_path_factory.mktemp("together"), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_learn_what_one_learns(alone: Path, together: Path, name: str) -> None:
    weights, history = torch.load(alone / name / "result-0.pt")
    for rank in range(2):
        shared_weights, shared_history = torch.load(together / name / f"result-{rank}.pt")
        for key, tensor in weights.items():
            np.testing.assert_allclose(shared_weights[key].numpy(), tensor.numpy(), atol=1e-5, err_msg=key)
        for here, there in zip(history, shared_history, strict=True):
            for key in ("train_loss", "train_accuracy", "val_loss", "val_macro_f1", "learning_rate"):
                assert there[key] == pytest.approx(here[key], abs=1e-5), key
    lines = (together / name / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2], "the first process alone writes"


def test_shares_make_up_the_batch_and_differ_by_at_most_one() -> None:
    parts = [ProcessGroup(rank, 3).local_slice(10) for rank in range(3)]
    assert [row for part in parts for row in range(10)[part]] == list(range(10))
    assert {part.stop - part.start for part in parts} == {3, 4}
    assert SINGLE_PROCESS.local_slice(10) == slice(0, 10)


@pytest.mark.parametrize(
    ("batch_pictures", "setting", "is_synchronised"),
    [(64, "auto", False), (63, "auto", True), (64, "on", True), (8, "off", False)],
)
def test_batch_normalisation_is_synchronised_where_slices_are_small(
    monkeypatch: pytest.MonkeyPatch, batch_pictures: int, setting: SyncBatchNorm, is_synchronised: bool
) -> None:
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: None)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    ProcessGroup(0, 2).wrap_network(network, batch_pictures, setting)
    assert isinstance(network[0], SyncBatchNormCPU) == is_synchronised


SETTINGS = LoopSettings(
    epochs=2,
    batch_size=12,
    learning_rate=0.05,
    weight_decay=5e-4,
    momentum=0.9,
    label_smoothing=0.1,
    schedule="one-cycle",
    warmup_epochs=1,
    patience_epochs=9,
    seed=0,
    threads=1,
    precision="float32",
    checkpoint_seconds=0.0,
)


BUILDING = threading.Lock()  # torch's generator, which initial weights come from, is one for all threads


def fit_noise(
    folder: Path,
    process: ProcessGroup,
    settings: LoopSettings,
    pictures: int = 40,
    *,
    validate: Callable[[Network], ValidationMetrics] = lambda network: ValidationMetrics(1.0, 0.5),
    resume: bool = False,
) -> dict[str, torch.Tensor]:
    """The weights of a small network after training on noise."""
    images = np.random.default_rng(0).integers(0, 256, (pictures, 16, 16, 3), dtype=np.uint8)
    with BUILDING:
        network = small_resnet(3, filters=(4, 8), blocks=1, seed=process.rank)
    control = LoopControl(process_group=process, resume=resume)
    labels = np.arange(pictures, dtype=np.int64) % 3
    fit(network, lambda rows: images[rows], labels, validate, settings, AugmentConfig(), folder, control)
    return network.state_dict()


class ThreadGroup:
    """Two processes played by threads: what they exchange by `torch.distributed` goes through a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._barrier, self._local = threading.Barrier(2, timeout=60), threading.local()
        self._tensors = [torch.empty(0), torch.empty(0)]
        for name in ("all_gather", "all_reduce", "broadcast"):
            monkeypatch.setattr(torch.distributed, name, getattr(self, name))
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def run(self, act: Callable[[ProcessGroup], T]) -> list[T]:
        """What each of them returns."""

        def act_as(rank: int) -> T:
            self._local.rank = rank
            return act(ProcessGroup(rank, 2))

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(act_as, range(2)))

    def exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._tensors[self._local.rank] = tensor.clone()
        self._barrier.wait()
        tensors = list(self._tensors)
        self._barrier.wait()
        return tensors

    def all_gather(self, parts: list[torch.Tensor], own: torch.Tensor) -> None:
        for part, tensor in zip(parts, self.exchange(own), strict=True):
            part.copy_(tensor)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor.copy_(torch.stack(self.exchange(tensor)).sum(dim=0))

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        tensor.copy_(self.exchange(tensor)[src])


@pytest.mark.parametrize("first", [0, 1, 2, 5])  # pictures of the first process, of 5
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("pixels", "mean"), [(4, 0.0), (4, 50.0), (1, 0.0)])
def test_synchronised_batch_normalisation_has_outputs_and_gradients_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, first: int, memory_format: torch.memory_format, pixels: int, mean: float
) -> None:
    maps, gradient = torch.randn(5, 3, pixels, pixels) + mean, torch.randn(5, 3, 1, 1).expand(-1, -1, pixels, pixels)
    slices = [slice(0, first), slice(first, 5)]
    whole = torch.nn.BatchNorm2d(3).double()
    torch.nn.init.normal_(whole.weight)
    torch.nn.init.normal_(whole.bias)
    copies = [copy.deepcopy(whole).float() for _ in slices]
    expected_input = maps.double().requires_grad_()
    expected = whole(expected_input)
    expected.backward(gradient.double())

    def normalise(process: ProcessGroup) -> tuple[torch.Tensor, torch.nn.Module, torch.Tensor]:
        own, layer = slices[process.rank], copies[process.rank]
        process.wrap_network(layer, 5, "on")
        own_input = maps[own].contiguous(memory_format=memory_format).requires_grad_()
        output = layer(own_input)
        output.backward(gradient[own])
        assert own_input.grad is not None
        return output.detach(), layer, own_input.grad

    results = ThreadGroup(monkeypatch).run(normalise)
    check = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4, check_dtype=False)
    assert expected_input.grad is not None
    check(torch.cat([result[0] for result in results]), expected.detach())
    check(torch.cat([result[2] for result in results]), expected_input.grad)
    for name, weight in whole.named_parameters():
        gradients = [layer.get_parameter(name).grad for _, layer, _ in results]
        check(sum(own for own in gradients if own is not None), weight.grad)
    for name, buffer in whole.named_buffers():
        for _, layer, _ in results:
            check(layer.get_buffer(name), buffer)


def test_running_statistics_of_slices_are_averaged_with_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    def average(process: ProcessGroup) -> tuple[list[float], list[float], list[float], list[float]]:
        learning, frozen = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2).eval()
        for layer in (learning, frozen):
            layer.load_state_dict({"running_mean": torch.tensor([1.0, 2.0]) + 4 * process.rank}, strict=False)
            layer.load_state_dict({"running_var": torch.tensor([3.0, 5.0]) + 2 * process.rank}, strict=False)
        learning.weight.grad = torch.tensor([1.0, 10.0])
        tally = process.all_reduce_gradients(torch.nn.Sequential(learning, frozen), torch.tensor([2.0, 3]))
        weights = [tally, learning.weight.grad, learning.running_mean, learning.running_var]
        assert frozen.running_mean is not None
        assert frozen.running_mean.tolist() == [1 + 4 * process.rank, 2 + 4 * process.rank]
        assert learning.bias.grad is None
        return tuple(tensor.tolist() for tensor in weights)  # type: ignore[union-attr, return-value]

    assert ThreadGroup(monkeypatch).run(average) == 2 * [([4, 6], [2, 20], [3, 4], [4, 6])]


@pytest.mark.parametrize(("pictures", "is_synchronised"), [(64, False), (40, True)])
def test_fewer_pictures_than_a_batch_make_small_slices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: int, is_synchronised: bool
) -> None:
    settings, seen = replace(SETTINGS, epochs=1, warmup_epochs=0, batch_size=64), list[bool]()

    def validate(network: Network) -> ValidationMetrics:
        seen.extend(isinstance(module, SyncBatchNormCPU) for module in network.modules())
        return ValidationMetrics(1.0, 0.5)

    ThreadGroup(monkeypatch).run(lambda process: fit_noise(tmp_path, process, settings, pictures, validate=validate))
    assert any(seen) == is_synchronised


@pytest.mark.parametrize("sync_batch_norm", ["on", "off"])
def test_workers_that_are_stopped_within_an_epoch_and_resumed_equal_those_that_were_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sync_batch_norm: SyncBatchNorm
) -> None:
    settings, group = replace(SETTINGS, sync_batch_norm=sync_batch_norm), ThreadGroup(monkeypatch)
    whole = group.run(lambda process: fit_noise(tmp_path / "whole", process, settings))

    def stop(seed: int, epoch: int, step: int) -> torch.Generator:
        if (epoch, step) == (2, 2):
            raise KeyboardInterrupt
        return seed_for_step(seed, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "seed_for_step", stop)
        with pytest.raises(KeyboardInterrupt):
            group.run(lambda process: fit_noise(tmp_path / "stopped", process, settings))
    resumed = group.run(lambda process: fit_noise(tmp_path / "stopped", process, settings, resume=True))
    for weights, expected in zip(resumed, whole, strict=True):
        for name, tensor in expected.items():
            assert torch.equal(weights[name], tensor), name


@pytest.mark.slow
def test_workers_with_statistics_of_their_own_end_alike_and_learn(alone: Path, tmp_path: Path) -> None:
    weights, history = torch.load(alone / "resnet" / "result-0.pt")
    folder = train_both(tmp_path, 2, sync_batch_norm="off") / "resnet"
    (own, own_history), (other, _) = (torch.load(folder / f"result-{rank}.pt") for rank in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())
    assert any(not torch.allclose(tensor, weights[name], atol=1e-4) for name, tensor in own.items())
    assert own_history[-1]["train_loss"] == pytest.approx(history[-1]["train_loss"], abs=0.15)


def test_a_picture_is_changed_alike_whoever_has_it() -> None:
    images = torch.rand(10, 3, 4, 4)
    whole = random_hflip(images, BatchRandom(torch.Generator().manual_seed(0)))
    parts = []
    for rank in range(3):
        team = ProcessGroup(rank, 3)
        chance = BatchRandom(torch.Generator().manual_seed(0), *team.batch_offsets(10))
        parts.append(random_hflip(images[team.local_slice(10)], chance))
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("device", "has_card", "backend"),
    [
        ("auto", True, "nccl"),
        ("cuda", True, "nccl"),
        ("cpu", True, "gloo"),
        ("auto", False, "gloo"),
        ("mps", False, "gloo"),
    ],
)
def test_the_device_of_the_job_chooses_the_backend(
    monkeypatch: pytest.MonkeyPatch, device: TrainDevice, has_card: bool, backend: str
) -> None:
    """NCCL cannot exchange the tensors of a processor, also where there is a card."""
    joined, cards = list[str](), list[int]()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_card)
    monkeypatch.setattr(torch.cuda, "set_device", cards.append)
    for name, stand_in in {
        "is_initialized": lambda: False,
        "init_process_group": lambda chosen, timeout: joined.append(chosen),
        "broadcast_object_list": lambda messages, src: None,
        "get_rank": lambda: 1,
        "get_world_size": lambda: 2,
    }.items():
        monkeypatch.setattr(torch.distributed, name, stand_in)
    assert distributed.init_process_group({"run": "r"}, device) == (ProcessGroup(1, 2), {"run": "r"})
    assert joined == [backend]
    assert cards == ([1] if backend == "nccl" else [])


def test_a_batch_that_is_too_small_for_the_team_is_refused() -> None:
    with pytest.raises(RecipeError, match="batch of 2 pictures cannot be distributed over 3 processes"):
        ProcessGroup(0, 3).check_batch_size(2)
