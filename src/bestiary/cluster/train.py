"""Training of a network by several workers of a cluster, through Ray Train, in the one training loop.

The run goes on where it was begun, but for the fit: each worker joins a process group (gloo, on processors) and
computes a slice of each batch (`training.distributed`). Rank 0 writes the history and the checkpoints of the run
folder. If a worker dies, Ray Train starts all of them again, and they resume at the run's own checkpoint; nothing is
reported to Ray Train, whose checkpoints would be second ones.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import polars as pl

from bestiary.cluster.connection import LOCAL, Cluster, connect, describe_ray_error, import_ray
from bestiary.cluster.messages import Mailbox, MailReporter, Relay, WorkerFailure, WorkerStoppedError, start_actor
from bestiary.cluster.ray_table_map import open_table_map
from bestiary.cluster.worker_group import WorkerGroup, split_processors
from bestiary.context import Context, RemoteOptions
from bestiary.errors import EXTRAS, MachineError, RecipeError, RunError
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_sections import FeaturesConfig
from bestiary.run_folder import load_recipe
from bestiary.training.task import TrainingTask, make_task

if TYPE_CHECKING:
    from bestiary.training.fit_job import FitJob
    from bestiary.training.loop import FitResult

MAX_FAILURES = 3  # so often a worker may die in one fit
POLL_SECONDS = 0.2
WAIT_NOTICE_SECONDS = 30.0  # without a worker, before the user is told
STOP_SECONDS = 15.0  # for workers to end after Ctrl-C: a step, or the validation of rank 0
GROUP_TIMEOUT_SECONDS = 24 * 3600  # workers wait while rank 0 validates
RAY_FOLDER = "ray"  # in the run folder: what Ray Train notes; removed at the end


@dataclass(frozen=True)
class FitOrder:
    """What every worker needs to build the fit job of a task.

    features: settings as chosen where the run was begun, so that all workers learn from the same. weights: of the
    network at its start, as bytes.
    """

    recipe: ResolvedRecipe
    pictures: pl.DataFrame
    run: Path
    cache: Path
    features: FeaturesConfig
    threads: int
    weights: bytes
    folder: Path

    @classmethod
    def of(cls, task: TrainingTask, job: FitJob, threads: int) -> FitOrder:
        """Return the order of a task, whose paths are absolute. threads: of all workers together."""
        from bestiary.training.checkpoint import write_state

        weights, run = write_state(job.network.state_dict()), task.run.absolute()
        features, cache = task.choose_features(), task.cache.absolute()
        return cls(task.recipe, task.pictures, run, cache, features, threads, weights, Path.cwd())


@dataclass(frozen=True)
class TrainingWorkers:
    """The workers that train a network. `fit` is the `remote_fit` of a context."""

    group: WorkerGroup

    @classmethod
    def of(cls, cluster: Cluster, workers: int | None, threads: int | None) -> TrainingWorkers:
        """Return so many workers, by default one for each node, that share the processors.

        Raises InputError if the cluster has fewer processors.
        """
        return cls(split_processors(workers or len(cluster.nodes), threads))

    def fit(self, task: TrainingTask, job: FitJob, resume: bool) -> FitResult:
        """Train the network of a job in place and return its history; see `loop.fit` and `run_fit`.

        Raises what the workers raise; MachineError if workers die more often than MAX_FAILURES.
        """
        from bestiary.training.checkpoint import read_state
        from bestiary.training.loop import FitResult

        order = FitOrder.of(task, job, self.group.workers * self.group.threads)
        if not resume:  # workers resume at the checkpoint of the run, if there is one
            (order.run / "checkpoints" / "last.pt").unlink(missing_ok=True)
        shutil.rmtree(order.run / RAY_FOLDER, ignore_errors=True)
        mailbox = start_actor(Mailbox)
        try:
            content = self._run(order, mailbox, task.context)
        finally:
            shutil.rmtree(order.run / RAY_FOLDER, ignore_errors=True)
        weights, result = read_state(content)
        job.network.load_state_dict(weights)
        job.network.eval()
        return FitResult(**result)

    def _run(self, order: FitOrder, mailbox: Any, context: Context) -> bytes:
        """Return what rank 0 returns, while its messages are reported."""
        ray, reporter = import_ray(), context.reporter
        config = {"order": ray.put(order), "mailbox": mailbox}
        starts = _StartNotices(reporter, self.group)
        relay = Relay(mailbox, reporter, {"began": starts.note, "epoch": context.experiment_log.log_epoch})
        done = _start_trainer(self.group, config, order.run / RAY_FOLDER)
        try:
            while not done.done() and ray.get(mailbox.failure.remote()) is None:
                time.sleep(POLL_SECONDS)
                relay.pump()
                starts.check_wait()
            relay.pump()
        except BaseException:  # Ctrl-C
            ray.get(mailbox.stop.remote())
            _wait_for_workers(mailbox, self.group.workers)
            raise
        finally:
            relay.close()
        if (failure := ray.get(mailbox.failure.remote())) is not None:
            _wait_for_workers(mailbox, self.group.workers)
            failure.reraise()
        from ray.train import TrainingFailedError

        try:
            return done.result()
        except TrainingFailedError as error:
            raise _lost_workers_error(order.run, error) from None


class _StartNotices:
    """Tells the user that workers are waited for, or were started again."""

    def __init__(self, reporter: Reporter, group: WorkerGroup) -> None:
        self._reporter, self._group, self._starts, self._since = reporter, group, 0, time.monotonic()

    def note(self, _: object) -> None:
        """Note that the workers have begun."""
        self._starts += 1
        if self._starts > 1:
            self._reporter.info("A worker was lost. All were started again, and resume at the last checkpoint.")

    def check_wait(self) -> None:
        """Report once that nothing has begun yet."""
        if not self._starts and time.monotonic() - self._since > WAIT_NOTICE_SECONDS:
            self._since = float("inf")
            needed = self._group.workers * self._group.threads
            self._reporter.info(f"The workers have not begun: they start, or wait for {needed} free processors.")


@contextmanager
def connect_job(
    address: str | None,
    workers: int | None,
    recipe: Recipe,
    *,
    threads: int | None,
    reporter: Reporter,
    budget_seconds: float | None = None,
) -> Iterator[RemoteOptions]:
    """Connect to a cluster and give what a training job does there; nothing if neither a cluster nor workers are given.

    Pictures are measured and features computed there, and networks are trained there. address: by default that of a
    cluster on this computer. workers: by default one for each node. Raises as `check_workers_supported`, `connect` and
    `split_processors`.
    """
    if address is None and workers is None:
        yield {}
        return
    trains_network = recipe.model.method != "probe"
    if trains_network or workers is not None:
        check_workers_supported(recipe, budget_seconds=budget_seconds)
    with open_table_map(address or LOCAL, threads=threads, reporter=reporter) as table_map:
        if not trains_network:
            yield {"cluster": table_map}
            return
        modules = (*EXTRAS["train"], "torch")
        with connect(address or LOCAL, modules=modules, threads=threads, reporter=reporter) as cluster:
            yield {"cluster": table_map, "remote_fit": TrainingWorkers.of(cluster, workers, threads).fit}


@contextmanager
def connect_resumed_job(
    address: str | None, workers: int | None, run: Path, *, threads: int | None, reporter: Reporter
) -> Iterator[RemoteOptions]:
    """Connect as `connect_job` does, to resume a run; raises RunError if there is none."""
    recipe = Recipe() if address is None and workers is None else load_recipe(run)
    with connect_job(address, workers, recipe, threads=threads, reporter=reporter) as remote:
        yield remote


def check_workers_supported(recipe: Recipe, *, budget_seconds: float | None = None) -> None:
    """Raise RecipeError for what workers cannot train, before any work is done."""
    if recipe.model.method == "probe":
        raise RecipeError(
            "--workers shares the training of a network; a probe is fitted in one process, in seconds. Leave --workers"
            " out (--threads N sets its threads), or train a network: --method finetune, --method scratch."
        )
    if budget_seconds is not None:
        raise RecipeError(
            "--budget follows the clock of a single process. Leave out --cluster and --workers, or bound the training"
            " with --set train.epochs=N."
        )
    if recipe.train.device in ("cuda", "mps"):
        raise RecipeError(
            f"--workers trains on processors, and --device is {recipe.train.device}. Leave out --workers; for several"
            " GPUs of one computer: torchrun --nproc-per-node=N -m bestiary train …"
        )


def _start_trainer(group: WorkerGroup, config: dict[str, Any], folder: Path) -> Future[bytes]:
    """Start Ray Train in a thread, where it leaves Ctrl-C to this process."""
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths mean what they mean here
    import_ray()
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _train_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="gloo", timeout_s=GROUP_TIMEOUT_SECONDS),
        scaling_config=train.ScalingConfig(num_workers=group.workers, resources_per_worker={"CPU": group.threads}),
        run_config=train.RunConfig(
            name=uuid4().hex[:8],  # one of the same name would go on where that one ended
            storage_path=str(folder),
            failure_config=train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    done: Future[bytes] = Future()

    def run() -> None:
        try:
            done.set_result(trainer.fit().return_value)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="bestiary-ray-train").start()
    return done


def _wait_for_workers(mailbox: Any, workers: int) -> None:
    """Wait a while for the workers to end: they write into the run folder."""
    ray, end = import_ray(), time.monotonic() + STOP_SECONDS
    while ray.get(mailbox.n_left.remote()) < workers and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _lost_workers_error(run: Path, error: BaseException) -> MachineError:
    return MachineError(
        f"The training of {run} ended because its workers died {MAX_FAILURES + 1} times, perhaps for lack of memory"
        f" ({describe_ray_error(error)}). Nothing is lost: resume with fewer --workers."
    )


# ---- In a worker ---------------------------------------------------------------------------------------------------


def _train_worker(config: dict[str, Any]) -> bytes | None:
    """Take part in a fit as one of the workers; rank 0 returns the weights and the result.

    What it raises ends the job, unless it follows from the death of another worker: then Ray Train starts all again.
    """
    ray, mailbox = import_ray(), config["mailbox"]
    from bestiary.training.distributed import destroy_process_group, is_lost_connection

    if ray.get(mailbox.is_ended.remote()):  # started again after `_end_process`
        return None
    try:
        return _fit(ray.get(config["order"]), mailbox)
    except WorkerStoppedError:
        _end_process(mailbox)
    except Exception as error:
        if not is_lost_connection(error):
            ray.get(mailbox.fail.remote(WorkerFailure.of(error)))
            _end_process(mailbox)
        elif not ray.get(mailbox.is_ended.remote()):
            raise
        ray.get(mailbox.leave.remote())
    finally:
        destroy_process_group()
    return None


def _end_process(mailbox: Any) -> NoReturn:
    """End the process of a worker, which closes its connections: others may be waiting for it within a step.

    After `destroy_process_group` alone another worker stayed in its all_reduce (torch 2.14, Ray 2.60).
    """
    import_ray().get(mailbox.leave.remote())
    os._exit(1)


def _fit(order: FitOrder, mailbox: Any) -> bytes | None:
    from bestiary.training.checkpoint import read_state, write_state
    from bestiary.training.distributed import init_process_group
    from bestiary.training.fit_job import fit_in_group, has_checkpoint
    from bestiary.training.methods import build_fit_job

    if order.folder.is_dir():
        os.chdir(order.folder)
    if not order.run.is_dir():
        raise RunError(
            f"The run folder {order.run} is not on {os.uname().nodename}. Workers write it together: choose an --out on"
            " a file system that all nodes share, as also the pictures and the cache (BESTIARY_CACHE) are best on one."
        )
    is_main = init_process_group()[0].is_main_process
    reporter: MailReporter | SilentReporter = SilentReporter()
    context = Context(order.threads, reporter, order.cache, features=order.features)
    if is_main:
        reporter = MailReporter(mailbox)
        reporter.send(("began", None))
        context = replace(context, reporter=reporter, experiment_log=_EpochMail(reporter))
    task = make_task(order.run, order.recipe, order.pictures, context)
    job = build_fit_job(task)
    job.network.load_state_dict(read_state(order.weights))
    result = fit_in_group(task, job, resume=has_checkpoint(task))
    return write_state((job.network.state_dict(), vars(result))) if is_main else None


@dataclass(frozen=True)
class _EpochMail:
    """The experiment log of a worker."""

    reporter: MailReporter

    def log_epoch(self, record: Any) -> None:
        self.reporter.log_epoch(record)

    def log_test(self, metrics: Any) -> None:
        raise NotImplementedError("The test scores are logged where the run was begun.")
