"""The model card is what the Hugging Face hub reads; the summary fits into a pull request; both are safe to publish."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from bestiary.report.markdown import escape
from bestiary.report.model_card import MAY_BE_PUBLISHED, METRICS, card_data
from bestiary.report.run_files import read_run
from bestiary.report.run_report import write_report
from test_report import HOSTILE, LABELS, drawn_pictures, make_run

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home of somebody")
    made = make_run(home / "Bär 🐻 \x7f run", drawn_pictures(home / "pictures", LABELS, 24))
    write_report(made)
    return made


def test_the_hub_reads_the_scores_from_the_card(run: Path) -> None:
    card = hub.ModelCard.load(run / "README.md")
    metrics = json.loads((run / "metrics.json").read_text())
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.model_name == "Bär 🐻 ? run"
    found = {result.metric_type: result for result in card.data.eval_results}
    assert list(found) == [kind for _, kind, _ in METRICS]
    for key, kind, _ in METRICS:
        assert found[kind].metric_value == pytest.approx(metrics[key]["value"], abs=1e-6)
        assert f"{metrics[key]['low']:.4f} to {metrics[key]['high']:.4f}" in found[kind].metric_name
        assert (found[kind].task_type, found[kind].dataset_split) == ("image-classification", "test")


def test_the_hubs_own_card_of_these_scores_says_the_same(run: Path) -> None:
    card = hub.ModelCard.load(run / "README.md")
    results = [
        hub.EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type="imagefolder",
            dataset_name="the run's own pictures",
            dataset_split="test",
            metric_type=one.metric_type,
            metric_name=one.metric_name,
            metric_value=one.metric_value,
        )
        for one in card.data.eval_results
    ]
    own = hub.ModelCardData(
        model_name=card.data.model_name,
        eval_results=results,
        library_name="bestiary",
        pipeline_tag="image-classification",
        tags=["bestiary", "onnx", "image-classification"],
        metrics=["accuracy", "f1"],
    )
    assert own.to_dict() == card.data.to_dict()
    again = hub.ModelCard(str(card))  # as the hub would write it back
    assert again.data.to_dict() == card.data.to_dict()


def test_the_card_can_be_published_and_what_users_named_is_escaped(run: Path) -> None:
    card, summary = ((run / name).read_text(encoding="utf-8") for name in ("README.md", "report.md"))
    assert str(run.parent) not in card
    assert "/home" not in card
    for text in (card, summary):
        assert "<script>" not in text
    assert escape(HOSTILE) in card
    assert card.count(escape(HOSTILE)) >= 2
    assert "| cow | " in card
    assert all(f"`{name}`" in card for name in MAY_BE_PUBLISHED)
    published = [path.read_bytes() for path in run.iterdir() if path.name in MAY_BE_PUBLISHED]
    assert len(published) > 5
    assert not any(str(run.parent).encode() in content for content in published)
    assert str(run.parent) in pl.read_parquet(run / "pictures.parquet")["path"][0]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("@octocat", "@\u200boctocat"),
        ("cow@farm.org", "cow@\u200bfarm.org"),
        ("www.evil.com", "ww\u200bw.evil.com"),
        ("WWW.evil.com", "WW\u200bW.evil.com"),
        ("https://evil.com", "https:\u200b//evil.com"),
        (":skull: :+1:", ":\u200bskull: :\u200b+1:"),
        ("a#12", "a\\#\u200b12"),
        ("gh-7", "gh-\u200b7"),
        ("Lowest recall: sheep, 12:30 (@ home), wwf", "Lowest recall: sheep, 12:30 (@ home), wwf"),
    ],
)
def test_github_makes_nothing_of_a_name(given: str, shown: str) -> None:
    assert escape(given) == shown


def test_the_scores_carry_what_is_to_be_kept_in_mind(run: Path) -> None:
    files = read_run(run)
    note = {"note": "…"}
    caveats = {**files.metrics, "folds": note, "leaks": note, "test_scored": 3}
    (entry,) = card_data(replace(files, metrics=caveats, folder=Path("/tmp/searched/winner-2")))["model-index"]
    data = entry["results"][0]["dataset"]["name"]
    assert all(words in data for words in ("cross-validated", "duplicates in training", "scored 3 times"))
    assert entry["name"] == "searched winner-2"
    assert replace(files, folder=Path("/winner")).name == "winner"


def test_the_summary_fits_into_a_pull_request(run: Path) -> None:
    summary = (run / "report.md").read_text(encoding="utf-8")
    lines = summary.splitlines()
    assert len(lines) <= 40
    assert len(summary) < 3000
    assert lines[0].startswith("### Right ")
    assert "1. **Add pictures of" in summary
    assert "Most frequent mistakes:" in summary
    assert "Accuracy" in summary


def test_both_say_when_the_test_pictures_were_looked_at_again(run: Path, tmp_path: Path) -> None:
    texts = [(run / name).read_text(encoding="utf-8") for name in ("README.md", "report.md")]
    assert not any("were scored" in text for text in texts)
    assert "were not used for training" in texts[0]
    again = make_run(tmp_path / "run", drawn_pictures(tmp_path / "pictures", LABELS, 12), changed={"test_scored": 2})
    write_report(again)
    texts = [(again / name).read_text(encoding="utf-8") for name in ("README.md", "report.md")]
    assert all("The test pictures were scored 2 times" in text for text in texts)
    assert "were not used for training" not in texts[0]
