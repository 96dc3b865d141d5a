"""Training diagnostics: stop reason, overfitting by class, and the learning curve.

Written to `learning_curve.json` of a run, beside a sheet of augmented pictures. The test split is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from bestiary.array_types import AnyFloats, Bools, Floats, Ints
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.evaluation.intervals import rate_metric
from bestiary.evaluation.learning_curve import DRAWS, learning_curve
from bestiary.files import write_json
from bestiary.machine import trim_memory
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import LabelledFeatures, has_features
from bestiary.models.logistic_regression import linear_logits
from bestiary.quick_metrics import log_softmax
from bestiary.recipe import ResolvedRecipe
from bestiary.recipe_sections import BACKBONE_SIZES
from bestiary.text import format_names, format_percent
from bestiary.training.augmentation_sheet import describe_augmentation, write_augmentation_sheet
from bestiary.training.probe import chosen_c_value
from bestiary.training.task import SplitData, TrainedModel, TrainingTask

SAMPLED_PICTURES = 512  # training pictures that a network predicts again, without augmentation
COOLED_DOWN = 0.99  # of a schedule: a last epoch that got so far ended with the lowest learning rate
NAMED = 3  # classes named in the sentence about overfitting


def write_diagnostics(task: TrainingTask, trained: TrainedModel) -> None:
    """Write `learning_curve.json`, and `augmentation.jpg` if training pictures were augmented, into the run folder."""
    augmentation = {"augmentation": describe_augmentation(task.recipe)} if write_augmentation_sheet(task) else {}
    write_json(task.run / "learning_curve.json", diagnose_training(task, trained) | augmentation)


def diagnose_training(task: TrainingTask, trained: TrainedModel) -> dict[str, Any]:
    """Return the diagnostics of this training, as plain values.

    `ended` and `gaps` always; `curve` for the probe, for other methods if the probe's features are cached or
    `evaluate.learning_curve` is "on".
    """
    train, val, probe = task.split("train"), task.split("val"), _as_probe_task(task)
    with_curve, is_probe = task.recipe.evaluate.learning_curve != "off", probe is task
    features = _cached_features(probe) if with_curve or is_probe else None
    if is_probe and features is not None:
        logits, labels = linear_logits(features[0].features, trained.head.weight, trained.head.bias), train.labels
    else:
        logits, labels = _sampled_logits(task, trained, train)
    gaps = generalisation_gaps(logits, labels, trained.val_logits, val.labels, task.classes)
    diagnostics: dict[str, Any] = {"ended": stop_reason_text(task.recipe, trained), "gaps": gaps}
    if with_curve and features is not None:
        groups = [probe.pictures.filter(pl.col("split") == split)["group"].to_numpy() for split in ("train", "val")]
        with task.context.reporter.progress("Learning curve", sum(DRAWS)) as advance:
            curve = learning_curve(
                *features,
                (groups[0], groups[1]),
                task.classes,
                c_value=chosen_c_value(trained.history),
                seed=task.recipe.seed,
                val_predictions=trained.val_logits.argmax(axis=1) if is_probe else None,
                advance=advance,
            )
        diagnostics["curve"] = {"learner": f"probe with {probe.recipe.model.backbone}", **curve}
        trim_memory()
    return diagnostics


def stop_reason_text(recipe: ResolvedRecipe, trained: TrainedModel) -> str:
    """Return the reason why the training stopped, in a sentence."""
    if recipe.model.method == "probe":
        return "The head was fitted for every regularisation strength; there was no early stopping."
    last, planned = len(trained.history), recipe.train.epochs
    best = max(trained.history, key=lambda line: (line["val_macro_f1"], -line["val_loss"]))["epoch"]
    mixture = _describe_mixture(trained.notes.get("share of the trained weights"))
    weights = f"The weights of epoch {best:.0f} were kept{mixture}."
    ended_by = str(trained.notes.get("training ended by"))
    if ended_by == "budget" and trained.history[-1].get("schedule", 0.0) >= COOLED_DOWN:
        return (
            "The schedule was shortened to fit the time budget and completed: training finished after epoch"
            f" {last} of {planned}, with the lowest learning rate. {weights}"
        )
    reason = {
        "patience": f"no better macro-F1 in {recipe.train.patience_epochs} epochs",
        "budget": "the time budget was used up",
        "diverged": "the loss became NaN or infinite",
    }.get(ended_by)
    if reason is None:
        return f"Training finished, epoch {last}. {weights}"
    return f"Training was stopped early, after epoch {last} of {planned}: {reason}. {weights}"


def _describe_mixture(fraction: float | None) -> str:
    if fraction is None or fraction == 1:
        return ""
    if fraction == 0:
        return ", but are not used: the initial probe was better on validation pictures"
    parts = f"{format_percent(fraction)} to {format_percent(1 - fraction)}"
    return f", and interpolated with the initial weights ({parts}, chosen on validation pictures)"


def _sampled_logits(task: TrainingTask, trained: TrainedModel, pictures: SplitData) -> tuple[AnyFloats, Ints]:
    """Return the logits of a sample of pictures, without augmentation, with their labels."""
    rng = np.random.default_rng(task.recipe.seed)
    sample = pictures.take(np.sort(rng.permutation(len(pictures.paths))[:SAMPLED_PICTURES]))
    batches = iter_pixel_batches(sample.paths, task.preprocess, threads=task.context.threads)
    return np.concatenate([trained.reference_network(images) for images in batches]), sample.labels


def _as_probe_task(task: TrainingTask) -> TrainingTask:
    """Return the task for a probe: itself, or with the recipe's backbone at the backbone's own size."""
    if task.recipe.model.method == "probe":
        return task
    backbone = task.recipe.model.backbone if task.recipe.model.backbone in BACKBONES else "lite2"
    model = task.recipe.model.model_copy(update={"method": "probe", "backbone": backbone})
    preprocess = replace(task.preprocess, size=BACKBONE_SIZES[backbone])
    return replace(task, recipe=task.recipe.model_copy(update={"model": model}), preprocess=preprocess)


def _cached_features(task: TrainingTask) -> tuple[LabelledFeatures, LabelledFeatures] | None:
    """Return the cached features of both splits; None if some are missing and must not be computed for this."""
    compute = task.recipe.evaluate.learning_curve == "on"
    if not compute and not has_features(task.cache):
        return None
    features = []
    for split in ("train", "val"):
        pictures, cache = task.split(split), task.feature_cache(task.split_precisions[split])
        if compute:
            cache.fill(pictures.paths, pictures.keys)
        if cache.missing(pictures.keys):
            return None
        features.append(LabelledFeatures(cache.load(pictures.keys), pictures.labels))
    return features[0], features[1]


# ---- Generalisation gap: training against validation, by class -------------------------------------------------------


def generalisation_gaps(
    train_logits: AnyFloats, train_labels: Ints, val_logits: AnyFloats, val_labels: Ints, classes: Sequence[str]
) -> dict[str, Any]:
    """Return recall and loss in training and validation, of all pictures and of each class, and a sentence about them.

    Logits (n, classes), of training pictures without augmentation. A class `overfits` if the 95 % interval of its
    recall in validation is below that in training.
    """
    train, val = _PictureScores.of(train_logits, train_labels), _PictureScores.of(val_logits, val_labels)
    entries = {name: _entry(train.of_class(label), val.of_class(label)) for label, name in enumerate(classes)}
    overall = _entry(train, val)
    return {"all": overall, "classes": entries, "sentence": _describe_gaps(entries, overall)}


@dataclass(frozen=True)
class _PictureScores:
    """For each picture whether the prediction is correct, its loss and its label, (n,) each."""

    correct: Bools
    losses: Floats
    labels: Ints

    @classmethod
    def of(cls, logits: AnyFloats, labels: Ints) -> _PictureScores:
        losses = -log_softmax(logits)[np.arange(len(labels)), labels]
        return cls(logits.argmax(axis=1) == labels, losses, labels)

    def of_class(self, label: int) -> _PictureScores:
        rows = self.labels == label
        return _PictureScores(self.correct[rows], self.losses[rows], self.labels[rows])


def _entry(train: _PictureScores, val: _PictureScores) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    recalls = []
    for name, scores in (("train", train), ("val", val)):
        n = len(scores.labels)
        recalls.append(rate_metric(float(scores.correct.mean()) if n else 0.0, n))
        entry[f"{name}_pictures"] = n
        entry[f"{name}_recall"] = round(recalls[-1]["value"], 4) if n else None
        entry[f"{name}_loss"] = round(float(scores.losses.mean()), 4) if n else None
    has_both = len(train.labels) > 0 and len(val.labels) > 0
    return {**entry, "overfits": has_both and recalls[1]["high"] < recalls[0]["low"]}


def _describe_gaps(entries: dict[str, dict[str, Any]], overall: dict[str, Any]) -> str:
    train, val = (f"{100 * overall[f'{split}_recall']:.1f} %" for split in ("train", "val"))
    start = f"Accuracy is {train} on training pictures and {val} on validation pictures"
    overfitted = {name: entry for name, entry in entries.items() if entry["overfits"]}
    if not overfitted:
        return f"{start}; no class clearly overfits."
    worst = sorted(overfitted, key=lambda name: overfitted[name]["val_recall"] - overfitted[name]["train_recall"])
    names = [
        f"{name} ({100 * entries[name]['train_recall']:.0f} % and {100 * entries[name]['val_recall']:.0f} %)"
        for name in worst
    ]
    return f"{start}; most overfitted classes: {format_names(names, NAMED)}."
