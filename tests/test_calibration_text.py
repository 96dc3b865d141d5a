"""What the page of the server says about probabilities is what the run has measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bestiary.serve.calibration_text import NOT_MEASURED, describe_probabilities


def write_metrics(run: Path, bins: list[dict[str, Any]], error: float = 0.042, split: str = "test") -> Path:
    metrics = {"split": split, "reliability": {"after": bins}, "ece": {"value": error}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


def test_the_sentence_has_the_measured_figures(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"low": 0.0, "high": 0.1, "confidence": None, "accuracy": None, "count": 0}
    bins = [
        empty,
        {"confidence": 0.6, "accuracy": 0.5, "count": 100},
        {"confidence": 0.9, "accuracy": 0.8, "count": 300},
    ]
    text = describe_probabilities(write_metrics(tmp_path, bins))
    assert text.startswith(
        "On the 400 test pictures of this model, answers had a mean probability of 82.5 %, and 72.5 % of them were"
        " right; the calibration error is 4.2 %."
    )
    assert "few pictures" not in text


def test_few_test_pictures_are_said(tmp_path: Path) -> None:
    text = describe_probabilities(write_metrics(tmp_path, [{"confidence": 0.9, "accuracy": 1.0, "count": 9}]))
    assert "On the 9 test pictures" in text
    assert text.endswith("These are few pictures: treat probabilities as estimates.")


def test_pictures_of_a_cross_validation_were_not_tested_by_the_model_itself(tmp_path: Path) -> None:
    bins = [{"confidence": 0.9, "accuracy": 0.8, "count": 300}]
    text = describe_probabilities(write_metrics(tmp_path, bins, split="folds"))
    assert text.startswith("On 300 pictures, each tested by a model that was not trained on it, answers had a mean")
    assert "of this model" not in text


@pytest.mark.parametrize("content", [None, "{", "{}", '{"reliability": {"after": []}, "ece": {"value": 0.1}}'])
def test_without_test_scores_nothing_is_claimed(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert describe_probabilities(tmp_path) == NOT_MEASURED
