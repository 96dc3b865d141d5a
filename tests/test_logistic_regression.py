"""Logistic regression in pieces is scikit-learn's, without its memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn")

from bestiary.batches.feature_matrix import DiskMatrix
from bestiary.evaluation.label_issues import cross_val_probabilities
from bestiary.models import logistic_regression
from bestiary.models.features import LabelledFeatures
from bestiary.models.logistic_regression import InMemorySolver, OutOfCoreSolver, linear_logits, make_solver
from bestiary.recipe_sections import Balance
from bestiary.training.probe import fit_head
from peak_memory import measure_peak

CHANNELS = 24


def clouds(count: int, classes: int, *, seed: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """Features in half precision around one centre for each class, of unequal scale and far from 0; and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(7).normal(0, 1, (classes, CHANNELS))
    scale = np.geomspace(0.1, 10, CHANNELS)
    return ((centres[labels] + rng.normal(0, 1.5, (count, CHANNELS)) + 2) * scale).astype(np.float16), labels


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_both_solvers_find_the_same(
    classes: int, weighted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic_regression, "CHUNK_ROWS", 128)
    monkeypatch.setattr(logistic_regression, "WARM_START_ROWS", 200)
    features, labels = clouds(700, classes, seed=1)
    kept = DiskMatrix(tmp_path, CHANNELS, np.float16)
    kept.append(features)
    rng = np.random.default_rng(2)
    weights = rng.choice([1.0, 3.0], 700).astype(np.float32) if weighted else None
    learned = rng.random(700) < 0.8
    pieces = make_solver(kept, labels, classes, weights=weights, train_mask=learned)
    at_once = make_solver(
        features.astype(np.float32),
        labels,
        classes,
        weights=weights,
        train_mask=learned,
        scaler=(pieces.mean, pieces.scale),
    )
    assert isinstance(pieces, OutOfCoreSolver)
    assert isinstance(at_once, InMemorySolver)
    at_once._model.set_params(tol=1e-6)  # at its usual tolerance, scikit-learn stops further from the minimum
    for strength in (0.003, 0.3):
        (one, bias), (other, other_bias) = pieces.fit(strength), at_once.fit(strength)
        np.testing.assert_allclose(one, other, atol=2e-3)
        np.testing.assert_allclose(bias - bias.mean(), other_bias - other_bias.mean(), atol=5e-3)
    np.testing.assert_allclose(pieces.logits(one, bias)[learned], at_once.logits(one, bias), atol=1e-4)


@pytest.mark.parametrize("balance", ["none", "class-weights", "logit-adjusted"])
def test_a_large_collection_has_the_head_of_a_small_one(balance: Balance) -> None:
    features, labels = clouds(900, 3, seed=3)
    labels[labels == 2] = np.where(np.random.default_rng(0).random((labels == 2).sum()) < 0.8, 1, 2)  # a rare class
    train, val = slice(0, 600), slice(600, 900)
    known = LabelledFeatures(features[val].astype(np.float32), labels[val])
    heads = [
        fit_head(
            LabelledFeatures(features[train].astype(kind), labels[train]),
            known,
            3,
            c_values=[0.01, 0.1],
            balance=balance,
        )
        for kind in (np.float16, np.float32)
    ]
    assert [line.get("chosen") for line in heads[0][1]] == [line.get("chosen") for line in heads[1][1]]
    logits = [linear_logits(known.features, head.weight, head.bias) for head, _ in heads]
    np.testing.assert_allclose(logits[0] - logits[0][:, :1], logits[1] - logits[1][:, :1], atol=0.02)
    for line, other in zip(heads[0][1], heads[1][1], strict=True):
        assert line["train_loss"] == pytest.approx(other["train_loss"], abs=1e-3)


def test_labels_are_doubted_alike_in_pieces() -> None:
    features, labels = clouds(400, 4, seed=5)
    labels = np.where(labels == 3, 0, labels)
    labels[:3] = 3  # one group alone: nobody can judge it
    groups = np.arange(400)
    groups[:3] = 0
    both = [
        cross_val_probabilities(features.astype(kind), labels, groups, 4, seed=0) for kind in (np.float16, np.float32)
    ]
    assert np.isnan(both[0][:3]).all()
    np.testing.assert_allclose(both[0], both[1], atol=5e-3)


def test_rows_on_disk_take_hardly_any_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic_regression, "CHUNK_ROWS", 256)
    monkeypatch.setattr(logistic_regression, "WARM_START_ROWS", 512)
    peaks = []
    for count in (2_000, 20_000):
        features, labels = clouds(count, 3, seed=6)
        kept = DiskMatrix(tmp_path, CHANNELS, np.float16)
        kept.append(features)
        peaks.append(measure_peak(lambda: make_solver(kept, labels, 3).fit(0.001)))  # noqa: B023 - called at once
    assert (peaks[1] - peaks[0]) / 18_000 < 20  # bytes a row, whose features alone take 96 in float32


def test_many_classes_of_few_pictures_are_no_reason_for_a_warning() -> None:
    labels = np.arange(40) % 30
    features = np.random.default_rng(0).normal(0, 1, (40, CHANNELS)).astype(np.float32)
    weights, biases = make_solver(features, labels, 30).fit(1.0)  # warnings are errors in tests
    assert weights.shape == (30, CHANNELS)
    assert biases.shape == (30,)
