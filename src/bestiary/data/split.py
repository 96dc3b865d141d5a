"""Stratified group split, stable when pictures are added (scikit-learn's StratifiedGroupKFold is not), and folds.

Pictures are ordered by a hash of their content and the seed, and duplicates stay together: the same pictures and seed
give the same split, whatever the order, names and folders of the files.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from bestiary.array_types import Ints
from bestiary.data.mixed_groups import fold_mixed_groups, has_mixed_groups, split_mixed_groups
from bestiary.errors import SourceError

MORE_GROUPS = (  # advice in messages
    "Add pictures of other groups, leave the class out with --classes, or group by less: --group none keeps only"
    " duplicates together."
)


@dataclass(frozen=True, slots=True)
class SplitItem:
    """What the split depends on: the content hash of a picture, its label, and its group of duplicates."""

    sha256: str
    label: str
    group: int


def stratified_group_split(items: Sequence[SplitItem], split_fractions: Mapping[str, float], *, seed: int) -> list[str]:
    """Return the split of each item, in the order given: one of `split_fractions`, or "train".

    split_fractions: fraction by split, for example {"test": 0.15, "val": 0.15}. Every label has at least one picture in
    each split, or SourceError names the label that has too few. See `stratified_group_split_unchecked`.
    """
    splits = stratified_group_split_unchecked(items, split_fractions, seed=seed)
    by_label, groups = defaultdict(list), defaultdict(set)
    for item, split in zip(items, splits, strict=True):
        by_label[item.label].append(split)
        groups[item.label].add(item.group)
    for label in sorted(by_label):  # all pictures of a label may be in groups of another label
        require_all_splits(label, by_label[label], len(groups[label]), split_fractions)
    return splits


def stratified_group_split_unchecked(
    items: Sequence[SplitItem], split_fractions: Mapping[str, float], *, seed: int
) -> list[str]:
    """Return the split of each item as `stratified_group_split` does, but a label may lack a split.

    Groups are never divided. Within each label, groups are ordered by a hash of their content and the seed, and
    assigned to each split in turn until it has its fraction; a group larger than the remainder goes to training. A
    split that stays empty gets the smallest group that training, or else another split, can spare. Where groups have
    several labels, such as those of camera sites, all labels are balanced: see `mixed_groups`.
    """
    labels, groups_of = _label_indices(items), [item.group for item in items]
    if has_mixed_groups(np.array(labels, np.int64), np.array(groups_of, np.int64)):
        first = {item.group: item.sha256 for item in sorted(items, key=lambda item: item.sha256, reverse=True)}
        order = sorted(first, key=lambda group: _key(first[group], seed))
        split_of = split_mixed_groups(labels, groups_of, order, split_fractions)
        return [split_of[group] for group in groups_of]
    members: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        members[item.group].append(index)
    by_label: dict[str, list[list[int]]] = defaultdict(list)
    for group in members.values():
        group.sort(key=lambda index: items[index].sha256)
        by_label[min(items[index].label for index in group)].append(group)
    splits = ["train"] * len(items)
    for groups in by_label.values():
        groups.sort(key=lambda group: _key(items[group[0]].sha256, seed))
        for split, assigned in _assign_groups(groups, split_fractions).items():
            for index in chain.from_iterable(assigned):
                splits[index] = split
    return splits


def _label_indices(items: Sequence[SplitItem]) -> list[int]:
    names = {name: index for index, name in enumerate(sorted({item.label for item in items}))}
    return [names[item.label] for item in items]


def missing_splits(splits: Collection[str], split_fractions: Mapping[str, float]) -> list[str]:
    """Return the names of the splits that contain none of these pictures of one label."""
    return [name for name in ("train", *split_fractions) if name not in splits]


def require_all_splits(
    label: str,
    splits: Sequence[str],
    groups: int,
    split_fractions: Mapping[str, float],
    *,
    has_groups: bool = False,
) -> None:
    """Raise SourceError, naming the label and the cause, unless it has a picture in every split.

    groups: among these pictures, of duplicates; with `has_groups`, also of given groups and sites.
    """
    if missing := missing_splits(splits, split_fractions):
        pictures = f"{len(splits):,} picture{'s' * (len(splits) != 1)}"
        lacks = f"for the {' and '.join(missing)} split"
        if groups == len(splits):
            raise SourceError(
                f'Class "{label}" has {pictures}, too few {lacks}. Add pictures, or leave the class out with --classes.'
            )
        counted = f"{groups:,} group{'s' * (groups != 1)}"
        if has_groups:
            raise SourceError(
                f'Class "{label}" has {pictures} in {counted}, too few {lacks}, since no group is divided: no given'
                f" group (--group), no site (--site) and no duplicates. {MORE_GROUPS}"
            )
        raise SourceError(
            f'Class "{label}" has {pictures}, but many are duplicates of each other: {counted} of duplicates, too few'
            f" {lacks}, since duplicates stay in one split. Add other pictures, or leave the class out with --classes."
            " If they only resemble each other, --set data.near_duplicates=false keeps only identical files together,"
            " and data.near_duplicate_bits sets the distance of near-duplicates."
        )


def split_digest(items: Sequence[SplitItem], splits: Sequence[str]) -> str:
    """Return a short digest of the split, independent of order and paths."""
    lines = sorted(f"{split} {item.label} {item.sha256}" for item, split in zip(items, splits, strict=True))
    digest = hashlib.sha256()
    for number, line in enumerate(lines):  # one text of all lines, and its bytes, would take as much memory again
        digest.update(f"\n{line}".encode() if number else line.encode())
    return digest.hexdigest()[:16]


def _key(sha256: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {sha256}".encode(), digest_size=16).digest()


def _assign_groups(groups: list[list[int]], split_fractions: Mapping[str, float]) -> dict[str, list[list[int]]]:
    """Return the groups of one label by split."""
    total = sum(len(group) for group in groups)
    room = {name: max(1, round(total * fraction)) for name, fraction in split_fractions.items()}
    assigned: dict[str, list[list[int]]] = {name: [] for name in ("train", *split_fractions)}
    for group in groups:
        name = next((name for name, left in room.items() if len(group) <= left), "train")
        assigned[name].append(group)
        if name != "train":
            room[name] -= len(group)
    for split in assigned.values():
        donor = max(assigned.values(), key=len) if len(assigned["train"]) < 2 else assigned["train"]
        if not split and len(donor) > 1:  # every group was larger than this fraction, or the fractions took all
            smallest = min(donor, key=len)
            donor.remove(smallest)
            split.append(smallest)
    return assigned


SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validation", "valid", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def parse_split_name(name: str) -> str | None:
    """Return the split that a folder name or table cell means, or None.

    >>> parse_split_name("Testing"), parse_split_name("training_set"), parse_split_name("trainspotting")
    ('test', 'train', None)
    """
    lower = name.strip().lower()
    stems = [lower, *(lower.removesuffix(ending) for ending in ("set", "_set", "-set", " set"))]
    return next((SPLIT_NAMES[stem] for stem in stems if stem in SPLIT_NAMES), None)


def stratified_group_folds(labels: Ints, groups: Ints, *, folds: int, seed: int) -> Ints:
    """Return the fold of each picture, int64 (n,) in 0..folds-1.

    labels, groups: int64 (n,), labels from 0. Groups are never divided. In a random order, each group goes to the fold
    where its label (that of its first picture) is rarest so far: a label with as many groups as folds is in all. Where
    groups have several labels, all of them count: see `mixed_groups`.
    """
    if has_mixed_groups(labels, groups):
        return fold_mixed_groups(labels, groups, folds=folds, seed=seed)
    _, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    group_labels, assigned = labels[first], np.zeros(len(first), np.int64)
    label_counts, fold_sizes = np.zeros((int(labels.max(initial=0)) + 1, folds)), np.zeros(folds)
    for group in np.random.default_rng(seed).permutation(len(first)):
        fold = np.lexsort((fold_sizes, label_counts[group_labels[group]]))[0]
        assigned[group] = fold
        label_counts[group_labels[group], fold] += sizes[group]
        fold_sizes[fold] += sizes[group]
    return assigned[group_of]


def stratified_group_folds_by_content(items: Sequence[SplitItem], *, folds: int, seed: int) -> list[int]:
    """Return the fold of each item, in the order given, from 0: `stratified_group_folds` of the items by content hash.

    Neither the order of the files nor their names or folders matter.
    """
    order = sorted(range(len(items)), key=lambda index: (items[index].sha256, items[index].label))
    number: dict[int, int] = {}
    groups = np.array([number.setdefault(items[index].group, len(number)) for index in order], np.int64)
    label_indices = _label_indices(items)
    labels = np.array([label_indices[index] for index in order], np.int64)
    assigned = np.empty(len(items), np.int64)
    assigned[order] = stratified_group_folds(labels, groups, folds=folds, seed=seed)
    return list(map(int, assigned))
