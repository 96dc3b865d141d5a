"""Comparison of runs: paired, with intervals, only on the same pictures with the same labels."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

pytest.importorskip("onnx")

from bestiary import table
from bestiary.errors import UserError
from bestiary.evaluation.comparison import (
    NO_DIFFERENCE,
    RunPredictions,
    align_runs,
    compare_runs,
    read_run_predictions,
    verdict,
)
from bestiary.report import comparison_changes, comparison_page
from bestiary.report.comparison_changes import changed_answers, differing_settings
from bestiary.stats import holm
from tiny_model import COLOURS, write_run

N = 400


def a_run(name: str, accuracy: float, *, seed: int, rows: range = range(N), relabel: int = 0) -> RunPredictions:
    """Answers to pictures numbered `rows`, so many of which are right; every tenth picture has a duplicate."""
    rng = np.random.default_rng(seed)
    truth = np.array([row % 3 for row in rows])
    predicted = np.where(rng.random(len(rows)) < accuracy, truth, (truth + 1) % 3)
    shares = 0.1 + 0.7 * np.eye(3)[predicted]
    labels = [COLOURS[(at + (place < relabel)) % 3] for place, at in enumerate(truth)]
    frame = pl.DataFrame(
        {
            "key": [f"{row:04d} 0" for row in rows],
            "sha256": [f"{row:04d}" for row in rows],
            "path": [f"/p/{row}.png" for row in rows],
            "label": labels,
            "group": [row - (row % 10 == 9) for row in rows],
            "predicted": [COLOURS[at] for at in predicted],
            **{f"p_{label}": shares[:, at] for at, label in enumerate(COLOURS)},
        }
    )
    return RunPredictions(name, COLOURS, frame)


def test_a_clear_difference_is_told_with_the_figures_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score, log_loss

    one, other = a_run("one", 0.7, seed=0), a_run("other", 0.95, seed=1)
    found = compare_runs(align_runs([one, other], intersection=False), resamples=500)
    for run, told in zip((one, other), found["runs"], strict=True):
        answers = run.predictions
        assert told["accuracy"]["value"] == pytest.approx((answers["label"] == answers["predicted"]).mean())
        assert told["macro_f1"]["value"] == pytest.approx(
            f1_score(answers["label"], answers["predicted"], average="macro"), abs=1e-12
        )
        shares = answers.select([f"p_{label}" for label in COLOURS]).to_numpy()
        assert told["log_loss"]["value"] == pytest.approx(log_loss(answers["label"], shares, labels=COLOURS))
    (difference,) = found["differences"]
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert verdict(difference, name) == "better"
        assert difference[name]["low"] <= difference[name]["value"] <= difference[name]["high"]
        assert difference[name]["p"] < 0.01
    assert found["groups"] == N - N // 10


def test_mcnemar_is_the_exact_binomial_test_of_the_pictures_that_differ() -> None:
    one, other = a_run("one", 0.8, seed=2), a_run("other", 0.85, seed=3)
    test = compare_runs([one, other], resamples=100)["differences"][0]["mcnemar"]
    first = (one.predictions["label"] == one.predictions["predicted"]).to_numpy()
    this = (other.predictions["label"] == other.predictions["predicted"]).to_numpy()
    assert (test["only_first"], test["only_this"]) == ((first & ~this).sum(), (this & ~first).sum())
    expected = binomtest(test["only_first"], test["only_first"] + test["only_this"]).pvalue
    assert test["p"] == test["p_holm"] == pytest.approx(expected)


def test_a_run_does_not_differ_from_itself() -> None:
    found = compare_runs([a_run("one", 0.8, seed=4)] * 2, resamples=100)
    difference = found["differences"][0]
    assert [verdict(difference, name) for name in ("accuracy", "macro_f1", "log_loss")] == [
        "no significant difference"
    ] * 3
    assert difference["mcnemar"]["p"] == 1


def test_all_right_claims_no_certainty() -> None:
    found = compare_runs([a_run("one", 1.0, seed=4, rows=range(8))] * 2, resamples=100)
    scores = found["runs"][0]
    assert scores["accuracy"]["value"] == 1
    assert scores["accuracy"]["low"] < 0.8
    assert scores["macro_f1"]["low"] < 0.9


def test_pairing_narrows_the_interval() -> None:
    one = a_run("one", 0.8, seed=5)
    flipped = one.predictions.with_columns(
        predicted=pl.when(pl.int_range(pl.len()) < 8).then(pl.col("label")).otherwise(pl.col("predicted"))
    )
    found = compare_runs([one, RunPredictions("nearly", COLOURS, flipped)], resamples=500)
    paired = found["differences"][0]["accuracy"]
    alone = found["runs"][0]["accuracy"]
    assert paired["high"] - paired["low"] < 0.5 * (alone["high"] - alone["low"])


def test_other_test_pictures_are_refused_or_their_intersection_taken() -> None:
    one, other = a_run("one", 0.8, seed=6), a_run("other", 0.8, seed=7, rows=range(100, N + 50))
    with pytest.raises(UserError, match=r"one has 400, other has 350, and 300 are the same.*--intersection"):
        align_runs([one, other], intersection=False)
    both = align_runs([one, other], intersection=True)
    assert [run.predictions.height for run in both] == [300, 300]
    assert both[0].predictions["key"].to_list() == both[1].predictions["key"].to_list()
    far = a_run("far", 0.8, seed=8, rows=range(1000, 1100))
    with pytest.raises(UserError, match=r"no test picture in common, so they cannot be compared\.$"):
        align_runs([one, far], intersection=True)
    crops = replace(far, predictions=far.predictions.with_columns(path=pl.format("{}#xywh=1,2,30,40", "path")))
    with pytest.raises(UserError, match="--preset crop compares both"):
        align_runs([one, crops], intersection=True)


def test_other_labels_are_refused_with_an_example() -> None:
    with pytest.raises(UserError, match=r"2 test pictures have a different label in other than in one: /p/0.png"):
        align_runs([a_run("one", 0.8, seed=0), a_run("other", 0.8, seed=0, relabel=2)], intersection=False)


def test_one_run_s_labels_judge_all_when_asked() -> None:
    one, other = a_run("one", 0.8, seed=0), a_run("other", 0.8, seed=0, relabel=2)
    found = align_runs([one, other], intersection=False, labels_of="other")
    assert [run.predictions["label"].to_list() for run in found] == [
        other.predictions.sort("key")["label"].to_list()
    ] * 2
    assert found[0].predictions["predicted"].to_list() == one.predictions.sort("key")["predicted"].to_list()
    with pytest.raises(UserError, match="--labels-of nobody is not one of the compared runs: one, other"):
        align_runs([one, other], intersection=False, labels_of="nobody")


def test_pictures_that_corrections_leave_out_are_not_compared_and_said() -> None:
    one, other = a_run("one", 0.8, seed=0), a_run("other", 0.8, seed=1, rows=range(2, N))
    corrected = replace(other, dropped=frozenset({"0000", "0001"}))
    compared = compare_runs(align_runs([one, corrected], intersection=False, labels_of="other"), resamples=100)
    assert compared["n"] == N - 2
    [note] = compared["notes"]
    assert compared["notes"] == [
        "2 test pictures are not compared: the corrections of a run leave out what was dropped."
    ]
    assert note in comparison_page.caption(compared)
    for dropped in ({"0000"}, set()):  # another picture is missing for no reason that is known
        with pytest.raises(UserError, match="--intersection"):
            align_runs([one, replace(other, dropped=frozenset(dropped))], intersection=False, labels_of="other")
    with pytest.raises(UserError, match="--intersection"):  # no labels were asked for
        align_runs([one, corrected], intersection=False)


def test_a_class_that_only_one_run_knows_has_no_probability_in_the_other() -> None:
    one = a_run("one", 0.8, seed=9)
    narrow = one.predictions.with_columns(
        predicted=pl.lit("red"), p_red=pl.lit(0.5), p_green=pl.lit(0.5), p_blue=pl.lit(0.0)
    ).drop("p_blue")
    found = compare_runs([one, RunPredictions("narrow", ("green", "red"), narrow)], resamples=100)
    assert found["labels"] == list(COLOURS)
    assert found["runs"][1]["accuracy"]["value"] == pytest.approx(1 / 3, abs=0.01)


def test_differences_between_few_sites_have_an_interval_with_a_width() -> None:
    """A site holds all classes. Drawn within the class of its first picture, each of these two would never vary."""
    runs = [
        RunPredictions(
            run.name, COLOURS, run.predictions.with_columns(group=pl.Series([row * 2 // N for row in range(N)]))
        )
        for run in (a_run("one", 0.7, seed=0), a_run("other", 0.95, seed=1))
    ]
    difference = compare_runs(runs, resamples=500)["differences"][0]
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert difference[name]["low"] < difference[name]["value"] < difference[name]["high"]


def test_one_site_is_no_evidence_of_a_difference() -> None:
    runs = [
        RunPredictions(run.name, COLOURS, run.predictions.with_columns(group=pl.lit(7)))
        for run in (a_run("one", 0.5, seed=0), a_run("other", 0.95, seed=1))
    ]
    comparison = compare_runs(runs, resamples=100)
    difference, scores = comparison["differences"][0], comparison["runs"][1]
    assert (scores["log_loss"]["low"], scores["log_loss"]["high"]) == (0.0, pytest.approx(52 * np.log(2)))
    for name in ("accuracy", "macro_f1"):  # of a single trial, as in metrics.json
        assert 0.1 < scores[name]["low"] < scores[name]["value"] - 0.2 < 0.9 < scores[name]["high"]
    for name, most in {"accuracy": 1.0, "macro_f1": 1.0, "log_loss": 52 * np.log(2)}.items():
        assert (difference[name]["low"], difference[name]["high"]) == pytest.approx((-most, most))
        assert difference[name]["p"] == 1
        assert verdict(difference, name) == NO_DIFFERENCE


@pytest.mark.parametrize("values", [[0.01, 0.04, 0.03], [0.5], [], [0.2, 0.2, 0.9]])
def test_holm_is_a_step_down_of_bonferroni(values: list[float]) -> None:
    corrected = holm(values)
    for p, own in zip(values, corrected, strict=True):
        assert p <= own <= min(1, p * len(values)) + 1e-12
    assert [corrected[at] for at in np.argsort(values, kind="stable")] == sorted(corrected)


# ---- Files and the command -----------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two finished runs over the same test pictures."""
    runs = list[Path]()
    for name, accuracy in (("first", 0.7), ("second", 0.95)):
        run = write_run(tmp_path / name)
        answers = a_run(name, accuracy, seed=len(runs)).predictions.with_row_index("row_id")
        answers = answers.with_columns(pl.col("row_id").cast(pl.Int64), split=pl.lit("test"))
        pictures = answers.select("row_id", "path", "label", "sha256", "group", "split").with_columns(
            phash=pl.lit("0" * 64), bytes=pl.lit(1), width=pl.lit(9), height=pl.lit(9), format=pl.lit("PNG"), error=None
        )
        table.write(pictures, run / "pictures.parquet")
        shares = [f"p_{label}" for label in COLOURS]
        predictions = answers.select("row_id", "path", "split", "label", "predicted", *shares).with_columns(
            probability=pl.max_horizontal(shares), unknown=pl.lit(False), familiarity=pl.lit(0.5)
        )
        table.write(predictions, run / "predictions.parquet")
        runs.append(run)
    return runs[0], runs[1]


def test_what_is_read_from_a_run(two: tuple[Path, Path]) -> None:
    scored = read_run_predictions(two[0])
    assert scored.classes == COLOURS
    assert scored.predictions.height == N
    assert scored.predictions["key"].n_unique() == N


@pytest.mark.parametrize("suffix", [".html", ".svg"])
def test_the_command_draws_what_it_prints(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    import json

    out = tmp_path / f"picture{suffix}"
    told = command(capsys, *map(str, two), "--out", str(out), "--resamples", "200")
    assert "better" in told
    drawn = out.read_text(encoding="utf-8")
    assert "<svg" in drawn
    if suffix == ".html":
        headline = rf"{two[1].name} against {two[0].name}: accuracy [+-].* points, .*, on {N} test pictures"
        assert re.search(f'<p class="verdict">{headline}</p>', drawn)
    assert str(two[1]) in drawn
    assert "http://" not in drawn.replace("http://www.w3.org/2000/svg", "")
    values = json.loads(command(capsys, *map(str, two), "--json", "--resamples", "200"))
    assert values["n"] == N
    assert values["differences"][0]["run"] == str(two[1])


@pytest.mark.parametrize("columns", ["80", "100", "130", "200"])
def test_a_narrow_terminal_cuts_nothing_off(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    rows = [("runs/[bold]2026-11-29-020808-probe", "0.9667 (0.8333 to 0.9941)", "")]
    rows += [("  minus the first", "+0.0000 (+0.0000 to +0.0000) no significant difference", "0.25")]
    comparison_page.print_text_table(("run", "accuracy [%]", "McNemar p"), rows, "30 test pictures.")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "…" not in printed
    words = {word for row in rows for cell in row for word in cell.split()} | {"[%]", "McNemar", "30", "pictures."}
    assert words <= set(printed.replace("│", " ").replace("┃", " ").split())
    assert all(len(line) <= int(columns) for line in printed.splitlines())


def test_names_are_escaped_on_the_page(two: tuple[Path, Path], tmp_path: Path) -> None:
    odd = Path(shutil.copytree(two[1], tmp_path / "a<b>&c"))
    found = compare_runs(
        align_runs([read_run_predictions(two[0]), read_run_predictions(odd)], intersection=False), resamples=100
    )
    for suffix in (".html", ".svg"):
        comparison_page.write_comparison(found, tmp_path / f"out{suffix}")
        drawn = (tmp_path / f"out{suffix}").read_text(encoding="utf-8")
        assert "a<b>" not in drawn
        assert "a&lt;b&gt;&amp;c" in drawn


def test_what_cannot_be_drawn_or_compared_is_told(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.html or \.svg"):
        comparison_page.require_page_suffix(tmp_path / "picture.gif")


def command(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    from bestiary.cli import app

    app(["compare", *words], standalone_mode=False)
    return capsys.readouterr().out


def test_the_page_shows_what_changed(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (two[0] / "resolved.toml").write_text('seed = 0\n\n[picture]\nsize = 224\nfit = "squash"\n')
    (two[1] / "resolved.toml").write_text('seed = 0\n\n[picture]\nsize = 96\nfit = "squash"\n[probe]\nc = [1, 2]\n')
    assert differing_settings(list(map(str, two))) == [("picture.size", ["224", "96"]), ("probe.c", ["–", "1, 2"])]
    (two[1] / "environment.json").write_text('{"corrections": {"file": "c.csv", "keep": 3, "drop": 0}}')
    corrections = [row for row in differing_settings(list(map(str, two))) if row[0].startswith("corrections")]
    assert corrections == [
        (f"corrections.{name}", ["–", value]) for name, value in {"file": "c.csv", "keep": "3", "drop": "0"}.items()
    ]
    (two[1] / "environment.json").unlink()
    command(capsys, *map(str, two), "--out", str(tmp_path / "out.html"), "--resamples", "100")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    runs = align_runs([read_run_predictions(run) for run in two], intersection=False)
    [changed] = changed_answers(runs)
    first, this = (run.predictions["predicted"] == run.predictions["label"] for run in runs)
    assert changed.n_lost == (first & ~this).sum()
    assert changed.n_gained == (this & ~first).sum()
    assert f"{changed.n_lost} test pictures went from right to wrong, {changed.n_gained} from wrong to" in page
    assert len(changed.lost) + len(changed.gained) == comparison_changes.MAX_PICTURES
    assert all(picture.before == picture.label != picture.after for picture in changed.lost)
    assert all(picture.before != picture.label == picture.after for picture in changed.gained)
    assert page.count("<li><figure>") == comparison_changes.MAX_PICTURES
    assert f"of {changed.n_gained} are shown" in page
    assert "<code>picture.size</code></th><td>224</td><td>96</td>" in page
    assert "seed" not in page.partition('id="settings"')[2].partition("</section>")[0]


def test_runs_with_the_same_answers_have_no_changed_pictures(two: tuple[Path, Path], tmp_path: Path) -> None:
    again = Path(shutil.copytree(two[0], tmp_path / "again"))
    runs = align_runs([read_run_predictions(run) for run in (two[0], again, two[1])], intersection=False)
    same, different = changed_answers(runs)
    assert (same.n_lost, same.n_gained, same.n_wrong_both, same.lost, same.gained) == (0, 0, 0, [], [])
    assert 0 < len(different.lost) + len(different.gained) <= comparison_changes.MAX_PICTURES // 2
    assert differing_settings([str(two[0]), str(again)]) == []
