"""A fit job: what the training loop trains, and where that is done, in this process or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bestiary.array_types import Ints
from bestiary.batches.loader import Read
from bestiary.models.networks import Network
from bestiary.recipe_sections import AugmentConfig
from bestiary.training import loop
from bestiary.training.card_memory import fit_with_fallback
from bestiary.training.control import make_loop_control
from bestiary.training.distributed import destroy_process_group, init_process_group
from bestiary.training.loop_settings import LoopSettings
from bestiary.training.task import TrainingTask


@dataclass(frozen=True)
class FitJob:
    """The arguments of `loop.fit` but for the run folder and the control, which belong to the task."""

    network: Network
    read_rows: Read
    labels: Ints
    validate: Callable[[Network], loop.ValidationMetrics]
    settings: LoopSettings
    augmentation: AugmentConfig


def run_fit(task: TrainingTask, job: FitJob) -> loop.FitResult:
    """Train the network of a job in place, here or where the context says; resumes at the checkpoint of the run."""
    resume = task.resume and has_checkpoint(task)
    if task.context.remote_fit is not None:
        remote: loop.FitResult = task.context.remote_fit(task, job, resume)
        return remote
    message = {"run": str(task.run), "method": task.recipe.model.method, "resume": resume}
    init_process_group(message, task.recipe.train.device)
    result = fit_in_group(task, job, resume=resume)
    destroy_process_group()
    return result


def fit_in_group(task: TrainingTask, job: FitJob, *, resume: bool) -> loop.FitResult:
    """Train the network of a job in this process, as a member of the process group of the environment, if any."""
    group, _ = init_process_group()
    arguments = (job.network, job.read_rows, job.labels, job.validate, job.settings, job.augmentation, task.run)
    control = make_loop_control(task, group, resume=resume)
    return fit_with_fallback(lambda control: loop.fit(*arguments, control), job.network, task.run, control)


def has_checkpoint(task: TrainingTask) -> bool:
    """Return whether there is a checkpoint in the run folder of the task."""
    return (task.run / "checkpoints" / "last.pt").exists()
