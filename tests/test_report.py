"""The report: everything the contract promises is on the page, and nothing on the page can harm or leave it."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw

from bestiary import table
from bestiary.errors import RunError
from bestiary.evaluation.calibration import reliability
from bestiary.evaluation.metrics import compute_metrics
from bestiary.evaluation.reliability import conformal_coverage, undo_temperature
from bestiary.evaluation.slices import find_weak_slices
from bestiary.inference.conformal import fit_conformal
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.recipe import Recipe
from bestiary.recipe_files import apply_overrides
from bestiary.report import finding_section, format, gallery, plots, verdict
from bestiary.report.coverage_section import threshold_tables
from bestiary.report.gallery import heatmap_overlays
from bestiary.report.next_steps import next_steps
from bestiary.report.run_files import read_run
from bestiary.report.run_files import test_predictions as predictions_of_test
from bestiary.report.run_report import render_run_report, write_report
from bestiary.report.run_summary import RunSummary, summarise_run
from bestiary.text import format_percent
from bestiary.thumbnails import LARGEST_BYTES, thumbnail_data_uri
from bestiary.training.backbone_checks import check_backbone
from bestiary.training.recipe_checks import check_no_unused_settings
from tiny_model import coloured, write_run

HOSTILE = '<script>alert("1")</script> & Bär'
LABELS = ("dog", "horse", "cow", "sheep", "Schmetterling mit einem langen Namen", HOSTILE)
HOME = Path("/home/someone/animals")  # where pictures that are never opened would lie
EMPTY = {"low": None, "high": None}
OVERFITTING = "From epoch 5 on the validation loss rises while the training loss falls."


def drawn_pictures(folder: Path, labels: Sequence[str], n: int) -> dict[str, list[Path]]:
    """Draw `n` pictures per class of a shape on a background, in files 0/0.jpg, 0/1.jpg, ..."""
    files: dict[str, list[Path]] = {}
    for c, label in enumerate(labels):
        for i in range(n):
            path = folder / str(c) / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (240, 160 + 8 * c), (40 * c, 120, 255 - 6 * i))
            ImageDraw.Draw(image).ellipse((30 + i, 30, 150, 130), fill=(255 - 30 * c, 9 * i, 60))
            image.save(path, quality=85)
            files.setdefault(label, []).append(path)
    return files


def make_run(
    run: Path,
    files: Mapping[str, Sequence[Path]],
    *,
    method: str = "probe",
    sure: float = 3.5,
    weak: str = "cow",
    findings: bool = True,
    changed: Mapping[str, Any] | None = None,
) -> Path:
    """Write the files of a finished run whose answers are drawn at random: about right for `sure` = 3.5.

    The class `weak` is often taken for another; `changed` replaces keys of metrics.json.
    """
    run.mkdir(parents=True)
    pictures = _picture_table(files)
    table.write(pictures, run / "pictures.parquet")
    if findings:
        table.write(_finding_table(pictures), run / "findings.parquet")
    predictions = _prediction_table(pictures, sorted(files), sure, weak)
    table.write(predictions, run / "predictions.parquet")
    metrics = _metrics(predictions.filter(pl.col("split") == "test"), pictures, sorted(files)) | dict(changed or {})
    (run / "metrics.json").write_text(json.dumps(metrics))
    lines = _path_lines() if method == "probe" else _epoch_lines()
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "resolved.toml").write_text(f'seed = 0\n\n[model]\nmethod = "{method}"\nbackbone = "lite0"\n')
    (run / "asked.toml").write_text(f'[model]\nmethod = "{method}"\n')
    facts = {"bestiary": "9.8.7", "python": "3.12.3", "command": "bestiary train animals", "cores": 2}
    (run / "environment.json").write_text(json.dumps(facts))
    bundle = {"method": method, "backbone": "lite0", "size": 224, "fit": "squash", "temperature": 1.25}
    (run / "bundle.json").write_text(json.dumps(bundle | {"classes": sorted(files), "threshold": 0.31}))
    return run


def _picture_table(files: Mapping[str, Sequence[Path]]) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for label, paths in files.items():
        for i, path in enumerate(paths):
            split = ("train", "train", "val", "test")[i % 4] if i else None
            error = None if split else f"{path} is not a picture: it looks like text."
            rows.append({"row_id": len(rows), "path": str(path), "label": label, "split": split, "error": error})
    blank = {"bytes": 1, "width": 240, "height": 160, "format": "JPEG", "sha256": "0", "phash": "0", "group": 0}
    return pl.DataFrame([row | blank for row in rows], schema=table.PICTURES)


def _finding_table(pictures: pl.DataFrame) -> pl.DataFrame:
    some = pictures.filter(pl.col("split") == "test").head(7).to_dicts()
    rows = [
        {"check": check, "row_id": row["row_id"], "path": row["path"], "score": 0.1, "is_issue": i < 6}
        | {"message": f"Looks like <b>{row['label']}</b>, number {i}.", "group": None, "suggested_label": None}
        for check in ("suspect-label", "near-duplicate", "dark")
        for i, row in enumerate(some)
    ]
    unreadable = pictures.filter(pl.col("split").is_null()).row(0, named=True)
    rows.append(
        {"check": "unreadable", "row_id": unreadable["row_id"], "path": unreadable["path"], "score": 1.0}
        | {"is_issue": True, "message": unreadable["error"], "group": None, "suggested_label": None}
    )
    imbalance = {"check": "imbalance", "row_id": None, "path": None, "score": 0.2, "is_issue": True}
    return pl.DataFrame(
        [*rows, imbalance | {"message": "cow has 47 pictures.", "group": None, "suggested_label": None}],
        schema=table.FINDINGS,
    )


def _prediction_table(pictures: pl.DataFrame, labels: list[str], sure: float, weak: str) -> pl.DataFrame:
    random = np.random.default_rng(0)
    rows = pictures.filter(pl.col("split").is_in(["val", "test"]))
    truth = np.array([labels.index(label) for label in rows["label"]])
    logits = random.normal(0, 1, (len(truth), len(labels)))
    logits[np.arange(len(truth)), truth] += sure
    if weak in labels and sure < 50:
        logits[truth == labels.index(weak), (labels.index(weak) + 1) % len(labels)] += sure
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    familiarity = random.uniform(0, 1, len(truth))
    return rows.select("row_id", "path", "split", "label").with_columns(
        pl.Series("predicted", [labels[c] for c in probabilities.argmax(axis=1)]),
        pl.Series("probability", probabilities.max(axis=1)),
        pl.Series("unknown", familiarity < 0.05),
        pl.Series("familiarity", familiarity),
        *(pl.Series(f"p_{label}", probabilities[:, c]) for c, label in enumerate(labels)),
    )


def _metrics(test: pl.DataFrame, pictures: pl.DataFrame, labels: list[str]) -> dict[str, Any]:
    truth = np.array([labels.index(label) for label in test["label"]])
    probabilities = test.select(f"p_{label}" for label in labels).to_numpy()
    scores = compute_metrics(truth, probabilities, labels, unknown=test["unknown"].to_numpy(), resamples=200)
    scores["unknown"] |= {"threshold": 0.05}
    seconds = {"audit": 3.1, "cache": 8.0, "train": 1.5, "evaluate": 2.25, "report": None, "total": 16.0}
    raw = undo_temperature(probabilities, 1.25)
    trusted = {
        "reliability": {
            "before": reliability(raw, truth, 10),
            "after": reliability(probabilities, truth, 10),
            "ece_before": compute_metrics(truth, raw, labels, resamples=100)["ece"],
            "temperature": 1.25,
        },
        "prediction_sets": conformal_coverage(
            probabilities, truth, np.arange(len(truth)), fit_conformal(probabilities, truth)
        ),
        "slices": find_weak_slices(test, pictures),
    }
    said = {"split": "test", "test_scored": 1, **scores, **trusted}
    return {**said, "seconds": seconds, "peak_rss_mb": 812.4, "more": {"x": 1}}


def _path_lines() -> list[dict[str, Any]]:
    cs, val = (0.0003, 0.001, 0.003, 0.01, 0.03), (0.31, 0.2, 0.16, 0.17, 0.21)
    return [
        {"epoch": i + 1, "regularisation": c, "train_loss": 0.2 / (i + 1), "val_loss": val[i]}
        | {"val_macro_f1": 0.9 + 0.02 * (i == 2), "learning_rate": None, "seconds": 0.4, "chosen": i == 2}
        for i, c in enumerate(cs)
    ]


def _epoch_lines(epochs: int = 12) -> list[dict[str, Any]]:
    return [
        {"epoch": e, "train_loss": 2 * 0.75**e, "val_loss": 0.5 + 0.02 * (e - 5) ** 2}
        | {"val_macro_f1": 0.8 - 0.01 * abs(e - 7), "learning_rate": 0.1 / e, "seconds": 3.3}
        for e in range(1, epochs + 1)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return drawn_pictures(tmp_path_factory.mktemp("pictures"), LABELS, 24)


@pytest.fixture(scope="module")
def run(files: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished probe run, with its report."""
    made = make_run(tmp_path_factory.mktemp("runs") / "first", files)
    write_report(made)
    return made


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """What the tests ask of a page: its tags with attributes, its text, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, text: str) -> None:
        self.text += text

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def rewritten(run: Path, copy: Path, **changed: Any) -> str:
    """Return the page of a copy of the run with other metrics."""
    copy.mkdir()
    for path in run.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    metrics = json.loads((run / "metrics.json").read_text()) | changed
    (copy / "metrics.json").write_text(json.dumps(metrics))
    return write_report(copy).read_text(encoding="utf-8")


def test_every_headline_figure_is_on_the_page(run: Path, page: str) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    text = Outline(page).text
    for key in ("accuracy", "macro_f1", "balanced_accuracy", "macro_precision", "macro_recall", "ece"):
        assert format.format_rate(metrics[key]) in text
        assert format.format_interval(metrics[key]) in text
    for key in ("log_loss", "brier"):
        assert f"{metrics[key]['value']:.3f}" in text
    assert verdict.describe_accuracy(metrics) in text
    facts = verdict.list_run_facts(summarise_run(read_run(run)))
    assert {fact.name for fact in facts} >= {"Mistakes", "Most confused", "Wrong labels"}
    assert all(fact.name in text and fact.text in text for fact in facts)
    assert f"Over the {metrics['n']} test pictures" in text
    assert "16.0 s" in text
    assert "812 MB" in text
    assert "bestiary 9.8.7" in text
    assert 'method = "probe"' in text


def test_the_page_is_well_formed_and_can_be_walked(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert page.startswith("<!doctype html>")
    for tag, n in (("h1", 1), ("main", 1), ("header", 1), ("nav", 1), ("footer", 1)):
        assert outline.count(tag) == n
    assert outline.count("table") == outline.count("caption")
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    links = [attributes.get("href") or "" for tag, attributes in outline.tags if tag == "a"]
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert all("alt" in attributes for tag, attributes in outline.tags if tag == "img")
    drawings = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(drawings) == 5 + len(LABELS)  # and precision against recall for each class
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)


def test_the_page_loads_nothing_and_is_small(page: str) -> None:
    for _, attributes in Outline(page).tags:
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    assert not re.search(r"url\(|@import|https?://", page)
    assert len(page) < 8_000_000


def test_hostile_labels_and_messages_are_text(page: str) -> None:
    outline = Outline(page)
    assert outline.count("script") == 1
    assert outline.count("b") == page.count("</i><b style=")
    assert "alert(" not in page.partition("<script>")[2].partition("</script>")[0]
    assert HOSTILE in outline.text


def test_every_left_out_file_is_named_with_its_reason(page: str, files: dict[str, list[Path]]) -> None:
    text = Outline(page).text
    assert "1 file: unreadable" in text
    assert f"{len(LABELS) - 1} files: is not a picture" in text
    assert all(f"{c}/0.jpg – is not a picture: it looks like text." in text for c in range(len(LABELS)))


def test_mistakes_come_surest_first_and_are_all_counted(run: Path, page: str) -> None:
    test = pl.read_parquet(run / "predictions.parquet").filter((pl.col("split") == "test") & ~pl.col("unknown"))
    wrong = test.filter(pl.col("label") != pl.col("predicted")).sort("probability", descending=True)
    section = page.partition('<h3 id="mistakes">')[2].partition('<h3 id="unknown">')[0]
    shown = re.findall(r"<strong>[^<]*</strong>, (\d+)\u00a0%", section)
    assert wrong.height > 3
    assert shown == [format_percent(p).removesuffix("\u00a0%") for p in wrong["probability"]]
    assert f"{wrong.height} wrongly" in section


def test_a_second_look_at_the_test_pictures_is_said(run: Path, page: str, tmp_path: Path) -> None:
    words = "The test pictures were scored"
    assert words not in page
    assert f"{words} 3 times" in rewritten(run, tmp_path / "copy", test_scored=3)


def test_a_missing_picture_has_a_placeholder_with_its_name(tmp_path: Path) -> None:
    files = drawn_pictures(tmp_path / "pictures", ("a", "b"), 12)
    run = make_run(tmp_path / "run", files, findings=False)
    files["a"][3].unlink()
    files["b"][3].write_bytes(b"no picture")
    page = write_report(run).read_text(encoding="utf-8")
    assert sorted(re.findall(r'class="gone">[^<]*: (\S+)</div>', page)) == ["0/3.jpg", "1/3.jpg"]


def test_probe_and_scratch_name_their_curves(page: str, files: dict[str, list[Path]], tmp_path: Path) -> None:
    scratch = write_report(
        make_run(tmp_path / "run", files, method="scratch", changed={"overfitting": OVERFITTING})
    ).read_text(encoding="utf-8")
    assert "<h3>Regularisation path</h3>" in page
    assert "kept: C = 0.003" in page
    assert "<h3>Loss curves</h3>" in scratch
    assert "overfits from epoch 5" in scratch
    assert "kept: epoch 7" in scratch
    assert OVERFITTING in scratch
    assert "Train with more augmentation, or shorter." in scratch


def test_a_run_with_little_in_it_still_has_a_report(tmp_path: Path) -> None:
    """No findings, history, environment or intervals, no picture that exists, and nothing wrong."""
    files = {label: [HOME / label / f"{i}.jpg" for i in range(16)] for label in ("cow", "dog", "hen")}
    run = make_run(tmp_path / "run", files, sure=60, findings=False)
    for name in ("history.jsonl", "environment.json", "bundle.json", "asked.toml", "resolved.toml"):
        (run / name).unlink()
    metrics = json.loads((run / "metrics.json").read_text())
    for key in ("balanced_accuracy", "ece", "log_loss", "brier", "unknown", "seconds", "peak_rss_mb", "test_scored"):
        del metrics[key]
    for key in ("reliability", "prediction_sets", "slices"):  # as in runs before these were kept
        del metrics[key]
    metrics["accuracy"] |= EMPTY
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = Outline(write_report(run).read_text(encoding="utf-8")).text
    assert "Right for 12 of 12 test pictures." in text
    assert "none in 12 test pictures." in text
    assert "No problem was found" in text
    assert "Every test picture was predicted correctly." in text
    assert "Loss curves" not in text


def test_more_classes_than_a_table_can_hold_are_drawn(tmp_path: Path) -> None:
    files = {f"class {c:02}": [HOME / str(c) / f"{i}.jpg" for i in range(9)] for c in range(40)}
    page = write_report(make_run(tmp_path / "run", files, sure=2)).read_text(encoding="utf-8")
    assert 'class="matrix' not in page
    assert "Confusion matrix of 40 classes" in page
    folded = page.index("20 more classes</summary>")
    rows = re.findall(r'<th scope="row">(class \d\d)</th><td data', page)
    before = re.findall(r'<th scope="row">(class \d\d)</th><td data', page[:folded])
    assert len(before) == 20
    assert len(rows) == len(set(rows)) == 40
    assert page.count("20 more classes</summary>") == 2
    assert page.count('<tfoot><tr><th scope="row">All</th>') == 1


def test_writing_twice_gives_the_same_page(run: Path, page: str) -> None:
    assert write_report(run).read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, "Train again"),
        ("metrics.json", b'{"n": ', "damaged"),
        ("pictures.parquet", None, "missing"),
        ("predictions.parquet", b"PAR1", "damaged"),
        ("history.jsonl", b'{"epoch": 1}\n{"epo', "damaged"),
    ],
)
def test_a_missing_or_damaged_file_is_named(
    run: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    copy = tmp_path / "copy"
    rewritten(run, copy)
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    with pytest.raises(RunError, match=f"(?s){re.escape(name)}.*{message}"):
        write_report(copy)


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a folder"):
        write_report(tmp_path / "nowhere")


def _scores(labels: Sequence[str], counts: Sequence[Sequence[int]], accuracy: float) -> dict[str, Any]:
    """Return metrics in which the first class is the weakest."""
    per_class = {label: {"f1": {"value": 0.5 + 0.1 * i}, "support": 9} for i, label in enumerate(labels)}
    interval = {"value": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01}
    confusion = {"labels": list(labels), "counts": [list(row) for row in counts]}
    return {"n": 20, "accuracy": interval, "per_class": per_class, "confusion": confusion, "macro_f1": {"value": 0.9}}


RIGHT = "Right 97 times in 100 (95\u00a0% interval 96 to 98). "


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[80, 0, 0], [0, 80, 0], [0, 0, 80]], "Mistakes: none in 240 test pictures."),
        (
            [[80, 0, 0], [0, 80, 1], [0, 0, 80]],
            "Most confused: none; no two classes are confused more than once.",
        ),
        (
            [[80, 2, 0], [0, 80, 2], [1, 0, 80]],
            "Most confused: none; no two classes are confused more than twice.",
        ),
        # One of thirteen dogs called hen is no headline while four of thirteen cows are called dog.
        (
            [[9, 4, 0], [0, 12, 1], [0, 0, 80]],
            "Most confused: cow and dog, 4 times (cow predicted as dog 4 of 13 times)."
            " Lowest recall: 9 of 13 pictures of cow are predicted as cow (95\u00a0% interval 42 to 87\u00a0%)."
            " Lowest precision: 12 of 16 predictions of dog are right (95\u00a0% interval 51 to 90\u00a0%).",
        ),
        # Two times each way are four of one pair; three one way are more than any other.
        (
            [[78, 2, 0], [2, 75, 3], [0, 0, 80]],
            "Most confused: cow and dog, 4 times (cow predicted as dog 2 of 80 times, dog predicted as cow 2 of 80"
            " times).",
        ),
        # A tie names both, the higher rate first, and three of eighty are too few for any class to be called weak.
        (
            [[77, 3, 0], [0, 79, 1], [0, 2, 58]],
            "Most confused: hen and dog, 3 times (hen predicted as dog 2 of 60 times, dog predicted as hen 1 of"
            " 80 times); equally often cow and dog, 3 times (cow predicted as dog 3 of 80 times).",
        ),
        (
            [[74, 3, 3], [0, 77, 3], [0, 0, 80]],
            "Most confused: cow and dog, 3 times (cow predicted as dog 3 of 80 times);"
            " equally often cow and hen, 3 times (cow predicted as hen 3 of 80 times); 1 more pair as often.",
        ),
    ],
)
def test_the_verdict_names_confusions_and_classes_that_the_counts_carry(counts: list[list[int]], expected: str) -> None:
    metrics = _scores(("cow", "dog", "hen"), counts, 0.97) | {"n": 240}
    assert verdict.verdict(metrics) == RIGHT + expected


def test_with_groups_a_class_is_weak_only_by_its_interval_over_groups() -> None:
    metrics = _scores(("cow", "dog"), [[40, 40], [2, 158]], 0.82) | {"n": 240, "group_scores": {"by": "site"}}
    recall, wide = ({"value": 0.5, "low": 0.1, "high": high} for high in (0.9, 1.0))
    for label in ("cow", "dog"):
        metrics["per_class"][label] = metrics["per_class"][label] | {"recall": recall, "precision": wide}
    assert "Lowest recall" not in verdict.verdict(metrics)
    metrics["per_class"]["cow"]["recall"] = recall | {"high": 0.7}
    assert "40 of 80 pictures of cow are predicted as cow (95\u00a0% interval 10 to 70\u00a0%)" in verdict.verdict(
        metrics
    )


def test_mistakes_with_a_suspect_label_are_no_confusion_of_the_model() -> None:
    metrics = _scores(("cow", "dog", "hen"), [[76, 4, 0], [0, 77, 3], [0, 0, 80]], 0.97) | {"n": 240}
    sound, weak = (LabelIssueSummary(30, 0.9, precision, 0.0, 1.0) for precision in (0.9, 0.1))
    summary = RunSummary(metrics, {}, label_issues=sound, suspect_mistakes={("cow", "dog"): 2})
    facts = {fact.name: fact.text for fact in verdict.list_run_facts(summary)}
    assert facts["Mistakes"] == "7 in 240 test pictures; 2 of them have suspect labels, where the model may be right."
    confused = "dog and hen, 3 times (dog predicted as hen 3 of 80 times)"
    assert facts["Most confused"] == f"{confused} (mistakes with suspect labels are not counted)."
    counted = [str(fact) for fact in verdict.list_run_facts(replace(summary, label_issues=weak))]
    assert counted[0] == "Most confused: cow and dog, 4 times (cow predicted as dog 4 of 80 times)."
    every = replace(summary, suspect_mistakes={("cow", "dog"): 4, ("dog", "hen"): 3})
    expected = "Most confused: none (mistakes with suspect labels are not counted)."
    assert expected in map(str, verdict.list_run_facts(every))


def test_doubtful_labels_are_called_so_beside_pictures_too(run: Path) -> None:
    files = read_run(run)
    assert render_run_report(files).count('<span class="badge">suspect label</span>') > 0
    recorded = {"count": 6, "accuracy": 0.8, "precision": 0.1, "low": 0.0, "high": 0.3}
    page = render_run_report(replace(files, environment={**files.environment, "label issues": recorded}))
    assert '<span class="badge">suspect label</span>' not in page
    assert '<span class="badge">doubtful label</span>' in page


def test_a_rare_mistake_is_not_zero_per_cent(run: Path) -> None:
    files = read_run(run)
    labels = files.metrics["confusion"]["labels"]
    counts = np.diag([1000] * len(labels))
    counts[0, :2] = 999, 1
    confusion = {"labels": labels, "counts": counts.tolist()}
    page = render_run_report(replace(files, metrics={**files.metrics, "confusion": confusion}))
    assert ": 1, &lt;1\u00a0%" in page
    assert "1 of 1000 (&lt;1\u00a0%)" in page


def test_the_number_of_wrong_labels_is_a_fact_and_a_headline_where_it_is_reliable() -> None:
    metrics = _scores(("cow", "dog"), [[80, 0], [0, 80]], 0.97) | {"n": 160}
    sound = RunSummary(
        metrics, {}, suspects={"train": 50, "test": 20}, label_issues=LabelIssueSummary(70, 1, 0.9, 0.8, 1)
    )
    headline = "Wrong labels: probably about 63 of the 70 suspect labels (95 % interval 56 to 70), perhaps more."
    assert headline in verdict.run_verdict(sound)
    doubtful = replace(sound, label_issues=LabelIssueSummary(70, 0.8, 0.02, 0, 0.05))
    assert (
        str(verdict.list_run_facts(doubtful)[-1])
        == "Wrong labels: probably about 1 of the 70 doubtful labels (95 % interval 0 to 4), perhaps more."
    )
    assert "labels" not in verdict.run_verdict(doubtful)
    unchecked = RunSummary(metrics, {}, label_check="data.suspects is false")
    for summary, expected in (
        (unchecked, ["Wrong labels: not checked, because data.suspects is false."]),
        (replace(unchecked, label_check=""), ["Wrong labels: no label is suspect."]),
        (replace(unchecked, label_check=None), []),
        (replace(unchecked, label_check=None, suspects={"train": 2}), ["Wrong labels: 2 labels are suspect."]),
    ):
        assert [str(fact) for fact in verdict.list_label_facts(summary)] == expected


def test_a_class_without_test_pictures_has_no_low_precision() -> None:
    metrics = _scores(("cow", "dog", "hen"), [[80, 0, 5], [0, 80, 6], [0, 0, 0]], 0.97) | {"n": 171}
    assert "precision" not in verdict.verdict(metrics)


def test_of_few_test_pictures_the_number_is_said() -> None:
    metrics = _scores(("cow", "dog"), [[5, 0], [0, 4]], 1.0) | {"n": 9}
    metrics["accuracy"] = {"value": 1.0, "low": 0.701, "high": 1.0}
    assert verdict.verdict(metrics) == (
        "Right for 9 of 9 test pictures (95\u00a0% interval 70 to 100\u00a0%). Mistakes: none in 9 test pictures."
    )


def test_nothing_is_rounded_up_to_perfection() -> None:
    almost = _scores(("cow", "dog"), [[9, 1], [0, 9]], 0.9972) | {"n": 360}
    assert verdict.verdict(almost).startswith("Right 99.7 times in 100 (95\u00a0% interval 98.7 to 100.7)")
    assert format_percent(0.9999) == "99\u00a0%"
    assert format_percent(1.0) == "100\u00a0%"


def test_steps_name_the_class_that_lacks_pictures_and_the_pair_that_is_confused() -> None:
    metrics = _scores(("cow", "dog", "hen"), [[2, 7, 0], [3, 6, 0], [0, 0, 9]], 0.7) | {"test_scored": 2}
    issues, suspects = {"suspect-label": 4, "shortcut": 1}, {"train": 3, "test": 1}
    steps = next_steps(RunSummary(metrics, {"cow": 20, "dog": 200, "hen": 210}, (), issues, suspects, method="probe"))
    assert [step.what for step in steps] == [
        "Add pictures of cow.",  # F1 0.5; the median of the classes is 0.6, so a third of 0.1 is to be won
        "Look at the mistakes with dog.",
        "Look at the mistakes with hen.",
        "Check 4 suspect labels.",
        "Check the findings.",
        "Try fine-tuning.",
        "Confirm on new pictures.",
        "Use the model.",
    ]
    assert [step.worth for step in steps[:2]] == ["about +3.3 points", ""]
    assert "has 20 training pictures, where the median class has 200" in steps[0].why
    assert "Most often confused with cow: 10 times, in both directions" in steps[1].why
    assert "disagrees with them: 3 training pictures, 1 test picture." in steps[3].why
    assert steps[3].worth == ""
    assert "found 1 shortcut:" in steps[4].why


def test_steps_are_ordered_by_what_they_could_bring() -> None:
    metrics = _scores(("cow", "dog", "hen"), [[9, 0, 0], [3, 6, 0], [0, 0, 9]], 0.9)
    rate = {"value": 0.5, "low": 0.4, "high": 0.6}
    dark = {"name": "dark", "words": "mean brightness of 0.2 or less", "worse": True, "worth": 0.02, "n": 40}
    metrics["slices"] = {"rows": [dark | {"accuracy": rate, "rest": rate}, dark | {"name": "small", "worse": False}]}
    curve = {"twice": {"gain": {"value": 0.01}}, "sentence": "Twice as many pictures would probably help."}
    evidence = RunSummary(metrics, {"cow": 200, "dog": 200, "hen": 210}, suspects={"test": 2}, relabelling_gain=0.05)
    steps = next_steps(replace(evidence, lessons={"curve": curve}))
    assert [step.what for step in steps[:4]] == [
        "Check 2 suspect labels.",
        "Look at the mistakes with cow.",
        "Add dark pictures, or better ones.",
        "Collect more pictures of every class.",
    ]
    assert [step.gain for step in steps[:4]] == [0.05, pytest.approx(0.1 / 3), 0.02, 0.01]
    assert not any("small" in step.what for step in steps)
    assert steps[0].worth == "score may be 5.0 points too low"
    assert "retraining" not in steps[0].why, "no training label is suspect"
    worse = next_steps(replace(evidence, relabelling_gain=-0.01))
    assert next(step for step in worse if "Check" in step.what).worth == ""


def test_what_a_slice_shares_with_another_is_said_to_be_counted_there() -> None:
    metrics = _scores(("cow", "dog"), [[9, 0], [1, 8]], 0.9)
    rate = {"value": 0.5, "low": 0.4, "high": 0.6}
    dark = {"name": "dark", "words": "luma", "worse": True, "worth": 0.02, "accuracy": rate, "rest": rate}
    metrics["slices"] = {"rows": [dark | {"counted_in": []}, dark | {"name": "blurry", "counted_in": ["dark"]}]}
    first, second = (step for step in next_steps(RunSummary(metrics, {})) if step.anchor == "slices")
    assert "other pictures of the same classes 50\u00a0% (40 to 60); the difference is significant." in first.why
    assert "counted there" not in first.why
    assert second.why.endswith("Pictures that are also dark are counted there.")


def test_the_heatmaps_are_drawn_with_as_many_threads_as_were_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def predictor(_: Path, *, threads: int | None) -> None:
        asked.append(threads)
        raise RunError("There is no model.")

    monkeypatch.setattr(gallery, "Predictor", predictor)
    render_run_report(read_run(run), threads=3)
    assert asked == [3]


def test_suspect_labels_of_tested_pictures_are_worth_what_relabelling_them_brings(run: Path) -> None:
    files = read_run(run)
    test = files.predictions.filter((pl.col("split") == "test") & (pl.col("label") != pl.col("predicted")))
    wrong = (
        test.head(2)
        .select("row_id", "path", suggested_label="predicted")
        .with_columns(check=pl.lit("suspect-label"), score=0.0, is_issue=True, message=pl.lit(""), group=None)
    )
    marked = wrong.select(pl.col(name).cast(kind) for name, kind in table.FINDINGS.items())
    found = summarise_run(replace(files, findings=marked))
    labels, counts = files.metrics["confusion"]["labels"], np.array(files.metrics["confusion"]["counts"])
    for label, said in test.head(2).select("label", "predicted").iter_rows():
        counts[labels.index(label), labels.index(said)] -= 1
        counts[labels.index(said), labels.index(said)] += 1
    f1 = 2 * np.diag(counts) / np.maximum(counts.sum(axis=0) + counts.sum(axis=1), 1)
    assert found.relabelling_gain == pytest.approx(f1.mean() - files.metrics["macro_f1"]["value"])
    assert found.suspects == {"test": 2}


def test_the_command_for_fine_tuning_names_pictures_labels_and_recipe(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, own := tmp_path / "own")
    files = read_run(own)
    facts = {"pictures": "/my pictures", "labels": "animals10"}
    asked = f"--recipe {shlex.quote(str(files.folder / 'asked.toml'))} --labels animals10"
    found = summarise_run(replace(files, environment=facts))
    assert found.finetune == f"bestiary train '/my pictures' {asked} --method finetune"
    (own / "corrections.csv").touch()
    found = summarise_run(replace(files, environment=facts))
    assert f"--corrections {files.folder / 'corrections.csv'} --method finetune" in found.finetune


@pytest.mark.parametrize("chosen", ["lite0", "timm:resnet18", "maps.onnx"])
def test_the_commands_of_a_choice_of_backbones_train_with_the_chosen_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("maps.onnx", "resnet18.pt"):
        Path(name).touch()
    model = {"backbone": "lite0,timm:resnet18,maps.onnx", "weights": "resnet18.pt"}
    onnx = {"white": 255, "mean": [1, 2, 3], "output": "y"}
    requested: dict[str, Any] = {"model": model, "onnx": onnx, "probe": {"views": "mirror"}}
    lines = [f"{name} = {json.dumps(value)}" for name, value in (*model.items(),)]
    text = "\n".join(["[model]", *lines, "[onnx]", *(f"{key} = {json.dumps(value)}" for key, value in onnx.items())])
    resolved = f'[model]\nbackbone = "{chosen}"\n'
    files = replace(read_run(run), requested=f'{text}\n[probe]\nviews = "mirror"\n', resolved=resolved)
    summary = summarise_run(replace(files, bundle={**files.bundle, "backbone": chosen}))
    assert (summary.finetune == "") == (chosen == "maps.onnx")
    steps = [
        step.what for step in next_steps(replace(summary, metrics={**summary.metrics, "macro_f1": {"value": 0.5}}))
    ]
    assert ("Try fine-tuning." in steps) == (chosen != "maps.onnx")
    for command in filter(None, (summary.finetune, summary.folds, summary.full_size, summary.lite2)):
        words = shlex.split(command)
        options = list(itertools.pairwise(words))
        values = apply_overrides(requested, [setting for option, setting in options if option == "--set"])
        keys = {"--backbone": "backbone", "--method": "method"}
        values["model"] |= {keys[option]: value for option, value in options if option in keys}
        values["data"] = {option[2:]: int(value) for option, value in options if option == "--folds"}
        recipe = Recipe.of(values)
        check_backbone(recipe)
        check_no_unused_settings(recipe)
        assert recipe.model.backbone == ("lite2" if command == summary.lite2 else chosen)


def test_a_budget_that_chose_lite0_offers_lite2(run: Path) -> None:
    assert summarise_run(read_run(run)).lite2.endswith("--backbone lite2")
    tried = replace(read_run(run), requested='[model]\nbackbone = "lite0,lite2"\n')
    assert summarise_run(tried).lite2 == ""


def test_a_report_by_the_name_of_latest_is_of_the_run_itself(run: Path, tmp_path: Path) -> None:
    (latest := tmp_path / "latest").symlink_to(run, target_is_directory=True)
    assert (read_run(latest).folder, read_run(latest).name) == (run.resolve(), run.resolve().name)


def test_learning_curves_lead_to_advice_only_where_there_are_some() -> None:
    metrics = _scores(("cow", "dog"), [[9, 1], [0, 9]], 0.97)
    metrics["per_class"] = {label: {"f1": {"value": 0.95}, "support": 9} for label in ("cow", "dog")}
    for method, expected in (
        ("scratch", ["Train with more augmentation, or shorter.", "Use the model."]),
        ("probe", ["Try fine-tuning.", "Use the model."]),
    ):
        steps = next_steps(RunSummary(metrics, {"cow": 200, "dog": 200}, _epoch_lines(), method=method))
        assert [step.what for step in steps] == expected


def test_a_path_that_was_best_at_its_end_should_go_on() -> None:
    metrics = _scores(("cow", "dog"), [[9, 1], [0, 9]], 0.97)
    inside, at_the_end = _path_lines(), _path_lines()[:3]
    counts = {"cow": 200, "dog": 200}
    assert "Try weaker" not in str(next_steps(RunSummary(metrics, counts, inside, method="probe")))
    third = at_the_end[-1] | {"regularisation": 1 / 81}
    assert "C = 0.0123, was" in str(next_steps(RunSummary(metrics, counts, [*at_the_end[:2], third], method="probe")))
    assert "Try weaker" not in str(next_steps(RunSummary(metrics, counts, [third], method="probe"))), (
        "no other was tried"
    )


def test_reliability_points_count_every_picture_once() -> None:
    confidence = np.array([0.0, 0.05, 0.1, 0.55, 0.999, 1.0])
    right = np.array([False, True, False, True, True, True])
    points = plots.reliability_points(confidence, right)
    assert [(point.n, point.n_correct) for point in points] == [(2, 1), (1, 0), (1, 1), (2, 2)]
    assert all(0 <= point.low <= point.n_correct / point.n <= point.high <= 1 for point in points)


@pytest.mark.parametrize("values", [[0.5], [0.5, None, 0.5], [None, float("nan"), 0.1]])
def test_curves_stand_missing_and_constant_values(values: list[float | None]) -> None:
    series = [plots.Series("<v>", "ink-right", values)]
    drawn = plots.line_plot(range(1, len(values) + 1), series, x_label="Epoch", y_label="Loss")
    assert "nan" not in drawn
    assert "&lt;v&gt;" in drawn


def test_curves_without_any_value_are_left_out() -> None:
    assert plots.line_plot([1], [plots.Series("v", "ink-right", [None])], x_label="x", y_label="y") == ""


def test_a_thumbnail_of_noise_is_still_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    address = thumbnail_data_uri(tmp_path / "noise.png", 320)
    assert address is not None
    assert len(address) <= LARGEST_BYTES * 4 / 3 + 40
    assert thumbnail_data_uri(tmp_path / "gone.png") is None


def test_overlays_are_drawn_where_there_are_a_model_and_a_picture(tmp_path: Path) -> None:
    run, picture, broken = tmp_path / "run", tmp_path / "red.png", tmp_path / "broken.png"
    run.mkdir()
    picture.write_bytes(coloured("red"))
    broken.write_bytes(b"no picture")
    paths = [str(picture), str(broken), str(tmp_path / "gone.png")]
    assert heatmap_overlays(run, paths) == [None, None, None]
    drawn = heatmap_overlays(write_run(run), paths, threads=1)
    assert (drawn[0] or "").startswith("data:image/jpeg;base64,")
    assert drawn[1:] == [None, None]


def test_thresholds_count_what_is_answered_and_what_is_correct(run: Path) -> None:
    files = read_run(run)
    test = predictions_of_test(files)
    tables = {found.measure: found for found in threshold_tables(files.metrics, test)}
    assert list(tables) == ["familiarity", "confidence"]
    for measure, column in (("familiarity", "familiarity"), ("confidence", "probability")):
        points = tables[measure].points
        assert points[0][1] == test.height
        for at, answered, correct in points:
            kept = test.filter(pl.col(column) >= at)
            assert (answered, correct) == (kept.height, kept.filter(pl.col("label") == pl.col("predicted")).height)
    own = tables["familiarity"].own
    assert own is not None
    assert tables["familiarity"].points[own][:2] == (0.05, test.filter(~pl.col("unknown")).height)
    assert tables["confidence"].own is None


def test_a_threshold_that_does_not_give_the_recorded_answers_is_not_marked(run: Path) -> None:
    files = read_run(run)
    folds = predictions_of_test(files).with_columns(unknown=pl.col("familiarity") < 0.3)
    assert threshold_tables(files.metrics, folds)[0].own is None
    older = folds.with_columns(familiarity=pl.lit(None, pl.Float64))
    assert [found.measure for found in threshold_tables(files.metrics, older)] == ["confidence"]


def test_each_confusion_has_a_picture_before_any_has_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {label: [HOME / label / f"{i}.jpg" for i in range(80)] for label in ("cow", "dog", "hen")}
    test = predictions_of_test(read_run(make_run(tmp_path / "run", files, sure=0.5)))
    monkeypatch.setattr(gallery, "GALLERY", 4)
    monkeypatch.setattr(gallery, "MAX_MORE", 6)
    built = gallery.build_galleries(test, {}, {}, lambda paths: [None] * len(paths))
    embedded = [*built["wrong"], *built["unknown"], *built["more_wrong"]]
    pairs = set(test.filter(pl.col("label") != pl.col("predicted")).select("label", "predicted").iter_rows())
    assert len(pairs) == 6
    assert {(picture.label, picture.predicted) for picture in embedded if picture.label != picture.predicted} == pairs
    assert len({picture.row_id for picture in embedded}) == len(embedded)
    assert built["n_mistakes"] > len(embedded)


def test_pictures_have_their_most_probable_classes(run: Path) -> None:
    test = predictions_of_test(read_run(run))
    for picture in gallery.gallery_pictures(test.head(4), {}, {}):
        row = test.row(by_predicate=pl.col("row_id") == picture.row_id, named=True)
        expected = sorted(((row[f"p_{label}"], label) for label in LABELS), reverse=True)[: gallery.TOP]
        assert [label for label, _ in picture.top] == [label for _, label in expected]
        assert [p for _, p in picture.top] == pytest.approx([p for p, _ in expected], abs=1e-4)


def test_every_finding_is_listed_or_counted(run: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = read_run(run).findings
    text = Outline(page).text
    for path in findings["path"].drop_nulls():
        assert f"{Path(path).parent.name}/{Path(path).name}" in text
    monkeypatch.setattr(finding_section, "MAX_EXAMPLES", 1)
    monkeypatch.setattr(finding_section, "MAX_LISTED", 2)
    shorter = Outline(render_run_report(read_run(run))).text
    assert "4 more are not listed" in shorter  # six issues, and one that needs no action
    assert "findings.parquet whose check is dark" in shorter
