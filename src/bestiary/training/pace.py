"""Pace: how far training is in its schedule, and at which step it ends. Within a time budget it follows the clock.

Learning rate and picture size follow the position in the schedule, which is counted in planned steps. Without a clock
each step moves the position by one. Within a budget the steps that still fit into the time are counted again and again,
from measured speed, and the rest of the schedule is spread evenly over them: where a machine becomes slower there are
fewer steps, but the learning rate still falls to 0 and the pictures reach their final size before time is up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bestiary.context import Context

COOLDOWN_STEPS = 8  # the schedule is never ended in fewer steps: the learning rate falls in steps, not at once
REPLAN_FRACTION, MIN_REPLAN_SECONDS = 0.01, 1.0  # of the time left, between two counts of the steps that fit
SMOOTHING = 0.3  # weight of the latest measurement of speed


@dataclass(frozen=True)
class TimeLimit:
    """The time limit of training, and the plan that measured speed is compared with.

    seconds_left: returns the seconds until the whole job has to end. epoch_seconds: of a planned epoch. after_seconds:
    what follows training, at planned speed; it is assumed to slow down as training does.
    """

    seconds_left: Callable[[], float]
    epoch_seconds: float
    after_seconds: float


def make_time_limit(context: Context) -> TimeLimit | None:
    """Return the time limit that the schedule follows, None without a time budget."""
    deadline, planned, timer = context.deadline_seconds, context.planned, context.timer
    if deadline is None or planned is None:
        return None
    end = deadline + planned.after - planned.reserve
    return TimeLimit(lambda: end - timer.total, planned.epoch, planned.after)


@dataclass
class Pace:
    """The progress of training.

    epoch_costs: the relative cost of a step in each planned epoch. step: steps done. position: of `epochs *
    epoch_steps` planned steps, how many correspond to them. end_step: the step that training ends at. replans: the
    changes of `end_step` in this epoch as (step, end_step): with them the position of each step can be computed again.
    """

    epoch_costs: Sequence[float]
    epoch_steps: int
    limit: TimeLimit | None = None
    step: int = 0
    position: float = 0.0
    end_step: int = 0
    replans: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin as planned."""
        self.end_step = self.end_step or self.planned_steps
        self._overhead_seconds = 0.0  # of an epoch: validation and checkpoint; part of `epoch_seconds` until measured
        self._mean_cost = sum(self.epoch_costs) / len(self.epoch_costs)
        self._planned_step_seconds = 0.0  # of a step of cost 1
        if self.limit is not None:
            self._planned_step_seconds = self.limit.epoch_seconds / self.epoch_steps / self._mean_cost
        self._step_seconds, self._planned_weight = self._planned_step_seconds, 1.0
        self._total_seconds = self._total_cost = 0.0
        self._window_start = self._window_cost = 0.0
        self._epoch_end: float | None = None

    @property
    def planned_steps(self) -> int:
        """The number of steps of the whole schedule."""
        return len(self.epoch_costs) * self.epoch_steps

    @property
    def planned_epoch(self) -> int:
        """The epoch of the plan that the position is in, from 1."""
        return min(1 + int(self.position // self.epoch_steps), len(self.epoch_costs))

    @property
    def is_over(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.end_step

    @property
    def is_shortened(self) -> bool:
        """Whether training ends before its planned number of steps."""
        return self.end_step < self.planned_steps

    def start_epoch(self) -> None:
        """Begin to measure; what has passed since the end of the last epoch is the overhead of an epoch."""
        if self.limit is None:
            return
        now = self.limit.seconds_left()
        if self._epoch_end is not None:
            self._overhead_seconds = self._epoch_end - now
            in_step = min(self._overhead_seconds / self.epoch_steps / self._mean_cost, self._planned_step_seconds / 2)
            self._step_seconds -= self._planned_weight * in_step  # it was part of the planned seconds
            self._planned_weight = 0.0
        self._window_start, self._window_cost = now, 0.0
        self._replan(now)

    def advance(self) -> None:
        """Count a step, and count anew the steps that fit, if it is time."""
        cost = self.epoch_costs[self.planned_epoch - 1]
        self.position += (self.planned_steps - self.position) / (self.end_step - self.step)
        self.step += 1
        if self.limit is None:
            return
        now = self.limit.seconds_left()
        self._window_cost += cost
        if self._window_start - now >= max(MIN_REPLAN_SECONDS, REPLAN_FRACTION * now):
            self._measure_window(now)
            self._replan(now)

    def end_epoch(self) -> None:
        """Note the end of an epoch's steps."""
        if self.limit is not None:
            self._epoch_end = self.limit.seconds_left()
            if self._window_cost:
                self._measure_window(self._epoch_end)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs to continue the schedule."""
        replans = [list(replan) for replan in self.replans]
        return {"step": self.step, "position": self.position, "end_step": self.end_step, "replans": replans}

    def restore(self, state: dict[str, Any] | None, steps_done: int) -> None:
        """Continue the schedule of a checkpoint; None for an old one, whose schedule is as planned."""
        state = state or {"step": steps_done, "position": float(steps_done), "end_step": self.planned_steps}
        self.step, self.position, self.end_step = state["step"], state["position"], state["end_step"]
        self.replans = [(step, end_step) for step, end_step in state.get("replans", ())]

    def describe_epoch(self) -> dict[str, Any]:
        """Return what the history records of a schedule that follows the clock, empty for one that does not.

        steps: done so far. schedule: the fraction of the schedule that is done. replans: of this epoch.
        """
        replans, self.replans = self.replans, []
        if self.limit is None and not self.is_shortened:
            return {}
        fraction = self.position / self.planned_steps
        return {"steps": self.step, "schedule": fraction, "replans": [list(replan) for replan in replans]}

    def _measure_window(self, seconds_left: float) -> None:
        """Average the speed of the steps since the last measurement with the speed before."""
        seconds = self._window_start - seconds_left
        weight = SMOOTHING * min(1.0, seconds / MIN_REPLAN_SECONDS)
        self._step_seconds += weight * (seconds / self._window_cost - self._step_seconds)
        self._planned_weight *= 1 - weight
        self._total_seconds, self._total_cost = self._total_seconds + seconds, self._total_cost + self._window_cost
        self._window_start, self._window_cost = seconds_left, 0.0

    def _replan(self, seconds_left: float) -> None:
        """Set the last step to the one that ends in time, at the measured speed."""
        steps = max(self._count_affordable_steps(seconds_left), min(COOLDOWN_STEPS, self.end_step - self.step))
        end_step = min(self.step + steps, self.planned_steps)
        if end_step != self.end_step and not self.is_over:
            self.end_step = end_step
            self.replans.append((self.step, end_step))

    def _count_affordable_steps(self, seconds_left: float) -> int:
        assert self.limit is not None
        rest = self.planned_steps - self.position
        if rest <= 0:
            return 0
        seconds = seconds_left - self.limit.after_seconds * self._slowdown() - self._overhead_seconds
        step_seconds = self._step_seconds * self._remaining_cost() / rest + self._overhead_seconds / self.epoch_steps
        return int(max(0.0, seconds) / step_seconds)

    def _slowdown(self) -> float:
        """Return the time of an epoch relative to the plan: of late or over all epochs, the longer; at least 1."""
        mean_seconds = self._total_seconds / self._total_cost if self._total_cost else 0.0
        overhead = self._overhead_seconds / self.epoch_steps / self._mean_cost
        return max(1.0, (max(self._step_seconds, mean_seconds) + overhead) / self._planned_step_seconds)

    def _remaining_cost(self) -> float:
        """Return the summed cost of the planned steps from the position on."""
        current = self.planned_epoch
        in_epoch = current * self.epoch_steps - self.position
        return self.epoch_costs[current - 1] * in_epoch + self.epoch_steps * sum(self.epoch_costs[current:])
