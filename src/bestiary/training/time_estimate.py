"""Time estimates: how long a training task takes on this machine, from measured throughput.

Feature extraction, decoding and training epochs are measured for a second each, on the task's own pictures. Work that
is the same for every task counts with fixed costs, scaled by the speed of this machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bestiary.batches.feature_matrix import MAX_MEMORY_BYTES
from bestiary.batches.pixel_cache import pixel_cache
from bestiary.models.backbones import bundled_backbone, is_bundled, teacher_backbone
from bestiary.models.engine import Precision
from bestiary.models.features import has_features
from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.table import SPLITS
from bestiary.training.methods import build_training_setup
from bestiary.training.probe import candidate_c_values, probe_views, sample_counts
from bestiary.training.task import TrainingTask
from bestiary.training.throughput import (
    EXACT_REPEATS,
    QUICK_REPEATS,
    Throughput,
    evenly_spaced,
    machine_slowdown,
    measure_decode_throughput,
    measure_feature_throughput,
    recorded_feature_throughput,
)

AUDIT_BACKBONE = "lite2"  # of the label check, where the recipe names no bundled backbone
INTERPOLATIONS_TRIED = 5  # weight interpolations that fine-tuning validates at its end
FLOAT32_SLOWDOWN = 2.0  # the exported graph and its verification run in float32, validation in the loop may not
FLOAT32: Precision = "float32"
# Of a probe: pictures that the exported graph predicts from their files, and those that other engines do; as in
# `export.parity`.
PROVEN_PICTURES, PROVEN_TWICE = 224, 64
LABEL_CHECK_FOLDS, LEARNING_CURVE_FITS = 5, 2
LEARNING_CURVE_PICTURES = 8_000  # at most, as in `evaluation.learning_curve`

if TYPE_CHECKING:
    from bestiary.training.epoch_throughput import EpochThroughput


@dataclass(frozen=True)
class FixedCosts:
    """Seconds of work that does not depend on the network, on two cores of an AMD EPYC (`benchmarks/budget.py`)."""

    probe: float = 2.0  # libraries and export
    torch: float = 9.0  # the same with torch, and verification
    head: float = 0.000_018  # of a head, a picture, a class and a value of C, in memory
    large_head: float = 0.000_02  # of a head, a picture and a value of C, out-of-core
    large_head_class: float = 0.000_002  # and a class
    report: float = 1.5  # metrics, intervals, report
    report_picture: float = 0.000_05


COSTS = FixedCosts()


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds before the first epoch, of an epoch, and after the last one; a probe has no epochs."""

    before: float
    epoch: float = 0.0
    after: float = 0.0

    def seconds(self, epochs: int) -> float:
        """Return the total time with so many epochs."""
        return self.before + epochs * self.epoch + self.after


class MachineProfile:
    """Throughput of this machine, each kind measured once, when it is first needed."""

    def __init__(self, *, is_exact: bool = True) -> None:
        """Measure the speed of plain numpy and Python. is_exact: measure features too, if their speed is recorded."""
        self._is_exact = is_exact
        self._feature_throughput: dict[tuple[str, int, Precision], Throughput] = {}
        self._epoch_throughput: dict[tuple[object, ...], EpochThroughput] = {}
        self.slowdown = machine_slowdown(EXACT_REPEATS if is_exact else QUICK_REPEATS)

    def feature_throughput(self, task: TrainingTask, precision: Precision) -> Throughput:
        """Return how fast the features of a task's pictures are computed."""
        key = task.recipe.model.backbone, task.preprocess.size, precision
        if key not in self._feature_throughput:
            cache, paths = task.feature_cache(precision), evenly_spaced(task.split("train").paths)
            recorded = None if self._is_exact else recorded_feature_throughput(cache, paths)
            self._feature_throughput[key] = recorded or measure_feature_throughput(cache, paths)
        return self._feature_throughput[key]

    def file_throughput(self, task: TrainingTask) -> Throughput:
        """Return how fast files go through the backbone in float32, roughly: as recorded, where it was not measured."""
        key = task.recipe.model.backbone, task.preprocess.size, FLOAT32
        if key not in self._feature_throughput:
            cache, paths = task.feature_cache(FLOAT32), evenly_spaced(task.split("train").paths)
            return recorded_feature_throughput(cache, paths) or self.feature_throughput(task, FLOAT32)
        return self._feature_throughput[key]

    def epoch_throughput(self, task: TrainingTask) -> EpochThroughput:
        """Return how fast the network of a task trains."""
        from bestiary.training.epoch_throughput import measure_epoch_throughput

        train, augment = task.recipe.train, task.recipe.augment
        key = (
            *(task.recipe.model, task.preprocess.size, train.batch_size, train.size_from, train.size_to),
            *(train.precision, augment.turn, augment.policy),
        )
        if key not in self._epoch_throughput:
            self._epoch_throughput[key] = measure_epoch_throughput(build_training_setup(task))
        return self._epoch_throughput[key]


def estimate_seconds(task: TrainingTask, machine: MachineProfile) -> TimeEstimate:
    """Return the time of a task, from the features to the report."""
    slowdown, models = machine.slowdown, 1 + task.recipe.data.folds
    before = _label_check_seconds(task, machine) if task.recipe.data.suspects else 0.0
    before += _teacher_seconds(task, machine)
    finish = slowdown * (COSTS.report + COSTS.report_picture * task.pictures.height)
    if task.recipe.model.method == "probe":
        fit = slowdown * COSTS.probe + _head_seconds(task, slowdown) + _proof_seconds(task, machine)
        return TimeEstimate(feature_seconds(task, machine) + before + models * fit + finish)
    training = _estimate_training(task, machine)
    return TimeEstimate(training.before + before, models * training.epoch, models * training.after + finish)


def _estimate_training(task: TrainingTask, machine: MachineProfile) -> TimeEstimate:
    throughput, slowdown = machine.epoch_throughput(task), machine.slowdown
    train, val, test = int(sample_counts(task).sum()), _count(task, "val"), _count(task, "test")
    before, after = 0.0, slowdown * COSTS.torch
    if task.recipe.model.method == "finetune" and is_bundled(task.recipe.model.backbone):
        before = feature_seconds(task, machine) + _head_seconds(task, slowdown)
    if count_frozen_stages(task.recipe) is None:
        before += _decode_seconds(task)
        after += (2 * val + test) / throughput.validation * FLOAT32_SLOWDOWN  # the exported graph validates again
        return TimeEstimate(before, throughput.epoch_seconds(train, val), after)
    views = task.recipe.train.views  # cached activations cost at most as much as features
    fast = machine.feature_throughput(task, task.engine_choice.precision)
    exact = machine.feature_throughput(task, "float32")
    before += fast.seconds(views * _count(task, "train")) + exact.seconds(val)
    after += exact.seconds(val + test) + INTERPOLATIONS_TRIED * val / throughput.validation * FLOAT32_SLOWDOWN
    return TimeEstimate(before, throughput.epoch_seconds(views * train, val), after)


def _as_probe(task: TrainingTask) -> TrainingTask:
    """Return the task of the label check: with the recipe's backbone if its features are used, else the default one."""
    return task if task.uses_features else _with_backbone(task, AUDIT_BACKBONE)


def _with_backbone(task: TrainingTask, name: str) -> TrainingTask:
    """Return the task with a bundled backbone at the size of its pictures."""
    model = task.recipe.model.model_copy(update={"backbone": name, "weights": "bundled"})
    preprocess = replace(task.preprocess, size=bundled_backbone(name).size)
    return replace(task, recipe=task.recipe.model_copy(update={"model": model}), preprocess=preprocess)


def _label_check_seconds(task: TrainingTask, machine: MachineProfile) -> float:
    """Return the time of the label check: a head for each of five folds, and features that training does not need."""
    splits, task = () if task.uses_features else SPLITS, _as_probe(task)
    precision = task.engine_choice.precision
    cache = task.feature_cache(precision)
    missing = sum(len(cache.missing(task.split(split).keys)) for split in splits)
    fits = machine.slowdown * LABEL_CHECK_FOLDS * _fit_seconds(task, _count(task, *SPLITS))
    return fits + (machine.feature_throughput(task, precision).seconds(missing) if missing else 0.0)


def _teacher_seconds(task: TrainingTask, machine: MachineProfile) -> float:
    """Return the time of the features of a network's teacher, but for those that the label check computes anyway.

    In cross-validation a picture of any split is a training picture of some fold.
    """
    if (backbone := teacher_backbone(task.recipe)) is None:
        return 0.0
    if task.recipe.data.suspects and backbone.name == AUDIT_BACKBONE:
        return 0.0
    task = _with_backbone(task, backbone.name)
    precision, splits = task.engine_choice.precision, SPLITS if task.recipe.data.folds else ("train",)
    cache = task.feature_cache(precision)
    missing = sum(len(cache.missing(task.split(split).keys)) for split in splits)
    return machine.feature_throughput(task, precision).seconds(missing) if missing else 0.0


def has_cached_features(task: TrainingTask) -> bool:
    """Return whether features of some training pictures are cached that a network of the recipe's backbone uses."""
    if not task.uses_features:
        return False
    keys = task.split("train").keys
    return has_features(task.cache) and len(task.feature_cache(task.engine_choice.precision).missing(keys)) < len(keys)


def feature_seconds(task: TrainingTask, machine: MachineProfile) -> float:
    """Return the time of a probe's features that are not cached."""
    seconds = 0.0
    for split, precision in task.split_precisions.items():
        if missing := len(task.feature_cache(precision).missing(task.split(split).keys)):
            seconds += machine.feature_throughput(task, precision).seconds(missing)
    mirrored = int((sample_counts(task) > 1).sum())  # of oversampled pictures; too few to look into their cache
    keys, precision = task.split("train").keys, task.engine_choice.precision
    views = probe_views(task.recipe)[1:]
    extra = sum(len(task.feature_cache(precision, **view).missing(keys)) for view in views) if views else mirrored
    return seconds + (machine.feature_throughput(task, precision).seconds(extra) if extra else 0.0)


def _proof_seconds(task: TrainingTask, machine: MachineProfile) -> float:
    """Return the time of predicting pictures of a probe from their files again, in float32: a mean of its models.

    In cross-validation each picture is a test picture of one model; the last model has none.
    """
    folds, height = task.recipe.data.folds, task.pictures.height
    tested = height // folds if folds else _count(task, "test")
    pictures = min(PROVEN_PICTURES, _count(task, "val") + tested) + PROVEN_TWICE
    if task.recipe.evaluate.prove == "all":
        pictures += height // (1 + folds) if folds else tested
    return machine.file_throughput(task).seconds(pictures)


def _head_seconds(task: TrainingTask, slowdown: float) -> float:
    pictures, views = _count(task, "train"), len(probe_views(task.recipe))
    seconds = len(candidate_c_values(task.recipe, pictures)) * _fit_seconds(task, views * pictures)
    if task.recipe.evaluate.learning_curve != "off":
        seconds += LEARNING_CURVE_FITS * _fit_seconds(task, min(pictures, LEARNING_CURVE_PICTURES))
    return slowdown * seconds


def _fit_seconds(task: TrainingTask, pictures: int) -> float:
    """Return the time of fitting one head, on the reference machine."""
    classes, channels = len(task.classes), task.feature_cache("float32").channels
    if 4 * pictures * channels <= MAX_MEMORY_BYTES:
        return COSTS.head * pictures * classes
    return (COSTS.large_head + COSTS.large_head_class * classes) * pictures


def _decode_seconds(task: TrainingTask) -> float:
    """Return the time of decoding the pixels that are not cached."""
    keys = [key for split in ("train", "val") for key in task.split(split).keys]
    missing = len(pixel_cache(task.cache, task.preprocess).missing_keys(keys))
    if not missing:
        return 0.0
    paths = evenly_spaced(task.split("train").paths)
    return measure_decode_throughput(task.preprocess, paths, threads=task.context.threads).seconds(missing)


def _count(task: TrainingTask, *splits: str) -> int:
    """Return the number of pictures in these splits."""
    return sum(len(task.split(split).keys) for split in splits)
