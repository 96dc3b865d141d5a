"""Fine-tuning of a backbone's upper stages, on cached activations of its frozen stages. Needs torch.

Training starts from the probe's head. At its end the weights are interpolated with those at its start, with the alpha
that is best on validation (WiSE-FT), so that the result is not worse than the probe there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from bestiary.array_types import Float32s
from bestiary.batches.loader import Read
from bestiary.models.engine import Precision
from bestiary.models.networks import Network
from bestiary.models.onnx_surgery import STAGES, FrozenStages, count_frozen_stages, extract_frozen_stages
from bestiary.quick_metrics import calibrated_loss, loss_and_macro_f1
from bestiary.recipe_sections import AugmentConfig
from bestiary.training import loop
from bestiary.training.activation_cache import AugmentedViews, fill_activation_cache, make_row_reader
from bestiary.training.checkpoint import copy_weights
from bestiary.training.device import choose_device
from bestiary.training.export_network import export_network
from bestiary.training.fit_job import FitJob, run_fit
from bestiary.training.loop_settings import LoopSettings
from bestiary.training.task import SplitData, TrainedModel, TrainingTask

UNCHANGED = AugmentConfig(mirror=0, crop_min_area=1, colour_jitter=0, erasing=0)  # cached views are augmented already
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class TrainablePart:
    """The trainable network, which shares its weights with the whole one; the frozen stages below it; the settings."""

    frozen_stages: FrozenStages
    trainable_network: Network
    settings: LoopSettings


def split_at_frozen_stages(task: TrainingTask, network: Network, settings: LoopSettings) -> TrainablePart:
    """Split the network at its frozen stages."""
    backbone, stages = task.recipe.model.backbone, count_frozen_stages(task.recipe)
    assert stages is not None
    graph = task.feature_cache("float32").graph
    frozen = extract_frozen_stages(graph, backbone, task.preprocess.size, stages)
    precision = settings.precision
    if precision == "auto" and STAGES - stages > 1 and choose_device(task.recipe.train.device).type == "cpu":
        precision = "float32"  # the gradient of the next stage's filters takes twice as long in bfloat16
    # Activations have one size, and every stage above them is trained.
    settings = replace(settings, unfreeze_stages=None, size_from=None, size_to=None, precision=precision)
    return TrainablePart(frozen, trainable_stages(network, stages), settings)


@dataclass(frozen=True)
class InterpolationResult:
    """The result of training, the alpha of the interpolation, and the validation logits."""

    result: loop.FitResult
    alpha: float
    val_logits: Float32s


def finetune(task: TrainingTask, network: Network, settings: LoopSettings) -> TrainedModel:
    """Train the network's upper stages in place and export it. Resumable."""
    outcome = train_upper_stages(task, network, settings)
    return export_network(task, network, outcome.result, {"share of the trained weights": outcome.alpha})


def train_upper_stages(task: TrainingTask, network: Network, settings: LoopSettings) -> InterpolationResult:
    """Train the network's upper stages in place and interpolate them with the initial weights. Resumable."""
    above, val = split_at_frozen_stages(task, network, settings), task.split("val")
    upper, start = above.trainable_network, copy_weights(above.trainable_network)
    read_val = read_val_activations(task, above)
    result = run_fit(task, make_activation_job(task, above, read_val))

    def val_logits() -> Float32s:
        return _predict_val(above, read_val, len(val.keys), "float32")

    def score() -> tuple[float, float]:
        logits = val_logits()
        return calibrated_loss(logits, val.labels), loss_and_macro_f1(logits, val.labels)[1]

    alpha = interpolate_weights(upper, start, score)
    task.context.reporter.info(
        f"Interpolated fine-tuned and pretrained weights with alpha = {alpha:g} (chosen on validation)."
    )
    return InterpolationResult(result, alpha, val_logits())


def read_val_activations(task: TrainingTask, above: TrainablePart) -> Read:
    """Return the function that reads the activations of the validation pictures, in float32 as in the exported graph.

    As for the probe, only training input may be bfloat16.
    """
    return _read_activations(task, above.frozen_stages, task.split("val"), "float32", 1)


def make_activation_job(task: TrainingTask, above: TrainablePart, read_val: Read) -> FitJob:
    """Fill the activation cache, and return the job of training the upper stages on it."""
    train, val, views = task.split("train"), task.split("val"), task.recipe.train.views
    read = _read_activations(task, above.frozen_stages, train, task.engine_choice.precision, views)

    def validate(_: Network) -> loop.ValidationMetrics:
        logits = _predict_val(above, read_val, len(val.keys), "auto")
        return loop.ValidationMetrics(*loss_and_macro_f1(logits, val.labels))

    labels = np.tile(train.labels, views)
    return FitJob(above.trainable_network, read, labels, validate, above.settings, UNCHANGED)


def _predict_val(above: TrainablePart, read: Read, count: int, precision: loop.Precision) -> Float32s:
    batch_size = above.settings.batch_size
    return loop.predict_logits(above.trainable_network, read, count, batch_size=batch_size, precision=precision)


def interpolate_weights(network: Network, start: dict[str, Tensor], score: Callable[[], tuple[float, float]]) -> float:
    """Set the weights to the best interpolation of start (0) and end (1) of training; return its alpha.

    WiSE-FT: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models". score: loss and macro-F1 of the network as
    it is. The best alpha has the lowest loss among those whose macro-F1 is not below that of the start.
    """
    end = copy_weights(network)

    def interpolate(alpha: float) -> None:
        weights = {
            name: start[name].lerp(weight, alpha) if weight.is_floating_point() else weight
            for name, weight in end.items()
        }
        network.load_state_dict(weights)

    scores = dict[float, tuple[float, float]]()
    for alpha in ALPHAS:
        interpolate(alpha)
        scores[alpha] = score()
    best = min((alpha for alpha in ALPHAS if scores[alpha][1] >= scores[0.0][1]), key=lambda alpha: scores[alpha][0])
    interpolate(best)
    return best


def _read_activations(
    task: TrainingTask, frozen_stages: FrozenStages, pictures: SplitData, precision: Precision, views: int
) -> Read:
    """Return the function that reads the activations of these pictures, computed where they are missing."""
    augmented = AugmentedViews(views, task.recipe.augment)
    store = fill_activation_cache(task, pictures, frozen_stages, augmented, precision)
    return make_row_reader(store, pictures.keys)


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
