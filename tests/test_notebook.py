"""A notebook: results show themselves as tables with bars and pictures, progress as bars that are updated."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from bestiary import progress
from bestiary.inference.predict import Predictions
from bestiary.inference.predictor import Prediction
from bestiary.progress import NotebookReporter
from bestiary.summary import Bar, Row, Summary

HOSTILE = '<script>alert("1")</script>&\'"'


def prediction(path: str | None, label: str = "cat", **changes: Any) -> Prediction:
    values: dict[str, Any] = {"probability": 0.9, "unknown": False, "familiarity": 0.6}
    return Prediction(path, label, probabilities={label: 0.9, "dog": 0.08, "fox": 0.02}, **(values | changes))


def require_harmless(html: str) -> None:
    """Fail if HTML of a result could run a script, load something, or fix a colour of text or ground."""
    assert "<script" not in html
    assert [
        source for source in re.findall(r"(?:src|href)=\"([^\"]*)", html) if ":" in source.removeprefix("data:")
    ] == []
    assert not re.search(r"(?<!-)\bcolor:(?!inherit)|background", html)


def test_all_text_is_escaped_and_nothing_is_loaded() -> None:
    summary = Summary(HOSTILE, (Row(HOSTILE, HOSTILE, Bar(0.5, 0.4, 0.6), file=Path(HOSTILE)),), ((HOSTILE, "more"),))
    require_harmless(summary.html())
    require_harmless(prediction(HOSTILE, HOSTILE, labels=[HOSTILE]).summary().html())
    require_harmless(Predictions([prediction(HOSTILE, HOSTILE), prediction(None)])._repr_html_())
    assert "more" in summary.html()
    assert "more" not in summary.text()


def test_a_bar_has_the_width_of_its_value_and_the_ends_of_its_interval() -> None:
    html = Summary("scores", (Row("accuracy", "0.5", Bar(0.5, 0.25, 1.5)),)).html()
    assert 'width="80.0"' in html  # of 160
    assert 'x1="40.0" x2="160.0"' in html


def test_a_prediction_shows_its_picture_and_the_next_classes(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 400, 3), (250, 0, 0), np.uint8)).save(tmp_path / "a.png")
    html = prediction(str(tmp_path / "a.png"))._repr_html_()
    assert html.count("data:image/jpeg;base64,") == 1
    assert html.index(">label<") < html.index(">dog<") < html.index(">fox<")
    both = Predictions([prediction(str(tmp_path / "a.png")), prediction(str(tmp_path / "gone.png"))])
    assert both._repr_html_().count("data:image/jpeg;base64,") == 1
    assert "data:" not in repr(both)


def test_an_unreadable_picture_shows_why() -> None:
    failed = Prediction("a.jpg", None, float("nan"), False, float("nan"), {}, error="a.jpg is empty.")
    assert "a.jpg is empty." in failed._repr_html_()
    assert "a.jpg is empty." in Predictions([failed])._repr_html_()
    assert "nan" not in Predictions([failed])._repr_html_()


def test_only_relative_files_are_linked() -> None:
    linked = Summary("run", (Row("report", "r", file=Path("runs/a b/report.html")),)).html()
    assert '<a href="runs/a%20b/report.html">r</a>' in linked
    assert "<a" not in Summary("run", (Row("report", "r", file=Path("/runs/report.html").absolute()),)).html()


class Handle:
    """Stands in for a display of IPython: records what it shows."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)


def test_progress_updates_one_display(monkeypatch: pytest.MonkeyPatch) -> None:
    handle, notices = Handle(), list[str]()

    class Display:
        @staticmethod
        def display(data: dict[str, str], *, raw: bool, display_id: bool = False) -> Handle | None:
            if not display_id:
                notices.append(data["text/plain"])
                return None
            handle.update(data, raw=raw)
            return handle

    monkeypatch.setitem(sys.modules, "IPython.display", Display)
    monkeypatch.setattr(progress, "UPDATE_EVERY_SECONDS", 0.0)
    reporter = NotebookReporter()
    reporter.info("A notice")
    with reporter.progress("Reading <pictures>", 4) as advance:
        advance(1)
        advance(3)
    assert notices == ["A notice"]
    assert [data.get("text/html", "").partition(">")[0] for data in handle.shown] == [
        '<progress value="0" max="4"',
        '<progress value="1" max="4"',
        '<progress value="4" max="4"',
        "",
    ]
    assert "Reading &lt;pictures&gt;" in handle.shown[0]["text/html"]
    assert handle.shown[-1]["text/plain"].startswith("Reading <pictures>: 4 in ")


CELLS = [
    "import bestiary\nrun = bestiary.evaluate('run')\nrun",
    "answers = bestiary.predict(run, 'new')\nanswers",
    "answers[0]",
    "bestiary.audit('new pictures', quiet=True, recipe={'data': {'suspects': False}})",
    "bestiary.compare(run, 'run')",
]


@pytest.mark.slow
def test_a_notebook_shows_results_and_progress(probed: Path, tmp_path: Path, collection: Any) -> None:
    """Executed by a kernel, as Jupyter does."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shutil.copytree(probed, tmp_path / "run")
    shutil.copytree(collection.folder / "bird", tmp_path / "new")
    for label in ("bird", "fish"):
        shutil.copytree(collection.folder / label, tmp_path / "new pictures" / label)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.resources["metadata"] = {"path": str(tmp_path)}
    client.execute()
    results = []
    for cell in notebook.cells:
        assert [output for output in cell.outputs if output.output_type in ("stream", "error")] == []
        [result] = [output.data for output in cell.outputs if output.output_type == "execute_result"]
        require_harmless(result["text/html"])
        results.append(result)
    shown = [output.data for output in notebook.cells[0].outputs if output.output_type == "display_data"]
    assert [data for data in shown if "text/html" in data] == []  # each bar was replaced by the line of its end
    assert re.search(r"\] Predicting: \d+ in ", "\n".join(data["text/plain"] for data in shown))
    run, answers, answer, audited, compared = (result["text/html"] for result in results)
    assert "<strong>Run run</strong>" in run
    assert '<a href="run/report.html">' in run
    assert ">F1 of " in run
    assert answers.count("data:image/jpeg;base64,") == min(10, len(list((tmp_path / "new").iterdir())))
    assert ">familiarity<" in answer
    assert "Audited dataset" in audited
    assert "Comparison on" in compared
