"""Training methods: `TRAINERS[method](task)` returns a trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bestiary.array_types import Float32s, Pixels
from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.channel_stats import ChannelStats, channel_statistics
from bestiary.batches.loader import Read
from bestiary.batches.pixel_cache import fill_pixel_cache, pixel_cache
from bestiary.context import Context
from bestiary.machine import TrainDevice, disable_malloc_trim, trim_memory
from bestiary.models.backbones import is_bundled, timm_name
from bestiary.models.engine import OnnxRuntimeEngine, run_batch
from bestiary.models.head import Head
from bestiary.models.logistic_regression import linear_logits
from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.models.ood import PrincipalSubspace, subsample_indices
from bestiary.quick_metrics import loss_and_macro_f1
from bestiary.recipe_sections import AugmentConfig
from bestiary.run_folder import write_history
from bestiary.training.distill import distill_from_teacher
from bestiary.training.loop_settings import LoopSettings, Precision
from bestiary.training.probe import fit_probe, load_view_features
from bestiary.training.task import SplitData, SplitOutputs, TrainedModel, TrainingTask, load_task

if TYPE_CHECKING:
    from bestiary.models.networks import Network
    from bestiary.training.fit_job import FitJob

RAW = ChannelStats((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))  # pixels as they are, in 0..1


@dataclass(frozen=True)
class TrainingSetup:
    """Input of the training loop; shape: (height, width, channels) of a picture or of cached activations."""

    network: Network
    settings: LoopSettings
    augmentation: AugmentConfig
    shape: tuple[int, int, int]


def train_probe(task: TrainingTask) -> TrainedModel:
    """Fit a linear head on the features of a frozen backbone. No torch."""
    import onnx

    disable_malloc_trim()
    probe = fit_probe(task)
    head, val = probe.head, probe.val
    write_history(task.run, probe.history)
    engine = OnnxRuntimeEngine(probe.backbone_graph, threads=task.context.threads)

    def reference(images: Pixels) -> Float32s:
        return head.logits(run_batch(engine, images)["maps"])

    trim_memory()
    val_logits, test = linear_logits(val.features, head.weight, head.bias), _apply_to_test_split(task, head)
    train = task.split("train")
    sample = train.take(subsample_indices(len(train.keys), seed=task.recipe.seed))
    subspace = PrincipalSubspace.fit(load_view_features(task, sample), seed=task.recipe.seed)
    graph = onnx.load(probe.backbone_graph)
    return TrainedModel(graph, head, probe.history, val_logits, reference, {}, val.features, subspace, test)


def _apply_to_test_split(task: TrainingTask, head: Head) -> SplitOutputs | None:
    """Return a probe's outputs for the test pictures, None without any; their features are computed if missing."""
    test = task.split("test")
    if not test.keys:
        return None
    features = task.fill_features(test, "float32").load(test.keys)
    return SplitOutputs(linear_logits(features, head.weight, head.bias), features)


def train_scratch(task: TrainingTask) -> TrainedModel:
    """Train a network from scratch. Needs torch."""
    colours = _pixel_normalisation(task)
    learned = _train_and_export(task, *_build_taught_network(task, colours))
    return replace(learned, notes=learned.notes | {"normalised by": asdict(colours)})


def train_for_logits(task: TrainingTask) -> Float32s:
    """Train a network and return its validation logits, in float32; nothing is exported. Needs torch."""
    if task.recipe.model.method == "scratch":
        return _fit_for_logits(task, *_build_taught_network(task, _pixel_normalisation(task)))
    network, settings = _build_pretrained_network(task, _initial_head(task))
    if count_frozen_stages(task.recipe) is None:
        return _fit_for_logits(task, network, settings)
    from bestiary.training.finetune import train_upper_stages

    return train_upper_stages(task, network, settings).val_logits


def train_finetune(task: TrainingTask) -> TrainedModel:
    """Fine-tune the last stages of a pretrained backbone, starting from the probe's head. Needs torch.

    The activations of the frozen stages are cached where the backbone is bundled and not trained as a whole.
    """
    network, settings = _build_pretrained_network(task, _initial_head(task))
    if count_frozen_stages(task.recipe) is None:
        return _train_and_export(task, network, settings)
    from bestiary.training.finetune import finetune

    return finetune(task, network, settings)


def _initial_head(task: TrainingTask) -> Head | None:
    """Return the probe's head, None without a bundled backbone."""
    return fit_probe(task).head if is_bundled(task.recipe.model.backbone) else None


def build_training_setup(task: TrainingTask) -> TrainingSetup:
    """Return what `scratch` or `finetune` would train, to measure its throughput."""
    pixels = task.preprocess.size, task.preprocess.size, 3
    if task.recipe.model.method == "scratch":
        return TrainingSetup(*_build_scratch_network(task, RAW), task.recipe.augment, pixels)
    network, settings = _build_pretrained_network(task, None)
    if count_frozen_stages(task.recipe) is None:
        return TrainingSetup(network, settings, task.recipe.augment, pixels)
    from bestiary.training.finetune import UNCHANGED, split_at_frozen_stages

    above = split_at_frozen_stages(task, network, settings)
    return TrainingSetup(above.trainable_network, above.settings, UNCHANGED, above.frozen_stages.shape)


def _build_taught_network(task: TrainingTask, colours: ChannelStats) -> tuple[Network, LoopSettings]:
    """Return a network from scratch with its teacher, if the recipe has one."""
    network, settings = _build_scratch_network(task, colours)
    distill_from_teacher(task, network)
    return network, settings


def _build_scratch_network(task: TrainingTask, colours: ChannelStats) -> tuple[Network, LoopSettings]:
    from bestiary.models import networks

    model, seed, classes = task.recipe.model, task.recipe.seed, len(task.classes)
    if model.network == "plain":
        architecture, size = networks.PlainArchitecture.from_config(model), task.preprocess.size
        network = networks.plain_cnn(classes, size, architecture, mean=colours.mean, std=colours.std, seed=seed)
    else:
        network = networks.small_resnet(
            classes,
            filters=model.filters or networks.RESNET_FILTERS,
            mean=colours.mean,
            std=colours.std,
            mirror_mean=model.mirror_mean,
            seed=seed,
        )
    return network, LoopSettings.from_recipe(task.recipe, task.context.training_threads)


def _build_pretrained_network(task: TrainingTask, head: Head | None) -> tuple[Network, LoopSettings]:
    from bestiary.models import networks, timm_backbone

    model, classes, seed = task.recipe.model, len(task.classes), task.recipe.seed
    if is_bundled(model.backbone):
        weight, bias = (head.weight, head.bias) if head else (None, None)
        network = networks.finetune_network(classes, model.backbone, weight=weight, bias=bias, seed=seed)
    else:
        file = None if model.weights == "hub" else Path(model.weights)
        name, size = timm_name(model), task.preprocess.size
        backbone = timm_backbone.create_timm_model(name, file, from_hub=file is None, size=size)
        network = networks.from_timm(backbone, classes, seed=seed)
    return network, LoopSettings.from_recipe(task.recipe, task.context.training_threads)


TRAINERS: dict[str, Callable[[TrainingTask], TrainedModel]] = {
    "probe": train_probe,
    "scratch": train_scratch,
    "finetune": train_finetune,
}


def _train_and_export(task: TrainingTask, network: Network, settings: LoopSettings) -> TrainedModel:
    from bestiary.training.export_network import export_network
    from bestiary.training.fit_job import run_fit

    return export_network(task, network, run_fit(task, _make_pixel_job(task, network, settings)), {})


def build_fit_job(task: TrainingTask) -> FitJob:
    """Return what a worker of a cluster trains; the weights and the channel statistics of its network are still unset.

    Pixels, features and activations are in the cache, or computed.
    """
    if task.recipe.model.method == "scratch":
        return _make_pixel_job(task, *_build_taught_network(task, RAW))
    network, settings = _build_pretrained_network(task, None)
    if count_frozen_stages(task.recipe) is None:
        return _make_pixel_job(task, network, settings)
    from bestiary.training.finetune import make_activation_job, read_val_activations, split_at_frozen_stages

    above = split_at_frozen_stages(task, network, settings)
    return make_activation_job(task, above, read_val_activations(task, above))


def _make_pixel_job(task: TrainingTask, network: Network, settings: LoopSettings) -> FitJob:
    """Fill the pixel cache, and return the job of training a network on it."""
    from bestiary.training.fit_job import FitJob
    from bestiary.training.loop import ValidationMetrics

    store, train, val = _fill_pixels(task), task.split("train"), task.split("val")

    def validate(network: Network) -> ValidationMetrics:
        return ValidationMetrics(*loss_and_macro_f1(_predict_val(task, network, store, settings), val.labels))

    return FitJob(network, _make_reader(store, train), train.labels, validate, settings, task.recipe.augment)


def _fit_for_logits(task: TrainingTask, network: Network, settings: LoopSettings) -> Float32s:
    from bestiary.training.fit_job import run_fit

    run_fit(task, _make_pixel_job(task, network, settings))
    return _predict_val(task, network, pixel_cache(task.cache, task.preprocess), settings, precision="float32")


def _predict_val(
    task: TrainingTask, network: Network, store: ArrayCache, settings: LoopSettings, precision: Precision = "auto"
) -> Float32s:
    from bestiary.training import loop

    val = task.split("val")
    read = _make_reader(store, val)
    return loop.predict_logits(network, read, len(val.keys), batch_size=settings.batch_size, precision=precision)


def _fill_pixels(task: TrainingTask) -> ArrayCache:
    """Return the pixel cache, filled with the training and validation pictures."""
    store, train, val = pixel_cache(task.cache, task.preprocess), task.split("train"), task.split("val")
    paths, keys = [*train.paths, *val.paths], train.keys + val.keys
    with task.context.timer.stage("cache"):
        fill_pixel_cache(
            store, paths, keys, task.preprocess, threads=task.context.threads, reporter=task.context.reporter
        )
    return store


def _pixel_normalisation(task: TrainingTask) -> ChannelStats:
    """Return the channel statistics that a network from scratch normalises with: of the training pictures, or none."""
    if task.recipe.picture.normalise == "none":
        return RAW
    store, train = _fill_pixels(task), task.split("train")
    with task.context.timer.stage("cache"):
        return channel_statistics(_make_reader(store, train), len(train.keys))


def _make_reader(store: ArrayCache, split_data: SplitData) -> Read:
    return lambda positions: store.read([split_data.keys[position] for position in positions])


def run_worker(device: TrainDevice, *, threads: int | None = None) -> None:
    """Run as a torchrun worker (rank > 0): take part in training only; rank 0 reads, writes and reports.

    device: of the recipe.
    """
    from bestiary.training.distributed import init_process_group

    _, message = init_process_group(device=device)
    TRAINERS[message["method"]](load_task(Path(message["run"]), Context.create(threads), resume=message["resume"]))
