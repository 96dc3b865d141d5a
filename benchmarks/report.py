"""Time and peak memory of a report, and the time of its intervals, for many predictions.

    python benchmarks/report.py [--predictions 30000] [--classes 10] [--runs 3]

Writes a synthetic run folder: --predictions test pictures of noise (300 different files, linked under many names) with
random predictions, most of them correct, and as many training pictures. `intervals`: every metric with 2,000 resamples,
in a warm process; `slices` likewise. `bestiary report`: a whole process, start included. Medians with minimum and
maximum.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from bestiary import table
from bestiary.evaluation.metrics import compute_metrics
from bestiary.evaluation.slices import find_weak_slices
from measuring import build_command, build_parser, time_calls

FILES = 300
Floats = np.ndarray[Any, np.dtype[np.float64]]


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--predictions", type=int, default=30_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        y_true, probabilities, labels = write_run(run, arguments.predictions, arguments.classes)
        pictures = pl.read_parquet(run / "pictures.parquet")
        test = pl.read_parquet(run / "predictions.parquet")
        intervals = format_spread(time_calls(lambda: compute_metrics(y_true, probabilities, labels), arguments.runs))
        slices = format_spread(time_calls(lambda: find_weak_slices(test, pictures), arguments.runs))
        print(f"{arguments.predictions:,} predictions, {arguments.classes} classes, {arguments.runs} runs each")
        print(f"intervals of every metric, 2,000 resamples: {intervals}")
        print(f"slices: {slices}")
        times, peak, size = measure_report(run, arguments.runs)
        print(f"bestiary report: {format_spread(times)}, peak {peak:,.0f} MB, page {size / 1e6:.1f} MB")


def write_run(run: Path, n: int, k: int) -> tuple[np.ndarray[Any, Any], Floats, list[str]]:
    """Write the files of a run with `n` test pictures; return classes, probabilities and class names."""
    rng = np.random.default_rng(0)
    labels = [f"class {index:03}" for index in range(k)]
    y_true = rng.integers(0, k, n)
    logits = rng.normal(0, 1, (n, k))
    logits[np.arange(n), y_true] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    run.mkdir(parents=True)
    pictures = _write_pictures(run.parent / "pictures", np.concatenate([y_true, rng.integers(0, k, n)]), labels, rng)
    table.write(pictures, run / "pictures.parquet")
    y_pred = probabilities.argmax(axis=1)
    predictions = (
        pictures.head(n)
        .select("row_id", "path", "split", "label")
        .with_columns(
            predicted=pl.Series([labels[index] for index in y_pred]),
            probability=pl.Series(probabilities.max(axis=1)),
            unknown=pl.Series(rng.random(n) < 0.05),
            familiarity=pl.Series(rng.random(n)),
            **{f"p_{label}": pl.Series(probabilities[:, index]) for index, label in enumerate(labels)},
        )
    )
    table.write(predictions, run / "predictions.parquet")
    metrics = {
        "split": "test",
        "test_scored": 1,
        **compute_metrics(y_true, probabilities, labels),
        "slices": find_weak_slices(predictions, pictures),
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    return y_true, probabilities, labels


def _write_pictures(
    folder: Path, y_true: np.ndarray[Any, Any], labels: list[str], rng: np.random.Generator
) -> pl.DataFrame:
    folder.mkdir()
    files = []
    for number in range(FILES):
        files.append(folder / f"file {number}.jpg")
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(files[-1], quality=90)
    n = len(y_true)
    paths = []
    for number, index in enumerate(y_true):
        path = folder / labels[index] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        os.link(files[number % FILES], path)
        paths.append(str(path))
    columns: dict[str, Any] = {
        "row_id": np.arange(n),
        "path": paths,
        "label": [labels[index] for index in y_true],
        "bytes": rng.integers(10_000, 90_000, n),
        "width": rng.integers(100, 900, n),
        "height": rng.integers(100, 900, n),
        "format": rng.choice(["JPEG", "PNG"], n),
        "sha256": "0",
        "phash": "0",
        "group": np.arange(n),
        "split": ["test"] * (n // 2) + ["train"] * (n - n // 2),
        "error": None,
        **{name: rng.random(n) for name in table.MEASURES},
    }
    return pl.DataFrame(columns, schema=table.PICTURES | table.MEASURES)


def measure_report(run: Path, runs: int) -> tuple[list[float], float, int]:
    """Return the seconds of each run, the largest peak memory in MB, and the size of the page in bytes."""
    command = build_command("report", run)
    times, peak = [], 0.0
    for _ in range(runs):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        times.append(time.perf_counter() - start)
        if status:
            raise SystemExit(f"bestiary report ended with {status}")
        peak = max(peak, usage.ru_maxrss / 1024)
    return times, peak, (run / "report.html").stat().st_size


def format_spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


if __name__ == "__main__":
    main()
