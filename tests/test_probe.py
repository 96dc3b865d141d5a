"""The probe: features computed once, and a head that is scikit-learn's, folded into one linear layer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression

from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import RecipeError
from bestiary.models.features import LabelledFeatures
from bestiary.models.head import Head
from bestiary.preprocess import Preprocessing
from bestiary.quick_metrics import loss_and_macro_f1, softmax
from bestiary.recipe import Recipe
from bestiary.recipe_sections import Balance
from bestiary.training import probe
from bestiary.training.probe import default_c_values, fit_head, fit_probe
from bestiary.training.recipe_checks import check_recipe_supported
from bestiary.training.task import TrainingTask

FEATURES = 12
SIZE = 64


def labelled(count: int, classes: int, *, seed: int, noise: float = 1.0) -> LabelledFeatures:
    """Clouds around one centre for each class, of which the first is commonest, in features of unequal scale."""
    centres = np.random.default_rng(7).normal(0, 1, (classes, FEATURES))
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, count) - 1, classes - 1).astype(np.int64)
    features = centres[labels] + rng.normal(0, noise, (count, FEATURES))
    scales, shift = np.logspace(-2, 2, FEATURES), np.linspace(-30, 30, FEATURES)
    return LabelledFeatures((features * scales + shift).astype(np.float32), labels)


def array(part: LabelledFeatures) -> NDArray[np.float32]:
    assert isinstance(part.features, np.ndarray)
    return part.features


def logits_of(head: Head, features: NDArray[np.float32]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = features @ head.weight.T + head.bias
    return logits


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("balance", ["none", "class-weights"])
def test_the_head_gives_the_probabilities_of_scikit_learn(classes: int, balance: Balance) -> None:
    train, val = labelled(300, classes, seed=0), labelled(80, classes, seed=1)
    own = LabelledFeatures(array(train).copy(), train.labels)  # the fit standardises its features in place
    head, _ = fit_head(own, val, classes, c_values=[0.05], balance=balance)

    mean, scale = array(train).mean(axis=0), array(train).std(axis=0)
    weights = "balanced" if balance == "class-weights" else None
    model = LogisticRegression(C=0.05, max_iter=500, class_weight=weights)
    model.fit((array(train) - mean) / scale, train.labels)
    expected = model.predict_proba((array(val) - mean) / scale)

    assert head.weight.shape == (classes, FEATURES)
    assert head.is_linear
    np.testing.assert_allclose(softmax(logits_of(head, array(val))), expected, atol=2e-4)


def test_class_weights_favour_the_rare_class() -> None:
    train, val = labelled(300, 3, seed=0, noise=3), labelled(300, 3, seed=1, noise=3)
    plain, _ = fit_head(train, val, 3, c_values=[0.01], balance="none")
    weighted, _ = fit_head(train, val, 3, c_values=[0.01], balance="class-weights")
    rarest = np.bincount(train.labels).argmin()
    named = [int((logits_of(head, array(val)).argmax(axis=1) == rarest).sum()) for head in (plain, weighted)]
    assert named[1] > named[0]


def test_the_lowest_validation_loss_is_chosen() -> None:
    train, val = labelled(60, 3, seed=0, noise=2), labelled(200, 3, seed=1, noise=2)
    strengths = [100.0, 0.0001, 0.05]
    head, history = fit_head(train, val, 3, c_values=strengths, balance="none")
    losses = [line["val_loss"] for line in history]
    best = int(np.argmin(losses))
    assert 0 < best < 2  # with these clouds both ends are worse
    assert [line.get("chosen", False) for line in history] == [place == best for place in range(3)]
    assert [line["regularisation"] for line in history] == sorted(strengths)
    assert [line["epoch"] for line in history] == [1, 2, 3]
    assert loss_and_macro_f1(logits_of(head, array(val)), val.labels) == (
        history[best]["val_loss"],
        history[best]["val_macro_f1"],
    )
    assert history[-1]["train_loss"] < history[best]["train_loss"]  # weaker regularisation fits the training pictures


def test_a_feature_that_never_changes_does_no_harm() -> None:
    train, val = labelled(100, 3, seed=0), labelled(40, 3, seed=1)
    for part in (train, val):
        array(part)[:, 4] = 3.5
    head, history = fit_head(train, val, 3, c_values=[0.05], balance="none")
    assert np.isfinite(head.weight).all()
    assert history[0]["val_macro_f1"] > 0.6


def test_logit_adjustment_takes_the_classes_shares_out_of_the_plain_head() -> None:
    val = labelled(80, 3, seed=1)
    plain, lines = fit_head(labelled(300, 3, seed=0), val, 3, c_values=[0.01, 1.0], balance="none")
    adjusted, own_lines = fit_head(labelled(300, 3, seed=0), val, 3, c_values=[0.01, 1.0], balance="logit-adjusted")
    shares = np.bincount(labelled(300, 3, seed=0).labels) / 300
    np.testing.assert_array_equal(adjusted.weight, plain.weight)
    np.testing.assert_allclose(plain.bias - adjusted.bias, np.log(shares), atol=1e-4)
    assert [line["val_loss"] for line in own_lines] == pytest.approx([line["val_loss"] for line in lines], abs=1e-6)


def test_a_row_of_weight_two_counts_as_two_rows() -> None:
    train, val = labelled(60, 3, seed=0), labelled(80, 3, seed=1)
    mean, scale = array(train).mean(axis=0), array(train).std(axis=0)
    for part in (train, val):  # standardised before, because repeated rows would shift the mean
        array(part)[:] = (array(part) - mean) / scale
    times = np.where(train.labels == 2, 2, 1)
    repeated = np.repeat(array(train), times, axis=0)
    model = LogisticRegression(C=0.05, max_iter=500).fit(repeated, np.repeat(train.labels, times))
    weighted = LabelledFeatures(array(train).copy(), train.labels, times.astype(np.float32))
    head, _ = fit_head(weighted, val, 3, c_values=[0.05], balance="oversample")
    expected = model.predict_proba(array(val))
    np.testing.assert_allclose(softmax(logits_of(head, array(val))), expected, atol=2e-4)


def test_the_sampler_is_refused_by_the_probe() -> None:
    with pytest.raises(
        RecipeError, match='"balanced-sampler" is not supported by the probe.*the same as "class-weights"'
    ):
        check_recipe_supported(Recipe.of({"train": {"balance": "balanced-sampler"}}))


@pytest.mark.parametrize(("pictures", "weakest"), [(50, 24.0), (30_000, 0.04)])
def test_the_strengths_follow_the_number_of_pictures(pictures: int, weakest: float) -> None:
    strengths = default_c_values(pictures)
    assert strengths[-1] == pytest.approx(weakest)
    assert strengths[-1] / strengths[0] == pytest.approx(300)


# ---- Features ------------------------------------------------------------------------------------------------------


def test_oversampling_shows_small_classes_mirrored_every_other_time(
    tmp_path: Path, collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(collection.kinds)[:12]
    labels = [*["many"] * 6, *["few"] * 2, *["many"] * 2, *["few"] * 2]
    pictures = pl.DataFrame(
        {
            "path": [str(path) for path in paths],
            "label": labels,
            "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
            "split": [*["train"] * 8, *["val"] * 4],
        }
    )
    recipe = Recipe.of({"model": {"backbone": "lite0"}, "train": {"balance": "oversample"}}).resolve()
    task = TrainingTask(recipe, pictures, ("few", "many"), Preprocessing(SIZE), tmp_path, Context(1, cache=tmp_path))
    given = list[LabelledFeatures]()

    def watched(train: LabelledFeatures, *_: object, **__: object) -> tuple[None, list[object]]:
        given.append(train)
        return None, []

    monkeypatch.setattr(probe, "fit_head", watched)
    fit_probe(task)
    weights = given[0].weights
    assert weights is not None
    assert given[0].labels.tolist() == [1] * 6 + [0] * 2 + [0] * 2  # the two of "few" once more, as mirror images
    # 6 against 2: each of the two is shown three times, twice as it is and once mirrored; all weights add up to 8.
    np.testing.assert_allclose(weights, np.array([1, 1, 1, 1, 1, 1, 2, 2, 1, 1]) * 8 / 12)
    assert not np.array_equal(given[0].features[6:8], given[0].features[8:10])


@pytest.mark.parametrize(("views", "count"), [("mirror", 2), ("quarters", 4)])
@pytest.mark.parametrize("balance", ["none", "oversample"])
def test_views_are_more_rows_of_the_same_pictures(
    tmp_path: Path, collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch, views: str, count: int, balance: str
) -> None:
    paths = sorted(collection.kinds)[:12]
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    labels = [*["many"] * 6, *["few"] * 2, *["many"] * 2, *["few"] * 2]
    split = [*["train"] * 8, *["val"] * 4]
    pictures = pl.DataFrame({"path": [str(path) for path in paths], "label": labels, "sha256": keys, "split": split})
    settings = {"model": {"backbone": "lite0"}, "train": {"balance": balance}, "probe": {"views": views}}
    recipe = Recipe.of(settings).resolve()
    task = TrainingTask(recipe, pictures, ("few", "many"), Preprocessing(SIZE), tmp_path, Context(1, cache=tmp_path))
    fitted = list[tuple[LabelledFeatures, LabelledFeatures]]()

    def watched(train: LabelledFeatures, val: LabelledFeatures, *_: object, **__: object) -> tuple[None, list[object]]:
        fitted.append((train, val))
        return None, []

    monkeypatch.setattr(probe, "fit_head", watched)
    fit_probe(task)
    train, val = fitted[0]
    assert train.labels.tolist() == ([1] * 6 + [0] * 2) * count
    times = np.array([1] * 6 + [3 if balance == "oversample" else 1] * 2)
    assert train.weights is not None
    np.testing.assert_allclose(train.weights, np.tile(times * 8 / times.sum() / count, count), rtol=1e-6)
    assert train.weights.sum() == pytest.approx(8)
    plain = task.feature_cache(task.engine_choice.precision).load(keys[:8])[:]
    np.testing.assert_array_equal(train.features[:8], plain)
    assert not np.array_equal(train.features[8:16], plain)
    assert (val.labels.tolist(), len(val.features), val.weights) == ([1] * 2 + [0] * 2, 4, None)


@pytest.mark.parametrize("balance", ["none", "class-weights", "logit-adjusted"])
def test_views_that_change_nothing_give_the_head_without_them(balance: Balance) -> None:
    """Each picture counts as much as before, so that C means the same."""
    train, val = labelled(200, 3, seed=0), labelled(60, 3, seed=1)
    rows, labels = np.concatenate([array(train)] * 4), np.tile(train.labels, 4)
    repeated = LabelledFeatures(rows, labels, np.full(800, 0.25, np.float32))
    seen = fit_head(repeated, val, 3, c_values=[0.05], balance=balance)[0]
    plain = fit_head(LabelledFeatures(array(train).copy(), train.labels), val, 3, c_values=[0.05], balance=balance)[0]
    np.testing.assert_allclose(softmax(logits_of(seen, array(val))), softmax(logits_of(plain, array(val))), atol=2e-4)
