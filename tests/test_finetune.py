"""Fine-tuning: kept activations are those of the network, and the upper part is the whole network's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("timm")

import torch
from numpy.typing import NDArray

from bestiary.batches.decoding import View
from bestiary.data.drawn import DrawnCollection
from bestiary.models.cut import STAGES, lower_part
from bestiary.models.engine import OnnxRuntimeEngine, run
from bestiary.models.lite import built_trunk
from bestiary.models.networks import Network, backbone_network
from bestiary.models.upper import upper_part
from bestiary.progress import Silent
from bestiary.recipe import Augment
from bestiary.training import finetune, loop
from bestiary.training.activations import Views, activation_store, fill_activations, reader, view_key

SIZE = 64
KEYS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_trunk("lite0", tmp_path_factory.mktemp("trunks"), SIZE)


@pytest.fixture(scope="module")
def network() -> Network:
    return backbone_network(3, "lite0", seed=1).eval()


def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def tensor(images: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_upper_part_on_lower_part_is_the_whole_network(trunk: Path, network: Network, stages: int) -> None:
    lower = lower_part(trunk, "lite0", SIZE, stages)
    activations = run(OnnxRuntimeEngine(lower.graph, threads=1), pictures())["activations"]
    assert activations.shape == (3, *lower.shape)
    with torch.inference_mode():
        expected = network(tensor(pictures()))
        found = upper_part(network, stages).eval()(tensor(activations))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("stages", [0, 8])
def test_a_cut_outside_the_trunk_is_refused(trunk: Path, stages: int) -> None:
    with pytest.raises(ValueError, match="cannot be cut after"):
        lower_part(trunk, "lite0", SIZE, stages)


def test_training_the_upper_part_trains_the_whole_network_and_nothing_below(network: Network) -> None:
    upper = upper_part(network, 5)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    with torch.no_grad():
        for weight in upper.parameters():
            weight.add_(1)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert {name for name in changed if name.startswith("head.")} == {"head.linear.weight", "head.linear.bias"}
    rest = {name for name in before if name.startswith(("trunk.blocks.5.", "trunk.blocks.6.", "trunk.conv_head."))}
    assert changed >= rest
    assert not {name for name in changed if name.startswith(("trunk.blocks.4.", "trunk.conv_stem"))}
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.copy_(before[name])


def test_batch_normalisation_stays_as_it_came(network: Network) -> None:
    upper = upper_part(network, 5).train()
    norms = [module for module in upper.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    network.eval()


# ---- Views and their activations -----------------------------------------------------------------------------------


def test_views_are_the_picture_its_mirror_image_and_random_ones_that_repeat() -> None:
    picture = pictures()[:1]
    first, second = (list(Views(4, Augment()).of(picture, "key")) for _ in range(2))
    assert [view.shape for view in first] == [(1, SIZE, SIZE, 3)] * 4
    assert {view.dtype for view in first} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(first[0], picture)
    np.testing.assert_array_equal(first[1], picture[:, :, ::-1])
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[2], first[3])
    assert not np.array_equal(first[2], list(Views(4, Augment()).of(picture, "other"))[2])
    assert len(list(Views(1, Augment()).of(picture, "key"))) == 1


def test_kept_activations_equal_the_direct_computation(
    trunk: Path, tmp_path: Path, collection: DrawnCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower, views, paths = lower_part(trunk, "lite0", SIZE, 5), Views(3, Augment()), sorted(collection.kinds)[:3]
    store = activation_store(tmp_path, lower, View(SIZE), "float32", views.augment)

    def fill() -> None:
        fill_activations(
            store, paths, KEYS, lower, View(SIZE), views, precision="float32", threads=1, reporter=Silent()
        )

    fill()
    engine = OnnxRuntimeEngine(lower.graph, threads=1)
    rows = reader(store, KEYS)(np.arange(9))
    assert rows.dtype == np.float16
    for position, row in enumerate(rows):
        key, number = KEYS[position % 3], position // 3
        view = list(views.of(View(SIZE).of(paths[position % 3])[None], key))[number]
        expected = run(engine, view)["activations"][0]
        np.testing.assert_allclose(row, expected, atol=0.02, rtol=2e-3)
        np.testing.assert_array_equal(row, store.read([view_key(key, number)])[0])
    monkeypatch.setattr("bestiary.training.activations.bulk_engine", lambda *_, **__: pytest.fail("computed again"))
    fill()


def test_other_augmentation_or_cut_has_a_store_of_its_own(trunk: Path, tmp_path: Path) -> None:
    lower, deeper = (lower_part(trunk, "lite0", SIZE, stages) for stages in (5, 6))
    stores = [
        activation_store(tmp_path, lower, View(SIZE), "float32", Augment()),
        activation_store(tmp_path, lower, View(SIZE), "bfloat16", Augment()),
        activation_store(tmp_path, lower, View(SIZE), "float32", Augment(crop_min_area=0.9)),
        activation_store(tmp_path, deeper, View(SIZE), "float32", Augment()),
    ]
    assert len({store.folder for store in stores}) == len(stores)


def test_the_mixture_with_the_lowest_validation_loss_is_kept(network: Network) -> None:
    upper = upper_part(network, STAGES)
    start = {name: tensor.clone() for name, tensor in upper.state_dict().items()}
    bias = upper.head.linear.bias
    with torch.no_grad():
        bias.add_(1)

    def validate(_: Network) -> loop.Validation:
        return loop.Validation(abs(float((bias.detach() - start["head.linear.bias"]).mean()) - 0.5), 0.0)

    assert finetune._blended(upper, start, validate) == 0.5
    torch.testing.assert_close(bias.detach(), start["head.linear.bias"] + 0.5)
    upper.load_state_dict(start)
