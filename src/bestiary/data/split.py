"""Training, validation and test: stratified by label, duplicates together, the same for the same pictures and seed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bestiary.array_types import Ints
from bestiary.errors import SourceError


@dataclass(frozen=True)
class SplitItem:
    """What the split needs to know of a picture: its content, its label, and which pictures it must stay with."""

    sha256: str
    label: str
    group: int


def stratified_group_split(items: Sequence[SplitItem], split_fractions: Mapping[str, float], *, seed: int) -> list[str]:
    """Return the part of each item, in the order given: one of `split_fractions`, or "train".

    shares: fraction by part, for example {"test": 0.15, "val": 0.15}. Every label has at least one picture in each
    part, or SourceError says which label has too few. See `stratified_group_split_unchecked`.
    """
    part = stratified_group_split_unchecked(items, split_fractions, seed=seed)
    for label in sorted({item.label for item in items}):  # a label may have all its pictures in groups of another
        require_all_splits(
            label, [own for item, own in zip(items, part, strict=True) if item.label == label], split_fractions
        )
    return part


def stratified_group_split_unchecked(
    items: Sequence[SplitItem], split_fractions: Mapping[str, float], *, seed: int
) -> list[str]:
    """Return the part of each item, in the order given, as `stratified_group_split` does, but some label may lack a part.

    Groups are never divided. Within each label, groups are ordered by a hash of their content and the seed, so that
    neither the order of the files nor their names or folders matter, and dealt out to each part in turn until it has
    its share; a group too large for what is left of a share goes to training. Where that leaves a part with nothing,
    it gets the smallest group that training, or else another part, can spare.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for position, item in enumerate(items):
        members[item.group].append(position)
    by_label: dict[str, list[list[int]]] = defaultdict(list)
    for positions in members.values():
        positions.sort(key=lambda position: items[position].sha256)
        by_label[min(items[position].label for position in positions)].append(positions)
    part = ["train"] * len(items)
    for own_groups in by_label.values():
        own_groups.sort(key=lambda positions: _key(items[positions[0]].sha256, seed))
        _assign_groups(own_groups, part, split_fractions)
    return part


def missing_splits(splits: Sequence[str], split_fractions: Mapping[str, float]) -> list[str]:
    """Return the names of the parts that none of these pictures of one label is in."""
    return [name for name in ("train", *split_fractions) if name not in splits]


def split_digest(items: Sequence[SplitItem], splits: Sequence[str]) -> str:
    """Return a short digest of who is in which part, independent of order and paths."""
    lines = sorted(f"{part} {item.label} {item.sha256}" for item, part in zip(items, splits, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _key(sha256: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {sha256}".encode(), digest_size=16).digest()


def _assign_groups(own_groups: list[list[int]], part: list[str], split_fractions: Mapping[str, float]) -> None:
    total = sum(len(positions) for positions in own_groups)
    left = {name: max(1, round(total * share)) for name, share in split_fractions.items()}
    dealt: dict[str, list[list[int]]] = {name: [] for name in ("train", *split_fractions)}
    for positions in own_groups:
        name = next((name for name, room in left.items() if len(positions) <= room), "train")
        dealt[name].append(positions)
        if name != "train":
            left[name] -= len(positions)
    for name in dealt:
        donor = max(dealt.values(), key=len) if len(dealt["train"]) < 2 else dealt["train"]
        if not dealt[name] and len(donor) > 1:  # every group was larger than this share, or the shares took all
            dealt[name].append(donor.pop(_smallest(donor)))
    for name, groups in dealt.items():
        for positions in groups:
            for position in positions:
                part[position] = name


def _smallest(groups: list[list[int]]) -> int:
    return min(range(len(groups)), key=lambda number: len(groups[number]))


def require_all_splits(label: str, splits: Sequence[str], split_fractions: Mapping[str, float]) -> None:
    """Raise SourceError, naming the label and what to do, unless it has a picture in every part."""
    if missing := missing_splits(splits, split_fractions):
        raise SourceError(
            f'Class "{label}" has {len(splits)} picture{"s" * (len(splits) != 1)}, too few different ones to give'
            f" {' and '.join(missing)} a part."
            " Add pictures, or leave the class out with --classes."
        )


SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validation", "valid", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
ENDINGS = ("set", "_set", "-set", " set")


def parse_split_name(name: str) -> str | None:
    """Return the part of a split that is meant by a name, or None if it is no such name.

    >>> parse_split_name("Testing"), parse_split_name("training_set"), parse_split_name("trainspotting")
    ('test', 'train', None)
    """
    lower = name.strip().lower()
    stems = [lower, *(lower.removesuffix(ending) for ending in ENDINGS)]
    return next((SPLIT_NAMES[stem] for stem in stems if stem in SPLIT_NAMES), None)


def stratified_group_folds(labels: Ints, groups: Ints, *, folds: int, seed: int) -> Ints:
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


def stratified_group_folds_by_content(items: Sequence[SplitItem], *, folds: int, seed: int) -> list[int]:
    """Return the fold of each item, in the order given, from 0.

    As `stratified_group_folds`, by content alone: neither the order of the files nor their names or folders matter.
    """
    order = sorted(range(len(items)), key=lambda position: (items[position].sha256, items[position].label))
    number: dict[int, int] = {}
    groups = [number.setdefault(items[position].group, len(number)) for position in order]
    place = {label: at for at, label in enumerate(sorted({item.label for item in items}))}
    labels = [place[items[position].label] for position in order]
    dealt = stratified_group_folds(np.array(labels, np.int64), np.array(groups, np.int64), folds=folds, seed=seed)
    return [fold for _, fold in sorted(zip(order, dealt.tolist(), strict=True))]
