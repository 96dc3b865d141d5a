"""The in-distribution score with features: by hand, in the exported graph, and on out-of-distribution pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

from bestiary.demo.dataset import draw_ood_image
from bestiary.export.graph import ENERGY_WEIGHT, OutputCalibration, build_inference_graph
from bestiary.inference.bundle import read_bundle
from bestiary.models.engine import OnnxRuntimeEngine, OpenVINOEngine, has_openvino, run_batch
from bestiary.models.head import Head
from bestiary.models.ood import DIRECTIONS, PrincipalSubspace
from tiny_model import CHANNELS, SIZE, maps_of, trunk

rng = np.random.default_rng(0)
HEAD = Head(
    rng.normal(0, 3, (4, CHANNELS)).astype(np.float32), rng.normal(0, 1, 4).astype(np.float32), pooling="average"
)
IMAGES = rng.integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)


def in_a_plane(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Features of 40 channels that lie in 5 dimensions, but for a little noise."""
    drawn = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(40, 40)))[0][:5]
    made: NDArray[np.float32] = (drawn.normal(size=(n, 5)) @ basis + drawn.normal(0, 0.01, (n, 40))).astype(np.float32)
    return made


def test_what_lies_in_the_subspace_is_inside_and_what_does_not_sticks_out() -> None:
    space = PrincipalSubspace.fit(in_a_plane(400))
    assert space.directions.shape == (40, 20)
    np.testing.assert_allclose(space.directions.T @ space.directions, np.eye(20), atol=1e-5)
    assert space.inside_norm(in_a_plane(50, seed=1)).min() > 0.95
    assert space.inside_norm(rng.normal(size=(50, 40))).mean() < 0.85


def test_the_share_inside_by_hand() -> None:
    space = PrincipalSubspace(np.zeros(3, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32)[:, :1])
    np.testing.assert_allclose(space.inside_norm(np.array([[3.0, 4.0, 0.0], [2.0, 0.0, 0.0]])), [9 / 25, 1.0])


def test_few_pictures_make_few_directions_and_many_are_sampled() -> None:
    assert PrincipalSubspace.fit(in_a_plane(6)).directions.shape == (40, 3)
    wide = rng.normal(size=(600, 2 * DIRECTIONS + 10)).astype(np.float32)
    assert PrincipalSubspace.fit(wide).directions.shape[1] == DIRECTIONS


@pytest.mark.parametrize("count", [24, 39])
def test_the_subspace_of_few_pictures_is_that_of_their_covariance(count: int) -> None:
    """Fewer pictures than channels take the smaller matrix of their products."""
    features = rng.normal(size=(count, 40)).astype(np.float32) * np.arange(1, 41, dtype=np.float32)
    features[-3:] = features[:3]  # the same pictures again: of lower rank
    space = PrincipalSubspace.fit(features)
    standardised = (features - space.mean) / space.scale
    directions = np.linalg.eigh(standardised.astype(np.float64).T @ standardised)[1][:, ::-1][:, : count // 2]
    np.testing.assert_allclose(space.directions @ space.directions.T, directions @ directions.T, atol=1e-4)


@pytest.mark.filterwarnings("error")
def test_the_subspace_of_equal_pictures_is_finite() -> None:
    space = PrincipalSubspace.fit(np.ones((6, 40), np.float32))
    np.testing.assert_allclose(space.directions.T @ space.directions, np.eye(3), atol=1e-6)


def with_subspace() -> tuple[OutputCalibration, NDArray[np.float32], NDArray[np.float32]]:
    maps = maps_of(IMAGES)
    features, logits = maps.mean(axis=(2, 3)), HEAD.logits(maps)
    space = PrincipalSubspace(
        np.full(CHANNELS, 0.01, np.float32),
        np.full(CHANNELS, 0.2, np.float32),
        np.eye(CHANNELS, dtype=np.float32)[:, :2],
    )
    return OutputCalibration.fit(logits, 1.5, features, space), logits, features


def test_familiarity_is_made_of_both() -> None:
    calibration, logits, features = with_subspace()
    assert calibration.subspace is not None
    energy = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    inside = calibration.subspace.inside_norm(features)
    known = ENERGY_WEIGHT * (energy - np.median(energy)) / energy.std() + (inside - np.median(inside)) / inside.std()
    np.testing.assert_allclose(calibration.familiarity(logits, features), 1 / (1 + np.exp(-known)), rtol=1e-5)
    with pytest.raises(ValueError, match="features"):
        calibration.familiarity(logits)


@pytest.mark.parametrize(
    "openvino",
    [False, pytest.param(True, marks=pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed"))],
)
def test_the_sealed_graph_gives_that_familiarity(openvino: bool) -> None:
    calibration, logits, features = with_subspace()
    content = build_inference_graph(trunk(), HEAD, calibration, {}).SerializeToString()
    made = (OpenVINOEngine if openvino else OnnxRuntimeEngine)(content, threads=1)
    np.testing.assert_allclose(
        run_batch(made, IMAGES)["familiarity"], calibration.familiarity(logits, features), atol=1e-4
    )


def test_a_probe_looks_at_features_and_its_bundle_says_so(probed: Path) -> None:
    bundle = read_bundle(probed)
    assert bundle.familiarity == "energy and features"
    assert {"onnxruntime, familiarity"} <= bundle.parity["largest_difference"].keys()


def test_strangers_are_less_familiar_than_the_test_pictures(probed: Path) -> None:
    import polars as pl

    from bestiary.inference.predictor import Predictor
    from bestiary.picture import resize_to_square

    predictor = Predictor(probed, threads=1)
    strange = [resize_to_square(np.asarray(draw_ood_image(seed)), predictor.bundle.size) for seed in range(12)]
    found = [answer.familiarity for answer in predictor.predict_many(strange)]
    table = pl.read_parquet(probed / "predictions.parquet").filter(pl.col("split") == "test")
    assert np.mean(np.array(found)[:, None] < table["familiarity"].to_numpy()) > 0.75
