"""The model card is what the Hugging Face hub reads; the summary fits into a pull request; both are safe to publish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bestiary.deliver.markdown import plain
from bestiary.deliver.model_card import METRICS
from bestiary.deliver.report import write_report
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
    assert plain(HOSTILE) in card
    assert card.count(plain(HOSTILE)) >= 2
    assert "| cow | " in card


def test_the_summary_fits_into_a_pull_request(run: Path) -> None:
    summary = (run / "report.md").read_text(encoding="utf-8")
    lines = summary.splitlines()
    assert len(lines) <= 40
    assert len(summary) < 3000
    assert lines[0].startswith("### Right ")
    assert "1. **Add pictures of" in summary
    assert "Taken for another most:" in summary
    assert "Accuracy" in summary


def test_both_say_when_the_test_pictures_were_looked_at_again(run: Path, tmp_path: Path) -> None:
    texts = [(run / name).read_text(encoding="utf-8") for name in ("README.md", "report.md")]
    assert not any("were scored" in text for text in texts)
    assert "were not used to learn" in texts[0]
    again = make_run(tmp_path / "run", drawn_pictures(tmp_path / "pictures", LABELS, 12), changed={"test_scored": 2})
    write_report(again)
    texts = [(again / name).read_text(encoding="utf-8") for name in ("README.md", "report.md")]
    assert all("The test pictures were scored 2 times" in text for text in texts)
    assert "were not used to learn" not in texts[0]
