"""The one training loop, for networks from scratch and for fine-tuning. Read `fit` from top to bottom.

Everything random in an epoch is drawn from (seed, epoch): the order, the augmentation and the dropout. A run that is
resumed therefore needs no stored generator to equal the uninterrupted one; on one thread it is equal to the last bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bestiary.batches.augmentation import augment
from bestiary.batches.batches import Read, evaluation_batches, training_batches, training_steps
from bestiary.errors import RecipeError
from bestiary.machine import keep_memory, write_text
from bestiary.models.networks import Network
from bestiary.progress import Reporter
from bestiary.recipe import Augment, Balance
from bestiary.training.balance import class_weights, epoch_order, logit_offsets
from bestiary.training.checkpoint import copy_weights, load_checkpoint, save_checkpoint

Schedule = Literal["one-cycle", "cosine"]
Precision = Literal["auto", "float32", "bfloat16"]
Stopped = Literal["finished", "patience", "diverged"]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the loop needs to know. Times in epochs become steps once, in `fit`.

    optimiser: "sgd" with Nesterov `momentum`, or "adamw" with `momentum` as its first beta. learning_rate is the
    head's; stage k below it learns with stage_decay ** k of it. unfreeze_stages: how many of the trunk's last stages
    learn, None for all. precision "auto": bfloat16 where the processor computes in it, else float32.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    momentum: float
    label_smoothing: float
    schedule: Schedule
    warmup_epochs: float
    patience_epochs: int
    seed: int
    threads: int
    balance: Balance = "none"
    precision: Precision = "auto"
    optimiser: Literal["sgd", "adamw"] = "sgd"
    unfreeze_stages: int | None = None
    stage_decay: float = 1.0

    def __post_init__(self) -> None:
        """Raise RecipeError for a warm-up that leaves no training."""
        if not 0 <= self.warmup_epochs < self.epochs:
            raise RecipeError(
                f"train.warmup_epochs is {self.warmup_epochs:g} of {self.epochs} epochs; expected 0 or more, and fewer "
                "than train.epochs. Lower it, or train for longer."
            )


@dataclass(frozen=True)
class Validation:
    """What the loop must know about the validation split after an epoch."""

    val_loss: float
    val_macro_f1: float


@dataclass(frozen=True)
class FitResult:
    """How training went; the network itself holds the best weights.

    history: one record for each epoch, as in history.jsonl. stopped: "finished", "patience" or "diverged".
    """

    history: tuple[dict[str, float], ...]
    best_epoch: int
    stopped: Stopped
    device: str
    precision: str


def fit(
    network: Network,
    read: Read,
    labels: NDArray[np.int64],
    evaluate: Callable[[Network], Validation],
    settings: LoopSettings,
    augmentation: Augment,
    run_folder: Path,
    *,
    reporter: Reporter,
    resume: bool = False,
) -> FitResult:
    """Train the network in place and return how it went; the network ends with its best weights, on the CPU.

    read: training rows by position 0 to n - 1, in a new array each time. labels: int64 (n,), 0 to classes - 1.
    evaluate: called after every epoch with the network in evaluation mode. The best epoch has the highest validation
    macro-F1, then the lowest loss. Writes `history.jsonl` and `checkpoints/last.pt` after every epoch; with `resume` it
    continues from there, and on KeyboardInterrupt that state is safe.
    Raises RecipeError if the loss is not a number before any epoch was finished, RunError if a checkpoint is missing,
    damaged or from other settings.
    """
    # ---- The machine -------------------------------------------------------------------------------------------------
    keep_memory()
    torch.set_num_threads(settings.threads)
    device = choose_device()
    precision = choose_precision(settings.precision, device)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    # ---- The classes -------------------------------------------------------------------------------------------------
    classes = network.head.linear.out_features
    weights = torch.from_numpy(class_weights(labels, classes, settings.balance)).to(device)
    offsets = torch.from_numpy(logit_offsets(labels, classes, settings.balance)).to(device)

    # ---- The optimiser and its schedule ------------------------------------------------------------------------------
    optimiser = build_optimiser(network, settings)
    order_length = len(epoch_order(labels, classes, settings.balance, seed=settings.seed, epoch=1))
    epoch_steps = training_steps(order_length, settings.batch_size)
    epoch_pictures = min(order_length, epoch_steps * settings.batch_size)
    total_steps = settings.epochs * epoch_steps
    warmup_steps = round(settings.warmup_epochs * epoch_steps)

    # ---- Where it starts ---------------------------------------------------------------------------------------------
    checkpoint, log = run_folder / "checkpoints" / "last.pt", run_folder / "history.jsonl"
    asked = {**asdict(settings), "augment": augmentation.model_dump(), "pictures": len(labels)}
    history: list[dict[str, float]] = []
    best_weights, best_epoch, best_score = copy_weights(network), 0, (-math.inf, -math.inf)
    if resume:
        state = load_checkpoint(checkpoint, asked)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        history, best_epoch = state["history"], state["best_epoch"]
        best_weights = {name: tensor.to(device) for name, tensor in state["best_weights"].items()}
        best_score = score_of(history[best_epoch - 1])
        reporter.say(f"Going on after epoch {len(history)} of {settings.epochs}; the best so far is {best_epoch}.")
    write_text(log, "".join(json.dumps(record) + "\n" for record in history))
    reporter.say(f"Training on {device.type} in {precision} with {settings.threads} threads.")

    # ---- The epochs --------------------------------------------------------------------------------------------------
    stopped: Stopped = "finished"
    for epoch in range(len(history) + 1, settings.epochs + 1):
        if epoch - 1 - best_epoch >= settings.patience_epochs:
            stopped = "patience"
            break
        started = time.perf_counter()
        generator = seed_epoch(settings.seed, epoch)
        order = epoch_order(labels, classes, settings.balance, seed=settings.seed, epoch=epoch)
        step = (epoch - 1) * epoch_steps
        losses, hits = [], []

        # -- train
        network.train()
        batches = training_batches(read, labels, order, batch_size=settings.batch_size, seed=settings.seed, epoch=epoch)
        with closing(batches), reporter.task(f"Epoch {epoch} of {settings.epochs}", epoch_pictures) as advance:
            for batch in batches:
                factor = rate_factor(
                    step, total_steps=total_steps, warmup_steps=warmup_steps, schedule=settings.schedule
                )
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * factor
                images = to_device(batch.images, device).permute(0, 3, 1, 2)
                targets = to_device(batch.labels, device)
                pixels = augment(images, augmentation, generator).contiguous(memory_format=torch.channels_last)
                with autocast(device, precision):
                    logits = network(pixels)
                logits = logits.float()
                loss = functional.cross_entropy(
                    logits + offsets, targets, weight=weights, label_smoothing=settings.label_smoothing
                )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                step += 1
                losses.append(loss.detach())  # read once an epoch: reading makes an accelerator wait
                hits.append((logits.detach().argmax(dim=1) == targets).sum())
                advance(len(targets))
            train_loss = float(torch.stack(losses).mean())
        train_seconds = time.perf_counter() - started

        # -- validate
        network.eval()
        validation = evaluate(network)
        if not all(map(math.isfinite, (train_loss, validation.val_loss, validation.val_macro_f1))):
            stopped = "diverged"
            reporter.say(diverged(epoch, best_epoch, settings.learning_rate))
            break

        # -- keep the best
        history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "val_loss": float(validation.val_loss),
                "train_accuracy": float(torch.stack(hits).sum()) / epoch_pictures,
                "val_macro_f1": float(validation.val_macro_f1),
                "learning_rate": settings.learning_rate * factor,
                "seconds": time.perf_counter() - started,
                "images_per_second": epoch_pictures / train_seconds,
            }
        )
        if score_of(history[-1]) > best_score:
            best_weights, best_epoch, best_score = copy_weights(network), epoch, score_of(history[-1])

        # -- save: the checkpoint first; resuming writes the log again from it
        save_checkpoint(
            checkpoint,
            {
                "asked": asked,
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "history": history,
                "best_epoch": best_epoch,
                "best_weights": best_weights,
            },
        )
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(history[-1]) + "\n")
        reporter.say(
            f"Epoch {epoch}: loss {train_loss:.3f}, validation loss {validation.val_loss:.3f}, "
            f"macro-F1 {validation.val_macro_f1:.3f}{' (best)' if best_epoch == epoch else ''}"
        )

    # ---- The best weights --------------------------------------------------------------------------------------------
    network.load_state_dict(best_weights)
    network.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return FitResult(tuple(history), best_epoch, stopped, device.type, precision)


def network_logits(
    network: Network, read: Read, count: int, *, batch_size: int, precision: Precision = "auto"
) -> NDArray[np.float32]:
    """Return the logits of rows 0 to count - 1, float32 (count, classes), on the device the network is on.

    For validation while training: shipped scores come from the sealed graph.
    """
    device = network.mean.device
    chosen = choose_precision(precision, device)
    network.eval()
    parts: list[NDArray[np.float32]] = []
    batches = evaluation_batches(read, count, batch_size=batch_size)
    with closing(batches), torch.inference_mode():
        for batch in batches:
            pixels = to_device(batch.images, device).permute(0, 3, 1, 2).float()
            with autocast(device, chosen):
                logits = network(pixels)
            parts.append(logits.float().cpu().numpy())
    return np.concatenate(parts)


def choose_device() -> torch.device:
    """Return the fastest device there is: cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(asked: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return what to compute in: for "auto", bfloat16 where the device has instructions for it.

    On a CPU that is AVX512_BF16 or AMX, as the processor says; without them bfloat16 is slower than float32.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return "float32"  # older versions of torch do not tell
    has = torch.cpu.get_capabilities()
    return "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"


def build_optimiser(network: Network, settings: LoopSettings) -> torch.optim.Optimizer:
    """Return the optimiser of the weights that learn; all others are frozen. Each group's "peak" is its highest rate.

    Biases and normalisation are not decayed.
    """
    below = list(reversed(network.stages()))
    parts = [list(network.head.parameters()), *below[: settings.unfreeze_stages]]
    network.requires_grad_(False)
    groups: list[dict[str, Any]] = []
    for depth, part in enumerate(parts):
        peak = settings.learning_rate * settings.stage_decay**depth
        matrices = [weight.requires_grad_() for weight in part if weight.ndim > 1]
        vectors = [weight.requires_grad_() for weight in part if weight.ndim <= 1]
        groups.append({"params": matrices, "peak": peak, "lr": peak, "weight_decay": settings.weight_decay})
        groups.append({"params": vectors, "peak": peak, "lr": peak, "weight_decay": 0.0})
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.momentum > 0)


def rate_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Return the learning rate of a step as a share of its peak: up in a line, then down to nearly 0.

    Down along a line for "one-cycle" (Smith 2018, without the cycle in momentum), along half a cosine for "cosine".
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - progress if schedule == "one-cycle" else (1 + math.cos(math.pi * progress)) / 2


def seed_epoch(seed: int, epoch: int) -> torch.Generator:
    """Return the generator of the epoch's augmentation, and seed torch's own, which dropout draws from."""
    dropout_seed, augmentation_seed = np.random.SeedSequence((seed, epoch)).generate_state(2)
    torch.manual_seed(int(dropout_seed))
    return torch.Generator().manual_seed(int(augmentation_seed))


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return the array on the device; for cuda from pinned memory, so that the copy overlaps with computing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def autocast(device: torch.device, precision: Literal["float32", "bfloat16"]) -> torch.autocast:
    """Return the context in which the network computes in this precision; its weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def score_of(record: dict[str, float]) -> tuple[float, float]:
    """Return what epochs are compared by: higher macro-F1 first, then lower loss."""
    return record["val_macro_f1"], -record["val_loss"]


def diverged(epoch: int, best_epoch: int, learning_rate: float) -> str:
    """Return what to say when the loss stops being a number; raises it as RecipeError if nothing good was kept."""
    message = (
        f"The loss stopped being a number in epoch {epoch}. train.learning_rate is {learning_rate:g}; "
        "try a third of it, or train.precision = float32."
    )
    if best_epoch == 0:
        raise RecipeError(message)
    return f"{message} Training ends here, with the weights of epoch {best_epoch}, the best so far."
