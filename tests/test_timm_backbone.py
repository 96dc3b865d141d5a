"""timm models as backbones of a probe: exported once, pooled as timm pools them, described without torch afterwards."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="timm's models are exported by torch")
pytest.importorskip("timm", reason="timm's models need timm")

import timm
import torch
from safetensors.torch import save_file

from bestiary.errors import RecipeError
from bestiary.models import graph_cache, timm_export
from bestiary.models.backbone import Backbone
from bestiary.models.backbones import backbone_by_name
from bestiary.models.engine import OnnxRuntimeEngine, run_batch

SIZE = 64
CLASS_TOKEN = "its features are its class token"
ATTENTION = "its features come from attention pooling"


def save_random_weights(folder: Path, name: str, metadata: dict[str, str] | None = None, **options: Any) -> Path:
    """Return a file of seeded random weights of a timm model."""
    torch.manual_seed(0)
    state = timm.create_model(name, **options).state_dict()
    path = folder / f"{name}.safetensors"
    save_file({key: values.contiguous() for key, values in state.items()}, path, metadata)
    return path


def load(name: str, weights: Path, folder: Path) -> Backbone:
    return backbone_by_name(f"timm:{name}", folder / "cache", weights=str(weights))


@pytest.mark.parametrize(
    ("name", "kind", "no_heatmap", "pooled_by_timm"),
    [
        ("test_resnet", "maps", "", True),
        pytest.param("test_convnext", "maps", "", False, marks=pytest.mark.slow),  # its norm is after the pooling
        pytest.param("mobilenetv3_small_050", "maps", "", False, marks=pytest.mark.slow),  # as is a convolution
        ("test_vit", "vector", CLASS_TOKEN, True),
        pytest.param("test_vit2", "tokens", "", False, marks=pytest.mark.slow),  # norm after the mean of its patches
        pytest.param("test_vit3", "vector", ATTENTION, True, marks=pytest.mark.slow),
        pytest.param("deit_tiny_distilled_patch16_224", "vector", CLASS_TOKEN, True, marks=pytest.mark.slow),
        pytest.param("efficientvit_b0", "vector", "its features have no maps", True, marks=pytest.mark.slow),
    ],
)
def test_features_are_those_that_timm_pools(
    tmp_path: Path, name: str, kind: str, no_heatmap: str, pooled_by_timm: bool
) -> None:
    weights = save_random_weights(tmp_path, name)
    backbone = load(name, weights, tmp_path)
    assert backbone.facts.kind == kind
    assert backbone.facts.no_heatmap.startswith(no_heatmap)
    assert bool(backbone.facts.no_heatmap) == bool(no_heatmap)
    size = backbone.size
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    maps = run_batch(OnnxRuntimeEngine(backbone.cached_graph(tmp_path / "cache"), threads=1), images)["maps"]
    assert maps.shape[:2] == (2, backbone.channels)
    assert (maps.shape[2:] == (1, 1)) == (kind == "vector")
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    network.reset_classifier(0)
    expected = timm.data.resolve_model_data_config(network)
    mean, std = torch.tensor(expected["mean"]), torch.tensor(expected["std"])
    pixels = ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        own = network(pixels).numpy()
    if pooled_by_timm:
        np.testing.assert_allclose(maps.mean(axis=(2, 3)), own, atol=1e-3 * max(1, np.abs(own).max()))


def test_the_description_names_weights_source_and_licence(tmp_path: Path) -> None:
    path = save_random_weights(tmp_path, "test_resnet")
    record = load("test_resnet", path, tmp_path).facts.weights
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.source == "the file test_resnet.safetensors, read as weights of timm's test_resnet"
    expected = "apache-2.0 for timm's own weights of test_resnet.r160_in1k; this file names none"
    assert record.licence == expected
    own = save_random_weights(tmp_path, "test_resnet", {"license": "cc-by-nc-4.0"})
    assert load("test_resnet", own, tmp_path).facts.weights.licence == "cc-by-nc-4.0"


def test_a_position_embedding_is_resampled_to_the_size(tmp_path: Path) -> None:
    backbone = load("test_vit2", save_random_weights(tmp_path, "test_vit2"), tmp_path)
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    graph = backbone.cached_graph(tmp_path / "cache", SIZE)
    assert run_batch(OnnxRuntimeEngine(graph, threads=1), images)["maps"].shape == (2, 64, 4, 4)
    assert backbone.cached_graph(tmp_path / "cache", SIZE) == graph


def test_once_exported_neither_torch_nor_timm_is_imported(tmp_path: Path) -> None:
    path = save_random_weights(tmp_path, "test_resnet")
    load("test_resnet", path, tmp_path).cached_graph(tmp_path / "cache", SIZE)
    program = f"""
import sys
sys.modules["torch"] = sys.modules["timm"] = None
from pathlib import Path
from bestiary.models.backbones import backbone_by_name
cache = Path({str(tmp_path / "cache")!r})
backbone = backbone_by_name("timm:test_resnet", cache, weights={str(path)!r})
print(backbone.channels, backbone.cached_graph(cache, {SIZE}).name)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("96 trunk-timm.test_resnet-64px-")


def test_without_torch_the_graph_of_any_version_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_random_weights(tmp_path, "test_resnet")
    first = load("test_resnet", path, tmp_path)
    versions = {"timm": "0.1", "torch": "2.0"}
    monkeypatch.setattr(timm_export, "_installed_version", versions.get)
    assert load("test_resnet", path, tmp_path).version != first.version  # of another version: exported again
    monkeypatch.setattr(timm_export, "_installed_version", lambda _: None)
    monkeypatch.setattr(timm_export, "_create", lambda *_: pytest.fail("created"))
    assert load("test_resnet", path, tmp_path).facts == first.facts


# ---- What cannot be used --------------------------------------------------------------------------------------------


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = save_random_weights(tmp_path, "test_vit")
    with pytest.raises(RecipeError, match=r"test_vit\.safetensors does not hold the weights of test_resnet"):
        load("test_resnet", path, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_of_many_tensors_that_are_missing_a_few_are_named(tmp_path: Path) -> None:
    path = save_random_weights(tmp_path, "test_vit")
    with pytest.raises(RecipeError) as refused:
        load("test_resnet", path, tmp_path)
    assert re.search(r'Missing key\(s\) in state_dict: ("[\w.]+", ){3}and \d+ more', str(refused.value))
    assert re.search(r'Unexpected key\(s\) in state_dict: ("[\w.]+", ){3}and \d+ more', str(refused.value))


def test_an_unknown_name_gives_the_nearest(tmp_path: Path) -> None:
    path = save_random_weights(tmp_path, "test_resnet")
    with pytest.raises(RecipeError, match=r'timm .* has no model "test_resnot"\. Similar names: test_resnet'):
        load("test_resnot", path, tmp_path)


def test_weights_that_give_nan_are_refused(tmp_path: Path) -> None:
    path = save_random_weights(tmp_path, "test_resnet")
    torch.manual_seed(0)
    state = timm.create_model("test_resnet").state_dict()
    state["conv1.weight" if "conv1.weight" in state else next(iter(state))][:] = float("nan")
    save_file(state, path)
    with pytest.raises(RecipeError, match=r'"test_resnet" with the weights .* gives features that are NaN'):
        load("test_resnet", path, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_a_network_of_two_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "MAX_GRAPH_BYTES", 1000)
    backbone = load("test_resnet", save_random_weights(tmp_path, "test_resnet"), tmp_path)
    with pytest.raises(RecipeError, match=r'"test_resnet" has .* GB with its weights'):
        backbone.cached_graph(tmp_path / "cache", SIZE)
    assert not list(tmp_path.glob("cache/trunks/trunk-*"))


def test_a_size_that_a_network_does_not_take_is_refused(tmp_path: Path) -> None:
    backbone = load("test_vit", save_random_weights(tmp_path, "test_vit"), tmp_path)
    with pytest.raises(RecipeError, match=r'"test_vit" does not take pictures of 40 pixels'):
        backbone.cached_graph(tmp_path / "cache", 40)  # its patches have 16 pixels


def test_a_damaged_description_is_written_again(tmp_path: Path) -> None:
    path = save_random_weights(tmp_path, "test_resnet")
    first = load("test_resnet", path, tmp_path)
    (description,) = (tmp_path / "cache" / "trunks").glob("facts-*.json")
    description.write_text(json.dumps({"size": -3}))
    assert load("test_resnet", path, tmp_path).facts == first.facts
