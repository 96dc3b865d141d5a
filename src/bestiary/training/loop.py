"""The one training loop, for networks from scratch and for fine-tuning. Read `fit` from top to bottom.

The order of an epoch is drawn from (seed, epoch), augmentation and dropout from (seed, epoch, step). A run that is
resumed, between epochs or within one, therefore needs no stored generator to equal the uninterrupted one; on one thread
it is equal to the last bit. Several processes may share the batches: see `distributed`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from bestiary.array_types import Float32s, Ints
from bestiary.batches.augmentation import BatchRandom, augment
from bestiary.batches.loader import Read, iter_eval_batches, iter_train_batches, steps_per_epoch
from bestiary.errors import RecipeError
from bestiary.files import write_text
from bestiary.machine import TrainDevice, disable_malloc_trim
from bestiary.models.networks import Network
from bestiary.progress import Reporter, SilentReporter
from bestiary.recipe_sections import AugmentConfig
from bestiary.text import format_count
from bestiary.training.balance import class_weights, logit_adjustment, sample_epoch_order
from bestiary.training.checkpoint import copy_weights, load_checkpoint, save_checkpoint
from bestiary.training.device import autocast, choose_device, choose_precision, seed_for_step, to_device
from bestiary.training.distributed import SINGLE_PROCESS, ProcessGroup
from bestiary.training.loop_settings import LoopSettings, Precision
from bestiary.training.optimiser import build_optimiser
from bestiary.training.pace import Pace, TimeLimit
from bestiary.training.schedule import epoch_costs, lr_factor, progressive_size

LOSS_CHECK_STEPS = 50  # steps between checks of the loss for NaN; each check synchronises with the device

StopReason = Literal["finished", "patience", "diverged", "budget"]


@dataclass(frozen=True)
class ValidationMetrics:
    """Validation loss and macro-F1 after an epoch."""

    val_loss: float
    val_macro_f1: float


@dataclass(frozen=True)
class FitResult:
    """The history of training, one record per epoch as in history.jsonl; the network itself has the best weights.

    epochs: trained in all; the last may be a part of one where the schedule followed the clock.
    """

    history: tuple[dict[str, Any], ...]
    best_epoch: int
    stop_reason: StopReason
    device: str
    precision: str
    epochs: float


@dataclass(frozen=True)
class LoopControl:
    """How a fit is reported, resumed, distributed and ended.

    should_continue: called before each epoch but the first with the seconds of the last one; False ends training.
    limit: the time limit that the schedule follows. choose_threads: returns the number of threads for the next step.
    log_epoch: called in the main process with each line of history.jsonl. device: to train on.
    """

    reporter: Reporter = field(default_factory=SilentReporter)
    resume: bool = False
    process_group: ProcessGroup = SINGLE_PROCESS
    should_continue: Callable[[float], bool] = lambda epoch_seconds: True
    limit: TimeLimit | None = None
    choose_threads: Callable[[], int] | None = None
    log_epoch: Callable[[Mapping[str, Any]], None] = lambda record: None
    device: TrainDevice = "auto"


def fit(
    network: Network,
    read_rows: Read,
    labels: Ints,
    validate: Callable[[Network], ValidationMetrics],
    settings: LoopSettings,
    augmentation: AugmentConfig,
    run_folder: Path,
    control: LoopControl,
) -> FitResult:
    """Train the network in place and return its history; the network ends with its best weights, on the CPU.

    read_rows: returns training rows by index 0 to n - 1, a new array each time. labels: int64 (n,), 0 to classes - 1.
    validate: called after every epoch with the network in evaluation mode. The best epoch has the highest validation
    macro-F1, then the lowest loss. Writes `history.jsonl` and `checkpoints/last.pt` after every epoch, the checkpoint
    also every `checkpoint_seconds` within one; resuming continues from there, also after KeyboardInterrupt. In a
    process group every process calls this with the same arguments; the main process validates and writes.
    Raises RecipeError if the loss is NaN before any epoch is finished or a batch is too small for the process group,
    RunError if a checkpoint is missing, damaged or from other settings.
    """
    reporter, process_group = control.reporter, control.process_group

    # ---- The device --------------------------------------------------------------------------------------------------
    disable_malloc_trim()
    torch.set_num_threads(settings.threads)
    device = choose_device(control.device)
    precision = choose_precision(settings.precision, device)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    # ---- The classes -------------------------------------------------------------------------------------------------
    classes = network.head.linear.out_features
    weights = torch.from_numpy(class_weights(labels, classes, settings.balance)).to(device)
    offsets = torch.from_numpy(logit_adjustment(labels, classes, settings.balance)).to(device)

    # ---- The optimiser and its schedule ------------------------------------------------------------------------------
    optimiser = build_optimiser(network, settings)
    order_length = len(sample_epoch_order(labels, classes, settings.balance, seed=settings.seed, epoch=1))
    epoch_steps = steps_per_epoch(order_length, settings.batch_size)
    epoch_pictures = min(order_length, epoch_steps * settings.batch_size)
    batch_pictures = min(order_length, settings.batch_size)
    process_group.check_batch_size(batch_pictures)
    process_group.wrap_network(network, batch_pictures, settings.sync_batch_norm)
    pace = Pace(epoch_costs(settings), epoch_steps, control.limit)
    warmup_steps = round(settings.warmup_epochs * epoch_steps)

    # ---- Start or resume ---------------------------------------------------------------------------------------------
    checkpoint, log = run_folder / "checkpoints" / "last.pt", run_folder / "history.jsonl"
    configuration = {**asdict(settings), "augment": augmentation.model_dump(), "pictures": len(labels)}
    history: list[dict[str, Any]] = []
    best_weights, best_epoch, best_score = copy_weights(network), 0, (-math.inf, -math.inf)
    done, tally = 0, torch.zeros(2, device=device)  # of the epoch: steps; the sum of their losses, and of their hits
    if control.resume:
        state = load_checkpoint(checkpoint, configuration)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        history, best_epoch, done, tally = state["history"], state["best_epoch"], state["done"], state["tally"]
        pace.restore(state.get("pace"), len(history) * epoch_steps + done)
        tally = tally.to(device)
        best_weights = {name: tensor.to(device) for name, tensor in state["best_weights"].items()}
        best_score = checkpoint_rank(history[best_epoch - 1]) if best_epoch else best_score
        reporter.info(
            f"Resuming after epoch {len(history)} of {settings.epochs}{f' and {done} steps' if done else ''}; "
            f"the best so far is {best_epoch or 'none'}."
        )
    if process_group.is_main_process:
        write_text(log, "".join(json.dumps(record) + "\n" for record in history))
    reporter.info(
        f"Training on {device.type} in {precision} with {format_count(settings.threads, 'thread')}{process_group}."
    )

    def save() -> None:
        state: dict[str, Any] = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "best_weights": best_weights,
        }
        state |= {"asked": configuration, "history": history, "best_epoch": best_epoch, "done": done, "tally": tally}
        state["pace"] = pace.state()
        if process_group.is_main_process:
            save_checkpoint(checkpoint, state)

    # ---- The epochs --------------------------------------------------------------------------------------------------
    stopped: StopReason = "finished"
    saved = time.perf_counter()
    for epoch in range(len(history) + 1, settings.epochs + 1):
        if epoch - 1 - best_epoch >= settings.patience_epochs:
            stopped = "patience"
            break
        if pace.is_over and not done:  # with steps done, the epoch is still to be validated
            break
        if history and not control.should_continue(history[-1]["seconds"]):
            stopped = "budget"
            reporter.info(
                f"Time budget used up after epoch {epoch - 1} of {settings.epochs}; the best was epoch {best_epoch}."
            )
            break
        started, done_before = time.perf_counter(), done
        order = sample_epoch_order(labels, classes, settings.balance, seed=settings.seed, epoch=epoch)

        # -- train
        network.train()
        pace.start_epoch()
        batches = iter_train_batches(
            read_rows,
            labels,
            order,
            batch_size=settings.batch_size,
            seed=settings.seed,
            epoch=epoch,
            skip=done,
            local_slice=process_group.local_slice,
        )
        with closing(batches), reporter.progress(f"Epoch {epoch} of {settings.epochs}", epoch_pictures) as advance:
            for batch in batches:
                if pace.is_over:  # within an epoch, where the schedule follows the clock
                    break
                if (
                    control.choose_threads is not None
                    and (threads := control.choose_threads()) != torch.get_num_threads()
                ):
                    torch.set_num_threads(threads)
                factor = lr_factor(
                    pace.position,
                    total_steps=pace.planned_steps,
                    warmup_steps=warmup_steps,
                    schedule=settings.schedule,
                )
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * factor
                images = to_device(batch.images, device).permute(0, 3, 1, 2)
                targets = to_device(batch.labels, device)
                chance = BatchRandom(
                    seed_for_step(settings.seed, epoch, done), *process_group.batch_offsets(len(batch.global_indices))
                )
                pixels = augment(images, augmentation, chance, size=progressive_size(pace.planned_epoch, settings))
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                with autocast(device, precision):
                    maps = None if network.distillation is None else network.feature_maps(pixels)
                    logits = network(pixels) if maps is None else network.head(maps)
                logits = logits.float()
                losses = functional.cross_entropy(
                    logits + offsets,
                    targets,
                    weight=weights,
                    label_smoothing=settings.label_smoothing,
                    reduction="sum",
                )
                loss = losses / weights[to_device(labels[batch.global_indices], device)].sum()
                if network.distillation is not None and maps is not None:
                    loss = loss + network.distillation.sum_losses(maps, batch.indices) / len(batch.global_indices)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                hits = (logits.detach().argmax(dim=1) == targets).sum()
                tally = tally + process_group.all_reduce_gradients(network, torch.stack([loss.detach(), hits]))
                optimiser.step()
                done += 1
                pace.advance()
                advance(len(batch.global_indices))
                if done % LOSS_CHECK_STEPS == 0 and not math.isfinite(float(tally[0])):
                    break
                if time.perf_counter() - saved >= settings.checkpoint_seconds and math.isfinite(float(tally[0])):
                    save()
                    saved = time.perf_counter()
        pace.end_epoch()
        train_loss, train_accuracy = (
            float(tally[0]) / done,
            float(tally[1]) / min(done * settings.batch_size, epoch_pictures),
        )
        train_seconds = time.perf_counter() - started

        # -- validate
        network.eval()
        validation = ValidationMetrics(math.nan, math.nan)
        if math.isfinite(train_loss):
            validation = ValidationMetrics(
                *process_group.broadcast_from_main(lambda: astuple(validate(network)), 2, device)
            )
        if not all(map(math.isfinite, astuple(validation))):
            stopped = "diverged"
            reporter.info(divergence_message(epoch, best_epoch, settings.learning_rate))
            break

        # -- keep the best
        history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "val_loss": float(validation.val_loss),
                "train_accuracy": train_accuracy,
                "val_macro_f1": float(validation.val_macro_f1),
                "learning_rate": optimiser.param_groups[0]["lr"],
                "seconds": time.perf_counter() - started,
                "images_per_second": (done - done_before) * settings.batch_size / train_seconds,
                **pace.describe_epoch(),
            }
        )
        if control.choose_threads is not None:
            history[-1]["threads"] = torch.get_num_threads()
        if checkpoint_rank(history[-1]) > best_score:
            best_weights, best_epoch, best_score = copy_weights(network), epoch, checkpoint_rank(history[-1])

        # -- save: the checkpoint first; resuming writes the log again from it
        done, tally, saved = 0, torch.zeros_like(tally), time.perf_counter()
        save()
        if process_group.is_main_process:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(history[-1]) + "\n")
            control.log_epoch(history[-1])
        reporter.info(
            f"Epoch {epoch}: loss {train_loss:.3f}, validation loss {validation.val_loss:.3f}, "
            f"macro-F1 {validation.val_macro_f1:.3f}{' (best)' if best_epoch == epoch else ''}"
        )

    if stopped == "finished" and pace.is_shortened:
        stopped = "budget"
        reporter.info(
            f"The schedule was shortened to {pace.end_step / epoch_steps:.1f} of {settings.epochs} epochs, to finish in"
            f" time and with the lowest learning rate; the best was epoch {best_epoch}."
        )

    # ---- The best weights --------------------------------------------------------------------------------------------
    network.load_state_dict(best_weights)
    process_group.unwrap_network(network)
    network.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return FitResult(tuple(history), best_epoch, stopped, device.type, precision, round(pace.step / epoch_steps, 2))


def predict_logits(
    network: Network, read_rows: Read, count: int, *, batch_size: int, precision: Precision = "auto"
) -> Float32s:
    """Return the logits of rows 0 to count - 1, float32 (count, classes), on the device the network is on.

    For validation during training; reported scores come from the exported graph.
    """
    device = network.mean.device
    chosen = choose_precision(precision, device)
    network.eval()
    parts: list[Float32s] = []
    batches = iter_eval_batches(read_rows, count, batch_size=batch_size)
    with closing(batches), torch.inference_mode():
        for batch in batches:
            pixels = to_device(batch.images, device).permute(0, 3, 1, 2).float()
            with autocast(device, chosen):
                logits = network(pixels)
            parts.append(logits.float().cpu().numpy())
    return np.concatenate(parts)


def checkpoint_rank(record: dict[str, float]) -> tuple[float, float]:
    """Return the sort key of an epoch: higher macro-F1 first, then lower loss."""
    return record["val_macro_f1"], -record["val_loss"]


def divergence_message(epoch: int, best_epoch: int, learning_rate: float) -> str:
    """Return the message about a NaN loss; raises it as RecipeError if no epoch was finished before."""
    message = (
        f"The loss became NaN in epoch {epoch}. train.learning_rate is {learning_rate:g}; "
        "try a third of it, or train.precision = float32."
    )
    if best_epoch == 0:
        raise RecipeError(message)
    return f"{message} Training ends with the weights of epoch {best_epoch}, the best so far."
