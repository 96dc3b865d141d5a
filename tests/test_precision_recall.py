"""Average precision and precision-recall curves, counted by hand on six pictures."""

from __future__ import annotations

import polars as pl
import pytest

from bestiary.evaluation.precision_recall import lowest_average_precision
from bestiary.report.precision_recall_plot import class_curves

SIX = pl.DataFrame(
    {
        "label": ["cat", "dog", "cat", "dog", "dog", "cat"],
        "predicted": ["cat", "cat", "cat", "dog", "dog", "dog"],
        "p_cat": [0.9, 0.8, 0.7, 0.4, 0.3, 0.2],
        "p_dog": [0.1, 0.2, 0.3, 0.6, 0.7, 0.8],
        "p_owl": [0.0] * 6,
    }
)


def test_the_weakest_class_comes_first_with_its_own_precision_and_recall() -> None:
    dog, cat = lowest_average_precision(SIX, ("cat", "dog", "owl", "unseen"), 5)
    assert [dog.label, cat.label] == ["dog", "cat"]
    assert cat.average == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    assert dog.average == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)
    assert cat.operating_point == pytest.approx((2 / 3, 2 / 3))
    assert (cat.pictures, dog.pictures) == (3, 3)


def test_only_so_many_are_drawn_and_a_class_never_predicted_has_no_dot() -> None:
    assert [one.label for one in lowest_average_precision(SIX, ("cat", "dog"), 1)] == ["dog"]
    never = SIX.with_columns(predicted=pl.lit("dog"))
    (plot,) = [one.plot for one in class_curves(never, ("cat",))]
    assert lowest_average_precision(never, ("cat",), 1)[0].operating_point is None
    assert "<circle" not in plot
    assert "<circle" in class_curves(SIX, ("cat",))[0].plot
