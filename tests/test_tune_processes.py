"""Hyperparameter searches in subprocesses: killed with SIGKILL, and two at once on one storage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("optuna")

from optuna.trial import TrialState

from bestiary.demo.dataset import SyntheticDataset
from bestiary.tune.storage import TrialStorage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way"),
]

FEW = ["--set", 'data.classes=["bird","fish","spider"]', "--set", "data.suspects=false", "--threads", "1"]
PROBE = [*FEW, "--set", "evaluate.resamples=100", "--set", "picture.size=64", "--backbone", "lite0"]
ONE_CONFIG = ["--search", 'picture.fit=["squash"]', "--fresh-seeds", "1", "--trials", "8"]
SCRATCH = [
    *(*FEW, "--method", "scratch", "--set", "evaluate.resamples=100", "--set", "picture.size=32"),
    *("--set", "model.filters=[8,16]", "--set", "train.epochs=3", "--set", "train.batch_size=16"),
    *("--set", "train.precision=float32", "--inner-folds", "0", "--trials", "3", "--fresh-seeds", "0"),
    *("--search", "train.learning_rate=0.01..0.2"),
]

# The command line, killed at the `count`-th call of one function.
COMMAND = """
import importlib, os, signal, sys
module, _, name = sys.argv[1].rpartition(".")
if module:
    owner, left = importlib.import_module(module), [int(sys.argv[2])]
    whole = getattr(owner, name)

    def deadly(*args, **kwargs):
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args, **kwargs)

    setattr(owner, name, deadly)
from bestiary.cli import main
sys.argv = ["bestiary", *sys.argv[3:]]
main()
"""


def start(*words: str, dies_in: str = "", count: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, dies_in, str(count), "tune", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def killed(*words: str, dies_in: str, count: int = 1) -> None:
    process = start(*words, dies_in=dies_in, count=count)
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGKILL, stderr


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


def trials_of(storage: Path, method: str) -> list[Any]:
    return TrialStorage(storage, f"tune-{method}").trials()


def test_two_processes_share_a_search_and_resume_what_a_killed_one_left(
    collection: SyntheticDataset, tmp_path: Path
) -> None:
    words = [str(collection.folder), *PROBE, *ONE_CONFIG, "--json", "--storage", str(tmp_path / "shared.db")]
    killed(*words, "--out", str(tmp_path / "one"), dies_in="bestiary.tune.trial.evaluate_recipe", count=4)
    before = [one.value for one in trials_of(tmp_path / "shared.db", "probe") if one.state == TrialState.COMPLETE]
    assert len(before) == 3
    both = [start(*words, "--out", str(tmp_path / name)) for name in ("one", "two")]
    first, second = map(finished, both)
    assert first == second
    trials = trials_of(tmp_path / "shared.db", "probe")
    assert [one.value for one in trials[:3]] == before
    assert [one.number for one in trials if one.state == TrialState.FAIL] == [3]
    assert sum(one.state == TrialState.COMPLETE for one in trials) == 8 == len(trials) - 1
    again = next(one for one in trials if one.user_attrs.get("again") == 3)
    assert again.params == trials[3].params
    assert [one.number for one in trials if one.user_attrs.get("default")] == [0]
    drawn = {one.params["probe.regularisation"] for one in trials if one.state == TrialState.COMPLETE}
    assert len(drawn) == 8, "each process samples other values"
    assert len({line["trial"] for line in first["history"]}) == 8
    assert first["test scored"] == 1
    assert len(list(tmp_path.glob("*/winner"))) == 1


def test_a_network_resumes_from_its_checkpoint_and_the_winner_is_not_trained_twice(
    collection: SyntheticDataset, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "search"
    words = [str(collection.folder), *SCRATCH, "--out", str(out)]
    killed(*words, dies_in="bestiary.training.methods.loss_and_macro_f1", count=3)  # in the default's last epoch
    assert (out / "tune.trials" / "0" / "1" / "checkpoints" / "last.pt").exists()
    found = finished(start(*words, "--json"))
    trials = trials_of(out / "tune.db", "scratch")
    assert trials[0].state == TrialState.FAIL
    default = next(one for one in trials if one.user_attrs.get("again") == 0)
    assert default.state == TrialState.COMPLETE
    assert default.user_attrs["took"]["epochs"] == 3
    assert default.intermediate_values.keys() == {1, 2}
    environment = json.loads((out / "winner" / "environment.json").read_text(encoding="utf-8"))
    assert environment["training begun in"].startswith(str(out / "tune.trials"))
    assert found["winner"]["macro_f1"] >= found["default"]["macro_f1"]
    learnt = [json.loads(line) for line in (out / "winner" / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert max(line["val_macro_f1"] for line in learnt) == pytest.approx(found["winner"]["macro_f1"], abs=1e-9)
