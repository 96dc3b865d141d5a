"""Knowledge distillation: a network from scratch learns the features of a backbone, which its run and card name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import bestiary
from bestiary.array_types import Float32s, Ints, Pixels
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import RecipeError
from bestiary.files import read_json
from bestiary.models.distillation import FeatureDistillation
from bestiary.models.networks import Network, small_resnet
from bestiary.recipe import Recipe
from bestiary.recipe_sections import AugmentConfig
from bestiary.run_folder import read_environment
from bestiary.training.loop import LoopControl, ValidationMetrics, fit
from bestiary.training.loop_settings import LoopSettings
from bestiary.training.recipe_checks import check_no_unused_settings
from bestiary.training.task import load_task

SIZE, ROWS, CHANNELS = 16, 24, 5
RESNET = {"model": {"method": "scratch", "filters": [8]}}


def pictures() -> Pixels:
    """Noisy pictures, each of a colour of its own."""
    generator = np.random.default_rng(1)
    colours = generator.uniform(40, 215, (ROWS, 1, 1, 3))
    return (colours + generator.normal(0, 15, (ROWS, SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)


def features() -> Float32s:
    """A teacher's features: mixtures of the mean red, green and blue."""
    mixture = np.random.default_rng(0).normal(0, 1, (3, CHANNELS))
    return np.asarray(pictures().mean(axis=(1, 2)) @ mixture, np.float32)


def distilled(weight: float = 2.0) -> Network:
    network = small_resnet(2, filters=(8,), blocks=1)
    network.distillation = FeatureDistillation(8, features(), weight=weight, seed=0)
    return network


def learn(network: Network, folder: Path, *, epochs: int = 4, control: LoopControl | None = None) -> None:
    images = pictures()

    def read(rows: Ints) -> Pixels:
        return images[rows]

    settings = LoopSettings.from_recipe(
        Recipe.of(RESNET | {"train": {"epochs": epochs, "batch_size": 8, "learning_rate": 0.05}}).resolve(), 1
    )
    scores = iter(range(1000))
    labels = np.arange(ROWS, dtype=np.int64) % 2
    fit(
        network,
        read,
        labels,
        lambda _: ValidationMetrics(1.0, next(scores) / 1000),
        settings,
        AugmentConfig(mirror=0),
        folder,
        control or LoopControl(),
    )


def mean_similarity(network: Network) -> float:
    """The cosine similarity of what the network gives for its training pictures to the standardised features."""
    assert network.distillation is not None
    with torch.no_grad():
        maps = network.eval().feature_maps(torch.from_numpy(pictures()).permute(0, 3, 1, 2).float())
        return 1 - float(network.distillation.sum_losses(maps, np.arange(ROWS))) / network.distillation.weight / ROWS


def test_the_loss_is_the_cosine_distance_to_the_standardised_features() -> None:
    layer = FeatureDistillation(3, features(), weight=2.0, seed=0)
    rows = np.array([4, 0, 17])
    maps = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    actual = layer.projection(maps.mean(dim=(2, 3))).detach().numpy()
    wanted = ((features() - features().mean(0)) / features().std(0))[rows]
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(wanted, axis=1)
    expected = 2.0 * (1 - (actual * wanted).sum(axis=1) / lengths).sum()
    assert float(layer.sum_losses(maps, rows).detach()) == pytest.approx(expected, rel=1e-4)


def test_the_network_comes_closer_to_its_teacher(tmp_path: Path) -> None:
    taught, untaught = distilled(8.0), distilled(1e-6)
    before = mean_similarity(taught)
    for network in (taught, untaught):
        learn(network, tmp_path / str(id(network)), epochs=12)
    assert mean_similarity(taught) > max(before, mean_similarity(untaught)) + 0.1


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, rest = distilled(), distilled(), distilled()
    learn(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        learn(first, tmp_path / "parts", control=LoopControl(should_continue=interrupt))
    learn(rest, tmp_path / "parts", control=LoopControl(resume=True))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, rest.state_dict()[name]), name


def interrupt(epoch_seconds: float) -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize("model", [{"method": "probe"}, {"method": "scratch", "network": "plain"}])
def test_other_networks_refuse_a_teacher(model: dict[str, str]) -> None:
    recipe = Recipe.of({"model": model, "train": {"distill": "lite0"}})
    with pytest.raises(RecipeError, match="train.distill = lite0 has no effect"):
        check_no_unused_settings(recipe)


@pytest.mark.slow
def test_a_distilled_run_names_its_teacher(collection: SyntheticDataset, tmp_path: Path) -> None:
    settings = {
        **RESNET,
        "data": {"min_per_class": 3, "suspects": False},
        "picture": {"size": 32},
        "train": {"epochs": 2, "distill": "lite0"},
    }
    run = bestiary.train(collection.folder, out=tmp_path / "run", recipe=settings, threads=1)
    bundle = read_json(run.path / "bundle.json")
    assert (bundle["backbone"], bundle["weights"]["use"]) == ("resnet", "teacher")
    assert "lite0" in bundle["weights"]["source"]
    assert len(bundle["weights"]["sha256"]) == 64
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert f"| Distilled from | {bundle['weights']['source']} |" in card
    chosen = load_task(run.path, Context(1)).context.features  # for a resumed run, and for workers of torchrun
    assert chosen.model_dump() == read_environment(run.path)["features of the teacher"]
    assert "auto" not in chosen.model_dump().values()
    assert b"projection" not in (run.path / "model.onnx").read_bytes()
