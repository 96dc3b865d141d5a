"""Folds for cross-validation: duplicates together, every label spread over them as evenly as can be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
