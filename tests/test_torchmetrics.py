"""ECE and Brier score are torchmetrics's, edges included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

import torch
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import multiclass_calibration_error

from bestiary.evaluation.metrics import ECE_BINS, compute_metrics

EDGES = [step / ECE_BINS for step in range(ECE_BINS + 1)]
top = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0, 1 - 1e-9, 0.2, 0.6]), st.sampled_from(EDGES))


@settings(max_examples=150)
@given(st.lists(st.tuples(top, st.integers(0, 2)), min_size=1, max_size=60))
def test_ece_and_brier_are_those_of_torchmetrics(drawn: list[tuple[float, int]]) -> None:
    truth = np.array([label for _, label in drawn])
    probabilities: NDArray[np.float64] = np.array([[p, (1 - p) * 0.75, (1 - p) * 0.25] for p, _ in drawn])
    body = compute_metrics(truth, probabilities, ["a", "b", "c"], resamples=2)
    given_, labels = torch.tensor(probabilities), torch.tensor(truth)
    ece = multiclass_calibration_error(given_, labels, num_classes=3, n_bins=ECE_BINS, norm="l1")
    assert body["ece"]["value"] == pytest.approx(float(ece), abs=1e-6)
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    brier = 3 * mean_squared_error(given_.flatten(), one_hot.flatten())
    assert body["brier"]["value"] == pytest.approx(float(brier), abs=1e-6)
