from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bestiary.data import hamming_search
from bestiary.data.duplicates import connected_groups, equal_digest_pairs
from bestiary.data.hamming_search import find_near_pairs, hash_bits


def hexadecimal(number: int) -> str:
    return f"{number:064x}"


@st.composite
def hashes(draw: st.DrawFn) -> list[int]:
    """A few hashes, some of them a few bits away from another."""
    found = [draw(st.integers(0, 2**256 - 1))]
    for _ in range(draw(st.integers(0, 12))):
        flips = draw(st.sets(st.integers(0, 255), max_size=60))
        found.append(found[draw(st.integers(0, len(found) - 1))] ^ sum(1 << bit for bit in flips))
    return found


@given(found=hashes(), at_most=st.integers(0, 64), rows_at_once=st.integers(1, 20))
def test_near_pairs_are_those_of_comparing_all_with_all(found: list[int], at_most: int, rows_at_once: int) -> None:
    expected = {
        (i, j, (found[i] ^ found[j]).bit_count())
        for i, j in combinations(range(len(found)), 2)
        if (found[i] ^ found[j]).bit_count() <= at_most
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming_search, "ROWS_AT_ONCE", rows_at_once)
        pairs = find_near_pairs(hash_bits([hexadecimal(one) for one in found]), at_most)
    assert pairs.dtype == np.int64
    assert len(pairs) == len(expected)
    assert {tuple(pair) for pair in pairs.tolist()} == expected


def test_no_pair_is_near_enough_below_zero_bits_and_none_is_found_among_none() -> None:
    assert find_near_pairs(hash_bits([hexadecimal(5)] * 3), -1).shape == (0, 3)
    assert find_near_pairs(hash_bits([]), 40).shape == (0, 3)
    assert find_near_pairs(hash_bits([hexadecimal(5)]), 40).shape == (0, 3)


def test_pairs_far_apart_are_found_across_blocks() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**64, (2000, 4), np.uint64)
    bits[1999] = bits[3]
    bits[1200] = bits[700] ^ np.uint64(1)
    assert find_near_pairs(bits, 20).tolist() == [[3, 1999, 0], [700, 1200, 4]]


def same_partition(labels: NDArray[np.int64], pairs: list[tuple[int, int]]) -> bool:
    """Compare with joining by hand."""
    own = list(range(len(labels)))
    for left, right in pairs:
        old, new = own[right], own[left]
        own = [new if one == old else one for one in own]
    by_hand = [[one == other for other in own] for one in own]
    return bool((np.equal.outer(labels, labels) == np.array(by_hand).reshape(len(own), len(own))).all())


@given(data=st.data(), count=st.integers(1, 30))
def test_whatever_a_chain_of_pairs_joins_is_one_group(data: st.DataObject, count: int) -> None:
    item = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(item, item), max_size=40))
    found = connected_groups(count, np.array([(*pair, 0) for pair in pairs], np.int64).reshape(-1, 3))
    assert found.dtype == np.int64
    assert same_partition(found, pairs)
    for number in set(found.tolist()):
        assert number == found.tolist().index(number)  # a group has the number of its first item


def test_groups_of_a_chain_by_hand() -> None:
    assert connected_groups(6, np.array([(4, 1, 7), (5, 4, 3)])).tolist() == [0, 1, 2, 3, 1, 1]


def test_equal_pairs_chain_all_that_are_equal_and_skip_what_has_no_digest() -> None:
    assert equal_digest_pairs(["a", "b", "a", "", "a", ""]).tolist() == [[0, 2, 0], [0, 4, 0]]
    assert equal_digest_pairs(["a", "b"]).shape == (0, 3)
    assert equal_digest_pairs([]).shape == (0, 3)


@given(st.lists(st.sampled_from("abcd")))
def test_equal_pairs_join_exactly_the_equal_ones(digests: list[str]) -> None:
    found = connected_groups(len(digests), equal_digest_pairs(digests)) if digests else np.zeros(0, np.int64)
    assert found.tolist() == [digests.index(digest) for digest in digests]
