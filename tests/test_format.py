"""Rounding of numbers in reports: nothing is rounded up to perfection, missing values are dashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bestiary.report import format
from bestiary.text import format_count, format_duration, format_percent, format_points

METRIC = {"value": 0.97249, "low": 0.96051, "high": 1.0}
LOSS = {"value": 1234.56789, "low": 0.00049, "high": 2.5}
NAN = float("nan")


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (format_percent, (0.996,), "99\u00a0%"),
        (format_percent, (0.9999999,), "99\u00a0%"),
        (format_percent, (1.0,), "100\u00a0%"),
        (format_percent, (0.0,), "0\u00a0%"),
        (format_points, (0.99996, 1), "99.9"),
        (format_points, (0.12345, 1), "12.3"),
        (format_points, (1, 2), "100"),
        (format.format_rate, (METRIC,), "97.2\u00a0%"),
        (format.format_rate, (METRIC, 0), "97\u00a0%"),
        (format.format_rate, ({"value": 0.99999},), "99.9\u00a0%"),
        (format.format_rate, (None,), "–"),
        (format.format_rate, ({"value": None},), "–"),
        (format.format_rate, ({"value": NAN},), "–"),
        (format.format_interval, (METRIC,), "96.1 to 100"),
        (format.format_interval, (METRIC, 0), "96 to 100"),
        (format.format_interval, (LOSS, 3, 1), "0.000 to 2.500"),
        (format.format_interval, ({"low": -0.012, "high": 0.034}, 1, 100, "+"), "-1.2 to +3.4"),
        (format.format_interval, ({"low": None, "high": 1.0},), ""),
        (format.format_interval, ({"low": 0.5, "high": NAN},), ""),
        (format.format_number, (1234.5678, 1), "1,234.6"),
        (format.format_number, (None,), "–"),
        (format.format_number, (NAN,), "–"),
        (format.format_estimate, (METRIC,), "0.972 (0.961 to 1.000)"),
        (format.format_estimate, (METRIC, 4, 1, "+"), "+0.9725 (+0.9605 to +1.0000)"),
        (format.format_estimate, ({"value": -0.012, "low": -0.03, "high": 0.01}, 1, 100, "+"), "-1.2 (-3.0 to +1.0)"),
        (format.format_estimate, ({"value": 0.5},), "0.500"),
        (format.format_estimate, ({},), "–"),
        (format.format_short_percent, (0.5,), "50\u00a0%"),
        (format.format_short_percent, (0.125,), "12.5\u00a0%"),
        (format.format_signed_points, (0.0316,), "+3.2 points"),
        (format.format_signed_points, (-0.0316,), "-3.2 points"),
        (format_count, (1, "picture"), "1 picture"),
        (format_count, (1234, "class", "classes"), "1,234 classes"),
        (format_duration, (59.6,), "60 s"),
        (format_duration, (3599,), "1 h"),
    ],
)
def test_numbers_are_rounded_as_people_read_them(
    function: Callable[..., str], arguments: tuple[Any, ...], expected: str
) -> None:
    assert function(*arguments) == expected
