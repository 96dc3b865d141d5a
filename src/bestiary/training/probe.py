"""The probe: features of a frozen pretrained backbone, computed once and kept, and a linear head fitted in seconds.

No torch: the backbone is a graph, run by OpenVINO or ONNX Runtime; the head is scikit-learn's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.array_types import Array, Float32s, Ints, Pixels
from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.feature_matrix import FeatureMatrix, load_features
from bestiary.batches.pixel_cache import PIXELS_VERSION, iter_pixel_batches
from bestiary.batches.preprocess import Preprocessing, VerifiedFile
from bestiary.machine import disable_malloc_trim
from bestiary.models.efficientnet_lite import BACKBONES, cached_backbone_graph
from bestiary.models.engine import Precision, fastest_engine, has_openvino
from bestiary.models.head import Head
from bestiary.models.logistic_regression import linear_logits, make_solver
from bestiary.models.onnx_surgery import add_global_pool
from bestiary.progress import Reporter
from bestiary.quick_metrics import loss_and_macro_f1
from bestiary.recipe import Balance, Recipe
from bestiary.training.balance import logit_adjustment, sample_epoch_order
from bestiary.training.task import SplitData, TrainingTask

C_TIMES_PICTURES = (4, 12, 40, 120, 400, 1200)  # scikit-learn's C weighs a sum over pictures, not a mean


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (n, channels) with the position of each picture's class, int64 (n,).

    weights: how much each row counts, float32 (n,); None for 1 each.
    """

    features: FeatureMatrix
    labels: Ints
    weights: Float32s | None = None


@dataclass(frozen=True)
class FittedProbe:
    """A probe: the graph of its trunk, its head, one history line for each strength, and the validation pictures."""

    backbone_graph: Path
    head: Head
    history: list[dict[str, Any]]
    val: LabelledFeatures


def fit_probe(task: TrainingTask) -> FittedProbe:
    """Return the probe of this task, its features taken from the cache or computed.

    Training features may be computed in bfloat16, which is twice as fast; validation features are float32, as in the
    graph that ships, so that the head is chosen and calibrated on what users get.
    """
    balance, classes = task.recipe.train.balance, len(task.classes)
    trunk = cached_backbone_graph(task.recipe.model.backbone, task.cache / "trunks", task.preprocess.size)
    part = task.split("train")
    train = _load_labelled_features(task, part, trunk, training_precision(), sample_counts(task))
    val = _load_labelled_features(task, task.split("val"), trunk, "float32", None)
    strengths = candidate_c_values(task.recipe, len(part.keys))
    head, history = fit_head(train, val, classes, c_values=strengths, balance=balance)
    return FittedProbe(trunk, head, history, val)


def training_precision() -> Precision:
    """Return what the features of training pictures are computed in."""
    return "bfloat16" if has_openvino() else "float32"


def sample_counts(task: TrainingTask) -> Ints:
    """Return how often each training picture counts, int64 (n,): small classes more often if they are oversampled."""
    labels, balance = task.split("train").labels, task.recipe.train.balance
    if balance != "oversample":
        return np.ones(len(labels), np.int64)
    order = sample_epoch_order(labels, len(task.classes), balance, seed=task.recipe.seed, epoch=1)
    return np.bincount(order, minlength=len(labels))


def candidate_c_values(recipe: Recipe, pictures: int) -> tuple[float, ...]:
    """Return the inverse strengths C to try: the recipe's, or those for so many training pictures."""
    return recipe.probe.regularisation or default_c_values(pictures)


def default_c_values(pictures: int) -> tuple[float, ...]:
    """Return the inverse strengths C to try with so many training pictures: the penalty weighs less the more there are.

    >>> default_c_values(4000)
    (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    """
    return tuple(round(strength / pictures, 12) for strength in C_TIMES_PICTURES)


def feature_store(
    cache: Path, trunk: Path, view: Preprocessing, precision: Precision, channels: int, *, mirrored: bool = False
) -> ArrayCache:
    """Return the store of float16 (channels,) features for this trunk and this way of looking at pictures."""
    name = f"{trunk.stem}-{view.fit}-{precision}{'-mirrored' if mirrored else ''}-v{PIXELS_VERSION}"
    return ArrayCache(cache / "features" / name, (channels,), np.float16)


def fill_features(
    store: ArrayCache,
    paths: Sequence[Path],
    keys: Sequence[str],
    trunk: Path,
    view: Preprocessing,
    *,
    precision: Precision,
    threads: int,
    reporter: Reporter,
    mirrored: bool = False,
) -> None:
    """Compute the features that the store lacks: the mean of the trunk's maps over all places, mirrored if asked.

    keys: the SHA-256 of the files. Raises SourceError if a file cannot be read any more, or has other content.
    """
    missing = store.missing_keys(keys)
    if not missing:
        return
    engine = fastest_engine(add_global_pool(trunk), threads=threads, precision=precision)
    wanted = [keys[at] for at in missing]
    files = [VerifiedFile(paths[at], keys[at]) for at in missing]
    batches = iter_pixel_batches(files, view, threads=threads, batch_size=engine.batch_size)
    with reporter.progress("Computing features", len(missing)) as advance, store.writer() as segment:
        start = 0
        for outputs in engine.stream(_iter_mirrored(batches) if mirrored else batches):
            rows = outputs["features"]
            segment.append(wanted[start : start + len(rows)], rows.astype(np.float16))
            start += len(rows)
            advance(len(rows))


def bulk_features(
    paths: Sequence[Path],
    keys: Sequence[str],
    backbone: str,
    view: Preprocessing,
    *,
    cache: Path,
    threads: int,
    reporter: Reporter,
) -> FeatureMatrix:
    """Return the features of pictures by a bundled backbone, (n, channels); the cache is filled first.

    Computed in bfloat16 where OpenVINO is there, as those that a probe is trained on. keys: the pictures' SHA-256.
    """
    disable_malloc_trim()
    trunk = cached_backbone_graph(backbone, cache / "trunks", view.size)
    precision = training_precision()
    store = feature_store(cache, trunk, view, precision, BACKBONES[backbone].channels)
    fill_features(store, paths, keys, trunk, view, precision=precision, threads=threads, reporter=reporter)
    return load_features([(store, key) for key in keys])


def fit_head(
    train: LabelledFeatures, val: LabelledFeatures, classes: int, *, c_values: Sequence[float], balance: Balance
) -> tuple[Head, list[dict[str, Any]]]:
    """Return the linear head with the lowest validation loss, and one history line for each strength C tried.

    Features are standardised by the training split; the standardisation is folded into the head's weights. The path
    goes from strong regularisation (small C) to weak, each step starting from the one before. `train.features` in
    float32 is standardised in place. "logit-adjusted" takes the log of the classes' shares out of the head's bias; it
    is chosen by its loss with them, which is the loss that was minimised.
    """
    offsets = logit_adjustment(train.labels, classes, balance)
    weights = _class_weights(train.labels, classes) if balance == "class-weights" else train.weights
    solving = make_solver(train.features, train.labels, classes, weights=weights)
    heads, history = list[Head](), list[dict[str, Any]]()
    for step, strength in enumerate(sorted(c_values), start=1):
        started = time.perf_counter()
        coefficients, intercept = solving.fit(strength)
        train_loss, _ = loss_and_macro_f1(solving.logits(coefficients, intercept), train.labels)
        weight = (coefficients / solving.scale).astype(np.float32)
        bias = (intercept - weight @ solving.mean - offsets).astype(np.float32)
        heads.append(Head(weight, bias, "average"))
        history.append(
            _history_record(step, strength, heads[-1], offsets, train_loss, val, time.perf_counter() - started)
        )
    best = int(np.argmin([line["val_loss"] for line in history]))
    history[best]["chosen"] = True
    return heads[best], history


def _load_labelled_features(
    task: TrainingTask,
    split_data: SplitData,
    backbone_graph: Path,
    precision: Precision,
    sample_counts: Ints | None,
) -> LabelledFeatures:
    """Return the features of a part; pictures shown more than once are shown mirrored every other time."""
    if sample_counts is None or sample_counts.max() == 1:
        return LabelledFeatures(load_split_features(task, split_data, backbone_graph, precision), split_data.labels)
    again = np.flatnonzero(sample_counts > 1)
    few = split_data.take(again)
    store, turned = (
        _filled(task, split_data, backbone_graph, precision),
        _filled(task, few, backbone_graph, precision, mirrored=True),
    )
    features = load_features([*((store, key) for key in split_data.keys), *((turned, key) for key in few.keys)])
    shown = np.concatenate([(sample_counts + 1) // 2, sample_counts[again] // 2])
    weights = (shown * (len(sample_counts) / sample_counts.sum())).astype(
        np.float32
    )  # a strength C then means the same as without
    return LabelledFeatures(features, np.concatenate([split_data.labels, few.labels]), weights)


def load_split_features(task: TrainingTask, part: SplitData, trunk: Path, precision: Precision) -> FeatureMatrix:
    """Return the features of a part of the task, (n, channels), from the cache or computed."""
    store = _filled(task, part, trunk, precision)
    return load_features([(store, key) for key in part.keys])


def _filled(
    task: TrainingTask, part: SplitData, trunk: Path, precision: Precision, *, mirrored: bool = False
) -> ArrayCache:
    """Return the store of the features of a part of the task, which are computed as far as they are missing."""
    channels = BACKBONES[task.recipe.model.backbone].channels
    store = feature_store(task.cache, trunk, task.preprocess, precision, channels, mirrored=mirrored)
    with task.clock.stage("cache"):
        fill_features(
            store,
            part.paths,
            part.keys,
            trunk,
            task.preprocess,
            precision=precision,
            threads=task.threads,
            reporter=task.reporter,
            mirrored=mirrored,
        )
    return store


def _iter_mirrored(batches: Iterable[Pixels]) -> Iterator[Pixels]:
    return (np.ascontiguousarray(images[:, :, ::-1]) for images in batches)


def _class_weights(labels: Ints, classes: int) -> Float32s:
    """Return weights by which every class counts as much, float32 (n,), of mean 1."""
    by_class = len(labels) / (classes * np.maximum(1, np.bincount(labels, minlength=classes)))
    return by_class.astype(np.float32)[labels]


def _history_record(
    step: int, c_value: float, head: Head, offsets: Array, train_loss: float, val: LabelledFeatures, seconds: float
) -> dict[str, Any]:
    logits = linear_logits(val.features, head.weight, head.bias)
    return {
        "epoch": step,
        "train_loss": train_loss,
        "val_loss": loss_and_macro_f1(logits + offsets, val.labels)[0],
        "val_macro_f1": loss_and_macro_f1(logits, val.labels)[1],
        "learning_rate": None,
        "seconds": round(seconds, 3),
        "regularisation": c_value,
    }
