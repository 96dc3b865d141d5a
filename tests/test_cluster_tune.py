"""Searches whose trials are tasks of a cluster, against those of one process; trials that are killed or stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")
pytest.importorskip("ray")

import optuna
import psutil
from optuna.trial import TrialState

from bestiary.cluster.tune import ClusterTrials, Question, TrialDesk, connect_trial_workers
from bestiary.cluster.worker_group import WorkerGroup
from bestiary.context import Context
from bestiary.data.dataset import DataSource
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import RecipeError
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe
from bestiary.tune import trial as search_trial
from bestiary.tune.objective import SEARCH_SPLIT, TrialScore, evaluate_recipe
from bestiary.tune.storage import TrialStorage
from bestiary.tune.trial_workers import TrialCancelledError
from bestiary.tune.tune import SearchRequest, tune
from listening import Listening
from ray_cluster import wait_for_processors

RECIPE = Recipe.of(
    {
        "data": {"classes": ["bird", "fish", "spider"], "suspects": False},
        "picture": {"size": 32},
        "model": {"method": "scratch", "filters": [8]},
        "train": {"epochs": 4, "batch_size": 16, "precision": "float32"},
        "evaluate": {"resamples": 100},
    }
)
SEARCH = ("train.learning_rate=0.01..0.2",)
TRIALS = 5


@pytest.fixture(scope="module")
def single(collection: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by one process."""
    out = tmp_path_factory.mktemp("one") / "search"
    search(collection.folder, out, None)
    return out


def search(
    pictures: Path, out: Path, workers: int | None, reporter: Listening | None = None, *, trials: int = TRIALS
) -> dict[str, Any]:
    """Search on a cluster, or in this process without workers."""
    request = SearchRequest(RECIPE, SEARCH, trials=trials, inner_folds=0, fresh_seeds=0)
    reporter, address = reporter or Listening(), None if workers is None else "local"
    with connect_trial_workers(address, workers, RECIPE, threads=workers, reporter=reporter) as trial_workers:
        return tune(DataSource(pictures), request, out=out, threads=1, reporter=reporter, workers=trial_workers)


def outcomes(out: Path) -> list[tuple[Any, ...]]:
    """Return number, state, parameters, epochs and value of each trial."""
    trials = TrialStorage(out / "tune.db", "tune-scratch").trials()
    return [(trial.number, trial.state, trial.params, trial.intermediate_values, trial.value) for trial in trials]


def kill_task() -> None:
    """Kill a worker of this process's cluster that trains a trial."""
    titles = {child.pid: " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)}
    workers = [pid for pid, title in titles.items() if title.startswith("ray::_score_trial")]
    assert workers, titles
    os.kill(workers[0], signal.SIGKILL)


@pytest.mark.slow
def test_one_trial_at_a_time_gives_the_search_of_one_process(
    local_ray: Any, single: Path, collection: SyntheticDataset, tmp_path: Path
) -> None:
    search(collection.folder, tmp_path / "search", 1)
    assert outcomes(tmp_path / "search") == outcomes(single)
    assert TrialState.PRUNED in {state for _, state, *_ in outcomes(single)}, "no trial was stopped early"
    recipes = [(out / "winner.toml").read_text() for out in (tmp_path / "search", single)]
    assert recipes[0] == recipes[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
def test_no_trial_is_lost_with_a_killed_worker(
    local_ray: Any, collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_callback, killed = search_trial._make_epoch_callback, threading.Event()

    def make_deadly_callback(*arguments: Any) -> Callable[..., None]:
        report_epoch = make_callback(*arguments)

        def report_and_kill(split: int, history: list[dict[str, Any]]) -> None:
            if len(history) == 2 and not killed.is_set():
                killed.set()
                kill_task()
            report_epoch(split, history)

        return report_and_kill

    monkeypatch.setattr(search_trial, "_make_epoch_callback", make_deadly_callback)
    reporter = Listening()
    result = search(collection.folder, tmp_path / "search", 2, reporter, trials=3)
    assert killed.is_set()
    assert "A worker died in a trial, which is run again (attempt 2 of 3)." in reporter.said
    assert [number for number, *_ in outcomes(tmp_path / "search")] == [0, 1, 2], "a trial was queued again"
    assert sum(result["trials"].values()) == 3
    assert result["trials"]["failed"] == 0
    again = search(collection.folder, tmp_path / "search", 2, trials=3)
    assert again["history"] == result["history"], "the same call runs no more trials"


@pytest.fixture(scope="module")
def pictures(single: Path) -> list[pl.DataFrame]:
    """The pictures of a search with their splits, as trials get them."""
    frame = pl.read_parquet(single / "winner" / "pictures.parquet")
    return [frame.with_columns(pl.col("split").alias(SEARCH_SPLIT))]


def score_on_cluster(
    trials: ClusterTrials, pictures: list[pl.DataFrame], folder: Path, report_epoch: Callable[..., None]
) -> TrialScore:
    folder.mkdir()
    recipe = RECIPE.resolve()
    return trials.evaluate(recipe, pictures, folder, Context(1), report_epoch=report_epoch, resume=True)


@pytest.mark.slow
def test_the_epochs_of_a_trial_are_reported_here(local_ray: Any, pictures: list[pl.DataFrame], tmp_path: Path) -> None:
    def collect(epochs: list[int]) -> Callable[..., None]:
        return lambda split, history: epochs.append(len(history))

    there, alone = list[int](), list[int]()
    trials = ClusterTrials(WorkerGroup(1, 1), SilentReporter())
    score = score_on_cluster(trials, pictures, tmp_path / "there", collect(there))
    assert score == evaluate_recipe(
        RECIPE.resolve(), pictures, tmp_path / "alone", Context(1), report_epoch=collect(alone)
    )
    assert there == alone == [1, 2, 3]

    def prune(split: int, history: list[dict[str, Any]]) -> None:
        if len(history) == 2:
            raise optuna.TrialPruned("here")

    with pytest.raises(optuna.TrialPruned, match="here"):
        score_on_cluster(trials, pictures, tmp_path / "pruned", prune)
    assert len((tmp_path / "pruned" / "1" / "history.jsonl").read_text().splitlines()) == 2
    with pytest.raises(TrialCancelledError):
        score_on_cluster(trials, pictures, tmp_path / "stopped", lambda split, history: trials.stop())


def test_the_desk_keeps_no_call_of_a_trial_that_is_over() -> None:
    """An actor has 1,000 calls at a time: one that waits for ever after each trial would end a long search."""

    async def run_trial() -> Question | None:
        desk = TrialDesk()
        waiting = asyncio.create_task(desk.next_event("a"))
        await asyncio.sleep(0)
        await desk.forget("a")
        return await asyncio.wait_for(waiting, timeout=5)

    assert asyncio.run(run_trial()) is None


@pytest.mark.slow
def test_a_trial_that_kills_every_worker_is_a_failed_one(
    local_ray: Any, pictures: list[pl.DataFrame], tmp_path: Path
) -> None:
    trials = ClusterTrials(WorkerGroup(1, 1), SilentReporter())
    with pytest.raises(RecipeError, match="killed 3 times: perhaps it needs too much memory") as kept:
        score_on_cluster(trials, pictures, tmp_path / "trial", lambda split, history: kill_task())
    assert wait_for_processors(local_ray), f"although {type(kept.value).__name__} is kept"
