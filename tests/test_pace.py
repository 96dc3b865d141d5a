"""The schedule within a time budget follows the clock. Clocks and processor counters are stand-ins: no timed test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bestiary import files, run_folder
from bestiary.context import Context, PlannedSeconds
from bestiary.recipe import Recipe
from bestiary.training import free_cores
from bestiary.training.free_cores import (
    Counters,
    LoadMeter,
    choose_training_threads,
    make_thread_chooser,
    measure_training_threads,
)
from bestiary.training.loop_settings import LoopSettings
from bestiary.training.pace import COOLDOWN_STEPS, Pace, TimeLimit
from bestiary.training.schedule import epoch_costs, lr_factor, progressive_size
from listening import Listening

EPOCHS, EPOCH_STEPS, WARMUP_STEPS = 30, 20, 120
STEP_SECONDS, VALIDATION_SECONDS, AFTER_SECONDS = 0.4, 1.0, 20.0
EPOCH_SECONDS = EPOCH_STEPS * STEP_SECONDS + VALIDATION_SECONDS
Slowdown = Callable[[float], float]  # of the machine, by the seconds since the start


class Job:
    """A training whose steps take time on a clock of its own."""

    def __init__(self, budget_seconds: float, slowdown: Slowdown, costs: list[float] | None = None) -> None:
        self.now, self.slowdown, self.factors, self.epochs, self.times = (
            0.0,
            slowdown,
            list[float](),
            list[int](),
            list[float](),
        )
        costs = costs or [1.0] * EPOCHS
        limit = TimeLimit(lambda: budget_seconds - self.now, EPOCH_SECONDS, AFTER_SECONDS)
        self.pace = Pace(costs, EPOCH_STEPS, limit)
        mean = sum(costs) / len(costs)
        while not self.pace.is_over:
            self.pace.start_epoch()
            for _ in range(EPOCH_STEPS):
                self.factors.append(factor_at(self.pace))
                self.epochs.append(self.pace.planned_epoch)
                self.times.append(self.now)
                self.take(STEP_SECONDS * costs[self.pace.planned_epoch - 1] / mean)
                self.pace.advance()
                if self.pace.is_over:
                    break
            self.pace.end_epoch()
            self.take(VALIDATION_SECONDS)
        self.take(AFTER_SECONDS)

    def take(self, seconds: float) -> None:
        self.now += seconds * self.slowdown(self.now)


def factor_at(pace: Pace) -> float:
    return lr_factor(pace.position, total_steps=pace.planned_steps, warmup_steps=WARMUP_STEPS, schedule="one-cycle")


WHOLE = EPOCHS * EPOCH_SECONDS + AFTER_SECONDS


def test_without_a_clock_each_step_is_one_of_the_plan() -> None:
    pace = Pace([0.3, 0.7, 1.0], 7)
    for step in range(21):
        assert (pace.step, pace.position, pace.planned_epoch) == (step, float(step), 1 + step // 7)
        assert not pace.is_over
        pace.advance()
    assert pace.is_over
    assert not pace.is_shortened
    assert pace.describe_epoch() == {}


def test_a_machine_as_fast_as_planned_trains_as_planned() -> None:
    job = Job(WHOLE * 1.02, lambda now: 1.0)
    assert job.pace.step == EPOCHS * EPOCH_STEPS
    assert not job.pace.is_shortened
    assert job.factors == [
        lr_factor(step, total_steps=EPOCHS * EPOCH_STEPS, warmup_steps=WARMUP_STEPS, schedule="one-cycle")
        for step in range(EPOCHS * EPOCH_STEPS)
    ]


@pytest.mark.parametrize(
    "slowdown",
    [
        lambda now: 2.0,
        lambda now: 2.0 if now > 60 else 1.0,
        lambda now: 3.0 if now > 150 else 1.0,
        lambda now: 2.0 if 30 < now < 90 else 1.0,
        lambda now: 1.5 + 0.5 * math.sin(now / 7),
        lambda now: 6.0,
    ],
    ids=["always", "early", "late", "for a minute", "in waves", "six times"],
)
def test_a_slower_machine_ends_in_time_and_cooled_down(slowdown: Slowdown) -> None:
    job = Job(WHOLE, slowdown)
    assert job.now < 1.01 * WHOLE
    assert job.now > 0.85 * WHOLE  # the time is used
    assert job.pace.is_shortened
    assert job.pace.position == pytest.approx(EPOCHS * EPOCH_STEPS)
    assert max(job.factors) > 0.97
    peak = job.factors.index(max(job.factors))
    assert sorted(job.factors[peak:], reverse=True) == job.factors[peak:]
    assert job.factors[-1] < 0.03


def test_the_old_fault_a_schedule_cut_off_is_the_counter_example() -> None:
    """Epochs until the time is up, at the planned rates: that is what twice as slow a machine once ended with."""
    steps = int((WHOLE - AFTER_SECONDS) / (2 * EPOCH_SECONDS) * EPOCH_STEPS)
    cut_off = lr_factor(steps, total_steps=EPOCHS * EPOCH_STEPS, warmup_steps=WARMUP_STEPS, schedule="one-cycle")
    assert cut_off > 0.6
    assert Job(WHOLE, lambda now: 2.0).factors[-1] < 0.03


def test_what_follows_training_is_reserved_at_the_measured_speed() -> None:
    job = Job(WHOLE, lambda now: 3.0 if now > 40 else 1.0)
    assert job.now < 1.01 * WHOLE
    assert job.now - 3 * (AFTER_SECONDS + VALIDATION_SECONDS) < WHOLE - 60


def test_a_standstill_ends_with_a_short_cooldown() -> None:
    job = Job(WHOLE, lambda now: 40.0 if now > 140 else 1.0)
    slow = [factor for factor, now in zip(job.factors, job.times, strict=True) if now > 140]
    assert COOLDOWN_STEPS <= len(slow) <= 2 * COOLDOWN_STEPS
    assert slow[0] > 0.5
    assert job.factors[-1] < 0.15
    assert job.pace.position == pytest.approx(EPOCHS * EPOCH_STEPS)


def test_a_machine_that_becomes_free_again_trains_no_longer_than_planned() -> None:
    job = Job(WHOLE, lambda now: 3.0 if now < 60 else 0.5)
    assert job.pace.step <= EPOCHS * EPOCH_STEPS
    assert job.factors[-1] < 0.03
    assert job.now < WHOLE


def test_epochs_shorter_than_a_measurement_are_measured_too() -> None:
    now = [0.0]
    pace = Pace([1.0] * 200, 4, TimeLimit(lambda: 60.0 - now[0], epoch_seconds=0.3, after_seconds=0.5))
    while not pace.is_over:
        pace.start_epoch()
        for _ in range(4):
            now[0] += 0.2  # an epoch of 0.8 s, planned for 0.3
            pace.advance()
            if pace.is_over:
                break
        pace.end_epoch()
    assert pace.is_shortened
    assert 55 < now[0] <= 60
    assert pace.position == pytest.approx(800)


def test_growing_pictures_are_part_of_the_plan_and_reach_their_size() -> None:
    settings = loop_settings(size_from=64, size_to=128)
    costs = epoch_costs(settings)
    assert costs[0] == pytest.approx(0.25)
    assert costs[-1] == 1
    planned = Job(WHOLE * 1.02, lambda now: 1.0, costs)
    assert not planned.pace.is_shortened  # later steps take longer, as planned: no reason to shorten
    slow = Job(WHOLE, lambda now: 2.0, costs)
    assert slow.now < 1.01 * WHOLE
    assert slow.epochs[-1] == EPOCHS
    assert progressive_size(slow.epochs[-1], settings) == 128
    assert slow.factors[-1] < 0.03


def test_the_record_of_a_schedule_is_enough_to_repeat_it() -> None:
    job = Job(WHOLE, lambda now: 1.5 + math.sin(now / 7))
    lines = job.pace.describe_epoch()
    assert lines["steps"] == job.pace.step
    assert lines["schedule"] == pytest.approx(1)
    again = Pace([1.0] * EPOCHS, EPOCH_STEPS)
    replans, factors = dict(lines["replans"]), []
    while not again.is_over:
        again.end_step = replans.get(again.step, again.end_step)
        factors.append(factor_at(again))
        again.advance()
    assert factors == job.factors


def test_a_resumed_schedule_ends_where_the_interrupted_one_would_have() -> None:
    clock = iter(range(10_000))
    interrupted = Pace([1.0] * 10, 10, TimeLimit(lambda: 60.0 - next(clock), 5.0, 1.0))
    interrupted.start_epoch()
    for _ in range(10):
        interrupted.advance()
    assert interrupted.is_shortened
    resumed = Pace([1.0] * 10, 10)
    resumed.restore(interrupted.state(), 10)
    assert resumed.replans == interrupted.replans != []  # of the epoch that it was interrupted in
    while not resumed.is_over:
        resumed.advance()
    assert resumed.step == interrupted.end_step
    assert resumed.position == pytest.approx(100)
    assert resumed.describe_epoch()["steps"] == interrupted.end_step
    old = Pace([1.0] * 10, 10)
    old.restore(None, 37)  # a checkpoint from before the schedule was stored
    assert (old.step, old.position, old.end_step) == (37, 37.0, 100)


def loop_settings(**changes: Any) -> LoopSettings:
    recipe = Recipe.of({"model": {"method": "scratch"}, "train": {"epochs": EPOCHS}}).resolve()
    return replace(LoopSettings.from_recipe(recipe, 1), **changes)


# ---- Threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "load", "threads"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 0.5, 1), (2, 1.0, 1), (2, 2.0, 1), (1, 1.0, 1), (4, 1.0, 3), (16, 9.7, 6)],
)
def test_the_network_gets_the_free_cores(cores: int, load: float, threads: int) -> None:
    assert choose_training_threads(cores, load) == threads


def counters(*readings: Counters) -> Callable[[], Counters]:
    left: Iterator[Counters] = iter(readings)
    return lambda: next(left)


def test_the_load_is_that_of_other_programs() -> None:
    meter = LoadMeter(counters((0, 100, 5), (10, 115, 10), (20, 130, 25), (20, 130, 25)))
    assert meter.measure() == pytest.approx(1.0)  # 1.5 cores are busy, of which half a core is this process
    assert meter.measure() == 0.0  # all of it is this process
    assert meter.measure() == 0.0  # no time has passed


def test_the_counters_of_this_machine_are_read() -> None:
    seconds, busy, own = free_cores._read_counters()
    assert seconds > 0
    assert busy >= 0
    assert own > 0


def test_a_system_without_counters_seems_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(percpu: bool) -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr("psutil.cpu_times", refuse)
    meter = LoadMeter()
    assert meter.measure() == 0.0


@pytest.mark.parametrize(
    ("readings", "expected", "slept"),
    [
        ([(0, 0, 0), (0.5, 0.6, 0.5)], 2, [0.5]),  # quiet
        ([(0, 0, 0), (0.5, 1, 0), (2.5, 5, 0)], 1, [0.5, 2.0]),  # busy, and it stays so
        ([(0, 0, 0), (0.5, 1, 0), (2.5, 1.2, 0)], 2, [0.5, 2.0]),  # a short peak
    ],
)
def test_a_short_peak_does_not_decide(
    monkeypatch: pytest.MonkeyPatch, readings: list[Counters], expected: int, slept: list[float]
) -> None:
    monkeypatch.setattr(free_cores, "_read_counters", counters(*readings))
    waits = list[float]()
    threads, _ = measure_training_threads(Context(2, has_automatic_threads=True), waits.append)
    assert (threads, waits) == (expected, slept)
    assert measure_training_threads(Context(2), waits.append) == (2, 0.0)  # requested: nothing is measured
    on_cluster = Context(2, has_automatic_threads=True, remote_fit=lambda task, job, resume: None)
    assert measure_training_threads(on_cluster, waits.append) == (2, 0.0)  # its workers are no other programs
    assert waits == slept


def adaptive(threads: int = 2, *, automatic: bool = True, budget: bool = True) -> tuple[Context, Listening]:
    told, planned = Listening(), PlannedSeconds(10.0, 5.0, 3.0) if budget else None
    return Context(threads, told, deadline_seconds=100.0, planned=planned, has_automatic_threads=automatic), told


def test_threads_follow_the_load_while_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = counters((0, 0, 0), (10, 20, 10), (20, 40, 20), (30, 50, 30))
    monkeypatch.setattr(free_cores, "_read_counters", readings)
    now, (context, told) = [0.0], adaptive()
    choose = make_thread_chooser(context, lambda: now[0])
    assert choose is not None
    chosen = []
    for now[0] in (0.0, 5.0, 10.0, 15.0, 20.0, 30.0):
        chosen.append(choose())
    assert chosen == [2, 2, 1, 1, 1, 2]
    assert told.said == [
        "Other programs use 1.0 of 2 cores: training with 1 thread. Set --threads for a fixed number.",
        "Other programs use 0.0 of 2 cores: training with 2 threads. Set --threads for a fixed number.",
    ]


def test_threads_are_fixed_where_they_were_requested_or_a_run_is_to_be_reproducible() -> None:
    assert make_thread_chooser(adaptive(automatic=False)[0]) is None
    assert make_thread_chooser(adaptive(budget=False)[0]) is None


def test_a_context_knows_whether_its_threads_were_requested() -> None:
    assert Context.create(None).has_automatic_threads
    assert not Context.create(1).has_automatic_threads
    assert replace(Context(4), network_threads=3).training_threads == 3
    assert Context(4).training_threads == 4


def test_resuming_takes_the_recorded_threads(tmp_path: Path) -> None:
    files.write_text(tmp_path / "asked.toml", "")
    for recorded, expected in (({"threads": 1, "training threads": 1}, (1, 1)), ({"threads": 1}, (1, 1))):
        files.write_json(tmp_path / "environment.json", recorded)
        context = run_folder.resume_context(tmp_path)
        assert (context.threads, context.training_threads) == expected
        assert not context.has_automatic_threads
    files.write_json(tmp_path / "environment.json", {"threads": 1, "training threads": 1})
    context = run_folder.resume_context(tmp_path, threads=5)
    assert (context.threads, context.training_threads) == (5, 5)
