"""Trials of a hyperparameter search as tasks of a Ray cluster, over the same Optuna study.

The process that began the search asks the study for trials and tells it their scores; a task trains and scores one.
Between two epochs a task asks the `TrialDesk`, an actor beside that process, whether to go on: the pruner decides
there. If a worker dies, Ray runs its task again; it resumes at the checkpoint of the trial if nodes share its folder.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

from bestiary.cluster.connection import LOCAL, connect, describe_ray_error, import_ray
from bestiary.cluster.messages import WorkerFailure, start_actor
from bestiary.cluster.worker_group import WorkerGroup, node_processors, split_processors
from bestiary.context import Context
from bestiary.errors import EXTRAS, MachineError
from bestiary.progress import Reporter
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_sections import FeaturesConfig
from bestiary.run_folder import read_history, write_history
from bestiary.text import format_count
from bestiary.training.task import make_task
from bestiary.tune.objective import EpochCallback, History, TrialScore, evaluate_recipe
from bestiary.tune.storage import MAX_ATTEMPTS, killed_too_often_error
from bestiary.tune.trial_workers import THIS_PROCESS, TrialCancelledError, TrialWorkers

POLL_SECONDS = 0.5  # between two looks at whether the search ends
END_SECONDS = 30.0  # for a cancelled task to end
FIRST_SPLIT = "1"  # the folder of a trial's first split, in that of the trial


@dataclass(frozen=True)
class TrialOrder:
    """What a task needs besides the pictures. run_folder: of the trial; working_folder: of the process that asks.

    features: settings as chosen by the process that asks, so that trials on all nodes have the same.
    """

    recipe: ResolvedRecipe
    run_folder: Path
    working_folder: Path
    cache: Path
    features: FeaturesConfig
    threads: int


@dataclass(frozen=True)
class TrialReply:
    """What a task returns: a score, what it raised, or neither if it was ended; the history of its first split."""

    score: TrialScore | None
    failure: WorkerFailure | None
    history: History


@contextmanager
def connect_trial_workers(
    address: str | None, workers: int | None, recipe: Recipe, *, threads: int | None, reporter: Reporter
) -> Iterator[TrialWorkers]:
    """Connect to a cluster and give workers for trials; this process if neither a cluster nor workers are requested.

    address: by default that of a cluster on this computer. workers: how many trials at a time, by default one for each
    processor; they split the threads. Raises as `connect` and `split_processors`.
    """
    if address is None and workers is None:
        yield THIS_PROCESS
        return
    modules = (*EXTRAS["train"], *(() if recipe.model.method == "probe" else ("torch",)))
    with connect(address or LOCAL, modules=modules, threads=threads, reporter=reporter):
        total = sum(node_processors()) if threads is None else threads
        trials = ClusterTrials(split_processors(workers or total, threads), reporter)
        reporter.info(
            f"Trials run {trials.group.workers} at a time, with {format_count(trials.group.threads, 'thread')} each."
        )
        yield TrialWorkers(trials.group.workers, trials.evaluate, trials.stop)


class ClusterTrials:
    """Scores trials by tasks of the connected cluster, for as many threads as call `evaluate`."""

    def __init__(self, group: WorkerGroup, reporter: Reporter) -> None:
        """Start the desk."""
        self.group, self._reporter = group, reporter
        self._desk, self._is_stopped, self._lock = start_actor(TrialDesk), threading.Event(), threading.Lock()
        self._splits: tuple[Sequence[pl.DataFrame], Any] | None = None

    def stop(self) -> None:
        """Let all calls of `evaluate` end with TrialCancelledError."""
        self._is_stopped.set()

    def evaluate(
        self,
        recipe: ResolvedRecipe,
        splits: Sequence[pl.DataFrame],
        folder: Path,
        context: Context,
        *,
        report_epoch: EpochCallback,
        resume: bool,
    ) -> TrialScore:
        """Return the score of a recipe as `evaluate_recipe` does; a worker trains, `report_epoch` is called here.

        Always resumes. Raises what `report_epoch` or the worker raises, RecipeError if workers die in it too often,
        MachineError if the cluster fails otherwise, TrialCancelledError after `stop`.
        """
        assert resume
        ray, trial = import_ray(), uuid4().hex
        features = make_task(folder, recipe, splits[0], context).choose_features()
        order = TrialOrder(
            *(recipe, folder.absolute(), Path.cwd(), context.require_cache().absolute(), features), self.group.threads
        )
        score = ray.remote(_score_trial).options(num_cpus=self.group.threads, max_retries=MAX_ATTEMPTS - 1)
        task = score.remote(order, self._put_splits(splits), self._desk, trial)
        try:
            ended = self._answer_until_done(task, trial, report_epoch)
            reply: TrialReply = ray.get(task)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError):
            raise killed_too_often_error() from None
        except ray.exceptions.RayError as error:
            reason = describe_ray_error(error)
            raise MachineError(
                f"The cluster cannot run a trial: {reason}. The same command resumes the search."
            ) from None
        except BaseException:
            _cancel(task)
            raise
        finally:
            self._desk.forget.remote(trial)
        _keep_history(folder / FIRST_SPLIT, reply.history)
        if ended is not None:
            raise ended
        if reply.failure is not None:
            reply.failure.reraise()
        assert reply.score is not None
        return reply.score

    def _answer_until_done(self, task: Any, trial: str, report_epoch: EpochCallback) -> Exception | None:
        """Answer the questions of a task until it is done; return the exception of `report_epoch` that ended it."""
        ray, ended, attempts = import_ray(), None, 0
        event = self._desk.next_event.remote(trial)
        while True:
            ready, _ = ray.wait([task, event], timeout=POLL_SECONDS)
            if self._is_stopped.is_set():
                raise TrialCancelledError
            if task in ready:
                return ended
            if not ready:
                continue
            question: Question | None = ray.get(event)
            event = self._desk.next_event.remote(trial)
            if question is None:
                attempts += 1
                self._note_attempt(attempts)
                continue
            try:
                if ended is None:
                    report_epoch(question.split, question.history)
            except Exception as error:
                ended = error
            self._desk.answer.remote(question.number, ended is None)

    def _note_attempt(self, attempt: int) -> None:
        """Tell the user that a task was run again. Raises RecipeError if that was too often."""
        if attempt > MAX_ATTEMPTS:  # Ray repeats a task without limit if the memory of a node runs out
            raise killed_too_often_error()
        if attempt > 1:
            self._reporter.info(f"A worker died in a trial, which is run again (attempt {attempt} of {MAX_ATTEMPTS}).")

    def _put_splits(self, splits: Sequence[pl.DataFrame]) -> Any:
        """Return the reference of the pictures on the cluster, where they are sent once."""
        with self._lock:
            if self._splits is None or self._splits[0] is not splits:
                self._splits = splits, import_ray().put(list(splits))
            return self._splits[1]


@dataclass(frozen=True)
class Question:
    """The epochs of a trial so far: may it go on?"""

    number: int
    split: int
    history: History


class TrialDesk:
    """The actor where tasks ask whether to go on, and where the process that began the search answers."""

    def __init__(self) -> None:
        """Begin without trials."""
        self._events: dict[str, asyncio.Queue[Question | None]] = defaultdict(asyncio.Queue)
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._count = 0

    async def begin(self, trial: str) -> None:
        """Note that a task begins, for the first time or again."""
        self._events[trial].put_nowait(None)

    async def ask(self, trial: str, split: int, history: History) -> bool:
        """Return whether a trial should go on, once that is answered."""
        self._count += 1
        number, answer = self._count, asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._events[trial].put_nowait(Question(number, split, history))
        return bool(await answer)

    async def next_event(self, trial: str) -> Question | None:
        """Wait for the next question of a trial; None: a task has begun."""
        return await self._events[trial].get()

    async def answer(self, number: int, go_on: bool) -> None:
        """Answer a question."""
        self._answers.pop(number).set_result(go_on)

    async def forget(self, trial: str) -> None:
        """Forget a trial that is over; whoever waits for its next event gets None, or this actor fills with calls."""
        if (events := self._events.pop(trial, None)) is not None:
            events.put_nowait(None)


def _cancel(task: Any) -> None:
    """End a task, and wait for that: its folder belongs to the next attempt."""
    ray = import_ray()
    ray.cancel(task, force=True)
    ray.wait([task], timeout=END_SECONDS)


def _keep_history(folder: Path, history: History) -> None:
    """Write the history of a trial whose worker did not write it into this folder, which its node does not share."""
    if history and not (folder / "history.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_history(folder, history)


# ---- In a worker ---------------------------------------------------------------------------------------------------


class _EndedError(Exception):
    """The trial should not go on."""


def _score_trial(order: TrialOrder, splits: Sequence[pl.DataFrame], desk: Any, trial: str) -> TrialReply:
    """Train and score a trial."""
    ray = import_ray()
    ray.get(desk.begin.remote(trial))

    def report_epoch(split: int, history: History) -> None:
        if not ray.get(desk.ask.remote(trial, split, history)):
            raise _EndedError

    score, failure = None, None
    with ExitStack() as temporary:
        folder = order.run_folder
        if not folder.is_dir():  # this node does not share it
            folder = Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix="bestiary-trial-")))
        if order.working_folder.is_dir():
            os.chdir(order.working_folder)
        context = Context(order.threads, cache=order.cache, features=order.features)
        try:
            score = evaluate_recipe(order.recipe, splits, folder, context, report_epoch=report_epoch, resume=True)
        except _EndedError:
            pass
        except Exception as error:
            failure = WorkerFailure.of(error)
        first = folder / FIRST_SPLIT
        history = read_history(first) if (first / "history.jsonl").exists() else []
    return TrialReply(score, failure, history)
