"""Linear probe: a linear head, fitted in seconds on the cached features of a frozen, pretrained backbone.

No torch: the backbone is a graph, run by OpenVINO or ONNX Runtime; the head is scikit-learn's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.array_types import Array, Float32s, Ints
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.models.features import FeatureView, LabelledFeatures, load_stacked
from bestiary.models.head import Head
from bestiary.models.logistic_regression import linear_logits, make_solver
from bestiary.progress import Advance, ignore_steps
from bestiary.quick_metrics import loss_and_macro_f1
from bestiary.recipe import Recipe
from bestiary.recipe_sections import Balance, ProbeViews
from bestiary.training.balance import logit_adjustment, sample_epoch_order
from bestiary.training.task import SplitData, TrainingTask

DEFAULT_C = 0.003  # of a head on features whose C was not chosen
VIEWS: dict[ProbeViews, tuple[FeatureView, ...]] = {  # of each training picture; the first is the picture itself
    "none": ({},),
    "mirror": ({}, {"mirrored": True}),
    "quarters": ({}, {"quarter_turns": 1}, {"quarter_turns": 2}, {"quarter_turns": 3}),
}
C_TIMES_PICTURES = (4, 12, 40, 120, 400, 1200)  # scikit-learn's C weighs a sum over pictures, not a mean


@dataclass(frozen=True)
class FittedProbe:
    """A linear probe: backbone graph, head, one history line per value of C, and the validation features."""

    backbone_graph: Path
    head: Head
    history: list[dict[str, Any]]
    val: LabelledFeatures


def fit_probe(task: TrainingTask) -> FittedProbe:
    """Fit the linear probe of a task on cached features, computed where they are missing.

    Training features may be bfloat16, validation features are float32: see `features.split_precisions`.
    """
    train, val_pictures = _load_train_features(task), task.split("val")
    cache = task.fill_features(val_pictures, "float32")
    val = LabelledFeatures(cache.load(val_pictures.keys), val_pictures.labels)
    c_values = candidate_c_values(task.recipe, len(task.split("train").keys))
    balance = task.recipe.train.balance
    with task.context.reporter.progress("Fitting the head", len(c_values)) as advance:
        head, history = fit_head(train, val, len(task.classes), c_values=c_values, balance=balance, advance=advance)
    return FittedProbe(cache.graph, head, history, val)


def sample_counts(task: TrainingTask) -> Ints:
    """Return how often each training picture counts, int64 (n,): more than once in oversampled classes."""
    labels, balance = task.split("train").labels, task.recipe.train.balance
    if balance != "oversample":
        return np.ones(len(labels), np.int64)
    order = sample_epoch_order(labels, len(task.classes), balance, seed=task.recipe.seed, epoch=1)
    return np.bincount(order, minlength=len(labels))


def probe_views(recipe: Recipe) -> tuple[FeatureView, ...]:
    """Return the views of a training picture that the recipe asks for, the first of which is the picture itself."""
    return VIEWS[recipe.probe.views]


def load_view_features(task: TrainingTask, pictures: SplitData) -> FeatureMatrix:
    """Return the training features of these pictures in each view, computed where they are missing.

    Shape (views * n, channels): all pictures as they are, then all in the second view, and so on.
    """
    precision = task.engine_choice.precision
    caches = [task.fill_features(pictures, precision, **view) for view in probe_views(task.recipe)]
    return load_stacked([(cache, key) for cache in caches for key in pictures.keys])


def candidate_c_values(recipe: Recipe, pictures: int) -> tuple[float, ...]:
    """Return the values of C (inverse regularisation strength) to try: the recipe's, or the defaults."""
    return recipe.probe.regularisation or default_c_values(pictures)


def default_c_values(pictures: int) -> tuple[float, ...]:
    """Return the default values of C: the more training pictures, the less the penalty weighs.

    >>> default_c_values(4000)
    (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    """
    return tuple(round(c_value / pictures, 12) for c_value in C_TIMES_PICTURES)


def chosen_c_value(history: Sequence[Mapping[str, Any]]) -> float:
    """Return the C that a probe has chosen, from its history; DEFAULT_C for the history of another method."""
    return next((float(line["regularisation"]) for line in history if line.get("chosen")), DEFAULT_C)


def fit_head(
    train: LabelledFeatures,
    val: LabelledFeatures,
    classes: int,
    *,
    c_values: Sequence[float],
    balance: Balance,
    advance: Advance = ignore_steps,
) -> tuple[Head, list[dict[str, Any]]]:
    """Return the linear head with the lowest validation loss, and one history line per value of C.

    Features are standardised by the training split; the standardisation is folded into the head's weights. The path
    goes from strong regularisation (small C) to weak, each step starting from the one before. `train.features` in
    float32 is standardised in place. "logit-adjusted" takes the log of the classes' shares out of the head's bias; it
    is chosen by its loss with them, which is the loss that was minimised.
    """
    offsets = logit_adjustment(train.labels, classes, balance)
    weights = train.weights
    if balance == "class-weights":
        weights = _class_weights(train.labels, classes) * (1 if weights is None else weights)
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
        advance(1)
    best = int(np.argmin([line["val_loss"] for line in history]))
    history[best]["chosen"] = True
    return heads[best], history


def _load_train_features(task: TrainingTask) -> LabelledFeatures:
    """Return the training features, of every view that is asked for.

    Without views, pictures that count more than once are mirrored every other time. All weights add up to the number of
    pictures, so that C means the same with views or repeated pictures as without.
    """
    train, counts, precision = task.split("train"), sample_counts(task), task.engine_choice.precision
    if (views := len(probe_views(task.recipe))) > 1:
        weights = np.tile(counts / counts.mean() / views, views).astype(np.float32)
        return LabelledFeatures(load_view_features(task, train), np.tile(train.labels, views), weights)
    cache = task.fill_features(train, precision)
    if counts.max() == 1:
        return LabelledFeatures(cache.load(train.keys), train.labels)
    repeated = np.flatnonzero(counts > 1)
    few = train.take(repeated)
    mirrored = task.fill_features(few, precision, mirrored=True)
    features = load_stacked([*((cache, key) for key in train.keys), *((mirrored, key) for key in few.keys)])
    times = np.concatenate([(counts + 1) // 2, counts[repeated] // 2])
    weights = (times * (len(counts) / counts.sum())).astype(np.float32)
    return LabelledFeatures(features, np.concatenate([train.labels, few.labels]), weights)


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
