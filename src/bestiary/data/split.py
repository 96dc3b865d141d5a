"""Training, validation and test: stratified by label, duplicates together, the same for the same pictures and seed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bestiary.errors import SourceError


@dataclass(frozen=True)
class Item:
    """What the split needs to know of a picture: its content, its label, and which pictures it must stay with."""

    sha256: str
    label: str
    group: int


def split(items: Sequence[Item], shares: Mapping[str, float], *, seed: int) -> list[str]:
    """Return the part of each item, in the order given: one of `shares`, or "train".

    shares: fraction by part, for example {"test": 0.15, "val": 0.15}. Every label has at least one picture in each
    part, or SourceError says which label has too few. See `deal`.
    """
    part = deal(items, shares, seed=seed)
    for label in sorted({item.label for item in items}):  # a label may have all its pictures in groups of another
        check(label, [own for item, own in zip(items, part, strict=True) if item.label == label], shares)
    return part


def deal(items: Sequence[Item], shares: Mapping[str, float], *, seed: int) -> list[str]:
    """Return the part of each item, in the order given, as `split` does, but some label may lack a part.

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
        _deal(own_groups, part, shares)
    return part


def lacking(parts: Sequence[str], shares: Mapping[str, float]) -> list[str]:
    """Return the names of the parts that none of these pictures of one label is in."""
    return [name for name in ("train", *shares) if name not in parts]


def digest(items: Sequence[Item], parts: Sequence[str]) -> str:
    """Return a short digest of who is in which part, independent of order and paths."""
    lines = sorted(f"{part} {item.label} {item.sha256}" for item, part in zip(items, parts, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _key(sha256: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {sha256}".encode(), digest_size=16).digest()


def _deal(own_groups: list[list[int]], part: list[str], shares: Mapping[str, float]) -> None:
    total = sum(len(positions) for positions in own_groups)
    left = {name: max(1, round(total * share)) for name, share in shares.items()}
    dealt: dict[str, list[list[int]]] = {name: [] for name in ("train", *shares)}
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


def check(label: str, parts: Sequence[str], shares: Mapping[str, float]) -> None:
    """Raise SourceError, naming the label and what to do, unless it has a picture in every part."""
    if missing := lacking(parts, shares):
        raise SourceError(
            f'Class "{label}" has {len(parts)} picture{"s" * (len(parts) != 1)}, too few different ones to give'
            f" {' and '.join(missing)} a part."
            " Add pictures, or leave the class out with --classes."
        )
