"""Training by several workers of a cluster, against one process; workers that die, fail or are interrupted."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("ray")

import polars as pl
import psutil
import torch

from bestiary import flow, run_folder
from bestiary.cluster.messages import RemoteTracebackError, WorkerFailure
from bestiary.cluster.train import FitOrder, TrainingWorkers, check_workers_supported, connect_job
from bestiary.cluster.worker_group import WorkerGroup, split_processors
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import InputError, MachineError, RecipeError
from bestiary.models import features
from bestiary.models.engine_choice import OPENVINO
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe
from bestiary.recipe_sections import FeaturesConfig
from bestiary.report.results import Run
from bestiary.training.fit_job import run_fit
from bestiary.training.loop import FitResult
from bestiary.training.methods import build_fit_job
from bestiary.training.task import make_task
from commands import Call
from ray_cluster import wait_for_processors

# Ray Train copies the settings of Ray Data, which warn of themselves (2.60).
pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")

SETTINGS: dict[str, Any] = {
    "data": {"classes": ["bird", "fish", "spider"], "suspects": False},
    "picture": {"size": 32},
    "model": {"method": "scratch", "filters": [8, 16]},
    "train": {"epochs": 4, "batch_size": 16, "precision": "float32"},
    "evaluate": {"resamples": 100},
}
RECIPE = Recipe.of(SETTINGS)
TWO = TrainingWorkers(WorkerGroup(workers=2, threads=1))
COMPARED = ("train_loss", "val_loss", "train_accuracy", "val_macro_f1", "learning_rate")


@dataclass
class Intervening(SilentReporter):
    """Does something at the first notice that begins with a text, and records all notices."""

    start: str
    act: Callable[[], object]
    texts: list[str] = field(default_factory=list)

    def info(self, text: str) -> None:
        is_first = text.startswith(self.start) and not any(past.startswith(self.start) for past in self.texts)
        self.texts.append(text)
        if is_first:
            self.act()


def kill_worker() -> None:
    """Kill one of the workers of this process's cluster."""
    titles = {child.pid: " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)}
    workers = [pid for pid, title in titles.items() if title.startswith("ray::RayTrainWorker")]
    assert len(workers) == 2, titles
    os.kill(workers[-1], signal.SIGKILL)


@pytest.fixture(scope="module")
def single(collection: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that one process trained."""
    return flow.train(collection.folder, recipe=RECIPE, out=tmp_path_factory.mktemp("one") / "run", threads=2)


def fit(
    single: Run,
    folder: Path,
    reporter: SilentReporter,
    recipe: Recipe = RECIPE,
    *,
    workers: TrainingWorkers | None = TWO,
) -> FitResult:
    """Train a network on the pictures of a run, by two workers, or in this process."""
    folder.mkdir()
    context = Context(threads=2, reporter=reporter, remote_fit=None if workers is None else workers.fit)
    task = make_task(folder, recipe.resolve(), run_folder.read_pictures(single.path), context)
    return run_fit(task, build_fit_job(task))


def comparable(history: Any) -> list[dict[str, float]]:
    return [{name: line[name] for name in COMPARED} for line in history]


@pytest.mark.slow
def test_two_workers_train_what_one_process_trains(
    local_ray: Any, single: Run, collection: SyntheticDataset, tmp_path: Path
) -> None:
    reporter = Intervening("Epoch 1:", lambda: None)
    with connect_job("local", 2, RECIPE, threads=2, reporter=reporter) as remote:
        run = flow.train(collection.folder, recipe=RECIPE, out=tmp_path / "run", threads=2, reporter=reporter, **remote)
    assert "Training on cpu in float32 with 1 thread, distributed over 2 processes." in reporter.texts
    histories = [comparable(run_folder.read_history(folder)) for folder in (single.path, run.path)]
    for alone, together in zip(*histories, strict=True):
        assert together == pytest.approx(alone, abs=1e-5)
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert run.metrics[name]["value"] == pytest.approx(single.metrics[name]["value"], abs=1e-4)
    assert {path.name for path in run.path.iterdir()} == {path.name for path in single.path.iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
def test_after_a_killed_worker_training_goes_on_at_the_checkpoint(local_ray: Any, single: Run, tmp_path: Path) -> None:
    undisturbed = fit(single, tmp_path / "undisturbed", SilentReporter(), workers=None)
    reporter = Intervening("Epoch 2:", kill_worker)
    killed = fit(single, tmp_path / "killed", reporter)
    assert "A worker was lost. All were started again, and resume at the last checkpoint." in reporter.texts
    assert any(text.startswith("Resuming after epoch ") for text in reporter.texts)
    assert len(killed.history) == len(undisturbed.history)
    for alone, together in zip(comparable(undisturbed.history), comparable(killed.history), strict=True):
        assert together == pytest.approx(alone, abs=1e-5)  # a lost momentum or another draw differs by far more
    assert (killed.best_epoch, killed.stop_reason) == (undisturbed.best_epoch, "finished")
    assert not (tmp_path / "killed" / "ray").exists()


@pytest.mark.slow
def test_what_one_worker_raises_ends_all_with_the_same_message(local_ray: Any, single: Run, tmp_path: Path) -> None:
    checkpoints = tmp_path / "broken" / "checkpoints"

    def block() -> None:  # rank 0 alone writes, while the other one waits for its gradients
        shutil.rmtree(checkpoints)
        checkpoints.touch()

    with pytest.raises(MachineError, match=r"checkpoints") as kept:
        fit(single, checkpoints.parent, Intervening("Epoch 1:", block))
    assert wait_for_processors(local_ray), f"although {type(kept.value).__name__} is kept"


def test_what_a_worker_raises_arrives_as_it_was() -> None:
    class UnsendableError(Exception):
        """Cannot be pickled: its class is in a function."""

    with pytest.raises(RecipeError, match=r"^batch of 1$") as raised:
        WorkerFailure.of(RecipeError("batch of 1")).reraise()
    assert raised.value.__cause__ is None, "a message for the user has no traceback of the worker"
    with pytest.raises(ZeroDivisionError) as bug:
        WorkerFailure.of(ZeroDivisionError("x")).reraise()
    assert isinstance(bug.value.__cause__, RemoteTracebackError)
    with pytest.raises(RuntimeError, match="UnsendableError: lost"):
        WorkerFailure.of(UnsendableError("lost")).reraise()


@pytest.mark.slow
def test_ctrl_c_ends_the_workers(local_ray: Any, single: Run, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    recipe = RECIPE.override({"train": {"epochs": 300}})
    with pytest.raises(KeyboardInterrupt) as kept:
        fit(single, tmp_path / "run", Intervening("Epoch 2:", interrupt), recipe)
    assert wait_for_processors(local_ray), f"although {type(kept.value).__name__} is kept"
    epochs = len(run_folder.read_history(tmp_path / "run"))
    assert 2 <= epochs < 300


@pytest.mark.parametrize("settings", [{"train": {"distill": "lite0"}}, {"model": {"method": "finetune"}}, {}])
def test_all_workers_have_the_features_that_the_driver_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """A worker would choose by what it measures itself, and compute the teacher's features in another precision."""
    base = {"picture": {"size": 64}, "model": {"method": "scratch", "backbone": "lite0"}}
    recipe = Recipe.of(base).override(settings).resolve()
    pictures = pl.DataFrame({"path": ["a"], "sha256": ["0"], "label": ["cat"], "split": ["train"], "depth_bits": [8]})
    job: Any = SimpleNamespace(network=torch.nn.Linear(2, 2))
    has_features = bool(settings)
    monkeypatch.setattr(features, "choose_engine", lambda graph, size, context: OPENVINO)
    order = FitOrder.of(make_task(tmp_path, recipe, pictures, Context(threads=2)), job, 2)
    expected = FeaturesConfig(engine="openvino", precision="float32", device="cpu")
    assert order.features == (expected if has_features else FeaturesConfig())
    monkeypatch.undo()
    there = make_task(tmp_path, recipe, pictures, Context(threads=2, features=order.features))
    cache = there.feature_cache("float32") if there.uses_features else there.teacher_cache()
    assert (cache is not None) == has_features
    if cache is not None:
        assert cache.engine_choice == OPENVINO


@pytest.mark.slow
def test_more_workers_than_processors_are_refused(local_ray: Any) -> None:
    assert split_processors(2, None) == WorkerGroup(2, 1)
    assert split_processors(1, 2) == WorkerGroup(1, 2)
    with pytest.raises(InputError, match=r"3 workers need as many processors; the cluster has 2\. Use --workers 2\."):
        split_processors(3, None)
    with pytest.raises(InputError, match=r"the cluster has 2, of which --threads allows 1\. Use --workers 1\."):
        split_processors(2, 1)


@pytest.mark.parametrize(
    ("settings", "budget_seconds", "message"),
    [
        ({"model": {"method": "probe"}}, None, "--method finetune"),
        (SETTINGS, 60.0, "--budget follows the clock of a single process"),
        (SETTINGS | {"train": {"device": "cuda"}}, None, "torchrun"),
    ],
)
def test_what_workers_cannot_train_is_refused(settings: dict[str, Any], budget_seconds: float, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_workers_supported(Recipe.of(settings), budget_seconds=budget_seconds)


def test_the_command_refuses_workers_for_a_probe(bestiary: Call, tmp_path: Path) -> None:
    done = bestiary("train", str(tmp_path), "--workers", "2")
    assert done.code == 2
    assert "a probe is fitted in one process, in seconds" in done.err
