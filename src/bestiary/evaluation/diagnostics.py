"""What a training tells: how it ended, what was learnt by heart, and whether more pictures would help.

Written to `learning_curve.json` of a run. The test split is not looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.batches.feature_matrix import gathered
from bestiary.batches.pixel_cache import pixel_batches
from bestiary.batches.preprocess import View
from bestiary.evaluation.class_gaps import class_gaps
from bestiary.evaluation.learning_curve import learning_curve
from bestiary.machine import give_back_memory
from bestiary.models.efficientnet_lite import BACKBONES, built_trunk
from bestiary.models.engine import Precision, has_openvino
from bestiary.models.logistic_regression import logits_of
from bestiary.recipe import BACKBONE_SIZES, Recipe
from bestiary.text import whole_percent
from bestiary.training.probe import Labelled, feature_store, fill_features
from bestiary.training.task import Learned, Part, Task

SHOWN_AGAIN = 512  # training pictures that a network is asked about once more, without augmentation
STRENGTH = 0.003  # of the probe's head where the recipe has none that was chosen

Logits = npt.NDArray[np.float32]


def lessons(task: Task, learned: Learned) -> dict[str, Any]:
    """Return what the training of this task tells, as plain values.

    `ended` and `gaps` always; `curve` for the probe, for other methods if the probe's features are kept already or
    `evaluate.learning_curve` is "on".
    """
    train, val = task.part("train"), task.part("val")
    probe, with_curve = _probe(task), task.recipe.evaluate.learning_curve != "off"
    features = _features(probe) if with_curve or probe is task else None
    if probe is task and features is not None:
        shown, labels = logits_of(features[0].features, learned.head.weight, learned.head.bias), train.labels
    else:
        shown, labels = _sampled_logits(task, learned, train)
    found: dict[str, Any] = {"ended": ending(task.recipe, learned)}
    found["gaps"] = class_gaps(shown, labels, learned.val_logits, val.labels, task.classes)
    if with_curve and features is not None:
        groups = [probe.pictures.filter(pl.col("split") == split)["group"].to_numpy() for split in ("train", "val")]
        strength = next((line["regularisation"] for line in learned.history if line.get("chosen")), STRENGTH)
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
        give_back_memory()
    return found


def ending(recipe: Recipe, learned: Learned) -> str:
    """Return how the training ended, in a sentence."""
    if recipe.model.method == "probe":
        return "The head was fitted at every strength of regularisation; nothing was stopped early."
    last, planned = len(learned.history), recipe.train.epochs
    best = max(learned.history, key=lambda line: (line["val_macro_f1"], -line["val_loss"]))["epoch"]
    kept = f"The weights of epoch {best:.0f} were kept{_mixture(learned.notes.get('share of the trained weights'))}."
    reason = {
        "patience": f"no better macro-F1 in {recipe.train.patience_epochs} epochs",
        "budget": "the time was up",
        "diverged": "the loss was no number any more",
    }.get(str(learned.notes.get("training ended by")))
    if reason is None:
        return f"Training went on to its end, epoch {last}. {kept}"
    return f"Training was stopped early, after epoch {last} of {planned}: {reason}. {kept}"


def _mixture(share: float | None) -> str:
    if share is None or share == 1:
        return ""
    if share == 0:
        return ", but are not in use: on validation pictures the probe that training started from was better"
    parts = f"{whole_percent(share)} to {whole_percent(1 - share)}"
    return f", and mixed by validation with those that training started from ({parts})"


def _sampled_logits(task: Task, learned: Learned, part: Part) -> tuple[Logits, npt.NDArray[np.int64]]:
    """Return the logits of a sample of pictures as they are, with their labels."""
    chosen = np.sort(np.random.default_rng(task.recipe.seed).permutation(len(part.paths))[:SHOWN_AGAIN])
    paths = [part.paths[place] for place in chosen]
    logits = [learned.reference(images) for images in pixel_batches(paths, task.view, threads=task.threads)]
    return np.concatenate(logits), part.labels[chosen]


def _probe(task: Task) -> Task:
    """Return the task as a probe would do it: itself, or with the backbone of the recipe at the backbone's own size."""
    if task.recipe.model.method == "probe":
        return task
    backbone = task.recipe.model.backbone if task.recipe.model.backbone in BACKBONES else "lite2"
    model = task.recipe.model.model_copy(update={"method": "probe", "backbone": backbone})
    view = View(BACKBONE_SIZES[backbone], task.view.fit, task.view.limits)
    recipe = task.recipe.model_copy(update={"model": model})
    return Task(
        recipe, task.pictures, task.classes, view, task.run, task.cache, task.threads, task.reporter, task.clock
    )


def _features(task: Task) -> list[Labelled] | None:
    """Return the kept features of both parts; None if some are missing and are not to be computed for this."""
    backbone, wanted = task.recipe.model.backbone, task.recipe.evaluate.learning_curve == "on"
    if not wanted and not (task.cache / "features").exists():
        return None
    trunk = built_trunk(backbone, task.cache / "trunks", task.view.size)
    fast: Precision = "bfloat16" if has_openvino() else "float32"
    found = []
    for split in ("train", "val"):
        part, precision = task.part(split), fast if split == "train" else "float32"
        store = feature_store(task.cache, trunk, task.view, precision, BACKBONES[backbone].channels)
        if wanted:
            fill_features(
                store, part.paths, part.keys, trunk, task.view,
                precision=precision, threads=task.threads, reporter=task.reporter,
            )  # fmt: skip
        if store.missing(part.keys):
            return None
        found.append(Labelled(gathered([(store, key) for key in part.keys]), part.labels))
    return found
