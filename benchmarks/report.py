"""How long a report takes and how much memory, and how long the intervals: for many predictions.

    python benchmarks/report.py [--predictions 30000] [--classes 10] [--runs 3]

Draws a run folder: as many tested pictures of noise as predictions are asked for (some hundred different files, linked
under many names), random answers that are right nine times in ten, and as many training pictures again. `intervals`:
every metric with 2,000 resamples, warm. `find_weak_slices` likewise. `bestiary report`: a process of its own, start included.
Medians of several runs, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from bestiary import table
from bestiary.evaluation.metrics import compute_metrics
from bestiary.evaluation.slices import find_weak_slices

FILES = 300
Floats = np.ndarray[Any, np.dtype[np.float64]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--predictions", type=int, default=30_000)
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--runs", type=int, default=3)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        truth, shares, labels = drawn_run(run, asked.predictions, asked.classes)
        pictures = pl.read_parquet(run / "pictures.parquet")
        test = pl.read_parquet(run / "predictions.parquet")
        intervals = timed(lambda: compute_metrics(truth, shares, labels), asked.runs)
        found = timed(lambda: find_weak_slices(test, pictures), asked.runs)
        print(f"{asked.predictions:,} predictions, {asked.classes} classes, {asked.runs} runs each")
        print(f"intervals of every metric, 2,000 resamples: {intervals}")
        print(f"slices: {found}")
        times, peak, size = reported(run, asked.runs)
        print(f"bestiary report: {spread(times)}, peak {peak:,.0f} MB, page {size / 1e6:.1f} MB")


def drawn_run(run: Path, n: int, k: int) -> tuple[np.ndarray[Any, Any], Floats, list[str]]:
    """Write the files of a finished run with `n` tested pictures; return their classes, probabilities and labels."""
    chance = np.random.default_rng(0)
    labels = [f"class {at:03}" for at in range(k)]
    truth = chance.integers(0, k, n)
    logits = chance.normal(0, 1, (n, k))
    logits[np.arange(n), truth] += 4
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    run.mkdir(parents=True)
    pictures = _pictures(run.parent / "pictures", np.concatenate([truth, chance.integers(0, k, n)]), labels, chance)
    table.write(pictures, run / "pictures.parquet")
    said = shares.argmax(axis=1)
    predictions = (
        pictures.head(n)
        .select("row_id", "path", "split", "label")
        .with_columns(
            predicted=pl.Series([labels[at] for at in said]),
            probability=pl.Series(shares.max(axis=1)),
            unknown=pl.Series(chance.random(n) < 0.05),
            familiarity=pl.Series(chance.random(n)),
            **{f"p_{label}": pl.Series(shares[:, at]) for at, label in enumerate(labels)},
        )
    )
    table.write(predictions, run / "predictions.parquet")
    metrics = {
        "split": "test",
        "test_scored": 1,
        **compute_metrics(truth, shares, labels),
        "slices": find_weak_slices(predictions, pictures),
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    return truth, shares, labels


def _pictures(
    folder: Path, truth: np.ndarray[Any, Any], labels: list[str], chance: np.random.Generator
) -> pl.DataFrame:
    folder.mkdir()
    files = []
    for number in range(FILES):
        files.append(folder / f"file {number}.jpg")
        Image.fromarray(chance.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(files[-1], quality=90)
    n = len(truth)
    paths = []
    for number, at in enumerate(truth):
        path = folder / labels[at] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        os.link(files[number % FILES], path)
        paths.append(str(path))
    columns: dict[str, Any] = {
        "row_id": np.arange(n),
        "path": paths,
        "label": [labels[at] for at in truth],
        "bytes": chance.integers(10_000, 90_000, n),
        "width": chance.integers(100, 900, n),
        "height": chance.integers(100, 900, n),
        "format": chance.choice(["JPEG", "PNG"], n),
        "sha256": "0",
        "phash": "0",
        "group": np.arange(n),
        "split": ["test"] * (n // 2) + ["train"] * (n - n // 2),
        "error": None,
        **{name: chance.random(n) for name in table.MEASURES},
    }
    return pl.DataFrame(columns, schema=table.PICTURES | table.MEASURES)


def timed(work: Callable[[], object], runs: int) -> str:
    work()  # warm
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return spread(times)


def reported(run: Path, runs: int) -> tuple[list[float], float, int]:
    """Return the seconds of each writing, the largest peak memory in MB, and the bytes of the page."""
    line = [sys.executable, "-m", "bestiary", "report", str(run)]
    times, peak = [], 0.0
    for _ in range(runs):
        started = time.perf_counter()
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        times.append(time.perf_counter() - started)
        if status:
            raise SystemExit(f"bestiary report ended with {status}")
        peak = max(peak, usage.ru_maxrss / 1024)
    return times, peak, (run / "report.html").stat().st_size


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


if __name__ == "__main__":
    main()
