"""The pages of `evaluate` on other pictures and of `compare`: what they hold, and that browsers show it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")

from bestiary import table
from bestiary.context import Context
from bestiary.data.dataset import DataSource
from bestiary.data.formats.read_options import make_read_options
from bestiary.demo.dataset import SyntheticDataset, draw_ood_image
from bestiary.evaluation.comparison import align_runs, compare_runs, read_run_predictions
from bestiary.evaluation.external import evaluate_external
from bestiary.files import read_json
from bestiary.report.comparison_page import write_comparison
from bestiary.report.evaluation_page import write_evaluation_page
from bestiary.report.present_classes import present_metrics
from browsers import serious_violations
from test_report import Outline
from test_report_page import LOOKS


@pytest.fixture(scope="module")
def evaluated(probed: Path, collection: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation on birds, fish and a class that the model does not know; spiders and rabbits are absent."""
    run = Path(shutil.copytree(probed, tmp_path_factory.mktemp("evaluated") / "run"))
    folder = tmp_path_factory.mktemp("others") / "o<thers>"
    for name in ("bird", "fish"):
        shutil.copytree(collection.folder / name, folder / name)
    (folder / "nothing").mkdir()
    for seed in range(8):
        draw_ood_image(seed).save(folder / "nothing" / f"{seed}.png")
    (folder / "bird" / "broken.jpg").write_bytes(b"no picture")
    learnt = table.read(run / "pictures.parquet", table.PICTURES)
    for path in learnt.filter(learnt["split"] == "train")["path"].head(2):
        shutil.copy(path, folder / "bird" / f"copy-{Path(path).name}")
    return evaluate_external(run, DataSource(folder), Context(2)).path


@pytest.fixture(scope="module")
def evaluation_page(evaluated: Path) -> Path:
    return write_evaluation_page(evaluated, threads=2)


@pytest.fixture(scope="module")
def comparison_page(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of a run with a copy of it whose answers to every other test picture are another class."""
    home = tmp_path_factory.mktemp("compared")
    changed = Path(shutil.copytree(probed, home / "changed"))
    predictions = table.read(changed / "predictions.parquet", table.PREDICTIONS)
    rows = predictions.to_dicts()
    for row in rows[::2]:
        other = "fish" if row["predicted"] != "fish" else "bird"
        row["predicted"] = other
        row["p_fish"], row["p_bird"] = (0.9, 0.1) if other == "fish" else (0.1, 0.9)
        row["p_spider"] = row["p_rabbit"] = 0.0
    table.write(type(predictions)(rows, schema=predictions.schema), changed / "predictions.parquet")
    recipe = (changed / "resolved.toml").read_text(encoding="utf-8")
    (changed / "resolved.toml").write_text(recipe.replace("size = 64", "size = 96", 1), encoding="utf-8")
    runs = align_runs([read_run_predictions(run) for run in (probed, changed)], intersection=False)
    write_comparison(compare_runs(runs, resamples=100), home / "comparison.html", runs)
    return home / "comparison.html"


def test_absent_classes_are_folded_and_in_no_average(evaluated: Path, evaluation_page: Path) -> None:
    metrics, page = read_json(evaluated / "metrics.json"), evaluation_page.read_text(encoding="utf-8")
    own = present_metrics(metrics)
    assert list(own["per_class"]) == ["bird", "fish"]
    assert own["macro_f1"] == metrics["present"]["macro_f1"]
    assert sum(map(sum, own["confusion"]["counts"])) == metrics["n"]
    text = Outline(page).text
    assert f"{100 * own['macro_f1']['value']:.1f}\u00a0%" in text
    assert "averaged over the 2 classes with pictures here" in text
    table_of_classes = page.partition('<h3 id="classes">')[2].partition("<details>")[0]
    assert "bird</th>" in table_of_classes
    assert "rabbit</th>" not in table_of_classes
    folded = page.partition("2 classes of the model without pictures here</summary>")[2].partition("</details>")[0]
    assert "rabbit" in folded
    assert "spider" in folded


def test_the_page_says_first_how_far_the_pictures_are(evaluated: Path, evaluation_page: Path) -> None:
    metrics, outline = read_json(evaluated / "metrics.json"), Outline(evaluation_page.read_text(encoding="utf-8"))
    assert outline.open == []
    text = outline.text.partition("Evaluation on ")[2]  # without title and style
    positions = [text.index(part) for part in (metrics["shift"]["sentence"], "Macro-F1", "Confusion matrix")]
    assert positions == sorted(positions)
    assert "1 left out: not a picture" in text
    assert "bird/broken.jpg" in text
    assert "left out: It is a copy of a picture" in text
    assert "bestiary evaluate" in text
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    links = [attributes.get("href") or "" for tag, attributes in outline.tags if tag == "a"]
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_what_a_table_was_read_as_is_no_warning_and_the_command_reads_it_again(
    evaluated: Path, collection: SyntheticDataset, tmp_path: Path
) -> None:
    rows = [f"{path};{kind}" for kind in ("bird", "fish") for path in sorted((collection.folder / kind).glob("*.*"))]
    source = tmp_path / "later.csv"
    source.write_text("\n".join(["Bild;Art", *rows]), encoding="utf-8")
    reading = make_read_options(columns="path=Bild,label=Art")
    folder = evaluate_external(evaluated.parents[1], DataSource(source, reading=reading), Context(2)).path
    notices = read_json(folder / "metrics.json")["notices"]
    assert [notice["is_issue"] for notice in notices if notice["check"] == "source-format"] == [False, False]
    text = write_evaluation_page(folder).read_text(encoding="utf-8")
    assert f'<p class="remark" role="note">{source} is read as a table (--format table).</p>' in text
    assert "--columns path=Bild,label=Art</code>" in text


def test_pictures_of_no_class_of_the_model_have_a_page(evaluated: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for seed in range(3):
        draw_ood_image(seed + 50).save(tmp_path / "nothing" / f"{seed}.png")
    evaluation = evaluate_external(evaluated.parents[1], DataSource(tmp_path), Context(1), name="nothing")
    outline = Outline(write_evaluation_page(evaluation.path).read_text(encoding="utf-8"))
    assert outline.open == []
    assert "No picture has a class of the model" in outline.text
    assert "Classes that the model does not know" in outline.text
    assert outline.count("table") == 1  # of the unknown classes


def test_the_command_prints_the_average_of_present_classes_first(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bestiary.cli import app

    source = read_json(evaluated / "metrics.json")["source"]
    app(["evaluate", str(evaluated.parents[1]), source, "--name", "again", "--quiet"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Macro-F1 over 2 of 4 classes, those with pictures: ")
    assert [line.split()[0] for line in lines if line.startswith(("bird", "fish", "rabbit", "spider"))] == [
        "bird",
        "fish",
    ]
    assert Path(lines[-1].removeprefix("Report: ")) == evaluated.parent / "again" / "report.html"
    assert (evaluated.parent / "again" / "report.html").exists()


@pytest.fixture(params=list(LOOKS))
def look(request: pytest.FixtureRequest) -> dict[str, Any]:
    return LOOKS[request.param]


@pytest.fixture
def open_page(browser: Any, look: dict[str, Any]) -> Iterator[Any]:
    complaints: list[str] = []
    context = browser.new_context(**look)
    opened = context.new_page()
    opened.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
    opened.on("pageerror", lambda error: complaints.append(str(error)))

    def open_(path: Path) -> Any:
        opened.goto(path.as_uri())
        opened.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        return opened

    yield open_
    context.close()
    assert complaints == []


def check_layout(page: Any) -> None:
    assert serious_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.slow
def test_the_evaluation_in_a_browser(open_page: Any, evaluated: Path, evaluation_page: Path) -> None:
    page = open_page(evaluation_page)
    check_layout(page)
    rows = page.locator("#classes ~ [data-explore] tbody th")
    page.locator("#classes ~ [data-explore] th", has_text="Class").locator("button").click()
    assert rows.all_inner_texts() == ["bird", "fish"]
    cell = page.locator(".matrix td.diagonal button").first
    cell.click()
    assert page.inner_text("#cell [role=status]").startswith("bird predicted as bird: ")
    counts = json.loads(page.get_attribute("#cell", "data-cells"))
    n = read_json(evaluated / "metrics.json")["n"]
    assert sum(count for _, _, count in counts) == n
    page.locator("#threshold input").focus()
    page.keyboard.press("Home")
    assert f"({n} of {n})" in page.inner_text("#threshold [role=status]")


@pytest.mark.slow
def test_the_comparison_in_a_browser(open_page: Any, comparison_page: Path) -> None:
    page = open_page(comparison_page)
    check_layout(page)
    assert "picture.size" in page.inner_text(".settings")
    pictures = page.locator(".gallery button")
    assert pictures.count() > 5
    first = pictures.first
    first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog img").evaluate("image => image.naturalWidth") > 0
    assert "→" in page.inner_text("dialog .words")
    page.keyboard.press("Escape")
    assert first.evaluate("button => button === document.activeElement")
