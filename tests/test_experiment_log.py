"""`train --log`: what TensorBoard and MLflow get, and when they are refused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")

import bestiary
from bestiary.context import Context
from bestiary.errors import MachineError, MissingExtraError, RecipeError
from bestiary.install_command import install_command
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe
from bestiary.training.control import make_loop_control
from bestiary.training.distributed import SINGLE_PROCESS
from bestiary.training.experiment_loggers import (
    RECORDED,
    MlflowLog,
    check_log_supported,
    open_experiment_log,
)
from bestiary.training.task import load_task
from listening import Listening
from test_loop import IMAGES, LABELS, PLAIN_VIEW, SETTINGS, macro_f1_of, reader, small

EPOCH = {"epoch": 1, "train_loss": 1.5, "val_macro_f1": 0.25, "learning_rate": 0.1, "note": "text", "flag": True}
METRICS = {name: {"value": 0.5} for name in ("accuracy", "macro_f1", "log_loss")}
SCRATCH = Recipe.of({"model": {"method": "scratch"}})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as `create_run` leaves it, with the recipe of a network."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "asked.toml").write_text('[model]\nmethod = "scratch"\n')
    (folder / "resolved.toml").write_text(SCRATCH.resolve().toml())
    (folder / "environment.json").write_text("{}")
    return folder


class MlflowError(Exception):
    """What the stand-in for MLflow raises."""


class Client:
    """Records the calls of `MlflowClient`; `fails` names a method that raises."""

    calls: ClassVar[list[tuple[str, tuple[Any, ...], dict[str, Any]]]] = []
    fails = ""

    def __getattr__(self, name: str) -> Any:
        def call(*words: Any, **options: Any) -> Any:
            if name == Client.fails:
                raise MlflowError("the server is gone")
            Client.calls.append((name, words, options))
            return {"get_experiment_by_name": None, "create_experiment": "7"}.get(
                name, SimpleNamespace(info=SimpleNamespace(run_id="abc"))
            )

        return call


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Client]]:
    """A stand-in for the library, which takes ten seconds to import."""
    Client.calls, Client.fails = [], ""
    library: Any = ModuleType("mlflow")
    library.MlflowClient, library.get_tracking_uri = Client, lambda: "somewhere"
    library.entities, library.exceptions = ModuleType("mlflow.entities"), ModuleType("mlflow.exceptions")
    library.entities.Metric = lambda name, value, time, step: (name, value, step)
    library.entities.Param = lambda name, value: (name, value)
    library.exceptions.MlflowException = MlflowError
    for name, module in (("mlflow", library), ("mlflow.entities", library.entities)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", library.exceptions)
    return Client  # type: ignore[return-value]


def called(name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [(words, options) for method, words, options in Client.calls if method == name]


# ---- When it is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "recipe", "message"),
    [
        ("tensorboard", {}, "the probe has none: its values of C are in RUN/history.jsonl"),
        ("mlflow", {"model": {"method": "scratch"}, "data": {"folds": 5}}, "cross-validation has several"),
        ("mlfow", {"model": {"method": "scratch"}}, 'There is no log "mlfow". Did you mean "mlflow"'),
    ],
)
def test_what_cannot_be_logged_is_refused_before_pictures_are_read(kind: str, recipe: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bestiary.train("no pictures", recipe=recipe, log=kind)


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_without_the_library_its_extra_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(MissingExtraError, match=f'"{kind}", which is not installed') as error:
        check_log_supported(kind, SCRATCH)
    assert install_command(kind) in str(error.value)


# ---- The loop --------------------------------------------------------------------------------------------------------


def test_the_loop_logs_each_line_of_its_history(tmp_path: Path, probed: Path) -> None:
    from bestiary.training.loop import fit

    logged: list[Any] = []
    log = SimpleNamespace(log_epoch=logged.append)
    task = load_task(probed, replace(Context(1), experiment_log=log))
    control = make_loop_control(task, SINGLE_PROCESS, resume=False)
    settings = replace(SETTINGS, epochs=2)
    result = fit(small(), reader(IMAGES), LABELS, macro_f1_of, settings, PLAIN_VIEW, tmp_path, control)
    assert logged == list(result.history)
    assert len(logged) == 2


# ---- TensorBoard -----------------------------------------------------------------------------------------------------


def test_tensorboard_gets_the_numbers_of_each_epoch_and_the_test_scores(run: Path) -> None:
    pytest.importorskip("tensorboard")
    program = f"""
import importlib.util
import json
import os
from pathlib import Path
from bestiary.progress import SilentReporter
from bestiary.training.experiment_loggers import TensorBoardLog
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
run = Path({str(run)!r})
def write(epochs):
    log = TensorBoardLog(run, SilentReporter())
    for epoch in epochs:
        log.log_epoch({EPOCH!r} | {{"epoch": epoch}})
    log.log_test({METRICS!r})
    log.close("FINISHED")
write([1, 2, 3])
(run / "history.jsonl").write_text('{{"epoch": 1}}\\n{{"epoch": 2}}\\n')  # the third epoch was lost with its process
write([3, 4])
events = EventAccumulator(str(run / "tensorboard"))
events.Reload()
print(json.dumps({{tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)
    assert set(steps) == {"train_loss", "val_macro_f1", "learning_rate", *(f"test/{name}" for name in METRICS)}
    assert steps["train_loss"] == [1, 2, 3, 4]


# ---- MLflow ----------------------------------------------------------------------------------------------------------


def test_mlflow_gets_the_recipe_the_epochs_and_the_test_scores(
    run: Path, mlflow: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    log = MlflowLog(run, SilentReporter())
    log.log_epoch(EPOCH)
    log.log_test(METRICS)
    log.close("FINISHED")
    assert called("create_experiment") == [(("bestiary",), {})]
    assert called("create_run") == [(("7",), {"run_name": "run", "tags": {"run folder": str(run)}})]
    params, epoch, test = (options for _, options in called("log_batch"))
    assert ("model.method", "scratch") in params["params"]
    assert ("seed", "0") in params["params"]
    assert epoch["metrics"] == [("train_loss", 1.5, 1), ("val_macro_f1", 0.25, 1), ("learning_rate", 0.1, 1)]
    assert test["metrics"] == [(f"test/{name}", 0.5, 0) for name in METRICS]
    assert called("set_terminated") == [(("abc", "FINISHED"), {})]


def test_a_resumed_run_goes_on_with_its_mlflow_run(run: Path, mlflow: type[Client]) -> None:
    MlflowLog(run, SilentReporter())
    MlflowLog(run, SilentReporter())
    assert len(called("create_run")) == 1
    assert called("update_run") == [(("abc",), {"status": "RUNNING"})] * 2


def test_a_server_that_fails_stops_the_start_but_not_the_training(run: Path, mlflow: type[Client]) -> None:
    listening = Listening()
    log = MlflowLog(run, listening)
    mlflow.fails = "log_batch"
    log.log_epoch(EPOCH)
    log.log_test(METRICS)
    assert listening.said[1:] == [
        "MLflow did not take epoch 1: the server is gone. Training goes on; the run folder has it.",
        "MLflow did not take the test scores: the server is gone. Training goes on; the run folder has it.",
    ]
    mlflow.fails = "update_run"
    with pytest.raises(MachineError, match="MLflow cannot log this run: the server is gone"):
        MlflowLog(run, SilentReporter())


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (KeyboardInterrupt, "KILLED"), (MachineError("full"), "FAILED")]
)
def test_the_mlflow_run_ends_as_the_run_does(
    run: Path, mlflow: type[Client], error: type[BaseException] | BaseException | None, status: str
) -> None:
    (run / "environment.json").write_text(json.dumps({RECORDED: "mlflow"}))

    def work() -> None:
        with open_experiment_log(run, Context(1)) as context:
            assert isinstance(context.experiment_log, MlflowLog)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises((KeyboardInterrupt, MachineError)):
            work()
    assert called("set_terminated") == [(("abc", status), {})]


def test_a_run_without_a_log_logs_nothing(run: Path) -> None:
    context = Context(1)
    with open_experiment_log(run, context) as same:
        assert same is context


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra mlflow is not installed")
def test_a_network_is_logged_by_the_real_library(tmp_path: Path, faulty: Any) -> None:
    program = f"""
import bestiary, mlflow
recipe = {{"data": {{"classes": ["bird", "fish", "rabbit"]}}, "picture": {{"size": 32}}}}
recipe |= {{"train": {{"epochs": 2, "size_from": 32, "size_to": 32}}, "evaluate": {{"resamples": 100}}}}
run = bestiary.train({str(faulty.folder)!r}, recipe=recipe, method="scratch", log="mlflow", out="run", threads=2)
client = mlflow.MlflowClient()
[logged] = client.search_runs([client.get_experiment_by_name("bestiary").experiment_id])
assert logged.info.status == "FINISHED", logged.info
assert logged.data.metrics["test/accuracy"] == run.metrics["accuracy"]["value"]
assert [metric.step for metric in client.get_metric_history(logged.info.run_id, "train_loss")] == [1, 2]
"""
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
