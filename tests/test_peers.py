"""The comparison with other tools: its broken files, its count of torn pairs, the turns, the commands of a script."""

from __future__ import annotations

import io
import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PEERS.parent))
    monkeypatch.syspath_prepend(str(PEERS))
    for script in PEERS.glob("*.py"):  # "run" and "process" may be names of others
        monkeypatch.delitem(sys.modules, script.stem, raising=False)


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, str]]:
    """Four classes of 20 training pictures of random pixels."""
    random, rows = np.random.default_rng(0), []
    for label in "abcd":
        for number in range(20):
            path = tmp_path / f"{label}{number}.jpg"
            Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)).save(path)
            rows.append({"path": str(path), "label": label, "split": "train"})
    return rows


def test_the_broken_files_are_broken_as_they_say(rows: list[dict[str, str]], tmp_path: Path) -> None:
    from broken_files import NAME, WRITERS, write_small_split
    from peer_script import read_rows

    for number, kind in enumerate(WRITERS):
        table = read_rows(write_small_split(rows, tmp_path / str(number), kind))
        assert len(table) == 61
        broken = Path(table[-1]["path"])
        assert (broken.name, table[-1]["split"]) == (NAME, "train")
        if kind == "16-bit PNG named .jpg":
            with Image.open(broken) as picture:
                assert (picture.format, picture.mode) == ("PNG", "I;16")
        else:
            with pytest.raises((UnidentifiedImageError, OSError)):
                Image.open(io.BytesIO(broken.read_bytes())).load()


def test_an_outcome_says_whether_the_file_is_named(tmp_path: Path) -> None:
    from broken_files import NAME, describe_outcome
    from process import TIMED_OUT, Measured

    def outcome(code: int, output: str) -> str:
        return describe_outcome(Measured(code, output, 1, 1, 1, (0, 0), ""), tmp_path)

    assert outcome(1, "OSError: image file is truncated") == "stops, does not name it"
    assert outcome(1, f"cannot read {NAME}") == "stops, names it"
    assert outcome(0, "") == "goes on, does not name it"
    assert outcome(TIMED_OUT, "") == "does not end"
    (tmp_path / "report.html").write_text(f"left out: {NAME}", encoding="utf-8")
    assert outcome(0, "") == "goes on, names it"


def test_torn_pairs_are_counted() -> None:
    from scores import count_torn_pairs

    parts = {"a": "train", "b": "test", "c": "train"}
    assert count_torn_pairs([("a", "b"), ("a", "c"), ("a", "not split")], parts) == 1


def test_bestiary_runs_in_turn_with_the_others() -> None:
    from run import list_turns
    from tools import BESTIARY, TOOLS

    others = list(TOOLS[1:4])
    assert list_turns([BESTIARY, *others], 1) == [BESTIARY, others[0], BESTIARY, others[1], BESTIARY, others[2]]
    assert list_turns(others, 2) == [BESTIARY, *others[:2], BESTIARY, others[2]]
    assert list_turns([BESTIARY], 1) == [BESTIARY]


def test_a_process_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import process
    from process import TIMED_OUT, run_measured

    monkeypatch.setattr(process, "INTERVAL_SECONDS", 0.05)  # many samples, also where a busy machine takes few of them
    program = "import time; block = bytearray(60_000_000); time.sleep(2.5); print('done')"
    done = run_measured([sys.executable, "-c", program], os.environ, tmp_path, 60)
    assert (done.code, done.output) == (0, "done\n")
    assert done.seconds >= 2.5
    assert done.peak_mb >= 55
    assert (
        run_measured([sys.executable, "-c", "import time; time.sleep(60)"], os.environ, tmp_path, 0.5).code == TIMED_OUT
    )


def test_a_script_trains_and_predicts_from_tables(tmp_path: Path) -> None:
    from peer_script import PeerScript, read_rows, run_command

    def train(rows: list[dict[str, str]], model: Path, options: Namespace) -> dict[str, Any]:
        return {"train_pictures": len(rows)}

    script = PeerScript(train, lambda model, paths: [Path(path).stem for path in paths])
    (tmp_path / "split.csv").write_text("path,label,split\na.jpg,cat,train\n", encoding="utf-8")
    (tmp_path / "paths.txt").write_text("x/b.jpg\nx/c.jpg", encoding="utf-8")
    model, answers = tmp_path / "model", tmp_path / "answers.csv"
    run_command(script, Namespace(command="train", split=tmp_path / "split.csv", model=model))
    assert json.loads((model / "facts.json").read_text(encoding="utf-8")) == {"train_pictures": 1}
    run_command(script, Namespace(command="predict", model=model, paths=tmp_path / "paths.txt", answers=answers))
    assert read_rows(answers) == [{"path": "x/b.jpg", "label": "b"}, {"path": "x/c.jpg", "label": "c"}]
    with pytest.raises(SystemExit, match="no export"):
        run_command(script, Namespace(command="export", model=model, paths=tmp_path / "paths.txt", answers=answers))
