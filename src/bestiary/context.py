"""The run context: what all stages of a job share besides their data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from bestiary.experiment_log import ExperimentLog, NoLog
from bestiary.files import cache_folder
from bestiary.machine import available_cores
from bestiary.profiling import StageTimer
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe_sections import FeaturesConfig
from bestiary.stages import Job, number_stages
from bestiary.table_map import TableMap

RemoteFit = Callable[[Any, Any, bool], Any]  # the types are those of a later room


class JobOptions(TypedDict, total=False):
    """How a job runs, whatever it does: see `Context`."""

    threads: int | None
    reporter: Reporter | None
    cluster: TableMap | None
    remote_fit: RemoteFit | None


@dataclass(frozen=True)
class PlannedSeconds:
    """Seconds that a time budget plans: of an epoch, of what follows training, and the reserve for the unforeseen."""

    epoch: float
    after: float
    reserve: float


@dataclass(frozen=True)
class Context:
    """Threads, progress reporter, cache folder, stage timer, and the deadline of a time budget.

    cache: None to cache nothing. deadline_seconds: timer seconds at which training must end at the speed of the plan,
    whose times are `planned`. has_automatic_threads: whether the user left the number of threads open; network_threads:
    the number that a network is trained with, None for `threads`. features: settings of feature extraction, those of
    the recipe, or what a run has recorded. experiment_log: what TensorBoard or MLflow gets. cluster: what measures
    pictures and computes their features; None for this process. remote_fit: trains the network of a task on a cluster;
    called with the task, its `training.fit_job.FitJob`, and whether to resume.
    """

    threads: int = field(default_factory=available_cores)
    reporter: Reporter = field(default_factory=SilentReporter)
    cache: Path | None = field(default_factory=cache_folder)
    timer: StageTimer = field(default_factory=StageTimer)
    deadline_seconds: float | None = None
    planned: PlannedSeconds | None = None
    has_automatic_threads: bool = False
    network_threads: int | None = None
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    experiment_log: ExperimentLog = field(default_factory=NoLog)
    cluster: TableMap | None = None
    remote_fit: RemoteFit | None = None

    @classmethod
    def create(
        cls,
        threads: int | None = None,
        reporter: Reporter | None = None,
        features: FeaturesConfig | None = None,
        job: Job | None = None,
        cluster: TableMap | None = None,
        remote_fit: RemoteFit | None = None,
    ) -> Context:
        """Return a context with `threads` (default: the available cores) that reports to `reporter`.

        job: whose stages are numbered in the progress lines.
        """
        reporter = reporter or SilentReporter()
        return cls(
            threads or available_cores(),
            reporter if job is None else number_stages(reporter, job),
            has_automatic_threads=threads is None,
            features=features or FeaturesConfig(),
            cluster=cluster,
            remote_fit=remote_fit,
        )

    @property
    def training_threads(self) -> int:
        """The number of threads that a network is trained with."""
        return self.network_threads or self.threads

    def with_deadline(self, seconds: float | None, planned: PlannedSeconds | None = None) -> Context:
        """Return the same context with another deadline, in seconds on the timer, or None."""
        return replace(self, deadline_seconds=seconds, planned=planned)

    def split_deadline(self, models: int) -> Context:
        """Return the context of the first of so many models that are trained one after another before the deadline.

        Each gets the same part of the time that is left, with what follows its training; the reserve is the last one's.
        """
        if self.deadline_seconds is None or self.planned is None or models == 1:
            return self
        now, after = self.timer.total, self.planned.after
        part = (self.deadline_seconds + after - now) / models
        return self.with_deadline(now + part - after, replace(self.planned, reserve=0.0))

    def has_time_for(self, seconds: float) -> bool:
        """Return whether work of `seconds` would end before the deadline."""
        return self.deadline_seconds is None or self.timer.total + seconds <= self.deadline_seconds

    def require_cache(self) -> Path:
        """Return the cache folder of a context that has one."""
        if self.cache is None:
            raise ValueError("This context has no cache folder.")
        return self.cache
