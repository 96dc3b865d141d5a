"""A run that is really killed, again and again, at one stage after another, ends like one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("sklearn")

from bestiary.demo.dataset import SyntheticDataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way"),
]

OF_THE_MACHINE = ("seconds", "peak_rss_mb")
FEW = ["--set", 'data.classes=["bird","fish","spider"]', "--set", "evaluate.resamples=100", "--threads", "1"]
PROBE = [*FEW, "--set", "picture.size=64", "--backbone", "lite0"]
SCRATCH = [
    *(*FEW, "--method", "scratch", "--set", "picture.size=32", "--set", "model.filters=[8,16]"),
    *("--set", "train.epochs=2", "--set", "train.batch_size=16", "--set", "train.warmup_epochs=0.5"),
    *("--set", "train.precision=float32", "--set", "data.suspects=false"),
]

# The command line, but the `count`-th call of one function is the end; or no file may grow beyond some bytes.
COMMAND = """
import importlib, os, signal, sys
place, count, largest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if largest:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
if place:
    module, _, name = place.rpartition(".")
    owner = importlib.import_module(module) if module.islower() else None
    if owner is None:
        module, _, kind = module.rpartition(".")
        owner = getattr(importlib.import_module(module), kind)
    whole, left = getattr(owner, name), [count]

    def deadly(*given, **named):
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given, **named)

    setattr(owner, name, deadly)
from bestiary.cli import main
sys.argv = ["bestiary", *sys.argv[4:]]
main()
"""


def bestiary(
    cache: Path, *words: str, dies_in: str = "", count: int = 1, largest: int = 0
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND, dies_in, str(count), str(largest), *words]
    environment = {**os.environ, "BESTIARY_CACHE": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def killed(cache: Path, *words: str, dies_in: str, count: int = 1) -> None:
    done = bestiary(cache, *words, dies_in=dies_in, count=count)
    assert done.returncode == -signal.SIGKILL, done.stderr


def finished(cache: Path, *words: str) -> dict[str, Any]:
    done = bestiary(cache, *words, "--json")
    assert done.returncode == 0, done.stderr
    metrics: dict[str, Any] = json.loads(done.stdout)["metrics"]
    return metrics


def lasting(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name not in OF_THE_MACHINE}


def test_a_probe_killed_at_every_stage(collection: SyntheticDataset, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    # Each cache measures which engine is the fastest, and a busy machine may find another one; a run keeps its own.
    engine = ["--set", "features.engine=openvino", "--set", "features.precision=float32"]
    train = ["train", str(collection.folder), *PROBE, *engine, "--out", str(run)]
    killed(cache, *train, dies_in="bestiary.data.scan._iter_tables")  # while the pictures are measured
    assert not run.exists()
    killed(
        cache, *train, dies_in="bestiary.batches.array_cache.CacheSegment.append", count=5
    )  # while the audit caches features
    assert not run.exists()
    killed(cache, *train, dies_in="bestiary.training.probe.fit_head")
    assert run.exists()
    resume = ["train", "--resume", str(run)]
    full = bestiary(cache, *resume, largest=20_000)
    assert full.returncode == 2
    assert "Cannot write" in full.stderr
    assert "Traceback" not in full.stderr
    for place in ("export.finalize.verify_parity", "flow.score_predictions", "report.results.write_report"):
        killed(cache, *resume, dies_in=f"bestiary.{place}")
    metrics = finished(cache, *resume)
    assert not list(run.glob(".*"))
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert environment["resumed"].startswith("5 times")
    assert metrics["seconds"]["total"] > sum(
        one["seconds"]["total"]
        for one in json.loads((run / "sessions.json").read_text(encoding="utf-8"))["sessions"][:5]
    )
    alone = finished(tmp_path / "other", *train[:-1], str(tmp_path / "alone"))
    assert lasting(metrics) == lasting(alone)
    assert pl.read_parquet(run / "predictions.parquet").equals(pl.read_parquet(tmp_path / "alone/predictions.parquet"))


def learnt(run: Path) -> list[dict[str, Any]]:
    """The history of a run without its times."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: line[name] for name in line if name not in ("seconds", "images_per_second")} for line in lines]


def test_a_network_killed_at_every_stage_learns_the_same(collection: SyntheticDataset, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run, cache = tmp_path / "run", tmp_path / "cache"
    train = ["train", str(collection.folder), *SCRATCH, "--out", str(run)]
    resume = ["train", "--resume", str(run)]
    judging = "bestiary.training.methods.loss_and_macro_f1"  # at the end of an epoch, before its checkpoint
    killed(cache, *train, dies_in=judging, count=1)
    killed(cache, *resume, dies_in=judging, count=2)
    killed(cache, *resume, dies_in="bestiary.export.finalize.verify_parity")
    metrics = finished(cache, *resume)
    alone = finished(tmp_path / "other", *train[:-1], str(tmp_path / "alone"))
    assert learnt(run) == learnt(tmp_path / "alone")
    assert lasting(metrics) == lasting(alone)  # calibration was repeated in a process that did not train
    assert pl.read_parquet(run / "predictions.parquet").equals(pl.read_parquet(tmp_path / "alone/predictions.parquet"))
