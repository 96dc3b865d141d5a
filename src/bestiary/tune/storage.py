"""The record of a search: an Optuna study in SQLite that several processes share, and that outlives them.

Who works on a trial holds the lock of its folder, which dies with the process: a trial that is running and held by
nobody was killed, and is queued again, to go on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from bestiary.errors import MachineError, RunError
from bestiary.training.run_lock import run_lock
from bestiary.tune.objective import TrialScore
from bestiary.tune.search_space import Settings

VERSION = 1  # raise it when searches that were begun before cannot be gone on with
BUSY_SECONDS = 60.0  # so long a database may be locked by others
MAX_ATTEMPTS = 3  # a trial that kills its process so often is given up
FIRST_RUNG_DIVISOR = 8  # of the epochs: before that the learning rate is still rising, and says little
FACTS, PLAN, SAMPLERS, ENDING, FINISHED = "facts", "plan", "samplers", "ending", "finished"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class TrialStorage:
    """A study, the folders of its trials, and who is at work."""

    def __init__(self, path: Path, name: str) -> None:
        """Open the study in a file, or make it.

        Raises RunError or MachineError if the file is no storage, of another version, locked or not writable.
        """
        self.path, self.folder = path, path.with_name(f"{path.stem}.trials")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with storage_errors(path), _write_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.lock():
                self.study = optuna.create_study(
                    storage=_open_storage(path), study_name=name, direction="maximize", load_if_exists=True
                )

    def lock(self) -> FileLock:
        """Return the lock under which trials are dealt out, one process at a time."""
        return FileLock(f"{self.path}.lock")

    def exclusive(self) -> FileLock:
        """Return the lock of the process that makes the winner."""
        return FileLock(f"{self.path}.end.lock")

    def shared_plan(self, facts: dict[str, Any], plan: Callable[[], tuple[dict[str, Any], Settings]]) -> dict[str, Any]:
        """Return the plan of the search: made by who begins it, kept for who goes on or joins.

        facts: what must be the same for all. plan: gives it and the values of the first trial, which is the default.
        Raises RunError, naming the first fact that is another.
        """
        with self.lock():
            known = self.study.user_attrs.get(FACTS)
            if known is None:
                made, first = plan()
                self.study.enqueue_trial(first, user_attrs={"default": True}, skip_if_exists=True)
                self.study.set_user_attr(PLAN, made)
                self.study.set_user_attr(FACTS, {"version": VERSION, **facts})
                return made
            for name, value in {"version": VERSION, **facts}.items():
                if known.get(name) != value:
                    raise RunError(
                        f"{self.path} holds a search with another {name}: {known.get(name)} there, {value} now. Go on"
                        " with the command that began it, or choose another --out or --storage."
                    )
            kept: dict[str, Any] = self.study.user_attrs[PLAN]
            return kept

    def use(self, epochs: int | None, *, seed: int) -> None:
        """Sample and stop by what the plan says; each process draws other values."""
        with self.lock():
            number = self.study.user_attrs.get(SAMPLERS, 0) + 1
            self.study.set_user_attr(SAMPLERS, number)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + 1000 * number + len(self.trials()))
        self.study.pruner = pruner(epochs)

    # ---- Trials ----------------------------------------------------------------------------------------------------

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states, or all, in their order."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def best(self) -> tuple[FrozenTrial, TrialScore] | None:
        """Return the best trial; of equal ones the first."""
        return best_trial(self.trials())

    def n_started(self) -> int:
        """Return how many trials are done or under way; those that were killed and queued again count once."""
        return count_started(self.trials())

    def trial_folder(self, trial: FrozenTrial | optuna.Trial) -> Path:
        """Return the folder of a trial: that of its first try."""
        return self.folder / str(display_number(trial) - 1)

    @contextlib.contextmanager
    def trial_claim(self, max_trials: int | None) -> Iterator[optuna.Trial | None]:
        """Give a trial to work on, or None if as many as wanted are taken; it is held until the end.

        Whatever is raised meanwhile puts it back, to be gone on with: Ctrl-C, a full disk, no more time.
        """
        with contextlib.ExitStack() as kept:
            with self.lock():
                self.requeue_killed()
                trial = None if max_trials is not None and self.n_started() >= max_trials else self.study.ask()
                if trial is not None:
                    self.trial_folder(trial).mkdir(exist_ok=True)
                    kept.enter_context(run_lock(self.trial_folder(trial)))
            try:
                yield trial
            except BaseException:
                with contextlib.suppress(Exception), self.lock():  # else it is queued as one that was killed
                    kept.close()
                    self._put_back(trial)
                raise

    def requeue_killed(self) -> list[int]:
        """Mark the trials whose process has died as failed, queue them again, and return their numbers.

        One that has died too often is queued a last time, to be entered as `is_abandoned`.
        """
        dead = [one for one in self.trials(TrialState.RUNNING) if not is_locked(self.trial_folder(one))]
        for one in dead:
            self._queue(one, attempts=one.user_attrs.get("tries", 1) + 1)
        return [one.number for one in dead]

    def _put_back(self, trial: optuna.Trial | None) -> None:
        """Queue a trial that is under way again, without counting a try."""
        for one in self.trials(TrialState.RUNNING):
            if trial is not None and one.number == trial.number:
                self._queue(one, attempts=one.user_attrs.get("tries", 1))

    def _queue(self, trial: FrozenTrial, *, attempts: int) -> None:
        """Queue a trial again, and only then mark it as failed: whatever happens between the two, it is not lost."""
        if all(other.user_attrs.get("again") != trial.number for other in self.trials()):
            self._enqueue(trial, attempts=attempts)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def _enqueue(self, trial: FrozenTrial, *, attempts: int) -> None:
        kept = {name: value for name, value in trial.user_attrs.items() if name == "default"}
        own = {"again": trial.number, "folder": self.trial_folder(trial).name, "tries": attempts}
        self.study.enqueue_trial(trial.params or trial.system_attrs.get("fixed_params", {}), user_attrs=kept | own)

    def clear(self) -> None:
        """Remove what trials left behind, but for the checkpoint of the best one and of the winner that is being made.

        What may still be gone on with is kept as well.
        """
        with self.lock():
            now = self.trials()
            ended = [one for one in now if one.state in (*DONE, TrialState.FAIL)]
            kept = {self.trial_folder(one) for one in now if one not in ended}
            if best := best_trial(now):
                kept.add(self.trial_folder(best[0]))
            if ending := self.pending_finish():
                kept.add(self.folder / ending["folder"])
            for one in ended:
                if self.trial_folder(one) not in kept:
                    shutil.rmtree(self.trial_folder(one), ignore_errors=True)

    # ---- The end ---------------------------------------------------------------------------------------------------

    def claim_finish(self, wanted: int | None) -> list[FrozenTrial]:
        """Return the trials that the end of the search is made of. wanted: how many were, see `ending`."""
        with self.lock():
            now = self.trials()
            best = best_trial(now)
            assert best is not None  # the caller has seen to it
            facts = {"taken": count_started(now), "folder": self.trial_folder(best[0]).name, "wanted": wanted}
            self.study.set_user_attr(ENDING, facts)
            return now

    def pending_finish(self) -> dict[str, Any] | None:
        """Return what the end was begun with, if it was and is not finished."""
        known = self.study.user_attrs
        begun: dict[str, Any] | None = known.get(ENDING)
        return None if begun is None or begun["taken"] == known.get(FINISHED, {}).get("taken") else begun

    # ---- Who is at work --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def session(self) -> Iterator[Path]:
        """Be known to the others as one who is at work."""
        mine = self.folder / f"session-{uuid4().hex[:8]}"
        try:
            with contextlib.ExitStack() as kept:
                with self.lock():
                    mine.mkdir()
                    kept.enter_context(run_lock(mine))
                yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)

    def others(self) -> list[Path]:
        """Return the sessions of processes that are still at work; those of dead ones are removed."""
        with self.lock():
            found = list(self.folder.glob("session-*"))
            alive = [one for one in found if is_locked(one)]
            for one in set(found) - set(alive):
                shutil.rmtree(one, ignore_errors=True)
        return alive

    def wait(self, until: Callable[[], bool], say: Callable[[str], None]) -> bool:
        """Wait until the other processes have ended their trials; return False if `until` comes first."""
        said = False
        while others := self.others():
            if until():
                return False
            if not said:
                say(f"Waiting for {len(others)} other process{'es' * (len(others) > 1)} at work on this search.")
                said = True
            time.sleep(0.5)
        return True


def display_number(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the number of a trial for people, from 1: that of its first try."""
    return int(trial.user_attrs.get("folder", trial.number)) + 1


def is_abandoned(trial: FrozenTrial | optuna.Trial) -> bool:
    """Return whether the trial has killed its process too often."""
    return int(trial.user_attrs.get("tries", 1)) > MAX_ATTEMPTS


def count_started(trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials are done or under way; those that were queued again count once."""
    again = {one.user_attrs.get("again") for one in trials}
    return sum(one.state != TrialState.WAITING and one.number not in again for one in trials)


def rank_trials(trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, TrialScore]]:
    """Return the trials that went to their end with their scores, the best first, of equal ones the first."""
    complete = [(one, TrialScore(**one.user_attrs["score"])) for one in trials if one.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda one: one[1].rank, reverse=True)


def best_trial(trials: Sequence[FrozenTrial]) -> tuple[FrozenTrial, TrialScore] | None:
    """Return the best of the trials that went to their end."""
    return next(iter(rank_trials(trials)), None)


def pruner(epochs: int | None) -> optuna.pruners.BasePruner:
    """Return what stops hopeless trials: asynchronous successive halving (Li et al. 2018, "Massively Parallel").

    Of the trials that reach an eighth of the epochs a third goes on, and again of those that reach three eighths.
    """
    if epochs is None or epochs < 2:
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=min_resource(epochs), reduction_factor=3)


def min_resource(epochs: int) -> int:
    """Return after how many epochs a trial is first held against the others.

    >>> [min_resource(epochs) for epochs in (2, 5, 12, 48)]
    [1, 1, 2, 6]
    """
    return max(1, round(epochs / FIRST_RUNG_DIVISOR))


def is_locked(folder: Path) -> bool:
    """Return whether a living process holds this folder."""
    if not folder.is_dir():
        return False
    try:
        with run_lock(folder):
            return False
    except RunError:
        return True


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the database says into one message about this file."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _storage_error(path, str(error.__cause__ or error)) from None


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"Cannot write {path}: {error.strerror or error}. Choose another --out or --storage."
        ) from None


def _open_storage(path: Path) -> optuna.storages.RDBStorage:
    """Return the storage in a file. Its log is written ahead: waits for the disk were half of its time.

    What a killed process has entered is kept; after a power loss the last entries may be missing, but nothing is torn.
    """

    def connected() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": connected})
        with storage.engine.connect() as connection:  # now that it is known to be ours
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        return storage
    except RuntimeError as error:
        if "version" not in str(error):
            raise
        raise RunError(
            f"{path} was made by another version of Optuna than {optuna.__version__}, which is installed. Choose"
            f" another --storage, or bring a copy of it up to date: optuna storage upgrade --storage sqlite:///{path}"
        ) from None


def _storage_error(path: Path, words: str) -> RunError | MachineError:
    first = words.splitlines()[0]
    if "locked" in first:
        return RunError(
            f"{path} has been locked by another program for {BUSY_SECONDS:.0f} s. Close that, and run the same command"
            " again: it goes on where it was."
        )
    if "readonly" in first or "unable to open" in first:
        return MachineError(f"{path} cannot be written. Make it writable, or choose another --out or --storage.")
    if "not a database" in first or "malformed" in first or "no such" in first:
        return RunError(f"{path} is no storage of a search: {first}. Choose another --storage.")
    return RunError(f"{path} cannot be used as the storage of a search: {first}.")


def failure_reasons(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the causes of the trials that failed by themselves."""
    return [one.user_attrs["cause"] for one in trials if "cause" in one.user_attrs]
