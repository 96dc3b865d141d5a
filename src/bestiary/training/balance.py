"""Class balancing: oversampling, class weights and logit adjustment, from the labels of the training split alone.

| balance | order of an epoch | weight in the loss | offset on the logits |
|---|---|---|---|
| none | every picture once | 1 | 0 |
| class-weights | every picture once | inverse of the class's share | 0 |
| oversample | small classes repeated up to the largest | 1 | 0 |
| balanced-sampler | as long as before, classes equally often | 1 | 0 |
| logit-adjusted | every picture once | 1 | log of the class's share (Menon et al. 2021) |

Labels are int64 (n,), 0 to classes - 1, each class at least once.
"""

from __future__ import annotations

import numpy as np

from bestiary.array_types import Float32s, Ints
from bestiary.errors import RecipeError, SourceError, did_you_mean
from bestiary.recipe_sections import Balance

BALANCES: tuple[Balance, ...] = ("none", "class-weights", "oversample", "balanced-sampler", "logit-adjusted")


def sample_epoch_order(labels: Ints, classes: int, balance: Balance, *, seed: int, epoch: int) -> Ints:
    """Return the indices int64 of the pictures of an epoch, by class where classes are balanced, not shuffled yet.

    Its length is the same in every epoch. Raises RecipeError for an unknown balance, SourceError for an empty class.
    """
    counts = class_counts(labels, classes, balance)
    if balance == "oversample":
        targets = np.full(classes, counts.max())
    elif balance == "balanced-sampler":
        # The classes that get the odd pictures move on with the epoch, so that in the long run all get equally many.
        targets = len(labels) // classes + (np.roll(np.arange(classes), epoch) < len(labels) % classes)
    else:
        return np.arange(len(labels), dtype=np.int64)
    # The third number keeps these draws apart from the shuffle, which is seeded with (seed, epoch).
    rng = np.random.default_rng((seed, epoch, 1))
    members = [np.flatnonzero(labels == number) for number in range(classes)]
    return np.concatenate(
        [_repeat_and_sample(rows, int(target), rng) for rows, target in zip(members, targets, strict=True)]
    )


def class_weights(labels: Ints, classes: int, balance: Balance) -> Float32s:
    """Return the weight of each class in the loss, float32 (classes,); its mean over the pictures is 1."""
    counts = class_counts(labels, classes, balance)
    if balance != "class-weights":
        return np.ones(classes, dtype=np.float32)
    return (len(labels) / (classes * counts)).astype(np.float32)


def logit_adjustment(labels: Ints, classes: int, balance: Balance) -> Float32s:
    """Return the offsets of the logits in training, float32 (classes,); prediction has none."""
    counts = class_counts(labels, classes, balance)
    if balance != "logit-adjusted":
        return np.zeros(classes, dtype=np.float32)
    return np.log(counts / len(labels)).astype(np.float32)


def class_counts(labels: Ints, classes: int, balance: Balance) -> Ints:
    """Return the number of pictures per class, int64 (classes,). Raises as `sample_epoch_order` does."""
    if balance not in BALANCES:
        raise RecipeError(f'Unknown setting train.balance = "{balance}". {did_you_mean(balance, BALANCES)}')
    counts = np.bincount(labels, minlength=classes)
    if len(counts) != classes or counts.min() == 0:
        raise SourceError(
            f"The training split has pictures of classes {sorted(set(labels.tolist()))}; expected every class from 0 "
            f"to {classes - 1}. Split again, or leave the empty class out with --classes."
        )
    return counts.astype(np.int64)


def _repeat_and_sample(rows: Ints, target: int, rng: np.random.Generator) -> Ints:
    """Return `target` of these rows: each the same number of times, and a random draw without repeats for the rest."""
    whole = np.tile(rows, target // len(rows))
    return np.concatenate([whole, rng.permutation(rows)[: target % len(rows)]])
