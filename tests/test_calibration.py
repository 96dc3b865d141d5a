"""Temperature scaling, reliability bins and the out-of-distribution threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from bestiary.errors import UserError
from bestiary.evaluation.calibration import coverage_curve, reliability
from bestiary.evaluation.metrics import compute_metrics
from bestiary.export.calibration import choose_threshold, fit_temperature

stable = settings(derandomize=True, deadline=None, max_examples=60)


def sample(n: int, k: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return logits and classes drawn from exactly their softmax: a perfectly calibrated model."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, k)) * 2
    chosen = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)
    return logits, chosen


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    logits, truth = sample(5000, 5, seed=0)
    assert fit_temperature(logits * temperature, truth) == pytest.approx(temperature, rel=0.05)


def test_log_probabilities_and_shifted_logits_serve_as_well() -> None:
    logits, truth = sample(300, 4, seed=1)
    expected = fit_temperature(logits * 3, truth)
    assert fit_temperature(log_softmax(logits * 3, axis=1), truth) == pytest.approx(expected, rel=1e-5)
    assert fit_temperature(logits * 3 + 1e4, truth) == pytest.approx(expected, rel=1e-5)


def test_calibration_lowers_the_loss_and_the_error() -> None:
    logits, truth = sample(2000, 5, seed=2)
    sure = logits * 4
    labels = [str(c) for c in range(5)]
    before = compute_metrics(truth, softmax(sure, axis=1), labels, resamples=10)
    after = compute_metrics(truth, softmax(sure / fit_temperature(sure, truth), axis=1), labels, resamples=10)
    assert after["log_loss"]["value"] < before["log_loss"]["value"]
    assert after["ece"]["value"] < 0.05 < before["ece"]["value"]


def test_a_dozen_right_answers_do_not_buy_certainty() -> None:
    truth = np.arange(12) % 3
    temperature = fit_temperature(np.eye(3)[truth] * 4, truth)
    assert 0.2 < temperature < 1


@pytest.mark.parametrize("logits", [np.zeros((10, 3)), -np.eye(3)[np.arange(10) % 3] * 1e6])
def test_a_hopeless_model_stays_within_bounds(logits: NDArray[np.float64]) -> None:
    assert 0.05 <= fit_temperature(logits, np.arange(10) % 3) <= 20


def test_a_probability_of_zero_is_survived() -> None:
    with np.errstate(divide="ignore"):
        logs = np.log(np.array([[1.0, 0.0], [0.6, 0.4], [0.0, 1.0]]))
    assert np.isfinite(fit_temperature(logs, np.array([1, 0, 1])))


def test_unusable_logits_are_refused() -> None:
    with pytest.raises(UserError, match="no validation picture"):
        fit_temperature(np.empty((0, 3)), np.empty(0, dtype=int))
    with pytest.raises(ValueError, match=r"expected \(2, classes\)"):
        fit_temperature(np.zeros((3, 2)), np.array([0, 1]))
    with pytest.raises(ValueError, match="not a number"):
        fit_temperature(np.array([[np.nan, 1.0]]), np.array([0]))


@stable
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 1000))
def test_reliability_is_the_ece_taken_apart(n: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities, truth = generator.dirichlet(np.ones(k), size=n), generator.integers(0, k, n)
    bins = reliability(probabilities, truth)
    assert len(bins) == 15
    assert sum(entry["count"] for entry in bins) == n
    gaps = 0.0
    for entry in bins:
        assert (entry["confidence"] is None) == (entry["accuracy"] is None) == (entry["count"] == 0)
        if entry["confidence"] is not None and entry["accuracy"] is not None:
            assert entry["low"] <= entry["confidence"] <= entry["high"]
            gaps += entry["count"] * abs(entry["confidence"] - entry["accuracy"])
    ece = compute_metrics(truth, probabilities, [str(c) for c in range(k)], resamples=2)["ece"]["value"]
    assert gaps / n == pytest.approx(ece, abs=1e-12)


def test_confidences_of_one_and_on_edges_have_their_bin() -> None:
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]])
    bins = reliability(probabilities, np.array([0, 1, 0]), bins=4)
    assert [entry["count"] for entry in bins] == [0, 0, 1, 2]
    assert bins[3] == {"low": 0.75, "high": 1.0, "confidence": 0.875, "accuracy": 1.0, "count": 2}


@stable
@given(
    st.lists(st.floats(-5, 5) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=80),
    st.floats(0.01, 1.0) | st.sampled_from([0.5, 0.9, 0.95, 1.0]),
)
def test_the_threshold_is_the_highest_that_keeps_the_coverage(familiarity: list[float], coverage: float) -> None:
    values = np.array(familiarity)
    threshold = choose_threshold(values, coverage)
    assert np.mean(values >= threshold) >= coverage - 1e-9
    higher = values[values > threshold]
    assert len(higher) == 0 or np.mean(values >= higher.min()) < coverage


def test_the_threshold_leaves_out_whole_pictures() -> None:
    assert choose_threshold(np.arange(20.0), 0.95) == 1.0
    assert choose_threshold(np.arange(20.0), 1.0) == 0.0
    assert choose_threshold(np.arange(100.0), 0.95) == 5.0
    assert choose_threshold(np.arange(100.0), 0.55) == 45.0  # 0.55 * 100 is 55.00000000000001 in floating point


def test_unusable_familiarities_are_refused() -> None:
    with pytest.raises(UserError, match="no validation picture"):
        choose_threshold(np.empty(0))
    with pytest.raises(ValueError, match="1 of 2 familiarities"):
        choose_threshold(np.array([np.nan, 1.0]))
    with pytest.raises(ValueError, match=r"`coverage` is 1\.5"):
        choose_threshold(np.ones(3), 1.5)


def test_the_coverage_curve_answers_the_surest_first() -> None:
    curve = coverage_curve(np.array([0.5, 0.9, 0.9, 0.7]), np.array([False, True, False, True]))
    assert [point["threshold"] for point in curve] == [0.9, 0.7, 0.5]
    assert [point["coverage"] for point in curve] == [0.5, 0.75, 1.0]
    assert [point["accuracy"] for point in curve] == pytest.approx([1 / 2, 2 / 3, 1 / 2])


def test_the_coverage_curve_is_short_and_ends_at_all_pictures() -> None:
    generator = np.random.default_rng(4)
    confidence, correct = generator.random(5000), generator.random(5000) < 0.7
    curve = coverage_curve(confidence, correct, points=50)
    assert len(curve) == 50
    assert curve[0]["threshold"] == confidence.max()
    assert curve[-1] == {"threshold": confidence.min(), "coverage": 1.0, "accuracy": pytest.approx(correct.mean())}
    for point in curve:
        answered = confidence >= point["threshold"]
        assert point["coverage"] == pytest.approx(answered.mean())
        assert point["accuracy"] == pytest.approx(correct[answered].mean())
    assert coverage_curve(np.empty(0), np.empty(0)) == []
