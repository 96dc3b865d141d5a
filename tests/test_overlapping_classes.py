"""Two classes that may be one are told of."""

from __future__ import annotations

import polars as pl
import pytest

from bestiary.data.overlapping_classes import overlapping_class_warnings, similar_names


def pictures(*rows: tuple[str, int]) -> pl.DataFrame:
    labels, groups = zip(*rows, strict=True)
    return pl.DataFrame({"label": labels, "group": groups}).with_columns(error=pl.lit(None, pl.String))


@pytest.mark.parametrize("names", [["cat", "dog"], ["a", "A"], ["1-2", "12"], ["gas", "ga"], ["-1", "1"]])
def test_names_that_differ_are_let_be(names: list[str]) -> None:
    assert similar_names(names) == []


def test_one_class_spelt_twice_is_told() -> None:
    [words] = overlapping_class_warnings(pictures(("cat", 0), ("Cats", 1), ("dog", 2)))
    assert words.startswith('The classes "Cats" and "cat" have nearly the same name.')


def test_two_folders_with_the_same_pictures_are_told() -> None:
    same = [("cat", 0), ("tiger", 0), ("cat", 1), ("tiger", 1), ("tiger", 2), ("tiger", 3), ("tiger", 4), ("dog", 5)]
    [words] = overlapping_class_warnings(pictures(*same))
    assert words.startswith('2 of 2 pictures of class "cat" are in "tiger" too')
    assert overlapping_class_warnings(pictures(*same[4:])) == []
