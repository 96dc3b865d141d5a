"""The Python interface: plain arguments beside a recipe, results that show themselves briefly, nothing dropped."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

pytest.importorskip("sklearn")

import bestiary
from bestiary import api
from bestiary.api_results import SearchResult
from bestiary.data.formats.label_table import ReadOptions
from bestiary.errors import InputError, RecipeError, RunError, SourceError, UserError
from bestiary.inference.predict import Predictions
from bestiary.recipe import Recipe
from bestiary.recipe_arguments import combine_recipe
from bestiary.report.results import Run
from bestiary.study.study import Study
from bestiary.summary import Summary
from tiny_model import COLOURS, coloured, write_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that names colours."""
    return write_run(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of each colour, a broken one, and a text."""
    folder = tmp_path_factory.mktemp("colours")
    for name in COLOURS:
        (folder / f"{name}.png").write_bytes(coloured(name))
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


# ---- Arguments beside a recipe ---------------------------------------------------------------------------------------


def test_arguments_are_settings_of_the_recipe() -> None:
    recipe = combine_recipe({"train": {"epochs": 3}}, method="scratch", backbone=None, seed=4, folds=5)
    assert recipe.overrides() == {
        "train": {"epochs": 3},
        "model": {"method": "scratch"},
        "seed": 4,
        "data": {"folds": 5},
    }
    assert combine_recipe(None, seed=0).overrides() == {"seed": 0}
    assert combine_recipe("original-v2").model.method == "scratch"


def test_a_default_of_the_recipe_contradicts_nothing() -> None:
    assert combine_recipe(Recipe.of({"seed": 2}), method="scratch").model.method == "scratch"
    assert combine_recipe({"seed": 2}, seed=2).seed == 2


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        (
            {"model": {"method": "probe"}},
            {"method": "scratch"},
            r"method='scratch' contradicts.* model.method = 'probe'",
        ),
        ({"seed": 1}, {"seed": 0}, r"seed=0 contradicts the recipe, which has seed = 1\. Give it only once\."),
        ("original-v2", {"method": "probe"}, "contradicts the recipe, which has model.method = 'scratch'"),
        ({}, {"method": "prob"}, r"model\.method"),
    ],
)
def test_an_argument_that_contradicts_the_recipe_is_an_error(recipe: Any, arguments: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bestiary.train("no pictures are read", recipe=recipe, **arguments)
    with pytest.raises(RecipeError, match=message):
        combine_recipe(recipe, **arguments)


def test_a_recipe_of_a_study_may_not_be_contradicted() -> None:
    with pytest.raises(RecipeError, match=r"contradicts the recipe \"probe\", which has model\.method = 'probe'"):
        bestiary.study("no pictures are read", ["probe", "scratch"], method="scratch")
    with pytest.raises(UserError, match="Leave out one of the two"):
        bestiary.study("no pictures are read", ["probe", "original-v1"], seed=1, seeds=[2])
    with pytest.raises(UserError, match="recipes is a list"):
        bestiary.study("no pictures are read", "probe")


@pytest.mark.parametrize("name", ["train", "audit", "evaluate", "predict", "export", "tune", "study", "embed"])
def test_every_function_is_documented_and_refuses_unknown_arguments(name: str) -> None:
    function = getattr(bestiary, name)
    parameters = inspect.signature(function).parameters
    assert {"quiet", "on_event", "threads"} <= parameters.keys()
    assert not [p for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    assert function.__doc__
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        function("a", "b", epoch=3)


def test_options_without_pictures_are_refused(model: Path) -> None:
    with pytest.raises(UserError, match="labels, name need pictures"):
        bestiary.evaluate(model, labels="animals10", name="again")


def test_a_comparison_needs_two_runs(model: Path) -> None:
    with pytest.raises(UserError, match="two runs or more"):
        bestiary.compare(model)


def test_an_unknown_export_format_lists_the_others(model: Path) -> None:
    with pytest.raises(UserError, match='Did you mean "openvino"'):
        bestiary.export(model, "openvin")  # type: ignore[arg-type]


def test_train_passes_every_argument_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(api.flow, "train", lambda *words, **options: calls.append((words, options)))
    options = {
        "labels": "animals10",
        "corrections": "c.csv",
        "out": "o",
        "threads": 1,
        "budget_seconds": 9.0,
        "log": None,
    }
    columns = {"path": "File", "label": "Species"}
    bestiary.train("pictures", method="scratch", seed=3, quiet=True, columns=columns, leave_out=[], **options)  # type: ignore[arg-type]
    [(words, passed)] = calls
    reporter, recipe = passed.pop("reporter"), passed.pop("recipe")
    assert passed.pop("reading") == ReadOptions(columns=columns, left_out=(), has_chosen_families=True)
    assert (words, passed) == (("pictures",), options)
    assert recipe.overrides() == {"model": {"method": "scratch"}, "seed": 3}
    assert type(reporter).__name__ == "SilentReporter"


# ---- Predictions -----------------------------------------------------------------------------------------------------


def test_predict_takes_a_folder_a_path_a_pattern_a_list_and_pictures_in_memory(model: Path, colours: Path) -> None:
    assert [answer.label for answer in bestiary.predict(model, colours)] == ["blue", None, "green", "red"]
    assert [answer.label for answer in bestiary.predict(model, colours / "red.png")] == ["red"]
    assert [answer.label for answer in bestiary.predict(model, str(colours / "*e*.png"))] == ["blue", "green", "red"]
    red = Image.new("RGB", (9, 9), (250, 5, 5))
    several: list[Any] = [colours / "blue.png", coloured("green"), red, np.asarray(red)]
    assert [answer.label for answer in bestiary.predict(model, several)] == ["blue", "green", "red", "red"]
    assert [answer.label for answer in bestiary.predict(model, red)] == ["red"]
    assert bestiary.predict(model, []) == []


def test_predict_tells_what_it_skips_and_how_far_it_is(model: Path, colours: Path) -> None:
    events: list[bestiary.Event] = []
    bestiary.predict(model, colours, on_event=events.append)
    assert bestiary.Event("", 0, None, "Skipped: 1 not named like a picture.") in events
    assert events[-1] == bestiary.Event("Predicting", 4, 4)


def test_predict_refuses_what_it_would_drop(model: Path, colours: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="standard input only for the command"):
        bestiary.predict(model, "-")
    with pytest.raises(SourceError, match="There are no pictures"):
        bestiary.predict(model, tmp_path)
    with pytest.raises(RunError, match="There is no run"):
        bestiary.predict(tmp_path / "none", colours)


def test_a_run_may_be_what_train_returned(model: Path, colours: Path) -> None:
    run = Run(model, {})
    assert bestiary.predict(run, colours / "red.png")[0].label == "red"


# ---- What results show -----------------------------------------------------------------------------------------------


def test_predictions_show_the_first_of_them(model: Path, colours: Path) -> None:
    answers = bestiary.predict(model, [colours / "red.png"] * 12)
    lines = repr(answers).splitlines()
    assert lines[0] == "12 predictions, 0 unknown, 0 could not be read"
    assert lines[1] == f"  {colours / 'red.png'}: {answers[0].describe()}"
    assert lines[-1] == "  …: 2 more"
    assert len(lines) == 12
    assert repr(Predictions()) == "0 predictions, 0 unknown, 0 could not be read"


def test_a_prediction_shows_no_arrays(model: Path, colours: Path) -> None:
    [answer], [broken] = bestiary.predict(model, colours / "red.png"), bestiary.predict(model, colours / "broken.jpg")
    assert answer.heatmap is not None
    assert repr(answer).splitlines()[1:] == [
        f"  label: red {answer.probability:.3f}",
        f"  familiarity: {answer.familiarity:.3f}",
    ]
    assert broken.error is not None
    assert repr(broken).splitlines()[1:] == [f"  error: {broken.error}"]


def test_html_is_escaped_and_text_has_no_control_characters() -> None:
    summary = Summary("<b>run</b>", (("a & b", "\x1b[31m<script>"),))
    assert "<script>" not in summary.html()
    assert "<b>" not in summary.html()
    assert "a &amp; b" in summary.html()
    assert summary.text() == "<b>run</b>\n  a & b: \\x1b[31m<script>"


def test_a_run_shows_its_score_with_its_interval(probed: Path) -> None:
    run = bestiary.evaluate(_copied(probed), quiet=True)
    accuracy = run.metrics["accuracy"]
    lines = repr(run).splitlines()
    assert lines[0] == f"Run {run.path}"
    assert lines[1] == f"  accuracy: {accuracy['value']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f})"
    assert lines[2].startswith("  macro-F1: ")
    assert len(lines) == 5
    assert f"<strong>Run {run.path}</strong>" in run._repr_html_()


def test_an_evaluation_elsewhere_says_which_classes_it_is_without(probed: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(probed / "pictures.parquet").filter(
        (pl.col("split") == "test") & (pl.col("label") == "bird")
    )
    for path in table["path"]:
        (tmp_path / "bird").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "bird")
    evaluation = bestiary.evaluate(_copied(probed), tmp_path, classes=["bird"], name="birds")
    assert evaluation.path.name == "birds"
    lines = repr(evaluation).splitlines()
    assert "  macro-F1 is without: fish, rabbit, spider" in lines
    assert f"  macro-F1: {evaluation.metrics['present']['macro_f1']['value']:.3f}" in lines[2]


def test_an_audit_shows_its_counts(faulty: Any) -> None:
    dataset = bestiary.audit(faulty.folder, recipe={"data": {"suspects": False}}, threads=2)
    title, classes, unreadable, findings = repr(dataset).splitlines()
    assert title == f"Audited dataset of {dataset.pictures.height} pictures"
    assert classes.startswith("  classes: 10 (")
    assert unreadable == f"  unreadable: {dataset.pictures['error'].count()}"
    assert "exact duplicate" in findings


def test_a_comparison_and_an_export_show_scores(probed: Path, tmp_path: Path) -> None:
    other = _copied(probed)
    comparison = bestiary.compare(probed, Run(other, {}), resamples=100, out=tmp_path / "page.html")
    assert (tmp_path / "page.html").exists()
    lines = repr(comparison).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == [str(probed), str(other), "minus the first"]
    assert "accuracy 0.000 (0.000 to 0.000)" in lines[3]
    exported = bestiary.export(other, out=tmp_path / "model.onnx", threads=2)
    assert exported.path.exists()
    assert repr(exported).splitlines()[-1].startswith("  labels that differ: 0 of ")


def test_a_search_and_a_study_show_their_outcome(tmp_path: Path) -> None:
    other = SearchResult(None, {"winner": None, "best so far": {"macro_f1": 0.5}})
    assert repr(other).startswith("Search continued by other processes")
    score = {"mean": 0.75, "sd": 0.1}
    study = Study(tmp_path, {"recipes": [{"recipe": "probe", "macro_f1": score, "seeds": [0, 1]}]}, {"b": "failed"})
    assert repr(study) == f"Study {tmp_path}\n  probe: macro-F1 0.750, 2 seeds\n  failed: 1 runs"


def _copied(run: Path) -> Path:
    copy = Path(str(run) + "-api")
    if not copy.exists():
        shutil.copytree(run, copy)
    return copy
