"""Costs of mistakes decide the label, in the predictor, in evaluation, in exports and in what is written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")

from bestiary import files, flow, table
from bestiary.context import Context
from bestiary.costs import check_entries, choose_labels, cost_matrix, read_costs
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import RecipeError, RunError, UserError
from bestiary.evaluation.decision import decision_metrics
from bestiary.export.formats import model_metadata
from bestiary.inference import writers
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.predictor import Prediction, Predictor
from bestiary.inference.resume_record import prediction_conditions
from bestiary.recipe import Recipe
from tiny_model import COLOURS, coloured, write_run


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_and_a_table_give_the_same_costs(tmp_path: Path) -> None:
    entries = read_costs(write(tmp_path / "list.csv", "true,predicted,cost\nwolf,dog,20\n\ncat,wolf,0.5\n"))
    table_entries = read_costs(write(tmp_path / "table.csv", ",cat,dog,wolf\ncat,0,,0.5\ndog,,0,\nwolf,,20,0\n"))
    classes = ["cat", "dog", "wolf"]
    expected = [[0, 1, 0.5], [1, 0, 1], [1, 20, 0]]
    assert cost_matrix(entries, classes).tolist() == cost_matrix(table_entries, classes).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "have no row"),
        ("true,predicted,cost\n", "have no row"),
        ("true,predicted,cost\nwolf,dog\n", "row 2: expected 3 cells"),
        ("true,predicted,cost\nwolf,dog,much\n", "row 2: 'much' is not a cost"),
        ("true,predicted,cost\nwolf,dog,-1\n", "expected a number from 0"),
        ("true,predicted,cost\nwolf,dog,inf\n", "expected a number from 0"),
        ("true,predicted,cost\nwolf,wolf,1\n", "is correct and costs nothing"),
        ("true,predicted,cost\nwolf,dog,1\nwolf,dog,2\n", "has two costs"),
        ("true,predicted,cost\n,dog,1\n", "a label is empty"),
        (",cat,dog\ncat,3,1\ndog,1,0\n", "is correct and costs nothing"),
    ],
)
def test_wrong_costs_are_refused_with_their_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_costs(write(tmp_path / "costs.csv", text))


def test_missing_costs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        read_costs(tmp_path / "none.csv")


def test_a_star_holds_for_every_class_and_gives_way_to_a_pair() -> None:
    costs = cost_matrix([("*", "dog", 5.0), ("wolf", "dog", 20.0)], ["cat", "dog", "wolf"])
    assert costs.tolist() == [[0, 5, 1], [1, 0, 1], [1, 20, 0]]
    with pytest.raises(RecipeError, match='Two costs for "cat" predicted as "dog": 5 and 2'):
        cost_matrix([("*", "dog", 5.0), ("cat", "*", 2.0)], ["cat", "dog", "wolf"])
    both = [("*", "dog", 5.0), ("cat", "*", 2.0), ("cat", "dog", 9.0)]
    assert cost_matrix(both, ["cat", "dog", "wolf"]).tolist() == [[0, 9, 2], [1, 0, 1], [1, 5, 0]]
    check_entries([("*", "*", 2.0)])
    assert cost_matrix([("*", "*", 2.0)], ["a", "b"]).tolist() == [[0, 2], [2, 0]]


def test_a_label_that_is_not_a_class_is_named() -> None:
    with pytest.raises(RecipeError, match='The costs name "wlof".*Did you mean "wolf"'):
        cost_matrix([("wlof", "dog", 5.0)], ["cat", "dog", "wolf"])


def test_equal_costs_give_the_most_probable_class() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(5), 500)
    uniform = cost_matrix([("*", "*", 3.0)], list("abcde"))
    assert (choose_labels(rows, uniform) == rows.argmax(axis=1)).all()
    assert (choose_labels(rows, []) == rows.argmax(axis=1)).all()


def test_no_other_rule_costs_less_where_probabilities_are_true() -> None:
    rng = np.random.default_rng(1)
    rows = rng.dirichlet(np.full(3, 0.7), 20_000)
    y_true = (rows.cumsum(axis=1) < rng.random(len(rows))[:, None]).sum(axis=1)
    costs = np.array([[0, 1, 1], [1, 0, 9], [2, 1, 0.0]])
    by_cost = costs[y_true, choose_labels(rows, costs)].mean()
    assert by_cost < 0.9 * costs[y_true, rows.argmax(axis=1)].mean()
    for label in range(3):
        assert by_cost < costs[y_true, label].mean()


def dear_red(run: Path) -> Bundle:
    """The tiny model, for which calling another colour red costs a lot."""
    costs = cost_matrix([("*", "red", 1e6)], COLOURS).tolist()
    bundle = replace(read_bundle(run), costs=costs)
    bundle.write(run)
    return bundle


def test_the_predictor_answers_by_cost_and_keeps_the_calibrated_probability(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    plain = Predictor(run).predict(coloured("red"))
    dear_red(run)
    decided = Predictor(run).predict(coloured("red"))
    assert (plain.label, decided.label) == ("red", "blue")
    assert decided.probabilities == plain.probabilities
    assert decided.probability == plain.probabilities["blue"] < plain.probability
    assert Predictor(run).predict(coloured("green")).label == "green"


def test_a_bundle_without_costs_is_written_as_before_and_bad_costs_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "costs" not in files.read_json(run / "bundle.json")
    dear_red(run)
    values = files.read_json(run / "bundle.json")
    assert read_bundle(run).costs == values["costs"]
    for wrong in ([[0, 1]], [[0, 1, 1]] * 2, [[0, "1", 1]] * 3, [[0, -1, 1]] * 3, 5):
        files.write_json(run / "bundle.json", values | {"costs": wrong})
        with pytest.raises(RunError, match="costs"):
            read_bundle(run)


def test_the_recipe_of_an_export_decides_as_bestiary_does(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    onnx = pytest.importorskip("onnx")
    for decide in (read_bundle, dear_red):
        bundle = decide(run)
        metadata = model_metadata(run, bundle, "float32")
        model = onnx.load(run / "model.onnx")
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / "model.onnx")
        assert ("costs" in metadata) == bool(bundle.costs)
        for colour in COLOURS:
            (tmp_path / "picture.png").write_bytes(coloured(colour))
            names: dict[str, Any] = {"model": tmp_path / "model.onnx", "picture": tmp_path / "picture.png"}
            exec(metadata["recipe"], names)
            assert names["label"] == Predictor(run).predict(tmp_path / "picture.png").label


def test_predictions_of_other_costs_are_not_resumed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = prediction_conditions(read_bundle(run), None)
    after = prediction_conditions(dear_red(run), None)
    assert before.keys() < after.keys()
    assert {**after, **before} == after


def decided_table(rows: list[tuple[str, list[float]]], bundle: Bundle) -> pl.DataFrame:
    probabilities = np.array([row for _, row in rows])
    predicted = [bundle.classes[label] for label in choose_labels(probabilities, bundle.costs)]
    columns = {f"p_{name}": probabilities[:, column] for column, name in enumerate(bundle.classes)}
    return pl.DataFrame({"label": [label for label, _ in rows], "predicted": predicted, **columns})


def test_the_metrics_are_the_costs_by_hand(tmp_path: Path) -> None:
    bundle = dear_red(write_run(tmp_path / "run"))
    bundle = replace(bundle, costs=cost_matrix([("blue", "red", 10.0)], COLOURS).tolist())
    rows = [("blue", [0.3, 0.1, 0.6]), ("red", [0.3, 0.1, 0.6]), ("red", [0.01, 0.01, 0.98])] * 20
    predictions = decided_table(rows, bundle)
    assert predictions["predicted"].to_list()[:3] == ["blue", "blue", "red"]
    metrics = decision_metrics(predictions, np.arange(60), bundle, resamples=200, seed=0)["decision"]
    assert metrics["cost"]["value"] == pytest.approx(1 / 3)
    assert metrics["cost_most_probable"]["value"] == pytest.approx(10 / 3)
    assert metrics["saved"]["value"] == pytest.approx(3)
    assert metrics["saved"]["low"] <= 3 <= metrics["saved"]["high"]
    assert metrics["changed"] == 40
    [pair] = metrics["pairs"]
    assert (pair["true"], pair["predicted"], pair["count"], pair["of"], pair["count_most_probable"]) == (
        *("blue", "red"),
        *(0, 20, 20),
    )
    assert 0.1 < pair["rate"]["high"] < 0.2
    assert '"blue" predicted as "red" (cost 10): 0 of 20 (95 % interval 0\xa0% to 16\xa0%)' in metrics["sentence"]
    assert " 3 saved (95 % interval " in metrics["sentence"]
    site = decision_metrics(predictions, np.zeros(60, np.int64), bundle, resamples=200, seed=0)["decision"]
    assert (site["cost"]["low"], site["cost"]["high"]) == (0.0, 10.0)
    assert (site["saved"]["low"], site["saved"]["high"]) == (-10.0, 10.0)
    assert "not significant" in site["sentence"]


def test_rules_that_change_nothing_or_lose_are_said(tmp_path: Path) -> None:
    bundle = replace(
        read_bundle(write_run(tmp_path / "run")), costs=cost_matrix([("blue", "red", 10.0)], COLOURS).tolist()
    )
    same = decided_table([("red", [0.01, 0.01, 0.98]), ("blue", [0.9, 0.05, 0.05])] * 5, bundle)
    text = decision_metrics(same, np.arange(10), bundle, resamples=100, seed=0)["decision"]["sentence"]
    assert "no label differs from the most probable class" in text
    worse = decided_table([("red", [0.3, 0.1, 0.6]), ("blue", [0.9, 0.05, 0.05])] * 5, bundle)
    text = decision_metrics(worse, np.arange(10), bundle, resamples=100, seed=0)["decision"]["sentence"]
    assert "0.5 lost (95 % interval" in text
    assert decision_metrics(worse, np.arange(10), replace(bundle, costs=[]), resamples=100, seed=0) == {}


ASKED: dict[str, Any] = {
    "data": {"classes": ["bird", "fish", "spider", "rabbit"]},
    "picture": {"size": 64},
    "model": {"backbone": "lite0"},
    "probe": {"regularisation": [0.001, 0.01]},
}


@pytest.mark.slow
def test_a_run_with_costs_says_what_they_cost_wherever_it_speaks(faulty: SyntheticDataset, tmp_path: Path) -> None:
    evaluate = {"resamples": 200, "costs": [["*", "bird", 50]]}
    run = flow.train(faulty.folder, recipe=Recipe.of({**ASKED, "evaluate": evaluate}), out=tmp_path / "run", threads=2)
    decision = run.metrics["decision"]
    predictions = table.read(run.path / "predictions.parquet", table.PREDICTIONS)
    classes = read_bundle(run.path).classes
    probabilities = predictions.select([f"p_{name}" for name in classes]).to_numpy()
    expected = choose_labels(probabilities, cost_matrix([("*", "bird", 50.0)], classes))
    assert predictions["predicted"].to_list() == [classes[label] for label in expected]
    chosen = [row[label] for row, label in zip(probabilities, expected, strict=True)]
    assert predictions["probability"].to_numpy() == pytest.approx(chosen, abs=1e-6)
    test = predictions.filter(pl.col("split") == "test")
    assert run.metrics["accuracy"]["value"] == pytest.approx((test["label"] == test["predicted"]).mean())
    assert decision["changed"] == int(
        (
            np.array([classes[i] for i in test.select([f"p_{n}" for n in classes]).to_numpy().argmax(axis=1)])
            != test["predicted"].to_numpy()
        ).sum()
    )
    for name in ("report.html", "report.md", "README.md"):
        assert "least expected cost" in (run.path / name).read_text(encoding="utf-8"), name
    again = flow.evaluate(run.path, Context(threads=2))
    assert again.metrics["decision"] == decision


def test_costs_of_an_unknown_class_are_refused_before_training(faulty: SyntheticDataset, tmp_path: Path) -> None:
    recipe = Recipe.of({**ASKED, "evaluate": {"costs": [["wolf", "bird", 50]]}})
    with pytest.raises(RecipeError, match='The costs name "wolf"'):
        flow.train(faulty.folder, recipe=recipe, out=tmp_path / "run", threads=2)
    assert not (tmp_path / "run").exists()


def answer(path: str, label: str, *, unknown: bool = False, **probabilities: float) -> Prediction:
    return Prediction(path, label, probabilities[label], unknown, 0.5, probabilities)


def test_the_table_shows_the_answer_first(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    given = [answer("a.jpg", "wolf", wolf=0.3, dog=0.7), answer("b.jpg", "dog", wolf=0.3, dog=0.7)]
    for top in (1, 2):
        writers.write_predictions(given, "table", sys.stdout, classes=("dog", "wolf"), top=top)
    assert capsys.readouterr().out.splitlines() == [
        "a.jpg  wolf 30.0 % by cost (most probable: dog 70.0 %)",
        "b.jpg  dog 70.0 %",
        "a.jpg  wolf 30.0 %, dog 70.0 %",
        "b.jpg  dog 70.0 %, wolf 30.0 %",
    ]


def test_unknown_pictures_get_their_label(tmp_path: Path) -> None:
    given = [answer("a.jpg", "dog", unknown=True, wolf=0.3, dog=0.7), answer("b.jpg", "dog", wolf=0.3, dog=0.7)]
    named = list(writers.relabel_unknown(given, "other"))
    assert [prediction.label for prediction in named] == ["other", "dog"]
    with (tmp_path / "a.csv").open("w", encoding="utf-8") as out:
        writers.write_predictions(named, "csv", out, classes=("dog", "wolf"), top=1)
        writers.write_predictions(named, "table", out, classes=("dog", "wolf"), top=1)
    lines = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert [row["label"] for row in csv.DictReader(lines[:3])] == ["other", "dog"]
    assert lines[3] == "a.jpg  other, nearest: dog 70.0 %  (unknown: like none of the classes)"
    for wrong, message in (("dog", "is a class of the model"), (" ", "is empty")):
        with pytest.raises(UserError, match=message):
            writers.check_unknown_label(wrong, ("dog", "wolf"))


def test_conditions_name_the_label_of_unknown_pictures(tmp_path: Path) -> None:
    bundle = read_bundle(write_run(tmp_path / "run"))
    assert prediction_conditions(bundle, None, "other")["label of unknown pictures"] == "other"
    assert json.dumps(prediction_conditions(bundle, None, "other"))
