"""Groups of duplicates for the split, and which duplicates with different labels are label conflicts.

Near-duplicates stay in one split. But where classes differ by a small detail before a fixed background, in colour, or
in left and right, near-duplicates with different labels are the rule: neither label is wrong, and a group of all of
them would leave nothing to test with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from bestiary.array_types import Bools, Ints
from bestiary.data.copy_changes import CONTENT, TRANSFORMED, CopyChange
from bestiary.data.duplicates import connected_groups
from bestiary.text import format_names

RULE_FRACTION, RULE_PAIRS = 0.2, 3  # such pairs are the rule: this fraction of the smaller class, and so many pairs
SCENE_SIZE = 3  # pictures of each of two classes in one group: a scene, not a picture that is in both
SWALLOWED_FRACTION, MIN_FILES = 0.5, 10  # a group may hold at most this fraction of a class of so many files
MIN_GROUPS = 3  # a class needs a group for each split
DECIDING_SETTINGS = "data.near_duplicate_bits and data.near_duplicates decide what counts as near."


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups of duplicates, and the meaning of pairs with different labels.

    group: int64 (pictures,): pictures of one group stay in one split. is_conflict: bool (pairs,): one of both labels is
    wrong. notices: (check, message) of whole classes: "shared-scene", "orientation".
    """

    group: Ints
    is_conflict: Bools
    notices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _ClassPair:
    """Two classes with near-duplicates of each other.

    Of the pairs that were checked, different: those that differ in content; turned: those of which one is mirrored,
    turned or inverted; equal: the others. near, files: different files of each class that have a near-duplicate in the
    other, and in all. has_scene: several of both are one group.
    """

    labels: tuple[str, str]
    different: int
    turned: int
    equal: int
    near: tuple[int, int]
    files: tuple[int, int]
    has_scene: bool

    @property
    def is_frequent(self) -> bool:
        """Whether many pictures of one of the classes have a near-duplicate in the other."""
        return any(near >= RULE_FRACTION * files for near, files in zip(self.near, self.files, strict=True))

    @property
    def shares_scenes(self) -> bool:
        """Whether near-duplicates that differ in a detail or in colour are the rule."""
        is_rule = self.different >= RULE_PAIRS and self.different > self.equal + self.turned
        return self.is_frequent and (is_rule or (self.has_scene and self.turned <= self.equal + self.different))

    @property
    def differs_in_orientation(self) -> bool:
        """Whether mirrored or turned copies are the rule."""
        return self.is_frequent and self.turned >= RULE_PAIRS and self.turned > self.equal


def group_duplicates(pictures: pl.DataFrame, pairs: Ints) -> DuplicateGroups:
    """Return the groups of duplicates, and which pairs of different labels are conflicts.

    pictures: `label, sha256`. pairs: int64 (n, 4), as `detail_check.check_content` returns them. A group that holds
    more than half of a class of ten or more different files is formed from fewer pairs: without those that differ in
    content, or, where that is not enough, from equal files only.
    """
    collection = _Collection.of(pictures)
    class_pairs = _compare_classes(collection, pairs)
    scenes = [pair for pair in class_pairs if pair.shares_scenes]
    turned = [pair for pair in class_pairs if pair.differs_in_orientation]
    group, swallowed = _form_groups(collection, pairs, {label for pair in scenes for label in pair.labels})
    is_expected = collection.has_labels(pairs, scenes) | (pairs[:, 3] & CONTENT != 0)
    is_expected |= collection.has_labels(pairs, turned) & (pairs[:, 3] & TRANSFORMED != 0)
    mostly_different = [pair for pair in class_pairs if pair.different > pair.equal + pair.turned]
    is_expected |= collection.has_labels(pairs, mostly_different) & (pairs[:, 3] & CopyChange.UNCHECKED != 0)
    first, second = collection.labels[pairs[:, 0]], collection.labels[pairs[:, 1]]
    is_conflict = (first != second) & (collection.are_equal(pairs) | ~is_expected)
    notices = (*_scene_notices(scenes), *_orientation_notices(turned), *_swallowed_notices(swallowed))
    return DuplicateGroups(group, is_conflict, notices)


@dataclass(frozen=True)
class _Collection:
    """The pictures as numbers: labels and content, int64 (n,), and the names of the labels."""

    labels: Ints
    content: Ints
    names: list[str]

    @classmethod
    def of(cls, pictures: pl.DataFrame) -> _Collection:
        names, labels = np.unique(pictures["label"].to_list(), return_inverse=True)
        digests = [digest or f"row {row}" for row, digest in enumerate(pictures["sha256"])]
        _, content = np.unique(digests, return_inverse=True)
        return cls(labels.astype(np.int64), content.astype(np.int64), names.tolist())

    def are_equal(self, pairs: Ints) -> Bools:
        """Return which pairs are equal files, bool (pairs,)."""
        equal: Bools = self.content[pairs[:, 0]] == self.content[pairs[:, 1]]
        return equal

    def has_labels(self, pairs: Ints, class_pairs: Iterable[_ClassPair]) -> Bools:
        """Return which pairs have the labels of one of the pairs of classes, bool (pairs,)."""
        keys = [self._key(np.array([[self.names.index(label) for label in pair.labels]])) for pair in class_pairs]
        return np.isin(self._key(self.labels[pairs[:, :2]]), np.concatenate([np.zeros(0, np.int64), *keys]))

    def _key(self, ends: Ints) -> Ints:
        ordered: Ints = np.sort(ends, axis=1) @ np.array([len(self.names), 1])
        return ordered

    def count_groups(self, group: Ints) -> pl.DataFrame:
        """Return for each `label` its different `files`, its `groups`, and the files of its `largest` group."""
        rows = pl.DataFrame({"label": self.labels, "content": self.content, "group": group}).unique(
            ["label", "content"]
        )
        sizes = rows.group_by("label", "group").len()
        return sizes.group_by("label").agg(files=pl.sum("len"), groups=pl.len(), largest=pl.max("len")).sort("label")


def _compare_classes(collection: _Collection, pairs: Ints) -> list[_ClassPair]:
    """Return the pairs of classes that have near-duplicates of each other."""
    ends = np.sort(collection.labels[pairs[:, :2]], axis=1)
    is_near = (ends[:, 0] != ends[:, 1]) & ~collection.are_equal(pairs)
    if not is_near.any():
        return []
    content, turned = pl.col("changes") & int(CONTENT) != 0, pl.col("changes") & int(TRANSFORMED) != 0
    is_near &= pairs[:, 3] & CopyChange.UNCHECKED == 0  # what is known of the others decides about these
    near = pl.DataFrame({"a": ends[is_near, 0], "b": ends[is_near, 1], "changes": pairs[is_near, 3]})
    counts = near.group_by("a", "b").agg(different=content.sum(), turned=(turned & ~content).sum(), pairs=pl.len())
    group = connected_groups(len(collection.labels), pairs)
    files = pl.DataFrame({"group": group, "label": collection.labels, "content": collection.content})
    sizes = files.unique(["label", "content"]).group_by("group", "label").agg(size=pl.len())
    shared = (
        sizes.join(sizes, on="group", maintain_order="left")
        .group_by(a="label", b="label_right")
        .agg(
            in_a=pl.sum("size"),
            in_b=pl.sum("size_right"),
            scene=(pl.min_horizontal("size", "size_right") >= SCENE_SIZE).any(),
        )
    )
    totals = files.group_by("label").agg(total=pl.col("content").n_unique())
    table = counts.join(shared, on=["a", "b"], maintain_order="left")
    table = table.join(totals, left_on="a", right_on="label", maintain_order="left")
    table = table.join(totals, left_on="b", right_on="label", suffix="_b", maintain_order="left").sort("a", "b")
    return [
        _ClassPair(
            labels=(collection.names[row["a"]], collection.names[row["b"]]),
            different=row["different"],
            turned=row["turned"],
            equal=row["pairs"] - row["different"] - row["turned"],
            near=(row["in_a"], row["in_b"]),
            files=(row["total"], row["total_b"]),
            has_scene=row["scene"],
        )
        for row in table.iter_rows(named=True)
    ]


def _form_groups(collection: _Collection, pairs: Ints, in_scenes: set[str]) -> tuple[Ints, list[tuple[str, int, int]]]:
    """Return the groups, and (label, files of its largest group, files) of classes that one group would swallow."""
    count = len(collection.labels)
    group = connected_groups(count, pairs)
    before = collection.count_groups(group)
    is_swallowed = (pl.col("largest") > SWALLOWED_FRACTION * pl.col("files")) | (pl.col("groups") < MIN_GROUPS)
    swallowed = before.filter(is_swallowed & (pl.col("files") >= MIN_FILES))
    if not swallowed.height:
        return group, []
    is_equal = collection.are_equal(pairs)
    differs = pairs[:, 3] & (CONTENT | CopyChange.ROUGH) != 0
    used = is_equal | ~differs | ~_is_with(group, collection, swallowed["label"])[pairs[:, 0]]
    group = connected_groups(count, pairs[used])
    scenes = [collection.names.index(label) for label in in_scenes]
    still = collection.count_groups(group).filter((pl.col("groups") < MIN_GROUPS) | pl.col("label").is_in(scenes))
    still = still.join(swallowed, on="label", how="semi", maintain_order="left")
    used &= is_equal | ~_is_with(group, collection, still["label"])[pairs[:, 0]]
    group = connected_groups(count, pairs[used])
    rows = swallowed.select("label", "largest", "files").rows()
    return group, [(collection.names[label], largest, files) for label, largest, files in rows]


def _is_with(group: Ints, collection: _Collection, labels: pl.Series) -> Bools:
    """Return which pictures share a group with a picture of these labels, bool (n,)."""
    return np.isin(group, group[np.isin(collection.labels, labels.to_numpy())])


def _join_classes(class_pairs: Iterable[_ClassPair]) -> list[list[_ClassPair]]:
    """Return the pairs of classes, those with a class in common together."""
    sets: list[list[_ClassPair]] = []
    for pair in class_pairs:
        joined = [pairs for pairs in sets if any(set(pair.labels) & set(member.labels) for member in pairs)]
        sets = [pairs for pairs in sets if pairs not in joined] + [[pair, *(p for pairs in joined for p in pairs)]]
    return sets


def _scene_notices(scenes: Sequence[_ClassPair]) -> Iterable[tuple[str, str]]:
    """Yield one notice for each set of classes that share scenes."""
    for pairs in _join_classes(scenes):
        counts: dict[str, tuple[int, int]] = {}
        for pair in pairs:
            for label, near, files in zip(pair.labels, pair.near, pair.files, strict=True):
                counts[label] = max(counts.get(label, (0, files)), (near, files))
        yield (
            "shared-scene",
            f"Pictures of {format_names(sorted(counts))} are nearly the same as pictures of another of these classes:"
            f" {_format_counts(counts)}. If the classes differ in a detail or a colour, the labels may be correct;"
            " if all pictures are from one fixed camera, the scores are valid for its scene only. Otherwise one label"
            " of each pair is wrong.",
        )


def _orientation_notices(turned: Sequence[_ClassPair]) -> Iterable[tuple[str, str]]:
    """Yield one notice for each set of classes with mirrored, rotated or inverted copies of each other."""
    for pairs in _join_classes(turned):
        labels = sorted({label for pair in pairs for label in pair.labels})
        yield (
            "orientation",
            f"{sum(pair.turned for pair in pairs):,} pictures of {format_names(labels)} are mirrored, rotated or"
            " inverted copies of pictures of another of these classes. If the classes differ in orientation, the labels"
            " are correct, but train without mirroring: --set augment.mirror=0 (scratch and finetune), also --set"
            " model.mirror_mean=false for scratch, and neither train.balance=oversample nor probe.views for the probe."
            " Otherwise one label of each pair is wrong.",
        )


def _swallowed_notices(swallowed: Sequence[tuple[str, int, int]]) -> Iterable[tuple[str, str]]:
    if swallowed:
        counts = {label: (largest, files) for label, largest, files in swallowed}
        yield (
            "shared-scene",
            f"Many pictures are near-duplicates of others of their class: {_format_counts(counts)}. Kept in one split,"
            " they would leave too few for the other splits, so only nearly identical copies, or identical files, stay"
            " in one split. Test pictures may resemble training pictures, so the score is valid for such pictures only."
            f" {DECIDING_SETTINGS}",
        )


def _format_counts(counts: dict[str, tuple[int, int]]) -> str:
    return format_names([f"{count:,} of {total:,} of {label}" for label, (count, total) in sorted(counts.items())])
