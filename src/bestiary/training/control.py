"""How the loop of a task is reported, resumed and ended: within a time budget its schedule follows the clock."""

from __future__ import annotations

from dataclasses import replace

from bestiary.training.distributed import ProcessGroup
from bestiary.training.free_cores import make_thread_chooser
from bestiary.training.loop import LoopControl
from bestiary.training.pace import make_time_limit
from bestiary.training.task import TrainingTask


def make_loop_control(task: TrainingTask, group: ProcessGroup, *, resume: bool) -> LoopControl:
    """Return the control of a task's training."""
    context, limit = task.context, make_time_limit(task.context)
    control = LoopControl(
        context.reporter,
        resume,
        group,
        log_epoch=context.experiment_log.log_epoch,
        device=task.recipe.train.device,
    )
    if limit is None:
        return replace(control, should_continue=task.has_time_for_epoch)
    return replace(control, limit=limit, choose_threads=make_thread_chooser(context))
