"""Two processes that train together, against one: real processes, joined by gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from bestiary.batches.augmentation import BatchRandom, random_hflip
from bestiary.errors import RecipeError
from bestiary.machine import TrainDevice
from bestiary.recipe_sections import SyncBatchNorm
from bestiary.training import distributed
from bestiary.training.distributed import SINGLE_PROCESS, ProcessGroup, SyncBatchNormCPU

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


def test_running_statistics_are_averaged_over_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(3)
    first.load_state_dict({"running_mean": torch.tensor([1.0, 2.0])}, strict=False)
    second.load_state_dict({"running_var": torch.tensor([3.0, 4.0, 5.0])}, strict=False)
    others = torch.tensor([3.0, 4.0, 1, 3, 0, 0, 2, 5, 6, 9])  # means and variances of both layers
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(others))
    ProcessGroup(0, 2).average_statistics(torch.nn.Sequential(first, torch.nn.Conv2d(2, 3, 1), second))
    averaged = {name: buffer.tolist() for layer in (first, second) for name, buffer in layer.named_buffers()}
    assert averaged == {"running_mean": [0, 0, 1], "running_var": [4, 5, 7], "num_batches_tracked": 0}
    assert dict(first.named_buffers())["running_mean"].tolist() == [2, 3]
    assert dict(first.named_buffers())["running_var"].tolist() == [1, 2]


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
