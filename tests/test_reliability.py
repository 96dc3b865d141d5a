"""Calibration metrics: reliability before and after temperature scaling, coverage of prediction sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bestiary import table
from bestiary.evaluation.metrics import compute_metrics
from bestiary.evaluation.reliability import LEVELS, conformal_coverage, undo_temperature
from bestiary.inference.bundle import read_bundle
from bestiary.inference.conformal import fit_conformal
from bestiary.quick_metrics import softmax


def test_a_temperature_is_undone() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (50, 7))
    for temperature in (0.4, 1.0, 3.0):
        assert undo_temperature(softmax(logits / temperature), temperature) == pytest.approx(softmax(logits), abs=1e-12)


def test_sets_cover_what_they_promise_of_pictures_like_those_of_validation() -> None:
    chance = np.random.default_rng(1)
    logits = chance.normal(0, 1, (6000, 5))
    truth = np.array([chance.choice(5, p=row) for row in softmax(logits)])
    table_of_bounds = fit_conformal(softmax(logits[:3000]), truth[:3000])
    rows = conformal_coverage(softmax(logits[3000:]), truth[3000:], np.arange(3000), table_of_bounds)
    assert [row["level"] for row in rows] == list(LEVELS)
    for row in rows:
        assert row["covered"]["value"] == pytest.approx(row["level"], abs=0.03)
        assert row["covered"]["low"] < row["covered"]["value"] < row["covered"]["high"]
    assert [row["labels"] for row in rows] == sorted(row["labels"] for row in rows)
    assert conformal_coverage(softmax(logits), truth, np.arange(6000), {}) == []


@pytest.mark.slow
def test_a_run_keeps_reliability_before_and_after_and_its_slices(probed: Path) -> None:
    metrics = json.loads((probed / "metrics.json").read_text())
    reliability, bundle = metrics["reliability"], read_bundle(probed)
    test = table.read(probed / "predictions.parquet", table.PREDICTIONS).filter(pl.col("split") == "test")
    assert sum(one["count"] for one in reliability["after"]) == sum(one["count"] for one in reliability["before"])
    assert reliability["temperature"] == bundle.temperature
    shares = test.select([f"p_{name}" for name in bundle.classes]).to_numpy()
    truth = np.array([bundle.classes.index(label) for label in test["label"]])
    raw = undo_temperature(shares, bundle.temperature)
    assert reliability["ece_before"]["value"] == pytest.approx(
        compute_metrics(truth, raw, list(bundle.classes))["ece"]["value"]
    )
    assert [row["level"] for row in metrics["prediction_sets"]] == list(LEVELS)
    assert metrics["slices"]["sentence"]
    assert set(table.MEASURES) <= set(pl.read_parquet(probed / "pictures.parquet").columns)
