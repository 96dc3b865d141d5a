"""A class is answered only from its threshold on: chosen on validation, kept in the bundle, honoured everywhere."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("onnx")

from starlette.testclient import TestClient

from bestiary import files, flow, table
from bestiary.api_predict import predict
from bestiary.class_thresholds import (
    ClassThreshold,
    as_bundle_values,
    fit_class_thresholds,
    pictures_needed,
    read_thresholds,
    stated_precisions,
    warn_unmet,
)
from bestiary.classifier import PictureClassifier
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import InputError, RecipeError, RunError
from bestiary.evaluation.threshold_metrics import threshold_metrics
from bestiary.export.formats import Kind, model_metadata, write_export
from bestiary.inference import writers
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.output_file import PredictionFile
from bestiary.inference.predictor import Prediction, Predictor
from bestiary.inference.resume_record import prediction_conditions
from bestiary.recipe import Recipe
from bestiary.report.threshold_section import iter_threshold_blocks
from bestiary.serve.app import create_app
from bestiary.web.settings import ServerSettings
from tiny_model import COLOURS, coloured, write_run

# ---- Settings ------------------------------------------------------------------------------------------------------


def test_a_text_a_table_and_a_mapping_give_the_same_entries(tmp_path: Path) -> None:
    table_of_classes = tmp_path / "thresholds.csv"
    table_of_classes.write_text("class,precision\nwolf, 0.95\n\n*,0.9\n", encoding="utf-8")
    expected = [("wolf", 0.95), ("*", 0.9)]
    assert read_thresholds("wolf=0.95, *=0.9") == read_thresholds(str(table_of_classes)) == expected
    recipe = Recipe.of({"evaluate": {"thresholds": {"wolf": 0.95, "*": 0.9}}})
    assert [*recipe.evaluate.thresholds] == expected
    assert Recipe.of(recipe.overrides()).evaluate.thresholds == recipe.evaluate.thresholds


def test_a_star_holds_for_the_classes_without_a_precision() -> None:
    assert stated_precisions([("wolf", 0.95), ("*", 0.9)], ["cat", "wolf"]) == {"cat": 0.9, "wolf": 0.95}
    assert stated_precisions([("wolf", 0.95)], ["cat", "wolf"]) == {"wolf": 0.95}
    with pytest.raises(RecipeError, match='The thresholds name "wlof".*Did you mean "wolf"'):
        stated_precisions([("wlof", 0.95)], ["cat", "wolf"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wolf=95%", "'95%' is not a precision"),
        ("wolf=1", "expected a number above 0 and below 1"),
        ("wolf=0", "expected a number above 0 and below 1"),
        ("wolf=nan", "expected a number above 0 and below 1"),
        ("=0.9", "a class is empty"),
        ("wolf=0.9,wolf=0.8", "has two precisions"),
        ("wolf", "cannot be read: No such file"),
    ],
)
def test_wrong_thresholds_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_thresholds(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "need the header class,precision"),
        ("wolf,0.9\ndog,0.9\n", "need the header class,precision"),
        ("class,precision\nwolf\n", "row 2: expected 2 cells"),
        ("class,precision\nwolf,much\n", "row 2: 'much' is not a precision"),
    ],
)
def test_wrong_tables_are_refused_with_their_row(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "thresholds.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        read_thresholds(str(file))


# ---- Choice on validation ------------------------------------------------------------------------------------------


def fit(precision: float, scores: list[float], correct: list[bool], groups: list[int] | None = None) -> ClassThreshold:
    """The threshold of the class "dog", predicted for all pictures."""
    n = len(scores)
    return fit_class_thresholds(
        {"dog": precision},
        ["cat", "dog"],
        y_true=np.array(correct, np.int64),
        y_pred=np.ones(n, np.int64),
        probability=np.array(scores, np.float64),
        groups=np.arange(n) if groups is None else np.array(groups),
    )["dog"]


def test_the_threshold_is_the_smallest_that_reaches_the_precision() -> None:
    scores = [0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5]
    correct = [True, True, True, True, True, False, False, True]
    fitted = fit(0.8, scores, correct)  # six answers: 5 of 6 are correct; seven: 5 of 7
    assert fitted.threshold == pytest.approx(0.65)
    assert (fitted.is_met, fitted.predicted, fitted.answered, fitted.correct) == (True, 8, 6, 5)
    assert fitted.low < 5 / 6 < fitted.high


def test_pictures_of_one_group_are_one_piece_of_evidence() -> None:
    """Ten correct pictures of one burst say as much about a precision of 80 % as one: five are needed."""
    scores = [0.99 - number / 100 for number in range(10)] + [0.5, 0.45, 0.4, 0.35]
    correct = [True] * 10 + [False, True, True, True]
    alone = fit(0.8, scores, correct)
    assert (alone.is_met, alone.answered, alone.threshold, alone.groups) == (True, 14, 0.0, 14)
    burst = fit(0.8, scores, correct, [0] * 10 + [1, 2, 3, 4])
    assert (burst.is_met, burst.answered, burst.groups) == (True, 14, 5), "13 of 14 pictures, of five groups"
    two = fit(0.95, scores, [True] * 14, [0] * 10 + [1, 1, 1, 1])
    assert (two.is_met, two.groups, two.threshold) == (False, 2, 0.95)
    [warning] = warn_unmet({"dog": asdict(two)})
    assert "14 validation pictures of 2 groups are predicted as dog, and 20 groups are needed to measure it" in warning
    enough = fit(0.8, [0.9] * 12 + [0.6, 0.5], [True] * 12 + [False, False], [0] * 12 + [1, 2])
    assert not enough.is_met, "12 of 14 pictures are correct, and only three groups are answered"


def test_a_class_that_is_precise_enough_is_always_answered() -> None:
    assert fit(0.75, [0.9, 0.8, 0.7, 0.6], [True, True, True, False]).threshold == 0.0


def test_no_smaller_threshold_reaches_the_precision_on_any_draw() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = rng.uniform(0.3, 1, 300).round(2)  # with ties, which are answered together
        correct = rng.random(300) < scores
        fitted = fit(0.85, scores.tolist(), correct.tolist())
        assert fitted.is_met
        assert correct[scores >= fitted.threshold].mean() >= 0.85
        for lower in np.unique(scores[scores < fitted.threshold]):
            assert correct[scores >= lower].mean() < 0.85


def test_the_precision_of_true_probabilities_holds_on_other_pictures() -> None:
    rng = np.random.default_rng(0)
    scores, others = rng.uniform(0.3, 1, (2, 20_000))
    fitted = fit(0.9, scores.tolist(), (rng.random(20_000) < scores).tolist())
    answered = others >= fitted.threshold
    assert (rng.random(20_000) < others)[answered].mean() == pytest.approx(0.9, abs=0.02)
    assert answered.mean() > 0.2


def test_too_few_pictures_are_not_taken_for_a_proof() -> None:
    assert [pictures_needed(precision) for precision in (0.5, 0.9, 0.95, 0.99)] == [2, 10, 20, 100]
    fitted = fit(0.95, [0.99, 0.97, 0.9, 0.6], [True] * 4)
    assert not fitted.is_met
    assert fitted.threshold == 0.95  # as a calibrated probability promises
    assert (fitted.predicted, fitted.answered, fitted.correct) == (4, 2, 2)
    [warning] = warn_unmet(as_bundle_values({"dog": fitted}))
    assert '"dog", 95\xa0%, is not met: 4 validation pictures are predicted as dog, and 20 are needed' in warning
    assert "2 of 2 validation pictures are correct (95 % interval 34\xa0% to 100\xa0%)" in warning


def test_a_precision_that_is_out_of_reach_takes_the_highest_and_warns() -> None:
    scores = np.linspace(0.99, 0.5, 40)
    correct = [number % 4 > 0 for number in range(20)] + [False] * 20  # 15 of the first 20
    fitted = fit(0.95, scores.tolist(), correct)
    assert not fitted.is_met
    assert fitted.threshold == 0.95
    [warning] = warn_unmet(as_bundle_values({"dog": fitted}))
    assert "no threshold that leaves 20 validation pictures reaches it" in warning
    assert "answered from a probability of 0.950 on, where 3 of 4 validation pictures are correct" in warning
    lower = fit(0.75, scores.tolist(), correct)
    assert (lower.is_met, lower.answered, lower.correct) == (True, 20, 15)


def test_a_class_that_is_never_predicted_takes_the_stated_precision() -> None:
    fitted = fit_class_thresholds(
        {"cat": 0.9},
        ["cat", "dog"],
        y_true=np.zeros(3, np.int64),
        y_pred=np.ones(3, np.int64),
        probability=np.full(3, 0.8),
        groups=np.arange(3),
    )["cat"]
    assert (fitted.threshold, fitted.is_met, fitted.answered) == (0.9, False, 0)
    assert (fitted.low, fitted.high) == (0, 1)
    [warning] = warn_unmet(as_bundle_values({"cat": fitted}))
    assert "0 validation pictures are predicted as cat" in warning
    assert warning.endswith("where no validation picture is.")


def test_of_many_classes_that_miss_their_precision_the_first_are_named() -> None:
    missed = fit(0.95, [0.99, 0.97], [True, True])
    few, many = (dict.fromkeys(names, missed) for names in ("abcd", "abcdef"))
    assert [warning[:27] for warning in warn_unmet(as_bundle_values(few))] == [
        f'The stated precision of "{name}"' for name in "abcd"
    ]
    warnings = warn_unmet(as_bundle_values(many))
    assert len(warnings) == 4
    assert warnings[-1] == "3 more classes do not meet their stated precision: see the report."


def test_duplicates_count_once_in_the_interval() -> None:
    alone, copies = fit(0.5, [0.9] * 10, [True] * 10), fit(0.5, [0.9] * 10, [True] * 10, [0] * 10)
    assert copies.low < alone.low < 1


# ---- Bundle, predictor, exports ------------------------------------------------------------------------------------


def strict_red(run: Path, threshold: float = 0.999) -> Bundle:
    """The tiny model, which answers red only from this probability on."""
    chosen = ClassThreshold(0.95, threshold, True, 30, 25, 24, 0.8, 0.99)
    bundle = replace(read_bundle(run), class_thresholds=as_bundle_values({"red": chosen}))
    bundle.write(run)
    return bundle


def test_the_predictor_leaves_a_picture_below_the_threshold_unanswered(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    plain = Predictor(run).predict(coloured("red"))
    assert (plain.unknown, plain.reason, plain.note) == (False, None, "")
    assert "reason" not in plain.line()
    strict_red(run)
    strict = Predictor(run).predict(coloured("red"))
    assert (strict.label, strict.unknown, strict.reason) == ("red", True, "below threshold")
    assert strict.probabilities == plain.probabilities
    assert strict.line()["reason"] == "below threshold"
    assert "(unknown: below the threshold of its class)" in strict.describe()
    assert Predictor(run).predict(coloured("green")).reason == ""
    grey = Predictor(run).predict(coloured("grey"))
    assert (grey.unknown, grey.reason) == (True, "unfamiliar")
    strict_red(run, plain.probability - 1e-4)
    assert not Predictor(run).predict(coloured("red")).unknown


def test_a_bundle_without_thresholds_is_written_as_before_and_bad_ones_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "class_thresholds" not in files.read_json(run / "bundle.json")
    strict_red(run)
    values = files.read_json(run / "bundle.json")
    assert read_bundle(run).class_thresholds == values["class_thresholds"]
    entry = values["class_thresholds"]["red"]
    for wrong in (
        {"purple": entry},
        {"red": {"threshold": 0.5}},
        {"red": entry | {"surplus": 1}},
        {"red": entry | {"threshold": True}},
        {"red": entry | {"is_met": "yes"}},
        {"red": entry | {"answered": 1.5}},
        {"red": entry | {"precision": None}},
        {"red": entry | {"low": "0"}},
        {"red": {"threshold": 2}},
        {"red": {"threshold": "x"}},
        {"red": 1},
        5,
    ):
        files.write_json(run / "bundle.json", values | {"class_thresholds": wrong})
        with pytest.raises(RunError, match=r"bundle\.json is damaged .*class_thresholds"):
            read_bundle(run)


def test_the_recipe_of_an_export_decides_as_bestiary_does(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    onnx = pytest.importorskip("onnx")
    metadata = model_metadata(run, strict_red(run), "float32")
    assert json.loads(metadata["class_thresholds"]) == {"red": 0.999}
    model = onnx.load(run / "model.onnx")
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "model.onnx")
    for colour in COLOURS:
        (tmp_path / "picture.png").write_bytes(coloured(colour))
        names: dict[str, Any] = {"model": tmp_path / "model.onnx", "picture": tmp_path / "picture.png"}
        exec(metadata["recipe"], names)
        predicted = Predictor(run).predict(tmp_path / "picture.png")
        assert (names["label"], names["unknown"]) == (predicted.label, predicted.unknown) == (colour, colour == "red")


@pytest.mark.parametrize("kind", ["onnx", "onnx-int8", "openvino"])
def test_every_export_honours_the_thresholds(tmp_path: Path, kind: Kind) -> None:
    pytest.importorskip("onnx")
    if kind == "openvino":
        pytest.importorskip("openvino")
    run, folder = write_run(tmp_path / "run"), tmp_path / "export"
    bundle = strict_red(run)
    preprocess = bundle.preprocess
    exported = write_export(run, bundle, kind, folder, [preprocess.load_pixels(coloured(name)) for name in COLOURS])
    assert exported.class_thresholds == read_bundle(folder).class_thresholds == bundle.class_thresholds
    answers = {name: Predictor(folder).predict(coloured(name)) for name in COLOURS}
    assert {name: answer.reason for name, answer in answers.items()} == {
        "blue": "",
        "green": "",
        "red": "below threshold",
    }


def test_the_server_honours_the_thresholds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    strict_red(run)
    app = create_app(Predictor(run), ServerSettings(), "colours")
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/model").json()["class_thresholds"] == {"red": 0.999}
        headers = {"Content-Type": "image/png"}
        answers = [client.post("/predict", content=coloured(name), headers=headers).json() for name in ("red", "green")]
    predictions = [answer["predictions"][0] for answer in answers]
    assert [(one["unknown"], one["reason"]) for one in predictions] == [(True, "below threshold"), (False, "")]


def test_predictions_of_other_thresholds_are_not_resumed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = prediction_conditions(read_bundle(run), None)
    after = prediction_conditions(strict_red(run), None)
    assert before.keys() < after.keys()


@pytest.mark.parametrize("output_format", ["csv", "jsonl", "parquet"])
def test_a_file_has_a_column_of_reasons_and_can_be_resumed(tmp_path: Path, output_format: str) -> None:
    run = write_run(tmp_path / "run")
    strict_red(run)
    paths = []
    for name in ("red", "green", "grey"):
        paths.append(tmp_path / f"{name}.png")
        paths[-1].write_bytes(coloured(name))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    out, predictor = tmp_path / f"out.{output_format}", Predictor(run)
    for sources in ([*paths[:2]], [*paths, broken]):
        file = PredictionFile(out, output_format, COLOURS, resume=out.exists(), reasons=True)
        file.write(predictor.predict_many(file.pending(sources)))
    if output_format == "parquet":
        rows = pl.read_parquet(out).to_dicts()
    elif output_format == "csv":
        rows = [*csv.DictReader(io.StringIO(out.read_text(encoding="utf-8")))]
    else:
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4
    assert [row.get("reason") or "" for row in rows] == ["below threshold", "", "unfamiliar", ""]


def test_the_table_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    strict_red(run)
    (tmp_path / "red.png").write_bytes(coloured("red"))
    [answer] = predict(run, tmp_path / "red.png", quiet=True)
    out = io.StringIO()
    writers.write_predictions([answer], "table", out, classes=COLOURS, top=1)
    assert out.getvalue().endswith("(unknown: below the threshold of its class)\n")
    [named] = writers.relabel_unknown([answer], "other")
    assert named.label == "other"


def test_the_classifier_of_scikit_learn_refuses_thresholds() -> None:
    classifier = PictureClassifier(settings={"evaluate": {"thresholds": {"*": 0.9}}})
    with pytest.raises(InputError, match="not for PictureClassifier"):
        classifier.fit(["a.jpg", "b.jpg"], ["cat", "dog"])


# ---- Metrics and pages ---------------------------------------------------------------------------------------------


def test_the_metrics_are_those_by_hand(tmp_path: Path) -> None:
    bundle = strict_red(write_run(tmp_path / "run"))
    rows = [
        *[("red", "red", False)] * 8,
        *[("blue", "red", False)] * 2,
        *[("blue", "red", True)] * 4,
        *[("red", "red", True)] * 2,
        *[("blue", "blue", False)] * 3,
        ("green", "green", True),
    ]
    predictions = pl.DataFrame(rows, schema=["label", "predicted", "unknown"], orient="row")
    metrics = threshold_metrics(predictions, np.arange(20), bundle)["class_thresholds"]
    red = metrics["classes"]["red"]
    assert [*metrics["classes"]] == ["red"]
    assert (red["predicted"], red["unanswered"]) == (16, 6)
    assert red["precision_answered"]["value"] == pytest.approx(8 / 10)
    assert red["recall_answered"]["value"] == pytest.approx(8 / 10)
    assert red["precision_answered"]["low"] < 0.8 < red["precision_answered"]["high"]
    assert (
        "Of 16 pictures predicted as it, 6 are left unanswered (unknown); of all 20 pictures, 7." in metrics["sentence"]
    )
    assert metrics["unmet"] == []
    blocks = [*iter_threshold_blocks({"class_thresholds": metrics})]
    assert (
        "| red | 0.999 | 95.0\xa0% | 24 of 25 (80 to 99) | 80\xa0% (49 to 94) | 80\xa0% (49 to 94) | 6 of 16 |"
        in blocks[-1]
    )
    none = threshold_metrics(predictions.filter(pl.col("unknown")), np.arange(7), bundle)["class_thresholds"]
    assert none["classes"]["red"]["precision_answered"] is None
    assert threshold_metrics(predictions, np.arange(20), replace(bundle, class_thresholds={})) == {}


def test_thresholds_of_an_unknown_class_are_refused_before_training(faulty: SyntheticDataset, tmp_path: Path) -> None:
    recipe = Recipe.of({**ASKED, "evaluate": {"thresholds": {"wolf": 0.9}}})
    with pytest.raises(RecipeError, match='The thresholds name "wolf"'):
        flow.train(faulty.folder, recipe=recipe, out=tmp_path / "run", threads=2)
    assert not (tmp_path / "run").exists()


ASKED: dict[str, Any] = {
    "data": {"classes": ["bird", "fish", "spider", "rabbit"]},
    "picture": {"size": 64},
    "model": {"backbone": "lite0"},
    "probe": {"regularisation": [0.001, 0.01]},
}


@pytest.mark.slow
@pytest.mark.parametrize("costs", [[], [["*", "bird", 3]]])
def test_a_run_honours_its_thresholds_wherever_it_answers(
    faulty: SyntheticDataset, tmp_path: Path, costs: list[Any]
) -> None:
    evaluate = {"resamples": 200, "thresholds": {"bird": 0.7, "*": 0.99}, "costs": costs}
    run = flow.train(faulty.folder, recipe=Recipe.of({**ASKED, "evaluate": evaluate}), out=tmp_path / "run", threads=2)
    bundle, chosen = read_bundle(run.path), run.metrics["class_thresholds"]
    assert [*chosen["classes"]] == [*bundle.class_thresholds] == [*bundle.classes]
    assert not bundle.class_thresholds["fish"]["is_met"]  # 100 validation pictures would be needed
    predictions = table.read(run.path / "predictions.parquet", table.PREDICTIONS)
    least = predictions["predicted"].replace_strict({k: v["threshold"] for k, v in bundle.class_thresholds.items()})
    expected = (predictions["familiarity"] < bundle.threshold) | (predictions["probability"] < least)
    assert predictions["unknown"].to_list() == expected.to_list()
    val = predictions.filter((pl.col("split") == "val") & (pl.col("familiarity") >= bundle.threshold))
    for name, value in bundle.class_thresholds.items():
        own = val.filter(pl.col("predicted") == name)
        answered = own.filter(pl.col("probability") >= value["threshold"])
        assert (own.height, answered.height) == (value["predicted"], value["answered"])
        assert int((answered["label"] == name).sum()) == value["correct"]
    for name in ("report.html", "report.md", "README.md"):
        text = (run.path / name).read_text(encoding="utf-8")
        assert "answered only from a threshold of probability on" in text, name
        assert "is not met" in text, name
    again = flow.evaluate(run.path, Context(threads=2))
    assert again.metrics["class_thresholds"] == chosen
    test = predictions.filter(pl.col("split") == "test")
    [first] = predict(run.path, test["path"][0], quiet=True)
    assert isinstance(first, Prediction)
    assert (first.label, first.unknown) == (test["predicted"][0], test["unknown"][0])
    assert first.reason is not None
