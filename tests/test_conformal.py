"""Prediction sets contain the true label with the requested probability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom

from bestiary.errors import UserError
from bestiary.inference.bundle import read_bundle
from bestiary.inference.conformal import (
    LEVELS,
    conformal_threshold,
    explain_full_set,
    fit_conformal,
    prediction_set,
    set_coverage,
)


def drawn(n: int, seed: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Probabilities of a poor, overconfident model over six classes."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, n)
    logits = rng.normal(size=(n, 6)) * 3 + 3 * np.eye(6)[truth]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True), truth


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
def test_the_coverage_is_what_was_asked(level: float) -> None:
    table = fit_conformal(*drawn(1_000, seed=0))
    shares, truth = drawn(4_000, seed=1)
    within, sizes = set_coverage(shares, truth, conformal_threshold(table, level))
    rank = int(np.ceil(level * 1_001))
    low, high = betabinom.interval(0.999, 4_000, rank, 1_001 - rank)
    by_bound = (1 - shares <= conformal_threshold(table, level))[np.arange(4_000), truth]
    assert low <= by_bound.sum() <= high
    assert not (by_bound & ~within).any()  # the most probable label is added
    assert 1 < sizes.mean() < 6


def test_bounds_rise_with_the_level_and_in_between_the_next_higher_serves() -> None:
    table = fit_conformal(*drawn(300, seed=2))
    assert table["bounds"] == sorted(table["bounds"])
    assert len(table["bounds"]) == len(LEVELS)
    assert conformal_threshold(table, 0.9502) == conformal_threshold(table, 0.951)
    assert conformal_threshold(table, 0.9) == table["bounds"][LEVELS.index(0.9)]


def test_a_level_beyond_the_number_of_pictures_names_all_labels() -> None:
    shares, truth = drawn(30, seed=3)
    bound = conformal_threshold(fit_conformal(shares, truth), 0.99)
    assert set_coverage(shares, truth, bound)[1].tolist() == [6] * 30


@pytest.mark.parametrize(("level", "enough"), [(0.9, 9), (0.95, 19), (0.99, 99)])
def test_that_all_labels_are_named_for_want_of_pictures_is_said(level: float, enough: int) -> None:
    assert not explain_full_set(fit_conformal(*drawn(enough, seed=3)), level)
    table = fit_conformal(*drawn(enough - 1, seed=3))
    words = explain_full_set(table, level)
    assert f"at least {enough} validation pictures are needed, and this run has {enough - 1}" in words
    instead = float(words.split("Use ")[1].split(" ")[0])
    assert conformal_threshold(table, instead) < 1
    assert not explain_full_set(table, instead)


def test_the_rank_by_hand() -> None:
    shares = np.column_stack([np.linspace(0.01, 0.99, 9), 1 - np.linspace(0.01, 0.99, 9)])
    table = fit_conformal(shares, np.zeros(9, np.int64))
    assert conformal_threshold(table, 0.5) == pytest.approx(1 - shares[4, 0])  # rank 5 of 9: ceil(0.5 * 10)
    assert conformal_threshold(table, 0.9) == pytest.approx(0.99)
    assert conformal_threshold(table, 0.901) == 1.0


def test_a_set_lists_the_most_probable_first_and_is_never_empty() -> None:
    assert prediction_set({"a": 0.2, "b": 0.5, "c": 0.3}, 0.75) == ["b", "c"]
    assert prediction_set({"a": 0.4, "b": 0.6}, 0.2) == ["b"]
    covered, sizes = set_coverage(np.array([[0.4, 0.6], [0.4, 0.6], [0.9, 0.1]]), np.array([1, 0, 0]), 0.2)
    assert covered.tolist() == [True, False, True]
    assert sizes.tolist() == [1, 1, 1]


def test_what_cannot_be_asked_is_refused() -> None:
    table = fit_conformal(*drawn(50, seed=4))
    for level in (0.1, 1.0, 2.0):
        with pytest.raises(UserError, match="from 0.5 to 0.999"):
            conformal_threshold(table, level)
    with pytest.raises(UserError, match=r"^This run has no prediction sets: .* Train again\.$"):
        conformal_threshold({}, 0.9)


def test_the_table_names_its_method_and_is_computed_in_float64() -> None:
    probabilities, truth = drawn(60, seed=5)
    single = probabilities.astype(np.float32)
    table = fit_conformal(single, truth)
    assert (table["method"], table["pictures"], table["levels"]) == ("LAC", 60, list(LEVELS))
    assert table == fit_conformal(single.astype(np.float64), truth)
    double = single.astype(np.float64)
    for bound in 1 - double[:, 0]:
        (covered, sizes), (expected, expected_sizes) = (set_coverage(p, truth, bound) for p in (single, double))
        assert (covered.tolist(), sizes.tolist()) == (expected.tolist(), expected_sizes.tolist())


def test_a_label_on_the_bound_is_in_the_set() -> None:
    assert prediction_set({"a": 0.25, "b": 0.75}, 0.75) == ["b", "a"]
    assert prediction_set({"a": 0.25, "b": 0.75}, 0.7499) == ["b"]
    covered, sizes = set_coverage(np.array([[0.25, 0.75]]), np.array([0]), 0.75)
    assert (covered.tolist(), sizes.tolist()) == ([True], [2])


def test_the_outermost_levels_are_of_the_table() -> None:
    table = fit_conformal(*drawn(2_000, seed=6))
    assert conformal_threshold(table, LEVELS[0]) == table["bounds"][0]
    assert conformal_threshold(table, LEVELS[-1]) == table["bounds"][-1] < 1


def test_the_highest_level_that_the_pictures_suffice_for_is_named() -> None:
    table = {"pictures": 10, "levels": [0.5, 0.8, 0.9, 0.91, 0.95]}
    words = (
        "Prediction sets at level 0.91 contain every label: at least 11 validation pictures are needed, and this run"
    )
    assert explain_full_set(table, 0.91) == f"{words} has 10. Use 0.9 or less."
    assert explain_full_set({"pictures": 10, "levels": [0.91, 0.95]}, 0.91) == f"{words} has 10."


def test_a_run_keeps_the_table(probed: Path) -> None:
    sets = read_bundle(probed).sets
    assert sets["method"] == "LAC"
    assert len(sets["levels"]) == len(sets["bounds"]) == len(LEVELS)
    assert len((probed / "bundle.json").read_text(encoding="utf-8").splitlines()) < 60  # a table is one line
