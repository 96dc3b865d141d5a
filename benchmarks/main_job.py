"""Time, scores and peak memory of the main job: whole processes, median of several runs.

    python benchmarks/main_job.py PICTURES --labels animals10 [--backbone lite2] [--runs 3]

Cold: an empty cache folder. Warm: the same training again. Scores are of the test split of each run; run r has seed r.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import RARE_CLASSES, build_command, build_picture_parser, run_command


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite2")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("cold", "warm"):
                rows.append(run_training(arguments, Path(folder), cache, seed))
                print(rows[-1], flush=True)
    for cache in ("cold", "warm"):
        print_summary(cache, [row for row in rows if row["cache"] == cache])


def run_training(arguments: argparse.Namespace, folder: Path, cache: str, seed: int) -> dict[str, Any]:
    command = build_command("train", arguments.pictures, "--labels", arguments.labels)
    command += [
        "--backbone",
        arguments.backbone,
        "--seed",
        str(seed),
        "--out",
        str(folder / cache),
        "--quiet",
        "--json",
    ]
    start = time.perf_counter()
    process = run_command(command, folder / "cache")
    seconds = time.perf_counter() - start
    metrics = json.loads(process.stdout)["metrics"]
    f1 = {name: scores["f1"]["value"] for name, scores in metrics["per_class"].items()}
    return {
        "cache": cache,
        "seed": seed,
        "seconds": round(seconds, 1),
        "peak_rss_mb": metrics["peak_rss_mb"],
        "macro_f1": round(metrics["macro_f1"]["value"], 4),
        "without_rare": round(statistics.mean(value for name, value in f1.items() if name not in RARE_CLASSES), 4),
    }


def print_summary(cache: str, rows: list[dict[str, Any]]) -> None:
    for name in ("seconds", "peak_rss_mb", "macro_f1", "without_rare"):
        values = [row[name] for row in rows]
        print(f"{cache:4} {name:13} median {statistics.median(values):g} (from {min(values):g} to {max(values):g})")


if __name__ == "__main__":
    main()
