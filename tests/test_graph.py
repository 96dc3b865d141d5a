"""The exported inference graph against the same outputs computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

import onnx

from bestiary.errors import IntegrityError
from bestiary.export.graph import OUTPUTS, OutputCalibration, build_inference_graph
from bestiary.export.parity import PARITY_LIMIT, outputs_match
from bestiary.models.engine import OnnxRuntimeEngine, OpenVINOEngine, Outputs, has_openvino, run_batch
from bestiary.models.head import Dense, Head
from bestiary.quick_metrics import softmax
from tiny_model import CHANNELS, SIZE, maps_of, trunk

CLASSES, HIDDEN = 4, 9
HEIGHT, WIDTH = SIZE, SIZE
CALIBRATION = OutputCalibration(temperature=2.5, energy_mean=1.3, energy_scale=0.7)
METADATA = {"classes": json.dumps(["ant", "bee", "Käfer", "moth"]), "fit": "squash"}
Floats = NDArray[np.float32]

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (11, SIZE, SIZE, 3), dtype=np.uint8)


def normal(*shape: int) -> Floats:
    return rng.normal(0, 1, shape).astype(np.float32)


LINEAR = Head(normal(CLASSES, CHANNELS) * 10, normal(CLASSES), "average")
DENSE = Head(
    normal(CLASSES, HIDDEN),
    normal(CLASSES),
    "flatten",
    hidden=(Dense(normal(HIDDEN, CHANNELS * HEIGHT * WIDTH) * np.float32(0.2), normal(HIDDEN)),),
)
DEEP = replace(DENSE, hidden=(*DENSE.hidden, Dense(normal(HIDDEN, HIDDEN), normal(HIDDEN))))
HEADS = [pytest.param(LINEAR, id="linear"), pytest.param(DENSE, id="dense"), pytest.param(DEEP, id="deep")]


def answered(head: Head, calibration: OutputCalibration = CALIBRATION) -> Outputs:
    content = build_inference_graph(trunk(), head, calibration, METADATA).SerializeToString()
    return run_batch(OnnxRuntimeEngine(content, threads=1), IMAGES)


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_those_of_the_head(head: Head) -> None:
    logits = answered(head)["logits"]
    assert logits.std() > 0.1
    np.testing.assert_allclose(logits, head.logits(maps_of(IMAGES)), atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_probabilities_are_the_softmax_at_the_temperature(head: Head) -> None:
    outputs = answered(head)
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-6)
    powers = np.exp(head.logits(maps_of(IMAGES)).astype(np.float64) / CALIBRATION.temperature)
    np.testing.assert_allclose(outputs["probabilities"], powers / powers.sum(axis=1, keepdims=True), atol=1e-6)
    sharper = answered(head, replace(CALIBRATION, temperature=0.5))["probabilities"]
    assert (sharper.max(axis=1) > outputs["probabilities"].max(axis=1)).all()


@pytest.mark.parametrize("head", HEADS)
def test_familiarity_is_that_of_the_calibration(head: Head) -> None:
    outputs = answered(head)
    assert outputs["familiarity"].shape == (len(IMAGES),)
    np.testing.assert_allclose(outputs["familiarity"], CALIBRATION.familiarity(head.logits(maps_of(IMAGES))), atol=1e-6)


def test_familiarity_by_hand() -> None:
    logits = np.array([[0.0, 0.0, 0.0, 0.0], [3.0, 1.0, -2.0, 0.5]])
    energy = np.log(np.exp(logits).sum(axis=1))
    expected = 1 / (1 + np.exp(-(energy - CALIBRATION.energy_mean) / CALIBRATION.energy_scale))
    np.testing.assert_allclose(CALIBRATION.familiarity(logits), expected, rtol=1e-12)


def test_an_ordinary_picture_is_half_familiar() -> None:
    logits = normal(401, CLASSES)
    calibration = OutputCalibration.fit(logits, temperature=1.5)
    assert calibration.temperature == 1.5
    familiarity = calibration.familiarity(logits)
    assert np.median(familiarity) == pytest.approx(0.5, abs=1e-6)
    assert 0 < familiarity.min() < 0.3
    assert 0.7 < familiarity.max() < 1


def test_calibration_of_equal_logits_is_finite() -> None:
    logits = np.ones((5, CLASSES), np.float32)
    assert np.isfinite(OutputCalibration.fit(logits, 1.0).familiarity(logits)).all()


def test_the_heatmap_of_a_linear_head_adds_up_to_the_logit() -> None:
    outputs = answered(LINEAR)
    assert outputs["heatmap"].shape == (len(IMAGES), CLASSES, HEIGHT, WIDTH)
    np.testing.assert_allclose(outputs["heatmap"].sum(axis=(2, 3)) + LINEAR.bias, outputs["logits"], atol=1e-5)


def test_each_place_of_a_linear_heatmap_is_the_head_applied_there() -> None:
    by_place = np.einsum("nchw,kc->nkhw", maps_of(IMAGES), LINEAR.weight) / (HEIGHT * WIDTH)
    np.testing.assert_allclose(answered(LINEAR)["heatmap"], by_place, atol=1e-5)


def test_the_heatmap_of_a_dense_head_adds_up_to_what_is_not_bias() -> None:
    (hidden,) = DENSE.hidden
    outputs = answered(DENSE)
    flat = maps_of(IMAGES).reshape(len(IMAGES), -1)
    is_on = flat @ hidden.weight.T + hidden.bias > 0
    assert 0.1 < is_on.mean() < 0.9
    from_biases = (is_on * hidden.bias) @ DENSE.weight.T + DENSE.bias
    np.testing.assert_allclose(
        outputs["heatmap"].sum(axis=(2, 3)), outputs["logits"] - from_biases, atol=1e-4, rtol=1e-4
    )


def test_each_place_of_a_dense_heatmap_is_value_times_gradient() -> None:
    (hidden,) = DENSE.hidden
    maps = maps_of(IMAGES)
    for picture, heatmap in zip(maps, answered(DENSE)["heatmap"], strict=True):
        is_on = hidden.weight @ picture.ravel() + hidden.bias > 0
        gradient = (DENSE.weight * is_on) @ hidden.weight
        parts = (gradient * picture.ravel()).reshape(CLASSES, CHANNELS, HEIGHT, WIDTH)
        np.testing.assert_allclose(heatmap, parts.sum(axis=1), atol=1e-4)


def test_each_place_of_a_deep_heatmap_is_value_times_gradient() -> None:
    first, second = DEEP.hidden
    maps = maps_of(IMAGES)
    for picture, heatmap in zip(maps, answered(DEEP)["heatmap"], strict=True):
        before = first.weight @ picture.ravel() + first.bias
        after = second.weight @ np.maximum(before, 0) + second.bias
        gradient = (DEEP.weight * (after > 0)) @ second.weight * (before > 0) @ first.weight
        parts = (gradient * picture.ravel()).reshape(CLASSES, CHANNELS, HEIGHT, WIDTH)
        np.testing.assert_allclose(heatmap, parts.sum(axis=1), atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_the_graph_is_whole_and_says_what_it_is(head: Head) -> None:
    sealed = build_inference_graph(trunk(), head, CALIBRATION, METADATA)
    onnx.checker.check_model(sealed, full_check=True)
    assert tuple(output.name for output in sealed.graph.output) == OUTPUTS
    assert [one.name for one in sealed.graph.input] == ["images"]
    assert {prop.key: prop.value for prop in sealed.metadata_props} == METADATA
    inferred = onnx.shape_inference.infer_shapes(sealed, strict_mode=True)
    shapes = {
        output.name: [one.dim_value or one.dim_param for one in output.type.tensor_type.shape.dim]
        for output in inferred.graph.output
    }
    assert shapes["probabilities"] == ["n", CLASSES]
    assert shapes["heatmap"] == ["n", CLASSES, HEIGHT, WIDTH]
    assert shapes["familiarity"] == ["n"]


def test_sealing_leaves_the_trunk_as_it_was() -> None:
    mine = trunk()
    before = mine.SerializeToString(deterministic=True)
    build_inference_graph(mine, LINEAR, CALIBRATION, METADATA)
    assert mine.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("head", HEADS)
def test_sealing_is_deterministic(head: Head) -> None:
    one, other = (
        build_inference_graph(trunk(), head, CALIBRATION, METADATA).SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert one == other


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
def test_both_engines_agree_on_every_output(head: Head) -> None:
    content = build_inference_graph(trunk(), head, CALIBRATION, METADATA).SerializeToString()
    one, other = (run_batch(make(content, threads=1), IMAGES) for make in (OnnxRuntimeEngine, OpenVINOEngine))
    assert set(one) == set(other) == set(OUTPUTS)
    for name in OUTPUTS:
        np.testing.assert_allclose(one[name], other[name], atol=1e-4)


def test_a_head_that_cannot_be_sealed_is_refused() -> None:
    flat = Head(normal(CLASSES, CHANNELS * HEIGHT * WIDTH), normal(CLASSES), "flatten")
    with pytest.raises(IntegrityError, match="hidden layer"):
        build_inference_graph(trunk(), flat, CALIBRATION, METADATA)


def test_a_graph_that_fails_the_check_is_refused() -> None:
    broken = trunk()
    broken.graph.node[1].op_type = "NoSuchOperation"
    with pytest.raises(IntegrityError, match="ONNX's check"):
        build_inference_graph(broken, LINEAR, CALIBRATION, METADATA)


def test_the_proof_refuses_a_difference_and_a_changed_label() -> None:
    expected = np.array([[0.6, 0.4], [0.2, 0.8]])
    shifted = np.array([[PARITY_LIMIT, -PARITY_LIMIT], [0, 0]])
    assert outputs_match(expected, expected)
    assert outputs_match(expected + shifted / 2, expected)
    assert not outputs_match(expected + shifted * 2, expected)
    assert not outputs_match(expected[:, ::-1], expected)


def test_the_proof_lets_either_of_two_tied_labels_win() -> None:
    tied = np.array([[0.5 + PARITY_LIMIT / 4, 0.5 - PARITY_LIMIT / 4]])
    assert outputs_match(tied[:, ::-1], tied)


def test_softmax_of_huge_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4 - 1, -1e4]])), [[0.7310586, 0.2689414, 0]], atol=1e-6)


def test_familiarity_does_not_magnify_the_last_digit_of_a_head_that_says_nothing() -> None:
    rng = np.random.default_rng(0)
    logits = (rng.normal(0, 1e-6, (40, 3)) + 0.2).astype(np.float32)
    calibration = OutputCalibration.fit(logits, temperature=1.0)
    other = np.nextafter(logits, np.float32(1))
    assert np.abs(calibration.familiarity(logits) - calibration.familiarity(other)).max() < 1e-4
