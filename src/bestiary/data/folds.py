"""Folds for cross-validation: duplicates together, every label spread over them as evenly as can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bestiary.data.split import Item

Integers = npt.NDArray[np.int64]


def deal_folds(labels: Integers, groups: Integers, *, folds: int, seed: int) -> Integers:
    """Return the fold of each picture, int64 (n,) in 0..folds-1.

    labels, groups: int64 (n,), labels from 0. Groups are never divided. In an order drawn from the seed, each goes
    where its label (that of its first picture) is rarest so far: a label with as many groups as folds is in all.
    """
    _, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    own, dealt = labels[first], np.zeros(len(first), np.int64)
    of_label, of_all = np.zeros((int(labels.max(initial=0)) + 1, folds)), np.zeros(folds)
    for group in np.random.default_rng(seed).permutation(len(first)):
        fewest = np.lexsort((of_all, of_label[own[group]]))[0]
        dealt[group] = fewest
        of_label[own[group], fewest] += sizes[group]
        of_all[fewest] += sizes[group]
    return dealt[group_of]


def content_folds(items: Sequence[Item], *, folds: int, seed: int) -> list[int]:
    """Return the fold of each item, in the order given, from 0.

    As `deal_folds`, by content alone: neither the order of the files nor their names or folders matter.
    """
    order = sorted(range(len(items)), key=lambda position: (items[position].sha256, items[position].label))
    number: dict[int, int] = {}
    groups = [number.setdefault(items[position].group, len(number)) for position in order]
    place = {label: at for at, label in enumerate(sorted({item.label for item in items}))}
    labels = [place[items[position].label] for position in order]
    dealt = deal_folds(np.array(labels, np.int64), np.array(groups, np.int64), folds=folds, seed=seed)
    return [fold for _, fold in sorted(zip(order, dealt.tolist(), strict=True))]
