from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest

pytest.importorskip("torch")

import onnxruntime
import torch
from torch import Tensor, nn

from bestiary.errors import IntegrityError, RecipeError
from bestiary.models.head import Dense, Head
from bestiary.models.networks import (
    FlatHead,
    Network,
    PlainArchitecture,
    export_head,
    finetune_network,
    from_timm,
    plain_cnn,
    small_resnet,
    with_linear_head,
)
from bestiary.models.timm_backbone import TimmBackbone
from bestiary.models.torch_export import _compare_maps, export_backbone
from bestiary.recipe import Recipe
from bestiary.training.recipe_checks import check_recipe_supported


def pixels(count: int = 4, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255


def small_networks() -> dict[str, Network]:
    return {
        "resnet": small_resnet(5, filters=(8, 16), blocks=2),
        "resnet with its mirror mean": small_resnet(5, filters=(8, 16), blocks=1, mirror_mean=True),
        "plain": plain_cnn(5, 32, PlainArchitecture(filters=(4, 8), hidden=(16,))),
        "plain with everything": plain_cnn(
            5,
            32,
            PlainArchitecture(
                filters=(4, 8, 8),
                hidden=(16, 12),
                batch_norm=True,
                kernel_size=(5, 3),
                pooling="average",
                activation="silu",
                stage_dropout=0.1,
            ),
        ),
        "over a backbone": with_linear_head(FakeBackbone(), 5, channels=12),
    }


class FakeBackbone(nn.Module):
    """Built like timm's EfficientNet: a stem, blocks that hold nearly all the weights, and a last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.bn1 = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)) for _ in "abc"))
        self.conv_head = nn.Conv2d(8, 12, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv_head(self.blocks(self.bn1(self.conv_stem(images))))
        return maps


@pytest.mark.parametrize("name", small_networks())
def test_the_head_in_numpy_gives_the_network_s_logits(name: str) -> None:
    network = small_networks()[name].eval()
    with torch.inference_mode():
        maps, logits = network.feature_maps(pixels()), network(pixels())
    head = export_head(network)
    assert head.classes == 5
    assert head.is_linear == ("plain" not in name)
    np.testing.assert_allclose(head.logits(maps.numpy()), logits.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", small_networks())
def test_the_first_loss_is_near_ln_classes(name: str) -> None:
    network = small_networks()[name].eval()
    loss = nn.functional.cross_entropy(network(pixels()), torch.tensor([0, 1, 2, 3]))
    assert float(loss.detach()) == pytest.approx(math.log(5), abs=0.2)


@pytest.mark.parametrize("name", small_networks())
def test_stages_hold_all_weights_of_the_backbone_once(name: str) -> None:
    network = small_networks()[name]
    staged = [id(weight) for stage in network.stages() for weight in stage]
    assert sorted(staged) == sorted(id(weight) for weight in network.backbone.parameters())


def test_a_backbone_has_a_stage_for_each_of_its_blocks() -> None:
    network = with_linear_head(FakeBackbone(), 5, channels=12)
    assert len(network.stages()) == 3
    last = {id(weight) for weight in network.stages()[-1]}
    assert id(network.backbone.conv_head.weight) in last  # type: ignore[union-attr]
    assert len(small_resnet(5, filters=(8, 16, 32)).stages()) == 4


def test_the_same_seed_builds_the_same_network_and_leaves_torch_s_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (small_resnet(3, filters=(8,), seed=seed).backbone.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    key = next(iter(first))
    assert torch.equal(first[key], again[key])
    assert not torch.equal(first[key], other[key])


def test_a_residual_block_starts_as_its_shortcut() -> None:
    block = small_resnet(3, filters=(8,), blocks=2).backbone[0][1][1].eval()  # type: ignore[index]
    maps = torch.rand(2, 8, 4, 4)
    assert torch.equal(block(maps), maps)


def test_the_mirror_mean_is_the_mean_of_the_logits_of_both() -> None:
    one, mean = (small_resnet(5, filters=(8, 16), mirror_mean=mirror_mean).eval() for mirror_mean in (False, True))
    with torch.inference_mode():
        both = (one(pixels()) + one(pixels().flip(-1))) / 2
        assert not torch.allclose(one(pixels()), both, atol=1e-4)
        assert torch.allclose(mean(pixels()), both, atol=1e-5)
        assert torch.allclose(mean.train()(pixels()), one.train()(pixels()), atol=1e-5), "training sees one view"


def test_normalisation_is_in_units_of_0_to_255() -> None:
    network = with_linear_head(nn.Identity(), 2, channels=3)
    ends = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 255.0)])
    assert [set(maps.flatten().tolist()) for maps in network.feature_maps(ends)] == [{-1.0}, {1.0}]


def test_timm_s_normalisation_becomes_that_of_0_to_255() -> None:
    found = TimmBackbone("fake", FakeBackbone(), channels=12, size=32, mean=(0.5, 0.4, 0.2), std=(0.5, 0.2, 0.1))
    network = from_timm(found, 4)
    assert network(pixels()).shape == (4, 4)
    assert network.mean.tolist() == pytest.approx([127.5, 102, 51])
    assert network.std.tolist() == pytest.approx([127.5, 51, 25.5])


@pytest.mark.slow
def test_fine_tuning_starts_from_the_bundled_backbone_and_the_probe_s_head() -> None:
    pytest.importorskip("timm")
    weight = np.random.default_rng(0).normal(size=(3, 1280)).astype(np.float32)
    network = finetune_network(3, "lite0", weight=weight, bias=np.zeros(3, np.float32)).eval()
    with torch.inference_mode():
        maps, logits = network.feature_maps(pixels(2, 64)), network(pixels(2, 64))
    assert maps.shape == (2, 1280, 2, 2)
    np.testing.assert_allclose(logits.numpy(), maps.mean(dim=(2, 3)).numpy() @ weight.T, atol=1e-3)
    assert len(network.stages()) == 7


def test_a_pretrained_backbone_keeps_its_statistics_while_training() -> None:
    network = with_linear_head(FakeBackbone(), 5, channels=12).train()
    before = copy.deepcopy(network.backbone.state_dict())
    network(pixels()).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.backbone.state_dict().items())
    assert network.training
    assert network.head.training
    scratch = small_resnet(5, filters=(8,)).train()
    mean = scratch.backbone[0][0][1].running_mean.clone()  # type: ignore[index]
    scratch(pixels())
    assert not torch.equal(mean, scratch.backbone[0][0][1].running_mean)  # type: ignore[index]


def test_a_head_starts_from_the_probe_s() -> None:
    weight, bias = np.arange(24, dtype=np.float32).reshape(2, 12), np.array([1, -1], np.float32)
    head = export_head(with_linear_head(FakeBackbone(), 2, channels=12, weight=weight, bias=bias))
    np.testing.assert_array_equal(head.weight, weight)
    np.testing.assert_array_equal(head.bias, bias)
    with pytest.raises(ValueError, match=r"shapes \(2, 12\), \(2,\); expected \(\(3, 12\), \(3,\)\)"):
        with_linear_head(FakeBackbone(), 3, channels=12, weight=weight, bias=bias)
    with pytest.raises(ValueError, match="together"):
        with_linear_head(FakeBackbone(), 2, channels=12, weight=weight)


def test_a_plain_network_refuses_sizes_and_kernels_that_cannot_be() -> None:
    with pytest.raises(RecipeError, match=r"6 stages halves 32 pixels to 0; expected 1 to 5"):
        plain_cnn(3, 32, PlainArchitecture(filters=(4,) * 6))
    with pytest.raises(RecipeError, match="kernel_size is 4"):
        plain_cnn(3, 32, PlainArchitecture(kernel_size=(3, 4)))
    with pytest.raises(RecipeError, match="at least one stage"):
        small_resnet(3, filters=())


def test_the_original_s_shape_of_plain_network() -> None:
    network = plain_cnn(10, 150)
    assert network(pixels(2, 150)).shape == (2, 10)
    assert isinstance(network.head, FlatHead)
    assert network.head.hidden[0].in_features == 128 * 18 * 18


def test_plain_is_built_as_asked() -> None:
    network = plain_cnn(
        3, 32, PlainArchitecture(filters=(4, 6, 8), kernel_size=(7, 5), pooling="average", activation="tanh",
        stage_dropout=0.2, hidden=(20, 10), dropout=0.3),
    )  # fmt: skip
    kinds = [type(layer).__name__ for layer in network.backbone[0][0]]  # type: ignore[index]
    assert kinds == ["Conv2d", "Tanh", "AvgPool2d", "Dropout"]
    convolutions = [layer for layer in network.backbone.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(7, 7), (5, 5), (5, 5)]
    assert isinstance(network.head, FlatHead)
    assert [layer.out_features for layer in network.head.hidden] == [20, 10]
    assert network(pixels()).shape == (4, 3)


def test_the_default_resnet_is_small_and_takes_other_sizes() -> None:
    network = small_resnet(10)
    assert 1e6 < sum(weight.numel() for weight in network.parameters()) < 3e6
    assert network.eval()(pixels(1, 100)).shape == (1, 10)


@pytest.mark.parametrize("name", small_networks())
def test_the_exported_backbone_equals_the_network(name: str) -> None:
    network = small_networks()[name]
    with torch.no_grad():
        network(pixels())  # moves the batch statistics away from their start
    network.train()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        graph = export_backbone(network, 32)
    assert leaked == []
    assert network.training, "the network is not changed"
    assert all(not tensor.external_data for tensor in graph.graph.initializer)
    assert b"torch_export.py" not in graph.SerializeToString(), "where the code lies is nobody's business"
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()] == [
        ("images", "tensor(uint8)", [32, 32, 3])
    ]
    images = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (maps,) = session.run(["maps"], {"images": images})
    with torch.inference_mode():
        expected = network.eval().feature_maps(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-4)


def test_an_export_that_computes_something_else_is_refused() -> None:
    right = np.ones((2, 3, 4, 4), np.float32)
    _compare_maps(right + 5e-5, right, 2)
    with pytest.raises(IntegrityError, match="differs from the network"):
        _compare_maps(right + 5e-4, right, 2)
    with pytest.raises(IntegrityError, match="differs from the network"):
        _compare_maps(right * np.float32(np.nan), right, 2)
    with pytest.raises(IntegrityError, match="gives maps"):
        _compare_maps(right[:1], right, 2)


def test_a_head_that_cannot_be_computed_is_refused() -> None:
    weight, bias = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    with pytest.raises(IntegrityError, match=r"weight has shape \(3, 4\), its bias \(2,\)"):
        Head(weight, bias[:2], "average")
    with pytest.raises(IntegrityError, match='pools by "max"'):
        Head(weight, bias, "max")  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match="takes 4 features; the one before it gives 3"):
        Head(weight, bias, "flatten", hidden=(Dense(weight, bias),))
    with pytest.raises(IntegrityError, match="float64"):
        Head(weight.astype(np.float64), bias, "average")


@pytest.mark.parametrize(
    ("filters", "size", "size_from", "words"),
    [
        ([8, 8, 8, 8], 64, 16, r"4 stages reduces 16 pixels to none; expected 32 pixels or more"),
        ([8, 8, 8, 8, 8], 32, None, r"5 stages reduces \d+ pixels to none; expected 64"),
    ],
)
def test_a_residual_network_refuses_pictures_that_are_too_small(
    filters: list[int], size: int, size_from: int | None, words: str
) -> None:
    train = {} if size_from is None else {"size_from": size_from}
    asked = {"picture": {"size": size}, "model": {"method": "scratch", "filters": filters}, "train": train}
    with pytest.raises(RecipeError, match=words):
        check_recipe_supported(Recipe.of(asked))
