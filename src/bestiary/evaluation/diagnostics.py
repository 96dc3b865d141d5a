"""What a training tells: how it ended, what was learnt by heart, and whether more pictures would help.

Written to `learning_curve.json` of a run. The test split is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from bestiary.array_types import AnyFloats, Bools, Floats, Ints
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.evaluation.learning_curve import learning_curve
from bestiary.machine import trim_memory
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import LabelledFeatures, has_features, split_precisions
from bestiary.models.logistic_regression import linear_logits
from bestiary.preprocess import Preprocessing
from bestiary.quick_metrics import log_softmax
from bestiary.recipe import BACKBONE_SIZES, ResolvedRecipe
from bestiary.stats import wilson_interval
from bestiary.text import format_percent
from bestiary.training.task import SplitData, TrainedModel, TrainingTask

SAMPLED_PICTURES = 512  # training pictures that a network is asked about once more, without augmentation
NAMED = 3  # classes named in the sentence about overfitting
DEFAULT_C = 0.003  # of the probe's head where the recipe has none that was chosen


def diagnose_training(task: TrainingTask, learned: TrainedModel) -> dict[str, Any]:
    """Return what the training of this task tells, as plain values.

    `ended` and `gaps` always; `curve` for the probe, for other methods if the probe's features are kept already or
    `evaluate.learning_curve` is "on".
    """
    train, val = task.split("train"), task.split("val")
    probe, with_curve = _as_probe_task(task), task.recipe.evaluate.learning_curve != "off"
    features = _cached_features(probe) if with_curve or probe is task else None
    if probe is task and features is not None:
        shown, labels = linear_logits(features[0].features, learned.head.weight, learned.head.bias), train.labels
    else:
        shown, labels = _sampled_logits(task, learned, train)
    found: dict[str, Any] = {"ended": stop_reason_text(task.recipe, learned)}
    found["gaps"] = generalisation_gaps(shown, labels, learned.val_logits, val.labels, task.classes)
    if with_curve and features is not None:
        groups = [probe.pictures.filter(pl.col("split") == split)["group"].to_numpy() for split in ("train", "val")]
        strength = next((line["regularisation"] for line in learned.history if line.get("chosen")), DEFAULT_C)
        curve = learning_curve(
            features[0],
            features[1],
            (groups[0], groups[1]),
            task.classes,
            strength=strength,
            seed=task.recipe.seed,
            whole=learned.val_logits.argmax(axis=1) if probe is task else None,
        )
        found["curve"] = {"learner": f"probe with {probe.recipe.model.backbone}", **curve}
        trim_memory()
    return found


def stop_reason_text(recipe: ResolvedRecipe, learned: TrainedModel) -> str:
    """Return how the training ended, in a sentence."""
    if recipe.model.method == "probe":
        return "The head was fitted at every strength of regularisation; nothing was stopped early."
    last, planned = len(learned.history), recipe.train.epochs
    best = max(learned.history, key=lambda line: (line["val_macro_f1"], -line["val_loss"]))["epoch"]
    kept = f"The weights of epoch {best:.0f} were kept{_describe_mixture(learned.notes.get('share of the trained weights'))}."
    reason = {
        "patience": f"no better macro-F1 in {recipe.train.patience_epochs} epochs",
        "budget": "the time was up",
        "diverged": "the loss was no number any more",
    }.get(str(learned.notes.get("training ended by")))
    if reason is None:
        return f"Training went on to its end, epoch {last}. {kept}"
    return f"Training was stopped early, after epoch {last} of {planned}: {reason}. {kept}"


def _describe_mixture(fraction: float | None) -> str:
    if fraction is None or fraction == 1:
        return ""
    if fraction == 0:
        return ", but are not in use: on validation pictures the probe that training started from was better"
    parts = f"{format_percent(fraction)} to {format_percent(1 - fraction)}"
    return f", and mixed by validation with those that training started from ({parts})"


def _sampled_logits(task: TrainingTask, learned: TrainedModel, part: SplitData) -> tuple[AnyFloats, Ints]:
    """Return the logits of a sample of pictures as they are, with their labels."""
    chosen = np.sort(np.random.default_rng(task.recipe.seed).permutation(len(part.paths))[:SAMPLED_PICTURES])
    paths = [part.paths[place] for place in chosen]
    logits = [
        learned.reference_network(images)
        for images in iter_pixel_batches(paths, task.preprocess, threads=task.context.threads)
    ]
    return np.concatenate(logits), part.labels[chosen]


def _as_probe_task(task: TrainingTask) -> TrainingTask:
    """Return the task as a probe would do it: itself, or with the backbone of the recipe at the backbone's own size."""
    if task.recipe.model.method == "probe":
        return task
    backbone = task.recipe.model.backbone if task.recipe.model.backbone in BACKBONES else "lite2"
    model = task.recipe.model.model_copy(update={"method": "probe", "backbone": backbone})
    view = Preprocessing(BACKBONE_SIZES[backbone], task.preprocess.fit, task.preprocess.limits)
    recipe = task.recipe.model_copy(update={"model": model})
    return replace(task, recipe=recipe, preprocess=view)


def _cached_features(task: TrainingTask) -> list[LabelledFeatures] | None:
    """Return the kept features of both parts; None if some are missing and are not to be computed for this."""
    compute = task.recipe.evaluate.learning_curve == "on"
    if not compute and not has_features(task.cache):
        return None
    result = []
    for split, precision in split_precisions().items():
        pictures, cache = task.split(split), task.feature_cache(precision)
        if compute:
            cache.fill(pictures.paths, pictures.keys)
        if cache.missing(pictures.keys):
            return None
        result.append(LabelledFeatures(cache.load(pictures.keys), pictures.labels))
    return result


# ---- The gap between training and validation, by class --------------------------------------------------------------


def generalisation_gaps(
    train_logits: AnyFloats, train_labels: Ints, val_logits: AnyFloats, val_labels: Ints, classes: Sequence[str]
) -> dict[str, Any]:
    """Return recall and loss in training and validation, of all and of each class, and a sentence about them.

    Logits (n, classes), of training pictures as they are, without augmentation. A class `overfits` when the 95 %
    interval of its recall in validation lies below that in training.
    """
    train, val = _class_recall(train_logits, train_labels), _class_recall(val_logits, val_labels)
    entries = {name: _entry(*(part.of(label) for part in (train, val))) for label, name in enumerate(classes)}
    overall = _entry(train.of(None), val.of(None))
    return {"all": overall, "classes": entries, "sentence": _describe_gaps(entries, overall)}


class _ClassRecall:
    """Which pictures are recognised, and the loss of each."""

    def __init__(self, correct: Bools, losses: Floats, labels: Ints) -> None:
        self._correct, self._losses, self._labels = correct, losses, labels

    def of(self, label: int | None) -> tuple[int, float, float]:
        """Return of one class, or of all, how many pictures there are, how many are right, and the mean loss."""
        rows = np.ones(len(self._labels), bool) if label is None else self._labels == label
        count = int(rows.sum())
        return count, float(self._correct[rows].sum()), float(self._losses[rows].mean()) if count else float("nan")


def _class_recall(logits: AnyFloats, labels: Ints) -> _ClassRecall:
    losses = -log_softmax(logits)[np.arange(len(labels)), labels]
    return _ClassRecall(logits.argmax(axis=1) == labels, losses, labels)


def _entry(train: tuple[int, float, float], val: tuple[int, float, float]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    ends = []
    for name, (count, right, loss) in (("train", train), ("val", val)):
        rate = right / count if count else 0.0
        low, high = wilson_interval(np.array(rate), np.array(count))
        ends.append((float(low), float(high)))
        entry[f"{name}_pictures"] = count
        entry[f"{name}_recall"] = round(rate, 4) if count else None
        entry[f"{name}_loss"] = round(loss, 4) if count else None
    return {**entry, "overfits": bool(train[0] and val[0] and ends[1][1] < ends[0][0])}


def _describe_gaps(entries: dict[str, dict[str, Any]], overall: dict[str, Any]) -> str:
    worst = sorted(
        (name for name, entry in entries.items() if entry["overfits"]),
        key=lambda name: entries[name]["val_recall"] - entries[name]["train_recall"],
    )
    start = (
        f"Of the training pictures {100 * overall['train_recall']:.1f} % are recognised, of the validation pictures"
        f" {100 * overall['val_recall']:.1f} %"
    )
    if not worst:
        return f"{start}; no class is clearly learnt by heart."
    named = ", ".join(
        f"{name} ({100 * entries[name]['train_recall']:.0f} % and {100 * entries[name]['val_recall']:.0f} %)"
        for name in worst[:NAMED]
    )
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    return f"{start}; learnt by heart most: {named}{more}."
