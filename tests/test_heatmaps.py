"""The heatmap of the exported graph is a class-activation map, and depends on the model, not on edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")
pytest.importorskip("timm")

import onnx
import torch

from bestiary.demo.dataset import SyntheticDataset
from bestiary.export.graph import OutputCalibration, build_inference_graph
from bestiary.models.efficientnet_lite import build_backbone_graph
from bestiary.models.engine import OnnxRuntimeEngine, run_batch
from bestiary.models.head import Head
from bestiary.models.pretrained_weights import lite_weights_path, read_legacy_checkpoint
from bestiary.models.timm_backbone import create_timm_lite
from bestiary.picture import load

pytestmark = pytest.mark.slow
SIZE = 224
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def images(collection: SyntheticDataset) -> npt.NDArray[np.uint8]:
    """Six drawn pictures, uint8 (6, 224, 224, 3)."""
    chosen = sorted(collection.kinds)[::20][:6]
    return np.stack([load(Path(path), SIZE) for path in chosen])


@pytest.fixture(scope="module")
def head() -> Head:
    """The classifier that the backbone was trained with: 1,000 classes of ImageNet."""
    weights = read_legacy_checkpoint(lite_weights_path("lite0"))
    return Head(weights["_fc.weight"], weights["_fc.bias"], "average")


@pytest.fixture(scope="module")
def trunk() -> Any:
    return build_backbone_graph("lite0", SIZE)


@pytest.fixture(scope="module")
def answers(trunk: Any, head: Head, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], Floats]:
    """The most probable class of each picture (6,), and its map (6, 7, 7)."""
    outputs = answered(trunk, head, images)
    best = outputs["logits"].argmax(axis=1)
    return best, outputs["heatmap"][np.arange(len(best)), best]


def answered(trunk: Any, head: Head, images: npt.NDArray[np.uint8]) -> Any:
    return run_batch(
        OnnxRuntimeEngine(build_inference_graph(trunk, head, OutputCalibration(), {}).SerializeToString(), threads=2),
        images,
    )


def alike(one: Floats, other: Floats) -> float:
    """Return the mean correlation of maps (n, h, w), picture by picture: 1 where they are the same but for scale."""
    pairs = zip(one.reshape(len(one), -1), other.reshape(len(other), -1), strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))


def test_the_map_is_grad_cams_on_the_same_layer(
    head: Head, images: npt.NDArray[np.uint8], answers: tuple[npt.NDArray[np.int64], Floats]
) -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    from pytorch_grad_cam.utils.image import scale_cam_image

    network = create_timm_lite("lite0")
    linear = torch.nn.Linear(*head.weight.shape[::-1])
    linear.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
    model = torch.nn.Sequential(network, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear).eval()
    best, maps = answers
    pixels = torch.from_numpy((images.astype(np.float32) - 127.5) / 127.5).permute(0, 3, 1, 2)
    with grad_cam.GradCAM(model=model, target_layers=[network]) as cam:
        theirs = cam(input_tensor=pixels, targets=[targets.ClassifierOutputTarget(int(at)) for at in best])
    ours = scale_cam_image(np.maximum(maps, 0), (SIZE, SIZE))  # theirs are clipped at 0, stretched and scaled
    assert ours.shape == theirs.shape == (len(best), SIZE, SIZE)
    for mine, other in zip(ours.reshape(len(best), -1), theirs.reshape(len(best), -1), strict=True):
        assert mine @ other / np.linalg.norm(mine) / np.linalg.norm(other) > 0.99


def test_a_map_of_random_weights_is_another_one(
    trunk: Any, head: Head, images: npt.NDArray[np.uint8], answers: tuple[npt.NDArray[np.int64], Floats]
) -> None:
    """The sanity check of Adebayo et al. (2018): a map that survives randomised weights shows edges, not evidence."""
    best, maps = answers
    chance = np.random.default_rng(0)
    rows = np.arange(len(best))
    heads = [Head(chance.permuted(head.weight.ravel()).reshape(head.weight.shape), head.bias, "average") for _ in "abc"]
    of_random_heads = [alike(maps, answered(trunk, one, images)["heatmap"][rows, best]) for one in heads]
    assert abs(np.mean(of_random_heads)) < 0.3
    of_random_trunk = alike(maps, answered(shuffled(trunk, chance), head, images)["heatmap"][rows, best])
    assert abs(of_random_trunk) < 0.5
    assert alike(maps, answered(trunk, head, images)["heatmap"][rows, best]) == pytest.approx(1)


def shuffled(trunk: Any, chance: np.random.Generator) -> Any:
    """Return the trunk with the numbers of each of its filters dealt anew: the same spread, nothing learnt."""
    copy = onnx.ModelProto()
    copy.CopyFrom(trunk)
    for tensor in copy.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(chance.permuted(values.ravel()).reshape(values.shape), tensor.name)
            )
    return copy
