"""The commands that the pages of a run print work as they are printed."""

from __future__ import annotations

import html
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

pytest.importorskip("sklearn")

from bestiary import table
from bestiary.demo.dataset import SyntheticDataset
from bestiary.report import run_summary as run_summary_module
from bestiary.report.next_steps import next_steps
from bestiary.report.run_files import read_run
from bestiary.report.run_report import write_report
from bestiary.report.run_summary import summarise_run
from bestiary.review.decisions import DecisionLog
from bestiary.review.review_session import ReviewSession
from commands import Call, expand_patterns
from reviewed_run import plant

WORD = re.compile(r'<span class="word">([^<]*)</span>')
PRINTED = re.compile(r"<code>(bestiary [^<]+)</code>")


def printed_commands(page: Path) -> list[str]:
    text = WORD.sub(r"\1", page.read_text(encoding="utf-8"))
    found = [html.unescape(command) for command in PRINTED.findall(text)]
    return list(dict.fromkeys(found))


def run_command(command: str, call: Call) -> None:
    """Run a printed command in this folder as a shell would; `review` serves until Ctrl-C, in its own process."""
    words = expand_patterns(shlex.split(command)[1:])
    if words[0] in ("review", "serve"):
        line = [sys.executable, "-m", "bestiary", *words, "--port", "0"]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = server.stdout.readline().partition("#")[0].strip()
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert answer.status == 200, command
            os.kill(server.pid, signal.SIGINT)
            assert server.wait(timeout=60) == 0
        return
    done = call(*words)
    assert done.code == 0, f"{command}\n{done.err}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, collection: SyntheticDataset) -> Path:
    """A folder as the reader of a report has it, with new pictures."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "new").mkdir()
    for number, path in enumerate(sorted(collection.kinds)[:2]):
        shutil.copy(path, folder / "new" / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def run(probed: Path, desk: Path) -> Path:
    """A run with findings to review, and its page."""
    run = plant(probed, desk / "run")
    write_report(run)
    return run


def test_the_page_prints_commands_for_what_it_advises(run: Path) -> None:
    commands = printed_commands(run / "report.html")
    assert {command.split()[1] for command in commands} == {"train", "review", "predict", "report", "compare"}
    trained = " ".join(command for command in commands if command.startswith("bestiary train"))
    for options in ("--set picture.size=224", "--folds 5", "--method finetune"):
        assert options in trained


@pytest.mark.slow
def test_every_command_of_the_report_works(
    run: Path, desk: Path, bestiary: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(desk)
    commands = printed_commands(run / "report.html")
    for command in sorted(commands, key=lambda command: "compare" in command):  # what is compared is trained before
        if "--folds" not in command:  # it is no rival on the same test pictures
            run_command(command, bestiary)
    for command in (command for command in commands if "--folds" in command):
        run_command(command, bestiary)


@pytest.mark.slow
def test_after_a_review_that_drops_a_test_picture_its_commands_work(
    run: Path, desk: Path, bestiary: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    log = DecisionLog(run / "corrections.csv", "anna")
    tested = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("split") == "test")
    for sha256 in tested["sha256"][:2]:
        log.add(sha256, "drop" if sha256 == tested["sha256"][0] else "both")
    for command in ReviewSession(run, log, threads=1).commands():
        run_command(command, bestiary)


def test_fine_tuning_names_what_installs_torch_where_it_is_missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read_run(run)
    for spec, is_named in ((object(), False), (None, True)):
        monkeypatch.setattr(run_summary_module, "find_spec", lambda _, spec=spec: spec)
        [step] = [step for step in next_steps(summarise_run(files)) if step.what == "Try fine-tuning."]
        assert ("pip install" in step.needed and "torch]" in step.needed) == is_named
        assert ("It needs torch, which is not installed here." in step.why) == is_named


def test_advice_knows_the_backbone_and_its_size(run: Path) -> None:
    summary = summarise_run(read_run(run))
    small = {step.what: step for step in next_steps(summary)}["Train at 224 px, the input size of lite0."]
    assert small.why.startswith(
        "64 px is far below the 224 px that lite0 was made for, also if the pictures are smaller"
    )
    assert next_steps(summary)[0] == small, "all estimates depend on it"
    native = {step.what: step for step in next_steps(replace(summary, size=224))}
    assert native["Try the larger backbone."].command.endswith("--backbone lite2 --set picture.size=260")
    assert "Train at 224 px, the input size of lite0." not in native
    for other in (replace(summary, size=224, backbone="lite2"), replace(summary, method="scratch", backbone="resnet")):
        whats = {step.what for step in next_steps(other)}
        assert not whats & {"Train at 224 px, the input size of lite0.", "Try the larger backbone."}
    many = {label: {**scores, "support": 50} for label, scores in summary.metrics["per_class"].items()}
    enough = next_steps(replace(summary, metrics={**summary.metrics, "per_class": many}))
    assert "Cross-validate." not in {step.what for step in enough}
    assert "Cross-validate." in {step.what for step in next_steps(summary)}


def test_a_wide_interval_over_sites_asks_for_sites(run: Path) -> None:
    summary = summarise_run(read_run(run))
    accuracy = {"value": 0.6, "low": 0.2, "high": 0.9}
    metrics = {**summary.metrics, "accuracy": accuracy}
    many = {label: {**scores, "support": 50} for label, scores in metrics["per_class"].items()}
    by_site = replace(summary, metrics={**metrics, "per_class": many, "group_scores": {"by": "site"}})
    steps = {step.what: step for step in next_steps(by_site)}
    assert "counts each site once" in steps["Add pictures of other sites."].why
    assert "Use more test pictures." not in steps
    plain = replace(summary, metrics={**metrics, "per_class": many})
    assert "Use more test pictures." in {step.what for step in next_steps(plain)}
