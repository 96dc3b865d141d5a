import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bestiary.data.mixed_groups import fold_mixed_groups
from bestiary.data.split import (
    SplitItem,
    parse_split_name,
    require_all_splits,
    split_digest,
    stratified_group_folds,
    stratified_group_folds_by_content,
    stratified_group_split,
)
from bestiary.errors import SourceError

SHARES = {"test": 0.15, "val": 0.15}


def item(number: int, label: str = "cat", group: int | None = None) -> SplitItem:
    return SplitItem(hashlib.sha256(str(number).encode()).hexdigest(), label, number if group is None else group)


def many() -> list[SplitItem]:
    """600 cats and 60 dogs; every fifth picture is one of a pair, and there is a group of nine."""
    cats = [item(number, "cat", number - number % 5 // 4) for number in range(600)]
    dogs = [item(number, "dog", 1000 if number < 1009 else number) for number in range(1000, 1060)]
    return cats + dogs


def parts_by_digest(items: list[SplitItem], seed: int = 0) -> dict[str, str]:
    return {one.sha256: part for one, part in zip(items, stratified_group_split(items, SHARES, seed=seed), strict=True)}


def test_shares_are_kept_within_each_label() -> None:
    items = many()
    counts = Counter(
        (one.label, part) for one, part in zip(items, stratified_group_split(items, SHARES, seed=0), strict=True)
    )
    assert counts["cat", "test"] == pytest.approx(90, abs=1)
    assert counts["cat", "val"] == pytest.approx(90, abs=1)
    assert counts["dog", "test"] == pytest.approx(9, abs=1)
    assert counts["dog", "val"] == pytest.approx(9, abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_never_straddle(seed: int) -> None:
    items = many()
    found = defaultdict(set)
    for one, part in zip(items, stratified_group_split(items, SHARES, seed=seed), strict=True):
        found[one.group].add(part)
    assert {len(parts) for parts in found.values()} == {1}
    assert len(found) < len(items) - 100


def test_the_order_of_the_files_and_the_numbers_of_groups_do_not_matter() -> None:
    items = many()
    shuffled = [replace(one, group=-7 * one.group) for one in items]
    random.shuffle(shuffled)
    assert [one.sha256 for one in shuffled] != [one.sha256 for one in items]
    assert parts_by_digest(shuffled) == parts_by_digest(items)


def test_a_class_more_or_less_does_not_move_the_others() -> None:
    alone = parts_by_digest([one for one in many() if one.label == "dog"])
    together = parts_by_digest(many())
    assert alone == {sha256: together[sha256] for sha256 in alone}


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    one, other = parts_by_digest(many(), 1), parts_by_digest(many(), 2)
    assert one == parts_by_digest(many(), 1)
    moved = sum(one[sha256] != part for sha256, part in other.items())
    assert moved > 100


@given(
    groups=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 25)), min_size=1, max_size=80),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_label_has_a_picture_in_every_part_or_is_named(groups: list[tuple[int, int]], seed: int) -> None:
    items = [item(number, "abc"[label], group) for number, (label, group) in enumerate(groups)]
    try:
        parts = stratified_group_split(items, SHARES, seed=seed)
    except SourceError as error:
        assert str(error).startswith(('Class "a" has ', 'Class "b" has ', 'Class "c" has '))  # noqa: PT017
        return
    found = {(one.label, part) for one, part in zip(items, parts, strict=True)}
    assert found == {(one.label, part) for one in items for part in ("train", "val", "test")}
    assert len({(one.group, part) for one, part in zip(items, parts, strict=True)}) == len({g for _, g in groups})


@st.composite
def enough(draw: st.DrawFn) -> list[SplitItem]:
    """One to three labels, each with three to twelve groups of one to eight pictures, some of them equal files."""
    items: list[SplitItem] = []
    for label in "abc"[: draw(st.integers(1, 3))]:
        for size in draw(st.lists(st.integers(1, 8), min_size=3, max_size=12)):
            group, equal = len(items), draw(st.booleans())
            items += [replace(item(group if equal else len(items) + at, label), group=group) for at in range(size)]
    return items


@given(items=enough(), seed=st.integers(0, 2**32 - 1), shares=st.tuples(st.floats(0.01, 0.45), st.floats(0.01, 0.44)))
def test_where_the_numbers_allow_every_label_has_its_share_of_every_part(
    items: list[SplitItem], seed: int, shares: tuple[float, float]
) -> None:
    asked = {"test": shares[0], "val": shares[1]}
    parts = stratified_group_split(items, asked, seed=seed)
    for group in {one.group for one in items}:
        assert len({part for one, part in zip(items, parts, strict=True) if one.group == group}) == 1
    for label in {one.label for one in items}:
        own = [(one.group, part) for one, part in zip(items, parts, strict=True) if one.label == label]
        largest = max(Counter(group for group, _ in own).values())
        counts = Counter(part for _, part in own)
        assert set(counts) == {"train", "val", "test"}
        for name, share in asked.items():
            assert abs(counts[name] - share * len(own)) <= largest + 0.5  # half a picture is lost by rounding


@given(items=enough(), seed=st.integers(0, 2**32 - 1), order=st.randoms(use_true_random=False))
def test_the_split_knows_content_only(items: list[SplitItem], seed: int, order: random.Random) -> None:
    """Files in another order, under other names, in groups with other numbers: the same content in the same part."""
    shuffled = [replace(one, group=10_000 - one.group) for one in items]
    order.shuffle(shuffled)
    assert parts_by_digest(shuffled, seed) == parts_by_digest(items, seed)


@given(items=enough(), seed=st.integers(0, 2**32 - 1), order=st.randoms(use_true_random=False), folds=st.integers(2, 6))
def test_folds_know_content_only_and_never_divide_a_group(
    items: list[SplitItem], seed: int, order: random.Random, folds: int
) -> None:
    dealt = stratified_group_folds_by_content(items, folds=folds, seed=seed)
    assert set(dealt) <= set(range(folds))
    assert len({(one.group, fold) for one, fold in zip(items, dealt, strict=True)}) == len({one.group for one in items})
    for label in {one.label for one in items}:
        own = [(one.group, fold) for one, fold in zip(items, dealt, strict=True) if one.label == label]
        assert len({fold for _, fold in own}) == min(folds, len({group for group, _ in own}))
    shuffled = [replace(one, group=10_000 - one.group) for one in items]
    order.shuffle(shuffled)
    again = dict(
        zip(
            (one.sha256 for one in shuffled),
            stratified_group_folds_by_content(shuffled, folds=folds, seed=seed),
            strict=True,
        )
    )
    assert again == dict(zip((one.sha256 for one in items), dealt, strict=True))


def test_groups_larger_than_every_share_are_spread_all_the_same() -> None:
    items = [item(number, "cat", number // 5) for number in range(15)]
    assert Counter(stratified_group_split(items, SHARES, seed=0)) == {"train": 5, "test": 5, "val": 5}
    lopsided = [item(number, "cat", max(number, 9)) for number in range(12)]  # one group of ten, two of one
    assert Counter(stratified_group_split(lopsided, SHARES, seed=0)) == {"train": 10, "test": 1, "val": 1}


def test_too_few_different_pictures_are_told_with_the_class_and_what_to_do() -> None:
    enough = [item(number) for number in range(30)]
    alike = [item(number, "otter", 100) for number in range(100, 112)]
    message = (
        r'Class "otter" has 12 pictures, but many are duplicates of each other: 1 group of duplicates, too few for the'
        r" test and val split, .* --set data\.near_duplicates=false"
    )
    with pytest.raises(SourceError, match=message):
        stratified_group_split(enough + alike, SHARES, seed=0)
    with pytest.raises(SourceError, match=r"12 pictures in 1 group, too few for the test .* no group is divided"):
        require_all_splits("otter", ["train"] * 12, 1, SHARES, has_groups=True)
    with pytest.raises(SourceError, match=r'Class "otter" has 1 picture, .* for the train and val split'):
        stratified_group_split([*enough, item(200, "otter")], SHARES, seed=0)
    assert sorted(stratified_group_split([item(number) for number in range(3)], SHARES, seed=0)) == [
        "test",
        "train",
        "val",
    ]


@pytest.mark.parametrize(
    ("splits", "groups", "has_groups", "message"),
    [
        (
            ["test"],
            1,
            False,
            'Class "otter" has 1 picture, too few for the train and val split.'
            " Add pictures, or leave the class out with --classes.",
        ),
        (
            ["train", "train"],
            1,
            True,
            'Class "otter" has 2 pictures in 1 group, too few for the test and val split, since no group is divided: no'
            " given group (--group), no site (--site) and no duplicates."
            " Add pictures of other groups, leave the class out with --classes, or group by less:"
            " --group none keeps only duplicates together.",
        ),
        (
            ["train", "test"] * 600,
            2,
            False,
            'Class "otter" has 1,200 pictures, but many are duplicates of each other: 2 groups of duplicates, too few'
            " for the val split, since duplicates stay in one split. Add other pictures, or leave the class out with"
            " --classes. If they only resemble each other, --set data.near_duplicates=false keeps only identical files"
            " together, and data.near_duplicate_bits sets the distance of near-duplicates.",
        ),
    ],
)
def test_the_messages_about_too_few_pictures_in_full(
    splits: list[str], groups: int, has_groups: bool, message: str
) -> None:
    with pytest.raises(SourceError) as refused:
        require_all_splits("otter", splits, groups, SHARES, has_groups=has_groups)
    assert str(refused.value) == message


def test_pictures_on_their_own_are_of_no_group_in_the_message() -> None:
    with pytest.raises(SourceError) as by_default:
        require_all_splits("otter", ["train"] * 3, 1, SHARES)
    assert "duplicates of each other: 1 group of duplicates" in str(by_default.value)
    require_all_splits("otter", ["train", "val", "test"], 1, SHARES)


def test_a_label_that_lies_only_in_the_groups_of_another_is_checked_as_well() -> None:
    cats = [item(number, "cat") for number in range(40)]
    copies = [item(1000 + number, "dog", number) for number in range(3)]
    for seed in range(20):
        try:
            parts = stratified_group_split(cats + copies, SHARES, seed=seed)
        except SourceError as error:
            assert str(error).startswith('Class "dog" has 3 pictures')  # noqa: PT017
        else:
            assert sorted(parts[40:]) == ["test", "train", "val"]


def test_a_group_larger_than_a_share_goes_to_training() -> None:
    items = [item(number, "cat", 0 if number < 30 else number) for number in range(100)]
    for seed in range(10):
        parts = stratified_group_split(items, SHARES, seed=seed)
        assert set(parts[:30]) == {"train"}
        assert Counter(parts) == {"train": 70, "test": 15, "val": 15}


def test_one_part_alone_can_be_taken_from_training() -> None:
    parts = stratified_group_split([item(number) for number in range(100)], {"val": 0.2}, seed=0)
    assert Counter(parts) == {"train": 80, "val": 20}


def test_the_digest_depends_on_who_is_where_and_on_nothing_else() -> None:
    items = many()
    parts = stratified_group_split(items, SHARES, seed=0)
    both = list(zip(items, parts, strict=True))
    random.shuffle(both)
    assert split_digest([one for one, _ in both], [part for _, part in both]) == split_digest(items, parts)
    moved = ["val" if part == "test" else part for part in parts]
    assert split_digest(items, moved) != split_digest(items, parts)
    assert split_digest([replace(items[0], label="dog"), *items[1:]], parts) != split_digest(items, parts)


def test_the_split_is_the_same_in_every_version_of_bestiary() -> None:
    """Whoever changes this value changes everybody's test pictures: say so in the changelog."""
    assert split_digest(many(), stratified_group_split(many(), SHARES, seed=0)) == "2a619191424f7650"


def by_hash(items: list[SplitItem], seed: int) -> list[int]:
    """The positions of the items in the order in which they are assigned, by hashlib."""
    keys = [hashlib.blake2b(f"{seed} {one.sha256}".encode(), digest_size=16).digest() for one in items]
    return sorted(range(len(items)), key=keys.__getitem__)


@pytest.mark.parametrize("seed", [0, 7])
def test_test_and_val_are_the_first_pictures_by_the_hash_of_content_and_seed(seed: int) -> None:
    items = [item(number) for number in range(10)]
    parts = stratified_group_split(items, {"test": 0.2, "val": 0.3}, seed=seed)
    assert [parts[at] for at in by_hash(items, seed)] == ["test"] * 2 + ["val"] * 3 + ["train"] * 5


@pytest.mark.parametrize("seed", [0, 7])
def test_a_group_is_ordered_by_the_first_of_its_hashes(seed: int) -> None:
    """Two pairs among twelve pictures: a pair is assigned where the smaller content hash of its two pictures is due."""
    groups = [0, 0, 2, 2, *range(4, 12)]
    items = [item(number, "cat", group) for number, group in enumerate(groups)]
    first: dict[int, SplitItem] = {}
    for one in sorted(items, key=lambda one: one.sha256):
        first.setdefault(one.group, one)
    heads, room, expected = list(first.values()), {"test": 3, "val": 3}, dict[int, str]()
    for at in by_hash(heads, seed):
        group, size = heads[at].group, groups.count(heads[at].group)
        expected[group] = next((name for name, left in room.items() if size <= left), "train")
        if expected[group] != "train":
            room[expected[group]] -= size
    parts = stratified_group_split(items, {"test": 0.25, "val": 0.25}, seed=seed)
    assert parts == [expected[one.group] for one in items]


def test_a_small_class_gives_one_picture_to_each_part() -> None:
    """0.15 of five pictures are 0.75, of three 0.45: one picture is the least."""
    for pictures in (3, 5):
        parts = stratified_group_split([item(number) for number in range(pictures)], SHARES, seed=0)
        assert Counter(parts) == {"train": pictures - 2, "test": 1, "val": 1}


@pytest.mark.parametrize("seed", range(8))
def test_an_empty_part_gets_the_smallest_group_of_training(seed: int) -> None:
    """Ten cats in groups of 3, 3, 2 and 2: one group fills the test split, and none is as small as the one of val."""
    cats = [item(number, "cat", group) for number, group in enumerate([0] * 3 + [3] * 3 + [6] * 2 + [8] * 2)]
    dogs = [item(number, "dog") for number in range(100, 130)]
    parts = stratified_group_split(cats + dogs, {"test": 0.3, "val": 0.05}, seed=seed)
    counts = Counter(parts[:10])
    assert counts["val"] == 2
    assert counts["test"] in (2, 3)
    pairs = stratified_group_split(
        [item(number, "cat", number - number % 2) for number in range(10)] + dogs, {"test": 0.6, "val": 0.05}, seed=seed
    )
    assert Counter(pairs[:10]) == {"test": 6, "train": 2, "val": 2}  # of the two groups of training, not of the three


@pytest.mark.parametrize("seed", range(8))
def test_without_training_pictures_the_part_with_the_most_groups_gives_one(seed: int) -> None:
    """0.6 of five pictures are three, 0.4 are two."""
    parts = stratified_group_split([item(number) for number in range(5)], {"test": 0.6, "val": 0.4}, seed=seed)
    assert Counter(parts) == {"train": 1, "test": 2, "val": 2}


def test_a_class_with_too_few_pictures_has_no_duplicates_in_its_message() -> None:
    cats = [item(number) for number in range(30)]
    with pytest.raises(SourceError, match=r'^Class "otter" has 2 pictures, too few for the \w+ split\. Add pictures'):
        stratified_group_split([*cats, item(200, "otter"), item(201, "otter")], SHARES, seed=0)
    with pytest.raises(SourceError, match=r'^Class "otter" has 3 pictures, but many are .*: 2 groups of duplicates'):
        stratified_group_split([*cats, *(item(at, "otter", max(at, 201)) for at in range(200, 203))], SHARES, seed=0)


def sites() -> list[SplitItem]:
    """Thirty camera sites with one to seven pictures of three animals."""
    groups = [site for site in range(30) for _ in range(1 + site * 5 % 7)]
    labels = [("fox", "fox", "hare", "fox", "roe", "hare", "fox")[number**2 % 7] for number in range(len(groups))]
    return [item(number, label, group) for number, (label, group) in enumerate(zip(labels, groups, strict=True))]


def test_the_split_of_sites_and_the_folds_are_the_same_in_every_version_of_bestiary() -> None:
    """Whoever changes these values changes everybody's scores: say so in the changelog."""
    digests = {
        "sites": split_digest(sites(), stratified_group_split(sites(), SHARES, seed=0)),
        "another seed": split_digest(sites(), stratified_group_split(sites(), SHARES, seed=1)),
    }
    for name, items in {"folds of sites": sites(), "folds": many()}.items():
        folds = stratified_group_folds_by_content(items, folds=5, seed=0)
        digests[name] = split_digest(items, [str(fold) for fold in folds])
    assert digests == {
        "sites": "86835e16e079ee07",
        "another seed": "17cea236fceead67",
        "folds of sites": "c6068392b6da7776",
        "folds": "81fb7eea77ce122e",
    }


def test_the_digest_is_the_hash_of_sorted_lines() -> None:
    items = [SplitItem("bb", "fox", 1), SplitItem("aa", "hare", 2), SplitItem("cc", "fox", 3)]
    lines = "test fox bb\ntrain fox cc\nval hare aa"
    assert split_digest(items, ["test", "val", "train"]) == hashlib.sha256(lines.encode()).hexdigest()[:16]
    with pytest.raises(ValueError, match="shorter"):
        split_digest(items, ["test", "val"])


@pytest.mark.parametrize("ending", ["", "set", "_set", "-set", " set", " SET ", "_Set"])
@pytest.mark.parametrize(
    ("name", "part"), [("train", "train"), ("Training", "train"), ("valid", "val"), ("dev", "val"), ("testing", "test")]
)
def test_the_usual_names_of_the_parts(name: str, part: str, ending: str) -> None:
    assert parse_split_name(name + ending) == part


@pytest.mark.parametrize("name", ["", "set", "_set", "trainsets", "train+set", "settrain"])
def test_other_names_are_no_parts(name: str) -> None:
    assert parse_split_name(name) is None


@pytest.mark.parametrize("seed", range(5))
def test_folds_of_equally_rare_labels_are_of_equal_size(seed: int) -> None:
    """Each label has one group, which may go to any fold: the sizes of the folds decide."""
    labels = np.array([0, 1, 2])
    folds = stratified_group_folds(labels, labels, folds=3, seed=seed)
    assert folds.dtype == np.int64
    assert sorted(folds) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_a_group_goes_to_the_fold_where_its_label_is_rarest(seed: int) -> None:
    """The rule by hand, in numpy's random order; of folds with as few of the label, the smallest."""
    labels = np.array([0] * 9 + [1] * 5 + [2] * 4)
    groups = np.array([10, 10, 11, 12, 13, 14, 15, 16, 17, 20, 20, 21, 22, 23, 30, 31, 32, 33])
    names, first = np.unique(groups, return_index=True)
    counts, sizes, expected = Counter[tuple[int, int]](), Counter[int](), {}
    for at in np.random.default_rng(seed).permutation(len(names)):
        label = int(labels[first[at]])
        fold = min(range(3), key=lambda fold: (counts[label, fold], sizes[fold], fold))
        pictures = int((groups == names[at]).sum())
        counts[label, fold] += pictures
        sizes[fold] += pictures
        expected[int(names[at])] = fold
    folds = stratified_group_folds(labels, groups, folds=3, seed=seed)
    assert folds.tolist() == [expected[group] for group in groups.tolist()]


def test_folds_of_groups_with_several_labels_count_all_of_them() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    labels = rng.integers(0, 3, 60)
    folds = stratified_group_folds(labels, groups, folds=3, seed=1)
    assert folds.tolist() == fold_mixed_groups(labels, groups, folds=3, seed=1).tolist()
    by_first = stratified_group_folds(labels[::5].repeat(5), groups, folds=3, seed=1)
    assert folds.tolist() != by_first.tolist()
