"""Fine-tuning: kept activations are those of the network, and the upper part is the whole network's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")
pytest.importorskip("timm")

import torch
from numpy.typing import NDArray

from bestiary import flow
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import InterruptedRun
from bestiary.files import read_json
from bestiary.machine import FeatureDevice
from bestiary.models.efficientnet_lite import cached_backbone_graph
from bestiary.models.engine import OnnxRuntimeEngine, run_batch
from bestiary.models.networks import Network, finetune_network
from bestiary.models.onnx_surgery import STAGES, extract_frozen_stages
from bestiary.preprocess import Preprocessing
from bestiary.recipe import Recipe
from bestiary.recipe_sections import AugmentConfig, FeaturesConfig
from bestiary.training import finetune
from bestiary.training.activation_cache import (
    AugmentedViews,
    activation_cache,
    augmentation_key,
    fill_activation_cache,
    make_row_reader,
)
from bestiary.training.epoch_throughput import EpochThroughput
from bestiary.training.finetune import trainable_stages
from bestiary.training.methods import build_training_setup
from bestiary.training.task import SplitData, TrainingTask
from bestiary.training.throughput import Throughput
from bestiary.training.time_estimate import estimate_seconds
from stand_in_device import StandIn, install_stand_in

SIZE = 64


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cached_backbone_graph("lite0", tmp_path_factory.mktemp("trunks"), SIZE)


@pytest.fixture(scope="module")
def network() -> Network:
    return finetune_network(3, "lite0", seed=1).eval()


def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def tensor(images: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_upper_part_on_lower_part_is_the_whole_network(trunk: Path, network: Network, stages: int) -> None:
    lower = extract_frozen_stages(trunk, "lite0", SIZE, stages)
    activations = run_batch(OnnxRuntimeEngine(lower.graph, threads=1), pictures())["activations"]
    assert activations.shape == (3, *lower.shape)
    with torch.inference_mode():
        expected = network(tensor(pictures()))
        found = trainable_stages(network, stages).eval()(tensor(activations))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("stages", [0, 8])
def test_a_cut_outside_the_trunk_is_refused(trunk: Path, stages: int) -> None:
    with pytest.raises(ValueError, match="cannot be cut after"):
        extract_frozen_stages(trunk, "lite0", SIZE, stages)


def test_training_the_upper_part_trains_the_whole_network_and_nothing_below(network: Network) -> None:
    upper = trainable_stages(network, 5)
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
    upper = trainable_stages(network, 5).train()
    norms = [module for module in upper.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    network.eval()


# ---- Views and their activations -----------------------------------------------------------------------------------


def test_views_are_the_picture_its_mirror_image_and_random_ones_that_repeat() -> None:
    picture = pictures()[:1]
    first, second = (list(AugmentedViews(4, AugmentConfig()).iter_views(picture, "key")) for _ in range(2))
    assert [view.shape for view in first] == [(1, SIZE, SIZE, 3)] * 4
    assert {view.dtype for view in first} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(first[0], picture)
    np.testing.assert_array_equal(first[1], picture[:, :, ::-1])
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[2], first[3])
    assert not np.array_equal(first[2], list(AugmentedViews(4, AugmentConfig()).iter_views(picture, "other"))[2])
    assert len(list(AugmentedViews(1, AugmentConfig()).iter_views(picture, "key"))) == 1


def test_without_mirroring_no_view_is_the_mirror_image() -> None:
    picture, augment = pictures()[:1], AugmentConfig(mirror=0)
    views = list(AugmentedViews(4, augment).iter_views(picture, "key"))
    np.testing.assert_array_equal(views[0], picture)
    assert not any(np.array_equal(view, picture[:, :, ::-1]) for view in views)
    mirrored = list(AugmentedViews(4, AugmentConfig()).iter_views(picture, "key"))
    assert len(views) == len(mirrored) == 4


def test_random_views_are_turned() -> None:
    picture = pictures()[:1]
    augment = AugmentConfig(mirror=0, crop_min_area=1, colour_jitter=0, turn="quarters")
    views = list(AugmentedViews(9, augment).iter_views(picture, "key"))
    turns = [[np.array_equal(view, np.rot90(picture, number, (1, 2))) for number in range(4)] for view in views]
    assert all(sum(equal) == 1 for equal in turns)
    assert len({equal.index(True) for equal in turns}) > 1


def test_activations_of_older_runs_stay_cached(trunk: Path, tmp_path: Path) -> None:
    """The name of the folder has always been made of these four settings, while the newer ones are off."""
    lower = extract_frozen_stages(trunk, "lite0", SIZE, 5)
    preprocess = Preprocessing(SIZE)
    old = '{"mirror":0.5,"crop_min_area":0.5,"colour_jitter":0.2,"erasing":0.0}'
    digest = hashlib.sha256(lower.graph + f"{old} {preprocess.rules.cache_name} v1".encode()).hexdigest()[:16]
    folder = activation_cache(tmp_path, lower, preprocess, "float32", AugmentConfig()).folder
    assert folder.name == f"{digest}-squash-float32"
    changed = [AugmentConfig(turn="any"), AugmentConfig(vertical_mirror=0.1), AugmentConfig(policy="trivial")]
    folders = {activation_cache(tmp_path, lower, preprocess, "float32", augment).folder for augment in changed}
    assert len(folders | {folder}) == 4


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_kept_activations_equal_the_direct_computation(
    trunk: Path, tmp_path: Path, collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch, device: FeatureDevice
) -> None:
    """On a card, whose memory runs out, as well."""
    monkeypatch.setattr("bestiary.models.device_measurement.BATCH_SIZES", (4, 8))
    card = install_stand_in(monkeypatch, StandIn()) if device == "cuda" else StandIn()
    lower, views, paths = (
        extract_frozen_stages(trunk, "lite0", SIZE, 5),
        AugmentedViews(3, AugmentConfig()),
        sorted(collection.kinds)[:3],
    )
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    recipe = Recipe.of(FINETUNE).resolve()
    context = Context(1, cache=tmp_path, features=FeaturesConfig(device=device))
    task = TrainingTask(recipe, pl.DataFrame(), (), Preprocessing(SIZE), tmp_path, context)
    pictures = SplitData(paths, keys, np.zeros(3, np.int64))
    assert task.engine_choice.device == device
    card.most_rows, card.batches = 4, []
    store = fill_activation_cache(task, pictures, lower, views, "float32")
    assert card.batches == ([9, 4, 4, 1] if device == "cuda" else [])
    engine = OnnxRuntimeEngine(lower.graph, threads=1)
    rows = make_row_reader(store, keys)(np.arange(9))
    assert rows.dtype == np.float16
    for position, row in enumerate(rows):
        key, number = keys[position % 3], position // 3
        view = list(views.iter_views(Preprocessing(SIZE).load_pixels(paths[position % 3])[None], key))[number]
        expected = run_batch(engine, view)["activations"][0]
        np.testing.assert_allclose(row, expected, atol=0.02, rtol=2e-3)
        np.testing.assert_array_equal(row, store.read([augmentation_key(key, number)])[0])
    monkeypatch.setattr(
        "bestiary.training.activation_cache.make_engine", lambda *_, **__: pytest.fail("computed again")
    )
    fill_activation_cache(task, pictures, lower, views, "float32")


def test_other_augmentation_or_cut_has_a_store_of_its_own(trunk: Path, tmp_path: Path) -> None:
    lower, deeper = (extract_frozen_stages(trunk, "lite0", SIZE, stages) for stages in (5, 6))
    stores = [
        activation_cache(tmp_path, lower, Preprocessing(SIZE), "float32", AugmentConfig()),
        activation_cache(tmp_path, lower, Preprocessing(SIZE), "bfloat16", AugmentConfig()),
        activation_cache(tmp_path, lower, Preprocessing(SIZE), "float32", AugmentConfig(crop_min_area=0.9)),
        activation_cache(tmp_path, deeper, Preprocessing(SIZE), "float32", AugmentConfig()),
    ]
    assert len({store.folder for store in stores}) == len(stores)


@pytest.mark.parametrize(
    ("target", "f1_falls_from", "share"), [(-1.0, 2.0, 0.0), (0.5, 2.0, 0.5), (2.0, 2.0, 1.0), (2.0, 0.6, 0.5)]
)
def test_the_mixture_with_the_lowest_loss_is_kept(
    network: Network, target: float, f1_falls_from: float, share: float
) -> None:
    upper = trainable_stages(network, STAGES)
    start = {name: tensor.clone() for name, tensor in upper.state_dict().items()}
    bias = upper.head.linear.bias
    with torch.no_grad():
        bias.add_(1)

    def judge() -> tuple[float, float]:
        moved = float((bias.detach() - start["head.linear.bias"]).mean())
        return abs(moved - target), 0.9 if moved < f1_falls_from else 0.8

    assert finetune.interpolate_weights(upper, start, judge) == share
    torch.testing.assert_close(bias.detach(), start["head.linear.bias"] + share)
    upper.load_state_dict(start)


# ---- Runs ----------------------------------------------------------------------------------------------------------


FINETUNE: dict[str, Any] = {
    "data": {"min_per_class": 3, "suspects": False},
    "evaluate": {"resamples": 100},
    "picture": {"size": 64},
    "model": {"method": "finetune", "backbone": "lite0"},
    "probe": {"regularisation": [0.001, 0.01]},
    "train": {"epochs": 2, "batch_size": 16, "unfreeze_stages": 1, "views": 2},
}


def calibrated(run: Path) -> float:
    """Return the log-loss of the validation pictures in the run's table, whose probabilities are calibrated."""
    rows = pl.read_parquet(run / "predictions.parquet").filter(pl.col("split") == "val").to_dicts()
    return -float(np.mean([np.log(row[f"p_{row['label']}"]) for row in rows]))


@pytest.fixture(scope="module")
def gentle(collection: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that fine-tuned with a usual learning rate, on one thread, so that its sums are always the same."""
    out = tmp_path_factory.mktemp("finetune") / "gentle"
    return flow.train(collection.folder, recipe=Recipe.of(FINETUNE), out=out, threads=1).path


@pytest.mark.slow
def test_it_does_not_fall_behind_the_probe_on_validation(
    collection: SyntheticDataset, gentle: Path, tmp_path: Path
) -> None:
    """With a learning rate that ruins the network, what ships is the probe, give or take rounding of activations."""
    probe = {name: part for name, part in FINETUNE.items() if name != "train"}
    probe["model"] = {"backbone": "lite0"}
    before = flow.train(collection.folder, recipe=Recipe.of(probe), out=tmp_path / "probe", threads=2)
    ruined = {**FINETUNE, "train": {**FINETUNE["train"], "learning_rate": 0.3}}
    after = flow.train(collection.folder, recipe=Recipe.of(ruined), out=tmp_path / "ruined", threads=2)
    assert read_json(after.path / "environment.json")["share of the trained weights"] == 0
    assert calibrated(after.path) == pytest.approx(calibrated(before.path), abs=2e-3)
    assert calibrated(gentle) <= calibrated(before.path) + 2e-3


@pytest.mark.slow
def test_interrupted_between_epochs_it_ends_as_if_it_was_not(
    collection: SyntheticDataset, gentle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.of(FINETUNE)
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "interpolate_weights", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(InterruptedRun):
            flow.train(collection.folder, recipe=recipe, out=tmp_path / "run", threads=1)
    again = flow.resume(tmp_path / "run", threads=1)
    assert (
        read_json(again.path / "environment.json")["share of the trained weights"]
        == (read_json(gentle / "environment.json")["share of the trained weights"])
    )
    one, other = (pl.read_parquet(run / "predictions.parquet") for run in (gentle, again.path))
    assert one.drop("path").equals(other.drop("path"))


def test_its_end_is_planned_from_its_upper_part(collection: SyntheticDataset, tmp_path: Path) -> None:
    """The rehearsal is of the part that learns, on activations; the pictures of an epoch are all views."""
    pictures = sorted(collection.kinds)[:12]
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures]
    table = pl.DataFrame(
        {
            "path": [str(path) for path in pictures],
            "label": ["a", "b"] * 6,
            "sha256": keys,
            "split": [*["train"] * 8, *["val"] * 2, *["test"] * 2],
        }
    )
    costs = []
    for views in (2, 8):
        recipe = Recipe.of({**FINETUNE, "train": {**FINETUNE["train"], "views": views}}).resolve()
        task = TrainingTask(recipe, table, ("a", "b"), Preprocessing(SIZE), tmp_path, Context(1, cache=tmp_path))
        one = build_training_setup(task)
        assert one.shape == (2, 2, 192)
        assert one.augmentation == finetune.UNCHANGED
        measure = Measured()
        costs.append(estimate_seconds(task, measure))  # type: ignore[arg-type]
    assert costs[1].epoch - costs[0].epoch == pytest.approx(6 * 8 / 10)
    assert costs[1].before - costs[0].before == pytest.approx(6 * 8 / 5)
    assert costs[1].after == costs[0].after


class Measured:
    """A machine that trains 10 pictures a second and computes the features of 5."""

    slowdown = 1.0

    def feature_throughput(self, *_: object) -> Throughput:
        """Return the pace of features."""
        return Throughput(0.0, 5.0)

    def epoch_throughput(self, _: object) -> EpochThroughput:
        """Return the pace of training."""
        return EpochThroughput(10.0, 20.0, 0.0)
