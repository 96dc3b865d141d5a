"""Fine-tuning what lies above a cut, from kept activations of what lies below it. Needs torch.

It starts from the probe's head. At the end the weights are drawn back towards where they started as far as validation
likes it (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"): it does not fall behind the probe there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from bestiary.array_types import Float32s
from bestiary.batches.loader import Read
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.models.engine import Precision, fastest_engine
from bestiary.models.features import training_precision
from bestiary.models.head import Head
from bestiary.models.networks import Network, export_head, reference_logits
from bestiary.models.onnx_surgery import STAGES, FrozenStages, count_frozen_stages, extract_frozen_stages
from bestiary.models.torch_export import export_backbone
from bestiary.quick_metrics import calibrated_loss, loss_and_macro_f1
from bestiary.recipe import AugmentConfig
from bestiary.text import format_percent
from bestiary.training import loop
from bestiary.training.activation_cache import AugmentedViews, activation_cache, fill_activation_cache, make_row_reader
from bestiary.training.checkpoint import copy_weights
from bestiary.training.device import choose_device
from bestiary.training.distributed import destroy_process_group, init_process_group
from bestiary.training.loop_settings import LoopSettings
from bestiary.training.task import SplitData, TrainedModel, TrainingTask

UNCHANGED = AugmentConfig(mirror=0, crop_min_area=1, colour_jitter=0, erasing=0)  # the views were drawn before
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class TrainablePart:
    """What learns: the network above the cut, which shares the whole network's weights; what it is fed by; and how."""

    frozen_stages: FrozenStages
    trainable_network: Network
    settings: LoopSettings


def split_at_frozen_stages(task: TrainingTask, network: Network, settings: LoopSettings) -> TrainablePart:
    """Return what learns of this network."""
    backbone, stages = task.recipe.model.backbone, count_frozen_stages(task.recipe)
    assert stages is not None
    graph = task.feature_cache(training_precision()).graph
    lower = extract_frozen_stages(graph, backbone, task.preprocess.size, stages)
    precision = settings.precision
    if precision == "auto" and STAGES - stages > 1 and choose_device().type == "cpu":
        precision = "float32"  # the gradient of the next stage's filters takes twice as long in bfloat16
    # Activations have no other size, and all that gets them learns.
    settings = replace(settings, unfreeze_stages=None, size_from=None, size_to=None, precision=precision)
    return TrainablePart(lower, trainable_stages(network, stages), settings)


@dataclass(frozen=True)
class InterpolationResult:
    """How training of the upper stages went, the share of its weights that was kept, and the validation logits."""

    result: loop.FitResult
    alpha: float
    val_logits: Float32s


def finetune(task: TrainingTask, network: Network, settings: LoopSettings) -> TrainedModel:
    """Return the network, its upper stages trained in place, in the form that is sealed. Resumable."""
    found = train_upper_stages(task, network, settings)
    notes = {
        "trained on": found.result.device,
        "precision of training": found.result.precision,
        "training ended by": found.result.stop_reason,
        "share of the trained weights": found.alpha,
    }
    return _export_trained_model(task, network, list(found.result.history), notes)


def train_upper_stages(task: TrainingTask, network: Network, settings: LoopSettings) -> InterpolationResult:
    """Train the network's upper stages in place, and mix them with what they started from. Resumable."""
    above, train, val = split_at_frozen_stages(task, network, settings), task.split("train"), task.split("val")
    upper, views = above.trainable_network, task.recipe.train.views
    # As for the probe: what is learned from may be bfloat16, what is judged by is what ships.
    read = _read_activations(task, above.frozen_stages, train, training_precision(), views)
    read_val = _read_activations(task, above.frozen_stages, val, "float32", 1)

    def val_logits(precision: loop.Precision) -> Float32s:
        return loop.predict_logits(upper, read_val, len(val.keys), batch_size=settings.batch_size, precision=precision)

    start = copy_weights(upper)
    resume = task.resume and (task.run / "checkpoints" / "last.pt").exists()
    here, _ = init_process_group({"run": str(task.run), "method": task.recipe.model.method, "resume": resume})
    result = loop.fit(
        upper,
        read,
        np.tile(train.labels, views),
        lambda _: loop.ValidationMetrics(*loss_and_macro_f1(val_logits("auto"), val.labels)),
        above.settings,
        UNCHANGED,
        task.run,
        reporter=task.context.reporter,
        resume=resume,
        process_group=here,
        should_continue=task.has_time_for_epoch,
    )
    destroy_process_group()

    def judge() -> tuple[float, float]:
        logits = val_logits("float32")
        return calibrated_loss(logits, val.labels), loss_and_macro_f1(logits, val.labels)[1]

    share = interpolate_weights(upper, start, judge)
    task.context.reporter.info(
        f"Kept {format_percent(share)} of what the stages above the cut learned, by validation loss and macro-F1."
    )
    return InterpolationResult(result, share, val_logits("float32"))


def interpolate_weights(network: Network, start: dict[str, Tensor], score: Callable[[], tuple[float, float]]) -> float:
    """Set the weights to the best mixture of start and end, and return the end's share.

    judge: the loss and the macro-F1 of the network as it is. The best is the mixture with the lowest loss among those
    whose macro-F1 is not below the start's.
    """
    end = copy_weights(network)

    def mix(share: float) -> None:
        mixed = {name: start[name].lerp(new, share) if new.is_floating_point() else new for name, new in end.items()}
        network.load_state_dict(mixed)

    found: dict[float, tuple[float, float]] = {}
    for share in ALPHAS:
        mix(share)
        found[share] = score()
    sound = [share for share in ALPHAS if found[share][1] >= found[0.0][1]]
    best = min(sound, key=lambda share: found[share][0])
    mix(best)
    return best


def _read_activations(
    task: TrainingTask, frozen_stages: FrozenStages, split_data: SplitData, precision: Precision, views: int
) -> Read:
    """Return how to read the activations of a part's pictures, after computing those that are not kept yet."""
    store = activation_cache(task.cache, frozen_stages, task.preprocess, precision, task.recipe.augment)
    with task.context.timer.stage("cache"):
        fill_activation_cache(
            store,
            split_data.paths,
            split_data.keys,
            frozen_stages,
            task.preprocess,
            AugmentedViews(views, task.recipe.augment),
            precision=precision,
            threads=task.context.threads,
            reporter=task.context.reporter,
        )
    return make_row_reader(store, split_data.keys)


def _export_trained_model(
    task: TrainingTask, network: Network, history: list[dict[str, float]], notes: dict[str, Any]
) -> TrainedModel:
    """Export the whole network; its validation logits are those of the exported graph, from the pictures' files."""
    trunk, head, val = export_backbone(network.eval(), task.preprocess.size), export_head(network), task.split("val")
    val_logits = _predict_graph_logits(trunk.SerializeToString(), head, val, task)

    return TrainedModel(trunk, head, history, val_logits, partial(reference_logits, network), notes)


def _predict_graph_logits(graph: bytes, head: Head, split_data: SplitData, task: TrainingTask) -> Float32s:
    engine = fastest_engine(graph, threads=task.context.threads)
    batches = iter_pixel_batches(
        split_data.paths, task.preprocess, threads=task.context.threads, batch_size=engine.batch_size
    )
    return np.concatenate([head.logits(outputs["maps"]) for outputs in engine.stream(batches)])


def trainable_stages(network: Network, stages: int) -> Network:
    """Return the network above the first `stages` stages of a Lite backbone: activations (n, channels, h, w) -> logits.

    Its modules are the whole network's own: training it trains the whole network, and nothing need be put together.
    """
    backbone = network.backbone
    blocks = backbone.get_submodule("blocks")
    assert isinstance(blocks, nn.Sequential)
    above: list[nn.Module] = []
    if stages < STAGES:
        above = [*blocks[stages:], backbone.get_submodule("conv_head"), backbone.get_submodule("bn2")]
    return Network(nn.Sequential(*above), network.head, mean=(0.0,), std=(1.0,), frozen_statistics=True)
