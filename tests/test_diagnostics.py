"""Training diagnostics: the learning curve, overfitting by class, the stop reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from bestiary import files
from bestiary.evaluation.diagnostics import generalisation_gaps, stop_reason_text
from bestiary.evaluation.learning_curve import _sample_groups, learning_curve, summarise
from bestiary.models.features import LabelledFeatures
from bestiary.recipe import Recipe
from bestiary.report.learning_curve_section import learning_curve_plot, learning_curve_values
from bestiary.training.task import TrainedModel

CLASSES = ("cat", "dog", "owl")
Labels = NDArray[np.int64]


def pictures(count: int, spread: float, seed: int) -> tuple[LabelledFeatures, Labels]:
    """Features of three classes around three centres; two of three neighbours share a group."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    features = np.eye(3, 40, dtype=np.float32)[labels] + rng.normal(0, spread, (count, 40)).astype(np.float32)
    return LabelledFeatures(features, labels), np.arange(count, dtype=np.int64) - 3 * (np.arange(count) % 6 >= 3)


def curve(spread: float, count: int = 240, **given: Any) -> dict[str, Any]:
    train, groups = pictures(count, spread, 0)
    val, val_groups = pictures(150, spread, 1)
    return learning_curve(train, val, (groups, val_groups), CLASSES, c_value=0.1, seed=0, **given)


def test_hard_pictures_profit_from_more() -> None:
    found = curve(0.7)
    scores = [point["macro_f1"]["value"] for point in found["points"]]
    assert scores[0] < scores[-1]
    assert [point["pictures"] for point in found["points"]][-1] == 240
    assert abs(found["points"][0]["pictures"] - 60) <= 6
    assert scores[-1] < found["twice"]["macro_f1"]["value"] < 1
    for point in [*found["points"], found["twice"]]:
        assert point["macro_f1"]["low"] <= point["macro_f1"]["value"] <= point["macro_f1"]["high"]
    assert "raise validation macro-F1 from" in found["sentence"]
    assert found == curve(0.7)  # the same seed gives the same curve
    json.dumps(found, allow_nan=False)


def test_validation_pictures_of_one_site_show_no_certain_gain() -> None:
    (train, groups), (val, _) = pictures(240, 0.7, 0), pictures(150, 0.7, 1)
    site = np.zeros(150, np.int64)
    found = learning_curve(train, val, (groups, site), CLASSES, c_value=0.1, seed=0)
    assert {(point["macro_f1"]["low"], point["macro_f1"]["high"]) for point in found["points"]} == {(0.0, 1.0)}
    assert (found["twice"]["gain"]["low"], found["twice"]["gain"]["high"]) == (-1.0, 1.0)
    assert "would perhaps raise" in found["sentence"]
    assert found["gains_most"] is None


def test_easy_pictures_do_not() -> None:
    found = curve(0.05)
    assert found["points"][-1]["macro_f1"]["value"] == 1.0
    assert found["sentence"].startswith("Twice as many pictures would hardly help")
    assert found["gains_most"] is None


def test_the_answers_of_the_head_on_all_pictures_are_used_where_they_are_known() -> None:
    val, _ = pictures(150, 0.7, 1)
    assert curve(0.7, val_predictions=val.labels)["points"][-1]["macro_f1"]["value"] == 1.0


def test_groups_are_drawn_whole_and_every_class_has_a_part() -> None:
    labels = np.array([0] * 30 + [1] * 9 + [2], np.int64)
    groups = np.arange(40, dtype=np.int64) // 3
    groups[39] = 99
    for seed in range(5):
        rows = _sample_groups(labels, groups, 0.25, np.random.default_rng(seed))
        assert set(labels[rows]) == {0, 1, 2}
        for group in np.unique(groups[rows]):
            assert set(np.flatnonzero(groups == group)) <= set(rows.tolist())
        assert 8 <= np.isin(rows, np.arange(30)).sum() <= 12


@pytest.mark.parametrize(
    ("gain", "low", "words"), [(0.01, 0.005, "probably"), (0.01, 0.0, "perhaps"), (0.001, 0.0, "hardly")]
)
def test_the_sentence_states_how_likely_the_gain_is(gain: float, low: float, words: str) -> None:
    twice = {
        "macro_f1": {"value": 0.9 + gain, "low": 0.88, "high": 0.93},
        "gain": {"value": gain, "low": low, "high": 0.02},
    }
    assert words in summarise(0.9, twice, None)
    assert summarise(0.9, twice, "cow").endswith("the largest gain is that of cow.") == (words != "hardly")


def test_a_small_gain_that_few_pictures_measured_is_no_result() -> None:
    twice = {"macro_f1": {"value": 0.9, "low": 0.7, "high": 1.0}, "gain": {"value": 0.0, "low": -0.1, "high": 0.06}}
    assert "too few validation pictures to tell" in summarise(0.9, twice, "cow")


def test_an_overfitted_class_is_named() -> None:
    rng = np.random.default_rng(0)
    train_labels, val_labels = np.repeat([0, 1, 2], 100), np.repeat([0, 1, 2], 40)
    train = np.eye(3)[train_labels] * 5
    val = np.eye(3)[val_labels] * 5
    lost = np.flatnonzero(val_labels == 2)[rng.permutation(40)[:25]]
    val[lost] = np.eye(3)[0] * 5
    found = generalisation_gaps(train, train_labels, val, val_labels, CLASSES)
    assert [name for name, entry in found["classes"].items() if entry["overfits"]] == ["owl"]
    assert "owl (100 % and 38 %)" in found["sentence"]
    assert found["classes"]["owl"]["val_loss"] > found["classes"]["owl"]["train_loss"]
    assert found["all"]["train_recall"] == 1.0
    same = generalisation_gaps(train, train_labels, train, train_labels, CLASSES)
    assert same["sentence"].endswith("no class clearly overfits.")


def learned(ended: str, epochs: int) -> TrainedModel:
    history = [{"epoch": n + 1, "val_macro_f1": 0.5 - 0.01 * n, "val_loss": 1.0} for n in range(epochs)]
    none: Any = None
    return TrainedModel(none, none, history, none, none, {"training ended by": ended})


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ("patience", "stopped early, after epoch 4 of 9: no better macro-F1 in 20 epochs. The weights of epoch 1"),
        ("budget", "stopped early, after epoch 4 of 9: the time budget was used up"),
        ("finished", "Training finished, epoch 4"),
    ],
)
def test_the_stop_reason(ended: str, words: str) -> None:
    recipe = Recipe.of({"model": {"method": "scratch"}, "train": {"epochs": 9, "warmup_epochs": 1}}).resolve()
    assert words in stop_reason_text(recipe, learned(ended, 4))


def test_a_shortened_schedule_is_not_called_stopped_early() -> None:
    recipe = Recipe.of({"model": {"method": "scratch"}, "train": {"epochs": 9, "warmup_epochs": 1}}).resolve()
    trained = learned("budget", 4)
    trained.history[-1]["schedule"] = 0.999
    text = stop_reason_text(recipe, trained)
    assert "The schedule was shortened to fit the time budget" in text
    assert "after epoch 4 of 9, with the lowest learning rate. The weights of epoch 1" in text
    trained.history[-1]["schedule"] = 0.6
    assert "stopped early, after epoch 4 of 9: the time budget was used up" in stop_reason_text(recipe, trained)


@pytest.mark.parametrize(
    ("share", "words"), [(0.0, "but are not used"), (0.25, "(25\u00a0% to 75\u00a0%, chosen"), (1.0, "were kept.")]
)
def test_the_sentence_names_the_weights_in_use(share: float, words: str) -> None:
    one = learned("finished", 4)
    mixed = replace(one, notes=one.notes | {"share of the trained weights": share})
    assert words in stop_reason_text(Recipe.of({"model": {"method": "finetune"}}).resolve(), mixed)


def test_a_run_writes_diagnostics_and_its_report_shows_them(probed: Path) -> None:
    found = files.read_json(probed / "learning_curve.json")
    assert set(found["gaps"]["classes"]) == {"bird", "fish", "rabbit", "spider"}
    assert found["curve"]["learner"] == "probe with lite0"
    report = (probed / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="learning">Training</h2>' in report
    for part in ("gaps", "curve"):
        assert found[part]["sentence"] in report


def test_a_run_without_lessons_has_no_section() -> None:
    values = learning_curve_values({})
    assert (values["lessons"], values["lesson_plot"], values["lesson_rows"]) == ([], "", [])
    drawn = curve(0.7)
    assert "Learning curve" in learning_curve_plot(drawn)
    for pictures_learnt_from in [point["pictures"] for point in drawn["points"]] + [drawn["twice"]["pictures"]]:
        assert f">{pictures_learnt_from}</text>" in learning_curve_plot(drawn)  # each of them stands below the line
