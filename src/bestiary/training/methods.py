"""Three ways to learn, one task: `LEARN[method](task)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.channel_stats import ChannelStats, channel_statistics
from bestiary.batches.loader import Read
from bestiary.batches.pixel_cache import fill_pixel_cache, pixel_cache
from bestiary.machine import disable_malloc_trim, trim_memory, world_size
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.engine import OnnxRuntimeEngine, has_openvino, run_batch
from bestiary.models.head import Head
from bestiary.models.logistic_regression import linear_logits
from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.models.ood import PrincipalSubspace, subsample_indices
from bestiary.quick_metrics import loss_and_macro_f1
from bestiary.recipe import AugmentConfig
from bestiary.run_folder import write_history
from bestiary.training.probe import features_of, fitted_probe, training_precision
from bestiary.training.task import Images, Learned, Logits, Part, Task

if TYPE_CHECKING:
    from bestiary.models.networks import Network
    from bestiary.training.loop import FitResult, LoopSettings

RAW = ChannelStats((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))  # pixels as they are, in 0..1


@dataclass(frozen=True)
class Untrained:
    """What the loop would be given; shape (height, width, channels) is that of a picture, or what stands for it."""

    network: Network
    settings: LoopSettings
    augmentation: AugmentConfig
    shape: tuple[int, int, int]


def learn_probe(task: Task) -> Learned:
    """Fit a linear head on the features of a frozen backbone. No torch."""
    import onnx

    disable_malloc_trim()
    probe = fitted_probe(task)
    head, val = probe.head, probe.val
    write_history(task.run, probe.history)
    engine = OnnxRuntimeEngine(probe.trunk, threads=task.threads)

    def reference(images: Images) -> Logits:
        return head.logits(run_batch(engine, images)["maps"])

    trim_memory()
    val_logits = linear_logits(val.features, head.weight, head.bias)
    engine_name = "openvino" if has_openvino() else "onnxruntime"
    train = task.part("train")
    some = train.at(
        subsample_indices(len(train.keys), seed=task.recipe.seed)
    )  # only these are read: the rest may be large
    space = PrincipalSubspace.fit(features_of(task, some, probe.trunk, training_precision()), seed=task.recipe.seed)
    notes = {"features by": engine_name}
    return Learned(onnx.load(probe.trunk), head, probe.history, val_logits, reference, notes, val.features, space)


def learn_scratch(task: Task) -> Learned:
    """Train a network from nothing. Needs torch."""
    colours = _colours(task)
    learned = _trained(task, _from_scratch(task, colours), _loop_settings(task))
    return replace(learned, notes=learned.notes | {"normalised by": asdict(colours)})


def network_logits(task: Task) -> Logits:
    """Return the validation logits of a network that is trained, but not to be kept: nothing is exported. Needs torch.

    They are those of the network itself, in float32, which the sealed graph is held against.
    """
    if task.recipe.model.method == "scratch":
        return _looped(task, _from_scratch(task, _colours(task)), _loop_settings(task)).val_logits
    network, settings = _pretrained(task, _starting_head(task))
    if count_frozen_stages(task.recipe) is None:
        return _looped(task, network, settings).val_logits
    from bestiary.training.finetune import trained_above

    return trained_above(task, network, settings).val_logits


def learn_finetune(task: Task) -> Learned:
    """Train the last stages of a pretrained backbone, starting from the probe's head. Needs torch.

    What is below them is computed once, where the backbone is bundled and does not learn as a whole.
    """
    network, settings = _pretrained(task, _starting_head(task))
    if count_frozen_stages(task.recipe) is None:
        return _trained(task, network, settings)
    from bestiary.training.finetune import finetuned

    return finetuned(task, network, settings)


def _starting_head(task: Task) -> Head | None:
    """Return the probe's head, if there can be one."""
    return fitted_probe(task).head if task.recipe.model.backbone in BACKBONES else None


def untrained(task: Task) -> Untrained:
    """Return what `scratch` or `finetune` would train, to measure how long it takes."""
    pixels = task.view.size, task.view.size, 3
    if task.recipe.model.method == "scratch":
        return Untrained(_from_scratch(task, RAW), _loop_settings(task), task.recipe.augment, pixels)
    network, settings = _pretrained(task, None)
    if count_frozen_stages(task.recipe) is None:
        return Untrained(network, settings, task.recipe.augment, pixels)
    from bestiary.training.finetune import UNCHANGED, above_cut

    above = above_cut(task, network, settings)
    return Untrained(above.upper, above.settings, UNCHANGED, above.lower.shape)


def _from_scratch(task: Task, colours: ChannelStats) -> Network:
    from bestiary.models import networks

    model, seed, classes = task.recipe.model, task.recipe.seed, len(task.classes)
    if model.network == "plain":
        return networks.plain_cnn(
            classes,
            task.view.size,
            filters=model.filters or networks.PLAIN_FILTERS,
            kernel_size=model.kernel_size,
            batch_norm=model.batch_norm,
            pooling=model.pooling,
            activation=model.activation,
            stage_dropout=model.stage_dropout,
            hidden=model.hidden,
            dropout=model.dropout,
            mean=colours.mean,
            std=colours.std,
            seed=seed,
        )
    return networks.small_resnet(
        classes,
        filters=model.filters or networks.RESNET_FILTERS,
        mean=colours.mean,
        std=colours.std,
        mirror_mean=model.mirror_mean,
        seed=seed,
    )


def _pretrained(task: Task, head: Head | None) -> tuple[Network, LoopSettings]:
    from bestiary.models import networks, timm_backbone

    model, classes, seed = task.recipe.model, len(task.classes), task.recipe.seed
    if model.backbone in BACKBONES:
        weight, bias = (head.weight, head.bias) if head else (None, None)
        network = networks.finetune_network(classes, model.backbone, weight=weight, bias=bias, seed=seed)
    else:
        file = None if model.weights == "hub" else Path(model.weights)
        found = timm_backbone.create_timm_model(model.backbone, file, from_hub=model.weights == "hub")
        network = networks.from_timm(found, classes, seed=seed)
    return network, _loop_settings(task, unfreeze=task.recipe.train.unfreeze_stages, stage_decay=0.5)


LEARN: dict[str, Callable[[Task], Learned]] = {
    "probe": learn_probe,
    "scratch": learn_scratch,
    "finetune": learn_finetune,
}


@dataclass(frozen=True)
class Looped:
    """A network after the training loop, how that went, and what it says of the validation pictures, in float32."""

    network: Network
    result: FitResult
    val_logits: Logits


def _trained(task: Task, network: Network, settings: LoopSettings) -> Learned:
    """Fill the pixel cache, train the network, and give it in the form that is sealed."""
    from bestiary.models.networks import export_head, reference_logits
    from bestiary.models.torch_export import export_backbone

    looped = _looped(task, network, settings)

    notes = {
        "trained on": looped.result.device,
        "precision of training": looped.result.precision,
        "training ended by": looped.result.stopped,
    }
    trunk, reference = export_backbone(network, task.view.size), partial(reference_logits, network)
    return Learned(trunk, export_head(network), list(looped.result.history), looped.val_logits, reference, notes)


def _looped(task: Task, network: Network, settings: LoopSettings) -> Looped:
    """Fill the pixel cache and train the network, in place."""
    from bestiary.training import loop
    from bestiary.training.distributed import part_company, team

    store, train, val = _pixels(task), task.part("train"), task.part("val")
    read_val = _reader(store, val)

    def validate(network: Network) -> loop.Validation:
        logits = loop.network_logits(network, read_val, len(val.keys), batch_size=settings.batch_size)
        return loop.Validation(*loss_and_macro_f1(logits, val.labels))

    resume = task.resume and (task.run / "checkpoints" / "last.pt").exists()
    here, _ = team({"run": str(task.run), "method": task.recipe.model.method, "resume": resume})
    result = loop.fit(
        network,
        _reader(store, train),
        train.labels,
        validate,
        settings,
        task.recipe.augment,
        task.run,
        reporter=task.reporter,
        resume=resume,
        team=here,
        may_go_on=task.may_go_on,
    )
    part_company()
    logits = loop.network_logits(network, read_val, len(val.keys), batch_size=settings.batch_size, precision="float32")
    return Looped(network, result, logits)


def _pixels(task: Task) -> ArrayCache:
    """Return the pixel cache, filled with the training and validation pictures."""
    store, train, val = pixel_cache(task.cache, task.view), task.part("train"), task.part("val")
    paths, keys = train.paths + val.paths, train.keys + val.keys
    with task.clock.stage("cache"):
        fill_pixel_cache(store, paths, keys, task.view, threads=task.threads, reporter=task.reporter)
    return store


def _colours(task: Task) -> ChannelStats:
    """Return what a network from scratch normalises pixels by: the training pictures' colours, or 0 and 255."""
    if task.recipe.picture.normalise == "none":
        return RAW
    store, train = _pixels(task), task.part("train")
    with task.clock.stage("cache"):
        return channel_statistics(_reader(store, train), len(train.keys))


def _reader(store: ArrayCache, part: Part) -> Read:
    return lambda positions: store.read([part.keys[position] for position in positions])


def _loop_settings(task: Task, *, unfreeze: int | None = None, stage_decay: float = 1.0) -> LoopSettings:
    from bestiary.training.loop import LoopSettings

    train = task.recipe.train
    assert train.epochs is not None  # a resolved recipe has them all
    assert train.learning_rate is not None
    assert train.optimiser is not None
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
        threads=max(1, task.threads // world_size()),
        balance=train.balance,
        precision=train.precision,
        optimiser=train.optimiser,
        size_from=train.size_from,
        size_to=train.size_to,
        checkpoint_seconds=train.checkpoint_seconds,
        unfreeze_stages=unfreeze,
        stage_decay=stage_decay,
    )
