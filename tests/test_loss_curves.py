"""Verdicts on loss curves: overfitting, instability, underfitting, robust to noise."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from bestiary.evaluation.loss_curves import overfitting_point

EPOCHS = np.arange(20)
FALLING = 2.0 * np.exp(-EPOCHS / 5) + 0.05
SETTLING = 2.0 * np.exp(-EPOCHS / 2.5) + 0.5
RISING_FROM_6 = 0.5 + 0.1 * np.abs(EPOCHS - 5)


def history(train: ArrayLike, val: ArrayLike) -> list[dict[str, Any]]:
    pairs = zip(np.asarray(train, dtype=float), np.asarray(val, dtype=float), strict=True)
    return [{"epoch": number, "train_loss": t, "val_loss": v} for number, (t, v) in enumerate(pairs, start=1)]


def test_overfitting_says_from_which_epoch() -> None:
    found = overfitting_point(history(FALLING, RISING_FROM_6))
    assert (found.verdict, found.best_epoch, found.last_epoch) == ("overfitting", 6, 20)
    assert found.sentence == (
        "Validation loss is lowest at epoch 6 of 20; training loss keeps falling: overfitting from there on."
    )


@pytest.mark.parametrize(
    ("train", "val", "verdict", "words"),
    [
        (FALLING, 3.0 - 0.1 * EPOCHS, "improving", "more epochs would help"),
        (FALLING, SETTLING, "settled", "has settled"),
        (FALLING, np.full(20, 2.3), "flat", "hardly moved in 20 epochs"),
        (FALLING, 2.3 + 0.001 * np.cos(EPOCHS), "flat", "hardly moved"),
        (RISING_FROM_6 * 0.9, RISING_FROM_6, "unstable", "training loss rises again as well"),
    ],
)
def test_the_other_verdicts(train: ArrayLike, val: ArrayLike, verdict: str, words: str) -> None:
    found = overfitting_point(history(train, val))
    assert found.verdict == verdict
    assert words in found.sentence


def test_short_histories() -> None:
    none = overfitting_point([])
    assert (none.verdict, none.best_epoch, none.last_epoch) == ("too-short", None, None)
    assert "No epoch" in none.sentence
    one = overfitting_point(history([1.0], [1.2]))
    assert (one.verdict, one.best_epoch, one.last_epoch) == ("too-short", 1, 1)
    assert one.sentence.startswith("One epoch is too few")
    two = overfitting_point(history([1.0, 0.5], [1.0, 1.2]))
    assert (two.verdict, two.best_epoch) == ("too-short", 1)
    assert two.sentence.startswith("Two epochs are too few")


@pytest.mark.parametrize(
    ("val", "verdict"),
    [
        ([3.0, 2.0, 1.0], "improving"),
        ([1.0, 0.3, 0.2], "improving"),
        ([1.0, 1.5, 2.0], "overfitting"),
        ([1.0] * 3, "flat"),
    ],
)
def test_three_epochs_are_enough_for_clear_cases(val: list[float], verdict: str) -> None:
    assert overfitting_point(history([1.0, 0.7, 0.4], val)).verdict == verdict


@pytest.mark.parametrize("lost", [math.nan, math.inf, None])
def test_a_loss_that_is_not_a_number_is_named(lost: float | None) -> None:
    records = history([1.0, 0.9, 0.8, 0.7], [1.0, 0.8, 0.9, 0.9])
    records[2]["train_loss"] = lost
    found = overfitting_point(records)
    assert (found.verdict, found.best_epoch, found.last_epoch) == ("broken", 2, 4)
    assert "epoch 3 of 4" in found.sentence


def test_no_loss_at_all_has_no_best_epoch() -> None:
    found = overfitting_point([{"epoch": 1}, {"epoch": 2}, {"epoch": 3}])
    assert (found.verdict, found.best_epoch) == ("broken", None)


def test_epochs_keep_the_numbers_of_the_history() -> None:
    records = history(FALLING, RISING_FROM_6)
    for record in records:
        record["epoch"] += 100
    assert overfitting_point(records).best_epoch == 106


@pytest.mark.parametrize(
    "val", [[2, 1.2, 1, 0.9, 0.85, 1.5], [2, 1.2, 1, 0.9, 0.86, 0.83, 1.6], [*(2 - 0.05 * EPOCHS), 1.6]]
)
def test_one_bad_last_epoch_is_not_overfitting(val: list[float]) -> None:
    train = np.linspace(2.0, 0.5, len(val))
    assert overfitting_point(history(train, val)).verdict in ("settled", "improving")


@pytest.mark.parametrize(
    ("val", "verdict", "at_least"),
    [(SETTLING, "settled", 70), (RISING_FROM_6, "overfitting", 95), (3.0 - 0.1 * EPOCHS, "improving", 95)],
)
def test_noise_seldom_changes_the_verdict(val: Any, verdict: str, at_least: int) -> None:
    generator = np.random.default_rng(0)
    verdicts: Counter[str] = Counter()
    for _ in range(100):
        noisy = history(FALLING + 0.02 * generator.normal(size=20), val + 0.05 * generator.normal(size=20))
        verdicts[overfitting_point(noisy).verdict] += 1
    assert verdicts[verdict] >= at_least
    assert verdict == "overfitting" or verdicts["overfitting"] <= 2
