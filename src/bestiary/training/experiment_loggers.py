"""Experiment logs by TensorBoard and MLflow, for `train --log`: the epochs of the training loop, and the test scores.

The run folder stays complete without them: they get what `history.jsonl` and `metrics.json` have.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from bestiary.context import Context
from bestiary.errors import MachineError, RecipeError, did_you_mean, import_optional
from bestiary.experiment_log import LOG_KINDS, ExperimentLog
from bestiary.progress import Reporter
from bestiary.recipe import Recipe
from bestiary.run_folder import load_resolved_recipe, read_environment, read_history, update_environment

RECORDED = "experiment log"  # the key in environment.json, for a resumed run
TENSORBOARD_FOLDER = "tensorboard"  # in the run folder
MLFLOW_RUN, EXPERIMENT = "MLflow run", "bestiary"
TESTED = ("accuracy", "macro_f1", "log_loss")

Status = Literal["FINISHED", "FAILED", "KILLED"]


class ClosableLog(ExperimentLog, Protocol):
    """An experiment log of one process."""

    def close(self, status: Status) -> None:
        """End the log."""


class TensorBoardLog:
    """Writes scalars into RUN/tensorboard: `tensorboard --logdir runs` shows all runs."""

    def __init__(self, run: Path, reporter: Reporter) -> None:
        """Open the log; a resumed run goes on after the epochs in its history."""
        from torch.utils.tensorboard import SummaryWriter

        done = len(read_history(run)) if (run / "history.jsonl").exists() else 0
        writer: Any = SummaryWriter  # torch has no types for it
        self._writer = writer(str(run / TENSORBOARD_FOLDER), purge_step=done + 1)
        reporter.info(f"Logging epochs for TensorBoard: tensorboard --logdir {run.parent}")

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Log an epoch: a scalar for each number of the record."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()

    def log_test(self, metrics: Mapping[str, Any]) -> None:
        """Log the test scores, as scalars at step 0."""
        for name, value in _test_scores(metrics).items():
            self._writer.add_scalar(name, value, 0)

    def close(self, status: Status) -> None:
        """Flush and close the file."""
        self._writer.close()


class MlflowLog:
    """Makes an MLflow run: the recipe as parameters, epochs and test scores as metrics.

    Where it goes is MLflow's own setting (MLFLOW_TRACKING_URI); the experiment is "bestiary", or that of
    MLFLOW_EXPERIMENT_NAME. A server that fails in mid-training is reported, and training goes on.
    """

    def __init__(self, run: Path, reporter: Reporter) -> None:
        """Create the MLflow run, or go on with that of a resumed run. Raises MachineError if MLflow cannot."""
        mlflow = import_optional("mlflow", extra="mlflow")
        self._entities = import_optional("mlflow.entities", extra="mlflow")
        self._error: Any = import_optional("mlflow.exceptions", extra="mlflow").MlflowException
        self._reporter, self._client = reporter, mlflow.MlflowClient()
        try:
            self._run_id = read_environment(run).get(MLFLOW_RUN) or self._create_run(run)
            self._client.update_run(self._run_id, status="RUNNING")
        except self._error as error:
            raise MachineError(f"MLflow cannot log this run: {error}. Mend it, or train without --log.") from None
        update_environment(run, {MLFLOW_RUN: self._run_id})
        reporter.info(f"Logging epochs to MLflow, run {self._run_id} at {mlflow.get_tracking_uri()}.")

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Log an epoch: a metric for each number of the record."""
        self._log(_numbers(record), int(record["epoch"]))

    def log_test(self, metrics: Mapping[str, Any]) -> None:
        """Log the test scores, as metrics at step 0."""
        self._log(_test_scores(metrics), 0)

    def close(self, status: Status) -> None:
        """End the MLflow run."""
        with self._reported_errors("the end of the run"):
            self._client.set_terminated(self._run_id, status)

    def _create_run(self, run: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        created: str = self._client.create_run(number, run_name=run.name, tags={"run folder": str(run)}).info.run_id
        params = [self._entities.Param(name, value) for name, value in _recipe_params(load_resolved_recipe(run))]
        self._client.log_batch(created, params=params)
        return created

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = round(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        with self._reported_errors(f"epoch {step}" if step else "the test scores"):
            self._client.log_batch(self._run_id, metrics=metrics)

    @contextlib.contextmanager
    def _reported_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            self._reporter.info(f"MLflow did not take {what}: {error}. Training goes on; the run folder has it.")


LOGS: dict[str, Callable[[Path, Reporter], ClosableLog]] = {"tensorboard": TensorBoardLog, "mlflow": MlflowLog}


def check_log_supported(kind: str | None, recipe: Recipe) -> None:
    """Raise RecipeError if there are no epochs to log, or several trainings; MissingExtraError without the library."""
    if kind is None:
        return
    if kind not in LOGS:
        raise RecipeError(f'There is no log "{kind}". {did_you_mean(kind, LOG_KINDS)}')
    if recipe.model.method == "probe":
        raise RecipeError(
            f"--log {kind} records the epochs of the training loop, and the probe has none: its values of C are in"
            " RUN/history.jsonl. Train with --method finetune or scratch, or without --log."
        )
    if recipe.data.folds:
        raise RecipeError(f"--log {kind} records one training, cross-validation has several. Leave out one of the two.")
    import_optional(kind, extra=kind)


@contextlib.contextmanager
def open_experiment_log(run: Path, context: Context) -> Iterator[Context]:
    """Give the context with the experiment log that the run was started with, and end the log with the run."""
    kind = read_environment(run).get(RECORDED)
    if kind is None:
        yield context
        return
    import_optional(kind, extra=kind)
    log = LOGS[kind](run, context.reporter)
    status: Status = "FAILED"
    try:
        yield replace(context, experiment_log=log)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        log.close(status)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch's record, without the epoch itself."""
    is_number = {name: isinstance(value, int | float) and not isinstance(value, bool) for name, value in record.items()}
    return {name: float(value) for name, value in record.items() if is_number[name] and name != "epoch"}


def _test_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {f"test/{name}": float(metrics[name]["value"]) for name in TESTED}


def _recipe_params(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the settings of a recipe as `section.key` and text."""
    for section, values in recipe.model_dump(mode="json").items():
        if isinstance(values, dict):
            yield from ((f"{section}.{key}", str(value)) for key, value in values.items())
        else:
            yield section, str(values)
