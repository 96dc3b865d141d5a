"""Fine-tuning: the stages above a cut learn from kept activations; then, if asked, the whole network from pixels.

It starts from the probe's head. At the end the weights are drawn back towards where they started as far as validation
likes it (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"): it does not fall behind the probe there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bestiary.batches.batches import Read
from bestiary.batches.pixels import fill, pixel_batches, pixel_store
from bestiary.models.cut import STAGES, lower_part
from bestiary.models.engine import Precision, bulk_engine, has_openvino
from bestiary.models.head import Head
from bestiary.models.lite import BACKBONES, built_trunk
from bestiary.models.networks import Network, head_arrays
from bestiary.models.torch_export import export_trunk
from bestiary.models.upper import upper_part
from bestiary.recipe import Augment
from bestiary.training import loop
from bestiary.training.activations import Views, activation_store, fill_activations, reader
from bestiary.training.checkpoint import copy_weights
from bestiary.training.run_folder import write_history
from bestiary.training.scores import loss_and_macro_f1
from bestiary.training.task import Images, Learned, Logits, Part, Task

UNCHANGED = Augment(mirror=0, crop_min_area=1, colour_jitter=0, erasing=0)  # the views were drawn before
WHOLE_RATE = 0.25  # of the learning rate, when the whole network learns after its upper part did
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)

Validate = Callable[[Network], loop.Validation]


def finetuned(task: Task, network: Network, settings: loop.LoopSettings) -> Learned:
    """Return the network after fine-tuning, in the form that is sealed. Everything is resumable."""
    stages, whole = task.recipe.train.unfreeze_stages, task.recipe.train.whole_epochs
    if task.recipe.model.backbone in BACKBONES and stages < STAGES:
        result, blend = fit_above(task, network, settings, lower_stages=STAGES - stages)
    else:
        result, blend = fit_pixels(task, network, replace(settings, unfreeze_stages=stages), task.run), 1.0
    history = list(result.history)
    if whole:
        rate, warmup = settings.learning_rate * WHOLE_RATE, min(settings.warmup_epochs, whole / 10)
        again = replace(settings, epochs=whole, learning_rate=rate, warmup_epochs=warmup, unfreeze_stages=None)
        after = fit_pixels(task, network, again, task.run / "whole").history
        history += [{**line, "epoch": len(result.history) + int(line["epoch"])} for line in after]
        write_history(task.run, history)
    notes = {
        "trained on": result.device,
        "precision of training": result.precision,
        "training ended by": result.stopped,
        "share of the trained weights above the cut": blend,
    }
    return _handed_over(task, network, history, notes)


def fit_above(
    task: Task, network: Network, settings: loop.LoopSettings, *, lower_stages: int
) -> tuple[loop.FitResult, float]:
    """Train what lies above the first stages, in place; return how it went and the share of the new weights kept."""
    train, val, precision = task.part("train"), task.part("val"), task.recipe.train
    trunk = built_trunk(task.recipe.model.backbone, task.cache / "trunks", task.view.size)
    lower = lower_part(trunk, task.recipe.model.backbone, task.view.size, lower_stages)
    augmentation = task.recipe.augment

    def activations(part: Part, precision: Precision, views: int) -> Read:
        store = activation_store(task.cache, lower, task.view, precision, augmentation)
        with task.clock.stage("cache"):
            fill_activations(
                store,
                part.paths,
                part.keys,
                lower,
                task.view,
                Views(views, augmentation),
                precision=precision,
                threads=task.threads,
                reporter=task.reporter,
            )
        return reader(store, part.keys)

    # As for the probe: what is learned from may be bfloat16, what is judged by is what ships.
    read = activations(train, "bfloat16" if has_openvino() else "float32", precision.views)
    validate = _validator(activations(val, "float32", 1), val, settings.batch_size)
    upper = upper_part(network, lower_stages)
    start = copy_weights(upper)
    result = loop.fit(
        upper,
        read,
        np.tile(train.labels, precision.views),
        validate,
        settings,
        UNCHANGED,
        task.run,
        reporter=task.reporter,
        resume=task.resume and (task.run / "checkpoints" / "last.pt").exists(),
    )
    return result, _blended(upper, start, validate)


def fit_pixels(task: Task, network: Network, settings: loop.LoopSettings, folder: Path) -> loop.FitResult:
    """Train the network from pixels, in place; its history and checkpoints go to `folder`."""
    store, train, val = pixel_store(task.cache, task.view), task.part("train"), task.part("val")
    paths, keys = train.paths + val.paths, train.keys + val.keys
    with task.clock.stage("cache"):
        fill(store, paths, keys, task.view, threads=task.threads, reporter=task.reporter)
    return loop.fit(
        network,
        lambda positions: store.read([train.keys[position] for position in positions]),
        train.labels,
        _validator(
            lambda positions: store.read([val.keys[position] for position in positions]), val, settings.batch_size
        ),
        settings,
        task.recipe.augment,
        folder,
        reporter=task.reporter,
        resume=task.resume and (folder / "checkpoints" / "last.pt").exists(),
    )


def _blended(network: Network, start: dict[str, Tensor], validate: Validate) -> float:
    """Set the weights to the mixture of start and end with the lowest validation loss; return the end's share."""
    end = copy_weights(network)

    def mix(share: float) -> None:
        mixed = {name: start[name].lerp(new, share) if new.is_floating_point() else new for name, new in end.items()}
        network.load_state_dict(mixed)

    losses = []
    for share in BLENDS:
        mix(share)
        losses.append(validate(network).val_loss)
    best = BLENDS[int(np.argmin(losses))]
    mix(best)
    return best


def _validator(read: Read, val: Part, batch_size: int) -> Validate:
    def validate(network: Network) -> loop.Validation:
        logits = loop.network_logits(network, read, len(val.keys), batch_size=batch_size)
        return loop.Validation(*loss_and_macro_f1(logits, val.labels))

    return validate


def _handed_over(task: Task, network: Network, history: list[dict[str, float]], notes: dict[str, Any]) -> Learned:
    """Export the whole network; its validation logits are those of the exported graph, from the pictures' files."""
    trunk, head, val = export_trunk(network.eval(), task.view.size), head_arrays(network), task.part("val")
    val_logits = _graph_logits(trunk.SerializeToString(), head, val, task)

    def reference(images: Images) -> Logits:
        with torch.inference_mode():
            logits: Logits = network(torch.tensor(images).permute(0, 3, 1, 2).float()).numpy()
        return logits

    return Learned(trunk, head, list(history), val_logits, reference, notes)


def _graph_logits(graph: bytes, head: Head, part: Part, task: Task) -> Logits:
    engine = bulk_engine(graph, threads=task.threads)
    batches = pixel_batches(part.paths, task.view, threads=task.threads, batch_size=engine.batch_size)
    return np.concatenate([head.logits(outputs["maps"]) for outputs in engine.stream(batches)])
