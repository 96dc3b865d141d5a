"""A graph that someone else wrote becomes a backbone: with their normalisation inside, and their features as maps."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper

from bestiary.array_types import Pixels
from bestiary.errors import RecipeError
from bestiary.models import graph_cache
from bestiary.models.backbone import Backbone
from bestiary.models.backbones import backbone_by_name
from bestiary.models.engine import OnnxRuntimeEngine, run_batch
from bestiary.recipe import Recipe
from foreign_graphs import CHANNELS, draw_graph, run_in_numpy

SIZE = 64
AS_BYTES = {"white": 255}


def load(path: Path, settings: dict[str, Any] | None = None, size: int | None = None) -> Backbone:
    onnx_settings = Recipe.of({"onnx": AS_BYTES if settings is None else settings}).onnx
    return backbone_by_name(str(path), path.parent / "cache", onnx=onnx_settings, size=size)


def draw_images(count: int = 3, size: int = SIZE) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def compute_maps(backbone: Backbone, folder: Path, images: Pixels) -> Any:
    graph = backbone.cached_graph(folder / "cache", images.shape[1])
    return run_batch(OnnxRuntimeEngine(graph, threads=1), images)["maps"]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("opset", [13, 18, 21])
def test_maps_are_those_of_the_graph_with_its_own_normalisation(tmp_path: Path, layout: str, opset: int) -> None:
    path, images = draw_graph(tmp_path / "own.onnx", layout=layout, opset=opset), draw_images()
    settings: dict[str, Any] = {"white": 1, "channel_order": "bgr", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    backbone = load(path, settings)
    assert (backbone.name, backbone.size, backbone.channels) == ("own.onnx", SIZE, CHANNELS)
    assert (backbone.facts.kind, backbone.facts.no_heatmap) == ("maps", "")
    assert backbone.facts.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.facts.weights.licence == "unknown"
    expected = run_in_numpy(images, bgr=True, white=1, mean=settings["mean"], std=settings["std"])
    np.testing.assert_allclose(compute_maps(backbone, tmp_path, images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("metadata", "bgr", "white", "mean", "std"),
    [
        ({"white": "1", "mean": "[0.4, 0.5, 0.6]", "std": "0.25"}, False, 1, [0.4, 0.5, 0.6], [0.25]),
        ({"white": "255", "mean": "104,117,123", "channel_order": "BGR"}, True, 255, [104, 117, 123], [1]),
        ({"Image.NominalPixelRange": "Normalized_1_1"}, False, 1, [0.5], [0.5]),
        ({"Image.NominalPixelRange": "Normalized_0_1", "Image.BitmapPixelFormat": "Bgr8"}, True, 1, [0], [1]),
        ({"Image.NominalPixelRange": "NominalRange_0_255"}, False, 255, [0], [1]),
    ],
)
def test_normalisation_is_read_from_metadata(
    tmp_path: Path, metadata: dict[str, str], bgr: bool, white: float, mean: list[float], std: list[float]
) -> None:
    path = draw_graph(tmp_path / "stated.onnx", metadata=metadata | {"license": "cc-by-nc-4.0"})
    backbone, images = load(path, {}), draw_images()
    expected = run_in_numpy(images, bgr=bgr, white=white, mean=mean, std=std)
    np.testing.assert_allclose(compute_maps(backbone, tmp_path, images), expected, rtol=1e-4, atol=1e-3)
    assert backbone.facts.weights.licence == "cc-by-nc-4.0"  # named, not judged


@pytest.mark.parametrize("in_folder_above", [True, False])
def test_normalisation_is_read_from_an_image_processor_beside_it(tmp_path: Path, in_folder_above: bool) -> None:
    folder = tmp_path / "onnx"
    folder.mkdir()
    config: dict[str, Any] = {"rescale_factor": 1 / 255, "image_mean": [0.48, 0.45, 0.4], "image_std": [0.2, 0.25, 0.3]}
    (tmp_path if in_folder_above else folder).joinpath("preprocessor_config.json").write_text(json.dumps(config))
    backbone, images = load(draw_graph(folder / "model.onnx"), {}), draw_images()
    expected = run_in_numpy(images, bgr=False, white=1, mean=config["image_mean"], std=config["image_std"])
    np.testing.assert_allclose(compute_maps(backbone, folder, images), expected, atol=1e-4)
    config["image_mean"] = [0.0, 0.0, 0.0]
    (tmp_path if in_folder_above else folder).joinpath("preprocessor_config.json").write_text(json.dumps(config))
    changed = load(folder / "model.onnx", {})
    assert changed.version != backbone.version  # another graph, and other features
    (tmp_path if in_folder_above else folder).joinpath("preprocessor_config.json").write_text("[" * 100_000)
    with pytest.raises(RecipeError, match=r"preprocessor_config\.json beside .* is no JSON"):
        load(folder / "model.onnx", {})


def test_a_graph_of_bytes_normalises_itself(tmp_path: Path) -> None:
    path, images = draw_graph(tmp_path / "bytes.onnx", element=TensorProto.UINT8, layout="nhwc"), draw_images()
    expected = run_in_numpy(images, bgr=False, white=1, mean=[0], std=[1])
    np.testing.assert_allclose(compute_maps(load(path, {}), tmp_path, images), expected, atol=1e-4)
    with pytest.raises(RecipeError, match=r"takes pixels as uint8, .* Leave out onnx\.white"):
        load(path, AS_BYTES)


def test_a_graph_in_half_precision_gives_float32_features(tmp_path: Path) -> None:
    path, images = draw_graph(tmp_path / "half.onnx", element=TensorProto.FLOAT16), draw_images()
    maps = compute_maps(load(path, {"white": 1}), tmp_path, images)
    assert maps.dtype == np.float32
    expected = run_in_numpy(images, bgr=False, white=1, mean=[0], std=[1])
    np.testing.assert_allclose(maps, expected, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "kind", "no_heatmap"),
    [
        ({"output": "last"}, "maps", ""),
        ({"output": "tokens"}, "tokens", ""),
        ({"output": "tokens", "prefix_tokens": 15}, "tokens", ""),
        ({"output": "tokens", "pooling": "class-token"}, "vector", "its features are its class token"),
        ({"output": "vector"}, "vector", "its features are one vector for the whole picture"),
        ({"output": "raw"}, "maps", ""),  # inside the graph
    ],
)
def test_features_of_every_kind_become_maps(
    tmp_path: Path, settings: dict[str, Any], kind: str, no_heatmap: str
) -> None:
    path, images = draw_graph(tmp_path / "several.onnx", ends=("maps", "last", "tokens", "vector")), draw_images()
    backbone = load(path, AS_BYTES | settings)
    assert (backbone.facts.kind, backbone.facts.no_heatmap) == (kind, no_heatmap)
    maps = compute_maps(backbone, tmp_path, images)
    whole = run_in_numpy(images, bgr=False, white=255, mean=[0], std=[1])
    tokens = whole.reshape(3, CHANNELS, -1)
    expected = {
        "last": whole,
        "tokens": tokens[:, :, settings.get("prefix_tokens", 0) :].reshape(3, CHANNELS, -1),
        "vector": whole.mean(axis=(2, 3)),
    }.get(settings["output"], maps)
    expected = tokens[:, :, :1] if "pooling" in settings else expected
    np.testing.assert_allclose(maps.reshape(expected.shape), expected, rtol=1e-4, atol=0.05)
    assert maps.ndim == 4
    if settings["output"] == "raw":
        np.testing.assert_allclose(np.maximum(maps, 0), whole, rtol=1e-4, atol=0.05)


def test_what_the_features_do_not_need_is_left_out(tmp_path: Path) -> None:
    path = draw_graph(tmp_path / "classifier.onnx", ends=("probabilities",))
    graph = onnx.load(load(path, AS_BYTES | {"output": "maps"}).cached_graph(tmp_path / "cache"))
    assert {node.op_type for node in graph.graph.node} == {
        *("Cast", "Sub", "Div", "Transpose", "Conv", "Relu", "Identity")
    }
    assert "backbone/classes" not in {value.name for value in graph.graph.initializer}


def test_weights_in_another_file_count_and_are_in_the_graph(tmp_path: Path) -> None:
    path, images = draw_graph(tmp_path / "split.onnx"), draw_images()
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    first = load(path)
    expected = run_in_numpy(images, bgr=False, white=255, mean=[0], std=[1])
    np.testing.assert_allclose(compute_maps(first, tmp_path, images), expected, rtol=1e-4, atol=0.05)
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[:4] = np.float32(0.5).tobytes()
    (tmp_path / "weights.bin").write_bytes(content)
    assert load(path).facts.weights.sha256 != first.facts.weights.sha256
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(RecipeError, match=r"weights\.bin"):
        load(path)


def test_a_described_graph_is_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw_graph(tmp_path / "own.onnx")
    first = load(path)
    monkeypatch.setattr("bestiary.models.onnx_backbone.load_foreign_graph", lambda _: pytest.fail("loaded"))
    assert load(path) == first
    (description,) = (tmp_path / "cache" / "trunks").glob("facts-*.json")
    description.write_text("{}")
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        load(path)


# ---- What cannot be used --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drawn", "settings", "message"),
    [
        ({"ends": ("maps", "vector")}, AS_BYTES, r"has 2 outputs: maps, vector\. Set onnx\.output"),
        ({}, AS_BYTES | {"output": "mops"}, r'no tensor "mops" \(onnx\.output\)\. Some that it has: maps'),
        ({}, {}, r"takes float32, and nothing says how pixels become that\. Set onnx\.white"),
        ({"size": "side"}, AS_BYTES, r"takes pictures of any size\. Set picture\.size"),
        ({"broken": True}, AS_BYTES, r"gives features that are NaN or infinite"),
        ({"element": TensorProto.INT64}, AS_BYTES, r"the input pixels takes no pictures"),
        ({}, AS_BYTES | {"output": "kernel"}, r'no tensor "kernel"'),
        ({"ends": ("tokens",)}, AS_BYTES | {"prefix_tokens": 3}, r"64 tokens of tokens form no square after 3"),
        ({}, AS_BYTES | {"output_layout": "tokens"}, r"maps has the shape \(1, 12, 8, 8\).*output_layout is tokens"),
        ({"layout": "nhwc"}, AS_BYTES | {"layout": "nchw"}, r"has 64 channels if onnx\.layout is nchw"),
    ],
)
def test_a_graph_that_cannot_be_used_says_what_to_set(
    tmp_path: Path, drawn: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    path = draw_graph(tmp_path / "odd.onnx", **drawn)
    with pytest.raises(RecipeError, match=message) as caught:
        load(path, settings)
    assert str(path) in str(caught.value)
    assert not list(tmp_path.glob("cache/**/*.*"))  # nothing half-written


def test_a_size_that_is_set_is_used_or_refused(tmp_path: Path) -> None:
    free, fixed = draw_graph(tmp_path / "free.onnx", size="side"), draw_graph(tmp_path / "fixed.onnx")
    assert load(free, size=80).size == 80
    assert compute_maps(load(free, size=80), tmp_path, draw_images(size=80)).shape == (3, CHANNELS, 10, 10)
    with pytest.raises(RecipeError, match=r'tensor ".+" has .* \(1, 12, 12, 12\), .* Set onnx\.output_layout'):
        load(free, size=96)
    assert load(free, AS_BYTES | {"output_layout": "nhwc"}, size=96).channels == CHANNELS
    with pytest.raises(RecipeError, match=r"takes pictures of 64 pixels only; picture\.size is 96\. Leave it out"):
        load(fixed, size=96)


def test_a_batch_size_of_one_is_freed_where_the_graph_allows_it(tmp_path: Path) -> None:
    path, images = draw_graph(tmp_path / "single.onnx", batch=1), draw_images()
    expected = run_in_numpy(images, bgr=False, white=255, mean=[0], std=[1])
    np.testing.assert_allclose(compute_maps(load(path), tmp_path, images), expected, rtol=1e-4, atol=0.05)
    model = onnx.load(path)
    shape = next(value for value in model.graph.initializer if value.name == "flat")
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([1, CHANNELS, -1], np.int64), "flat"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [None] * 3))
    onnx.save(model, path)
    with pytest.raises(RecipeError, match="Export it with a free batch size"):
        load(path).cached_graph(tmp_path / "cache")
    assert not list(tmp_path.glob("cache/trunks/trunk-onnx.single-*-v1.*tokens*"))


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x08"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.onnx").write_bytes(content)
    with pytest.raises(RecipeError, match=r"text\.onnx is no ONNX graph"):
        load(tmp_path / "text.onnx")
    with pytest.raises(RecipeError, match=r"There is no graph at .*absent\.onnx"):
        load(tmp_path / "absent.onnx")


def test_a_graph_of_two_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(2**31)  # no block of it is on the disk
    with pytest.raises(RecipeError, match=r'"large\.onnx" has 2\.1 GB .* at most 2 GB\. Choose a smaller backbone'):
        load(large)


def test_weights_of_two_gigabytes_beside_a_graph_are_refused(tmp_path: Path) -> None:
    path = draw_graph(tmp_path / "split.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.truncate(graph_cache.MAX_GRAPH_BYTES + 1)
    with pytest.raises(RecipeError, match=r"at most 2 GB"):
        load(path)
