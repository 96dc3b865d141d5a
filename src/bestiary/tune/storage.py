"""Search storage: an Optuna study in SQLite, or on a server, that several processes share and that survives them.

A process holds the lock of its trial's folder, which ends with the process. A trial that is running without that lock
was killed; it is queued again and resumes from its checkpoint. Optuna's own heartbeat would notice only after a grace
period, and would take a suspended process for a dead one.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from bestiary.errors import MachineError, RecipeError, RunError
from bestiary.training.run_lock import run_lock
from bestiary.tune.objective import TrialScore
from bestiary.tune.sampler import describe_version_change, make_pruner, make_sampler
from bestiary.tune.search_space import Settings
from bestiary.tune.storage_location import StorageLocation

VERSION = 1  # raise it when older searches cannot be resumed any more
BUSY_SECONDS = 60.0  # how long to wait for a database that others have locked
MAX_ATTEMPTS = 3  # a trial that kills its process this often is abandoned
FACTS, PLAN, SAMPLERS, ENDING, FINISHED = "facts", "plan", "samplers", "ending", "finished"
OPTUNA_VERSIONS = "optuna versions"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
ScoredTrial = tuple[FrozenTrial, TrialScore]


class TrialStorage:
    """A study, the folders of its trials, and the processes that work on it."""

    def __init__(self, storage: StorageLocation | Path, name: str) -> None:
        """Open or create the study in a file or on a server.

        Raises RunError or MachineError if the file is no storage, of another version, locked or not writable, or the
        server cannot be used.
        """
        location = storage if isinstance(storage, StorageLocation) else StorageLocation(storage)
        path = location.path
        self.path, self.folder, self.name = path, path.with_name(f"{path.stem}.trials"), location.name
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with storage_errors(self.name), self.lock():
                self.study = optuna.create_study(
                    storage=_open_storage(location), study_name=name, direction="maximize", load_if_exists=True
                )
        except OSError as error:
            reason = error.strerror or error
            raise MachineError(f"Cannot write {path}: {reason}. Choose another --out or --storage.") from None

    def lock(self) -> FileLock:
        """Return the lock under which trials are started, by one process at a time."""
        return FileLock(f"{self.path}.lock")

    def exclusive(self) -> FileLock:
        """Return the lock of the process that trains the winner."""
        return FileLock(f"{self.path}.end.lock")

    def shared_plan(self, facts: dict[str, Any], plan: Callable[[], tuple[dict[str, Any], Settings]]) -> dict[str, Any]:
        """Return the plan of the search: created by its first process, read by all others.

        facts: must be the same for all processes. plan: returns the plan and the values of the first trial, the
        default. Raises RunError, naming the first fact that differs.
        """
        facts = {"version": VERSION, **facts}
        with self.lock():
            attributes = self.study.user_attrs
            if FACTS not in attributes:
                shared, default = plan()
                self.study.enqueue_trial(default, user_attrs={"default": True}, skip_if_exists=True)
                self.study.set_user_attr(PLAN, shared)
                self.study.set_user_attr(FACTS, facts)
                return shared
        for name, value in facts.items():
            if (stored := attributes[FACTS].get(name)) != value:
                raise RunError(
                    f"{self.name} contains a search with another {name}: {stored} before, {value} now. Resume it with"
                    " the command that started it, or choose another --out or --storage."
                )
        return dict(attributes[PLAN])

    def use(self, epochs: int | None, *, seed: int) -> str | None:
        """Set sampler and pruner; each process samples other values.

        Return a sentence if the process before this one used another major version of Optuna.
        """
        with self.lock():
            attributes = self.study.user_attrs
            number, versions = attributes.get(SAMPLERS, 0) + 1, attributes.get(OPTUNA_VERSIONS, [])
            self.study.set_user_attr(SAMPLERS, number)
            if versions[-1:] != [optuna.__version__]:
                self.study.set_user_attr(OPTUNA_VERSIONS, [*versions, optuna.__version__])
        self.study.sampler = make_sampler(seed + 1000 * number + len(self.trials()))
        self.study.pruner = make_pruner(epochs)
        return describe_version_change(versions[-1], optuna.__version__) if versions else None

    # ---- Trials ----------------------------------------------------------------------------------------------------

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states, or all, in their order."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def best(self) -> ScoredTrial | None:
        """Return the best complete trial; of equal ones the first."""
        return next(iter(rank_trials(self.trials())), None)

    def n_started(self) -> int:
        """Return how many trials are done or running; those that were queued again count once."""
        return count_started(self.trials())

    def trial_folder(self, trial: FrozenTrial | optuna.Trial) -> Path:
        """Return the folder of a trial: that of its first attempt."""
        return self.folder / str(display_number(trial) - 1)

    @contextlib.contextmanager
    def trial_claim(self, max_trials: int | None) -> Iterator[optuna.Trial | None]:
        """Yield a trial to work on, locked until the end; None if `max_trials` have been started.

        Any exception queues it again, to be resumed: Ctrl-C, a full disk, a timeout.
        """
        with contextlib.ExitStack() as locks:
            with self.lock():
                self.requeue_killed()
                trial = None if max_trials is not None and self.n_started() >= max_trials else self.study.ask()
                if trial is not None:
                    self.trial_folder(trial).mkdir(exist_ok=True)
                    locks.enter_context(run_lock(self.trial_folder(trial)))
            try:
                yield trial
            except BaseException:
                with contextlib.suppress(Exception), self.lock():  # if this fails, it is queued like a killed one
                    locks.close()
                    for running in self.trials(TrialState.RUNNING):
                        if trial is not None and running.number == trial.number:
                            self._requeue(running, attempts=running.user_attrs.get("tries", 1))
                raise

    def requeue_killed(self) -> list[int]:
        """Mark the trials whose process was killed as failed, queue them again, and return their numbers.

        After too many attempts a trial is queued a last time, to be recorded as failed: see `is_abandoned`.
        """
        unlocked = [trial for trial in self.trials(TrialState.RUNNING) if not is_locked(self.trial_folder(trial))]
        running = {trial.number for trial in self.trials(TrialState.RUNNING)}  # read again: some have just ended
        killed = [trial for trial in unlocked if trial.number in running]
        for trial in killed:
            self._requeue(trial, attempts=trial.user_attrs.get("tries", 1) + 1)
        return [trial.number for trial in killed]

    def _requeue(self, trial: FrozenTrial, *, attempts: int) -> None:
        """Queue a trial again, then mark it as failed: in this order an interruption does not lose it."""
        if all(queued.user_attrs.get("again") != trial.number for queued in self.trials()):
            facts = {"again": trial.number, "folder": self.trial_folder(trial).name, "tries": attempts}
            params = trial.params or trial.system_attrs.get("fixed_params", {})
            self.study.enqueue_trial(params, user_attrs={"default": True, **facts} if is_default(trial) else facts)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def clear(self) -> None:
        """Remove the folders of ended trials, except the best one's and the one the winner is being made from."""
        with self.lock():
            trials = self.trials()
            ended = {self.trial_folder(trial) for trial in trials if trial.state in (*DONE, TrialState.FAIL)}
            needed = {self.trial_folder(trial) for trial in trials if not trial.state.is_finished()}
            needed |= {self.trial_folder(trial) for trial, _ in rank_trials(trials)[:1]}
            if ending := self.pending_finish():
                needed.add(self.folder / ending["folder"])
            for folder in ended - needed:
                shutil.rmtree(folder, ignore_errors=True)

    # ---- The end ---------------------------------------------------------------------------------------------------

    def claim_finish(self, max_trials: int | None) -> list[FrozenTrial]:
        """Record that the search is being finished, with so many requested trials; return its trials."""
        with self.lock():
            trials = self.trials()
            best, _ = rank_trials(trials)[0]
            facts = {"taken": count_started(trials), "folder": self.trial_folder(best).name, "wanted": max_trials}
            self.study.set_user_attr(ENDING, facts)
            return trials

    def pending_finish(self) -> dict[str, Any] | None:
        """Return the facts of `claim_finish` if the search was not finished since."""
        attributes = self.study.user_attrs
        ending: dict[str, Any] = attributes.get(ENDING, {})
        return ending if ending and ending["taken"] != attributes.get(FINISHED, {}).get("taken") else None

    # ---- Processes -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def session(self) -> Iterator[Path]:
        """Register this process as one that works on the search."""
        folder = self.folder / f"session-{uuid4().hex[:8]}"
        try:
            with contextlib.ExitStack() as locks:
                with self.lock():
                    folder.mkdir()
                    locks.enter_context(run_lock(folder))
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def others(self) -> list[Path]:
        """Return the sessions of running processes; those of killed ones are removed."""
        with self.lock():
            sessions = list(self.folder.glob("session-*"))
            running = [session for session in sessions if is_locked(session)]
            for session in set(sessions) - set(running):
                shutil.rmtree(session, ignore_errors=True)
        return running

    def wait(self, until: Callable[[], bool], report: Callable[[str], None]) -> bool:
        """Wait until the other processes have finished their trials; return False if `until` comes first."""
        others = self.others()
        if others and not until():
            report(f"Waiting for {len(others)} other process{'es' * (len(others) > 1)} working on this search.")
        while others:
            if until():
                return False
            time.sleep(0.5)
            others = self.others()
        return True


def is_default(trial: FrozenTrial | optuna.Trial) -> bool:
    """Return whether the trial is that of the recipe itself."""
    return bool(trial.user_attrs.get("default"))


def display_number(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the number of a trial for users, from 1: that of its first attempt."""
    return int(trial.user_attrs.get("folder", trial.number)) + 1


def is_abandoned(trial: FrozenTrial | optuna.Trial) -> bool:
    """Return whether the trial has killed its process too often."""
    return int(trial.user_attrs.get("tries", 1)) > MAX_ATTEMPTS


def killed_too_often_error() -> RecipeError:
    """Return the error of a trial that has killed its process too often; it is recorded as failed."""
    return RecipeError(f"Its process was killed {MAX_ATTEMPTS} times: perhaps it needs too much memory.")


def count_started(trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials are done or running; those that were queued again count once."""
    again = {trial.user_attrs.get("again") for trial in trials}
    return sum(trial.state != TrialState.WAITING and trial.number not in again for trial in trials)


def rank_trials(trials: Sequence[FrozenTrial]) -> list[ScoredTrial]:
    """Return the complete trials with their scores, the best first; of equal ones the first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    scored = [(trial, TrialScore(**trial.user_attrs["score"])) for trial in complete]
    return sorted(scored, key=lambda pair: pair[1].rank, reverse=True)


def failure_reasons(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the causes of the trials that failed."""
    return [trial.user_attrs["cause"] for trial in trials if "cause" in trial.user_attrs]


def is_locked(folder: Path) -> bool:
    """Return whether a running process holds the lock of this folder."""
    try:
        with run_lock(folder) if folder.is_dir() else contextlib.nullcontext():
            return False
    except RunError:
        return True


@contextlib.contextmanager
def storage_errors(name: str | Path) -> Iterator[None]:
    """Translate errors of the database into one message about this file or server."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _storage_error(name, str(error.__cause__ or error).splitlines()[0]) from None


def _open_storage(location: StorageLocation) -> optuna.storages.RDBStorage:
    """Return the storage; raises RunError if it is of another version of Optuna."""
    try:
        storage = _open_sqlite(location.path) if location.url is None else optuna.storages.RDBStorage(location.url)
        weakref.finalize(storage, storage.engine.dispose)  # Optuna closes no connection
        return storage
    except RuntimeError as error:
        if "version" not in str(error):
            raise
        url = location.name if location.url else f"sqlite:///{location.path}"
        raise RunError(
            f"{location.name} was made by another version of Optuna than the installed {optuna.__version__}. Choose"
            f" another --storage, or upgrade a copy of it: optuna storage upgrade --storage {url}"
        ) from None


def _open_sqlite(path: Path) -> optuna.storages.RDBStorage:
    """Return the storage in a file, with a write-ahead log: waiting for the disk took half of its time.

    The entries of a killed process persist; after a power loss the last ones may be missing, but none is corrupt.
    """

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        connections.append(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    connections: list[sqlite3.Connection] = []
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": connect})
        with storage.engine.connect() as connection:  # only now is it known to be a storage
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    except BaseException:
        for opened in connections:
            opened.close()
        raise
    return storage


def _storage_error(name: str | Path, message: str) -> RunError | MachineError:
    if "locked" in message:
        return RunError(
            f"{name} has been locked by another program for {BUSY_SECONDS:.0f} s. Close it, and run the same command"
            " again: it resumes the search."
        )
    if "readonly" in message or "unable to open" in message:
        return MachineError(f"{name} cannot be written. Make it writable, or choose another --out or --storage.")
    if "not a database" in message or "malformed" in message or "no such" in message:
        return RunError(f"{name} is no storage of a search: {message}. Choose another --storage.")
    return RunError(f"{name} cannot be used as the storage of a search: {message}.")
