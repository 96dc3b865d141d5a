"""Three ways to learn, one task: `LEARN[method](task)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bestiary.batches.batches import Read
from bestiary.batches.pixels import fill, pixel_store
from bestiary.batches.store import ArrayStore
from bestiary.errors import RecipeError, needs
from bestiary.machine import keep_memory
from bestiary.models.engine import OnnxRuntimeEngine, has_openvino, run
from bestiary.models.lite import BACKBONES
from bestiary.recipe import Recipe
from bestiary.training.probe import fitted_probe
from bestiary.training.run_folder import write_history
from bestiary.training.scores import loss_and_macro_f1
from bestiary.training.task import Images, Learned, Logits, Part, Task
from bestiary.training.unused import refuse_unused

if TYPE_CHECKING:
    from bestiary.models.networks import Network
    from bestiary.training.loop import LoopSettings


def refuse_impossible(recipe: Recipe) -> None:
    """Raise RecipeError or MissingExtraError for what a method cannot do or lacks, before any work is done."""
    model = recipe.model
    if model.method != "probe":
        needs("torch", extra="torch")
    if model.method == "probe" and model.backbone not in BACKBONES:
        raise RecipeError(
            f'The probe knows the backbones {", ".join(BACKBONES)}; got "{model.backbone}".'
            " Others can be fine-tuned: --method finetune."
        )
    if model.method == "probe" and recipe.train.balance == "balanced-sampler":
        raise RecipeError(
            'train.balance = "balanced-sampler" is not for the probe, which sees all pictures at once: it would be'
            ' the same as "class-weights". Choose that.'
        )
    refuse_unused(recipe)
    if model.backbone in BACKBONES and model.method != "scratch" and model.weights != "bundled":
        raise RecipeError(
            f'model.weights = "{model.weights}" does not go with "{model.backbone}", whose weights are bundled.'
            " Leave it out, or fine-tune another backbone."
        )
    if model.method == "finetune" and model.weights not in ("bundled", "hub") and not Path(model.weights).is_file():
        raise RecipeError(f'model.weights = "{model.weights}" is neither "hub" nor a file.')
    if model.method == "finetune" and model.backbone not in BACKBONES and model.weights == "bundled":
        raise RecipeError(
            f'The weights of "{model.backbone}" are not bundled. Set model.weights to a file of weights, or to'
            f' "hub" to download them. Bundled: {", ".join(BACKBONES)}.'
        )


def learn_probe(task: Task) -> Learned:
    """Fit a linear head on the features of a frozen backbone. No torch."""
    import onnx

    keep_memory()
    probe = fitted_probe(task)
    head, val = probe.head, probe.val
    write_history(task.run, probe.history)
    engine = OnnxRuntimeEngine(probe.trunk, threads=task.threads)

    def reference(images: Images) -> Logits:
        return head.logits(run(engine, images)["maps"])

    val_logits = (val.features @ head.weight.T + head.bias).astype(np.float32)
    engine_name = "openvino" if has_openvino() else "onnxruntime"
    return Learned(onnx.load(probe.trunk), head, probe.history, val_logits, reference, {"features by": engine_name})


def learn_scratch(task: Task) -> Learned:
    """Train a network from nothing. Needs torch."""
    from bestiary.models import networks

    model, seed = task.recipe.model, task.recipe.seed
    classes = len(task.classes)
    if model.network == "plain":
        network = networks.plain(
            classes,
            task.view.size,
            filters=model.filters or networks.PLAIN_FILTERS,
            kernel_size=model.kernel_size,
            batch_norm=model.batch_norm,
            hidden=model.hidden,
            dropout=model.dropout,
            seed=seed,
        )
    else:
        network = networks.resnet(classes, filters=model.filters or networks.RESNET_FILTERS, seed=seed)
    return _trained(task, network, _loop_settings(task, optimiser="sgd"))


def learn_finetune(task: Task) -> Learned:
    """Train the last stages of a pretrained backbone, starting from the probe's head. Needs torch."""
    from bestiary.models import networks, timm_backbone
    from bestiary.training.finetune import finetuned

    model, classes = task.recipe.model, len(task.classes)
    if model.backbone in BACKBONES:
        head = fitted_probe(task).head
        network = networks.backbone_network(
            classes, model.backbone, weight=head.weight, bias=head.bias, seed=task.recipe.seed
        )
    else:
        file = None if model.weights == "hub" else Path(model.weights)
        found = timm_backbone.timm_model(model.backbone, file, from_hub=model.weights == "hub")
        network = networks.over_timm(found, classes, seed=task.recipe.seed)
    return finetuned(task, network, _loop_settings(task, optimiser="adamw", stage_decay=0.5))


LEARN: dict[str, Callable[[Task], Learned]] = {
    "probe": learn_probe,
    "scratch": learn_scratch,
    "finetune": learn_finetune,
}


def _trained(task: Task, network: Network, settings: LoopSettings) -> Learned:
    """Fill the pixel cache, train the network, and give it in the form that is sealed."""
    import torch

    from bestiary.models.networks import head_arrays
    from bestiary.models.torch_export import export_trunk
    from bestiary.training import loop

    store, train, val = pixel_store(task.cache, task.view), task.part("train"), task.part("val")
    with task.clock.stage("cache"):
        fill(
            store,
            train.paths + val.paths,
            train.keys + val.keys,
            task.view,
            threads=task.threads,
            reporter=task.reporter,
        )
    read_val = _reader(store, val)

    def validate(network: Network) -> loop.Validation:
        logits = loop.network_logits(network, read_val, len(val.keys), batch_size=settings.batch_size)
        return loop.Validation(*loss_and_macro_f1(logits, val.labels))

    result = loop.fit(
        network,
        _reader(store, train),
        train.labels,
        validate,
        settings,
        task.recipe.augment,
        task.run,
        reporter=task.reporter,
        resume=task.resume and (task.run / "checkpoints" / "last.pt").exists(),
    )

    def reference(images: Images) -> Logits:
        with torch.inference_mode():
            logits: Logits = network(torch.tensor(images).permute(0, 3, 1, 2).float()).numpy()
        return logits

    val_logits = loop.network_logits(
        network, read_val, len(val.keys), batch_size=settings.batch_size, precision="float32"
    )
    notes = {
        "trained on": result.device,
        "precision of training": result.precision,
        "training ended by": result.stopped,
    }
    trunk = export_trunk(network, task.view.size)
    return Learned(trunk, head_arrays(network), list(result.history), val_logits, reference, notes)


def _reader(store: ArrayStore, part: Part) -> Read:
    return lambda positions: store.read([part.keys[position] for position in positions])


def _loop_settings(
    task: Task, *, optimiser: Any, unfreeze: int | None = None, stage_decay: float = 1.0
) -> LoopSettings:
    from bestiary.training.loop import LoopSettings

    train = task.recipe.train
    assert train.epochs is not None  # a resolved recipe has them all
    assert train.learning_rate is not None
    assert train.schedule is not None
    assert train.patience_epochs is not None
    return LoopSettings(
        epochs=train.epochs,
        batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay or 0.0,
        momentum=train.momentum,
        label_smoothing=train.label_smoothing,
        schedule=train.schedule,
        warmup_epochs=train.warmup_epochs or 0.0,
        patience_epochs=train.patience_epochs,
        seed=task.recipe.seed,
        threads=task.threads,
        balance=train.balance,
        precision=train.precision,
        optimiser=optimiser,
        unfreeze_stages=unfreeze,
        stage_decay=stage_decay,
    )
