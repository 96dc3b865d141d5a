"""Stratified splits and folds of groups that contain several labels, such as the pictures of a camera site.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, On the stratification of multi-label data, 2011), of whole
groups: the rarest label is assigned first, each of its groups to the split that lacks it most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bestiary.array_types import Ints

MIXED_FRACTION = 0.05  # of the pictures: fewer are label conflicts, and their groups count as of one label
GROUPED_FRACTION = 0.5  # of the pictures: more do not come from duplicates
_Counts = dict[int, int]  # pictures by label


def has_mixed_groups(labels: Ints, groups: Ints) -> bool:
    """Return whether groups are to be balanced as a whole; labels, groups: int64 (n,), labels from 0.

    They are if more than MIXED_FRACTION of the pictures are in groups with several labels, or more than
    GROUPED_FRACTION in groups of two or more: then groups are no exceptions, and are not small.
    """
    if not len(labels):
        return False
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return bool((sizes[index] > 1).mean() > GROUPED_FRACTION) or has_mixed_labels(labels, groups)


def has_mixed_labels(labels: Ints, groups: Ints) -> bool:
    """Return whether more than MIXED_FRACTION of the pictures are in groups with several labels, as sites are.

    labels, groups: int64 (n,), labels from 0.
    """
    names, index = np.unique(groups, return_inverse=True)
    width = int(labels.max(initial=0)) + 1
    pairs = np.unique(index * width + labels)
    labels_of_group = np.bincount(pairs // width, minlength=len(names))
    return bool((labels_of_group[index] > 1).mean() > MIXED_FRACTION)


def split_mixed_groups(
    labels: Sequence[int], groups: Sequence[int], order: Sequence[int], split_fractions: Mapping[str, float]
) -> dict[int, str]:
    """Return the split of each group: one of `split_fractions`, or "train".

    labels, groups: of each picture, labels from 0. order: the different groups, in the order in which they are
    assigned, a random one; those larger than the smallest fraction of their label come first.
    A label that has as many groups as there are splits is in every split.
    """
    counts = _count_labels(labels, groups)
    totals = np.bincount(labels).tolist()
    fractions = {**split_fractions, "train": 1 - sum(split_fractions.values())}
    wanted = {name: [fraction] * len(totals) for name, fraction in fractions.items()}  # fraction of each label
    present: dict[str, set[int]] = {name: set() for name in fractions}
    smallest = min(fractions.values())
    groups_of: list[list[int]] = [[] for _ in totals]  # by label
    for group in order:
        for label in counts[group]:
            groups_of[label].append(group)
    splits: dict[int, str] = {}
    for label in sorted(range(len(totals)), key=totals.__getitem__):
        own = [group for group in groups_of[label] if group not in splits]
        large = smallest * totals[label]
        own.sort(key=lambda group: -counts[group][label] if counts[group][label] > large else 0)
        for position, group in enumerate(own):
            lacking = [name for name in fractions if label not in present[name]]
            names = lacking if len(own) - position <= len(lacking) else list(fractions)
            parts = [(index, count / totals[index]) for index, count in counts[group].items()]
            gains = [sum(part * min(wanted[name][index], part) for index, part in parts) for name in names]
            lacks = [wanted[name][label] for name in names]
            split = names[max(range(len(names)), key=lambda i: (gains[i], lacks[i]))]
            splits[group] = split
            for index, part in parts:
                wanted[split][index] -= part
                present[split].add(index)
    return splits


def fold_mixed_groups(labels: Ints, groups: Ints, *, folds: int, seed: int) -> Ints:
    """Return the fold of each picture, int64 (n,) in 0..folds-1; labels, groups: int64 (n,), labels from 0.

    Each group, large ones first, goes to the fold that has the fewest pictures of its labels, each by the size of its
    class.
    """
    counts = _count_labels(labels.tolist(), groups.tolist())
    totals = np.bincount(labels).tolist()
    fold_counts, fold_sizes = [[0.0] * folds for _ in totals], [0] * folds  # by label, fractions of it; all pictures
    names = np.random.default_rng(seed).permutation(list(counts)).tolist()
    names.sort(key=lambda name: -sum(counts[name].values()))
    assigned: dict[int, int] = {}
    for name in names:
        parts = [(fold_counts[label], count / totals[label]) for label, count in counts[name].items()]
        loads = [sum(part * row[fold] for row, part in parts) for fold in range(folds)]
        fold = min(range(folds), key=lambda fold: (loads[fold], fold_sizes[fold]))
        assigned[name] = fold
        for row, part in parts:
            row[fold] += part
        fold_sizes[fold] += sum(counts[name].values())
    return np.array([assigned[group] for group in groups.tolist()], np.int64)


def _count_labels(labels: Sequence[int], groups: Sequence[int]) -> dict[int, _Counts]:
    counts: dict[int, _Counts] = {}
    for label, group in zip(labels, groups, strict=True):
        own = counts.setdefault(group, {})
        own[label] = own.get(label, 0) + 1
    return counts
