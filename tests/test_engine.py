"""What runs graphs: two engines, one behaviour."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

from bestiary.errors import RunError
from bestiary.models.efficientnet_lite import cached_backbone_graph
from bestiary.models.engine import Engine, OnnxRuntimeEngine, OpenVINOEngine, has_bfloat16, has_openvino, run_batch
from bestiary.models.onnx_surgery import add_global_pool

SIZE = 8
KERNEL = np.random.default_rng(0).normal(0, 0.05, (5, 3, 3, 3)).astype(np.float32)
Images = NDArray[np.uint8]
Make = Callable[[Path | bytes], Engine]

needs_openvino = pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
ENGINES = [
    pytest.param(lambda model: OnnxRuntimeEngine(model, threads=1), id="onnxruntime"),
    pytest.param(lambda model: OpenVINOEngine(model, threads=2), id="openvino", marks=needs_openvino),
]


def graph() -> bytes:
    """A convolution with ReLU, whose maximum is a second output."""
    nodes = [
        helper.make_node("Transpose", ["images"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["first"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "kernel"], ["before"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["before"], ["maps"]),
        helper.make_node("ReduceMax", ["maps", "axes"], ["top"], keepdims=0),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    outputs = [
        helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 5, 6, 6]),
        helper.make_tensor_value_info("top", TensorProto.FLOAT, ["n", 5]),
    ]
    constants = [numpy_helper.from_array(KERNEL, "kernel"), numpy_helper.from_array(np.array([2, 3]), "axes")]
    content = helper.make_graph(nodes, "tiny", [images], outputs, constants)
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def noise(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def expected_maps(images: Images) -> NDArray[np.float64]:
    windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (3, 3), axis=(1, 2))
    maps: NDArray[np.float64] = np.maximum(np.einsum("nhwcij,ocij->nohw", windows, KERNEL), 0)
    return maps


@pytest.mark.parametrize("make", ENGINES)
def test_an_engine_computes_what_the_graph_says(make: Make) -> None:
    images = noise(7)
    outputs = run_batch(make(graph()), images)
    assert set(outputs) == {"maps", "top"}
    assert {output.dtype for output in outputs.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(outputs["maps"], expected_maps(images), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(outputs["top"], outputs["maps"].max(axis=(2, 3)))


@pytest.mark.parametrize("make", ENGINES)
def test_a_stream_keeps_the_order_of_batches_of_any_size(make: Make) -> None:
    sizes = [3, 1, 16, 2, 2, 9, 1, 1, 5, 7, 4]
    batches = [noise(size, seed) for seed, size in enumerate(sizes)]
    found = list(make(graph()).stream(iter(batches)))
    assert [len(outputs["maps"]) for outputs in found] == sizes
    for images, outputs in zip(batches, found, strict=True):
        np.testing.assert_allclose(outputs["maps"], expected_maps(images), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("make", ENGINES)
def test_outputs_stay_as_they_were_when_the_stream_goes_on(make: Make) -> None:
    stream = make(graph()).stream(noise(4, seed) for seed in range(20))
    first = next(stream)
    kept = {name: output.copy() for name, output in first.items()}
    list(stream)
    for name, output in first.items():
        np.testing.assert_array_equal(output, kept[name])


@pytest.mark.parametrize("make", ENGINES)
def test_a_reused_batch_array_does_not_change_what_is_under_way(make: Make) -> None:
    shared = np.empty((4, SIZE, SIZE, 3), np.uint8)

    def refilled() -> Iterator[Images]:
        for seed in range(12):
            shared[:] = noise(4, seed)
            yield shared

    for seed, outputs in enumerate(make(graph()).stream(refilled())):
        np.testing.assert_allclose(outputs["maps"], expected_maps(noise(4, seed)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("make", ENGINES)
def test_a_stream_takes_batches_as_it_needs_them(make: Make) -> None:
    taken = 0

    def endless() -> Iterator[Images]:
        nonlocal taken
        while True:
            taken += 1
            yield noise(2, taken)

    stream = make(graph()).stream(endless())
    for seen in range(1, 30):
        next(stream)
        assert taken <= seen + 16
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", ENGINES)
def test_an_engine_can_be_used_again_after_a_stream_was_left(make: Make) -> None:
    engine = make(graph())
    stream = engine.stream(noise(4, seed) for seed in range(20))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    np.testing.assert_allclose(run_batch(engine, noise(2))["maps"], expected_maps(noise(2)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("make", ENGINES)
def test_no_batches_give_no_outputs(make: Make) -> None:
    assert list(make(graph()).stream([])) == []


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux tells of each thread where it may run")
@pytest.mark.parametrize("make", ENGINES)
def test_no_thread_is_pinned_to_cores(make: Make) -> None:
    # Or all processes would compute on the same first cores. Threads are pinned while they compute.
    allowed = {
        count
        for _ in make(graph()).stream(noise(200)[:, None].repeat(64, axis=1))
        for count in count_cores_of_threads()
    }
    assert allowed == {len(os.sched_getaffinity(0))}


def count_cores_of_threads() -> Iterator[int]:
    """Yield on how many cores each thread of this process may run."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            yield len(os.sched_getaffinity(int(thread.name)))


@pytest.mark.parametrize("make", ENGINES)
def test_what_is_no_graph_is_refused_by_name(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("not a graph")
    with pytest.raises(RunError, match=r"model\.onnx cannot be loaded"):
        make(path)
    with pytest.raises(RunError, match="given cannot be loaded"):
        make(b"not a graph")
    with pytest.raises(RunError, match=r"absent\.onnx cannot be loaded"):
        make(tmp_path / "absent.onnx")


@needs_openvino
def test_both_engines_give_the_same_features(tmp_path: Path) -> None:
    content = add_global_pool(cached_backbone_graph("lite0", tmp_path, 64))
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    one, other = (run_batch(make(content, threads=2), images) for make in (OnnxRuntimeEngine, OpenVINOEngine))
    assert one["features"].shape == (5, 1280)
    assert one["features"].std() > 0.01
    np.testing.assert_allclose(one["features"], other["features"], atol=1e-4)


def test_pooled_features_are_the_mean_of_the_maps(tmp_path: Path) -> None:
    trunk = cached_backbone_graph("lite0", tmp_path, 64)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    maps = run_batch(OnnxRuntimeEngine(trunk, threads=1), images)["maps"]
    features = run_batch(OnnxRuntimeEngine(add_global_pool(trunk), threads=1), images)["features"]
    np.testing.assert_allclose(features, maps.mean(axis=(2, 3)), atol=1e-5)


def test_bfloat16_is_not_used_where_instruction_sets_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert not has_bfloat16()
