"""How long the main job takes, how good it is and how much memory it needs: whole processes, median of several runs.

    python benchmarks/main_job.py PICTURES --labels animals10 [--backbone lite2] [--runs 3]

Cold: an empty cache folder. Warm: the same again. Scores come from the run's own test split; seed r for run r.
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
from pathlib import Path
from typing import Any

RARE = {"cow", "sheep", "squirrel"}  # fewer than 50 pictures in the shared part of Animals-10


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--backbone", default="lite2")
    options.add_argument("--runs", type=int, default=3)
    asked = options.parse_args()
    rows = []
    for seed in range(asked.runs):
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("cold", "warm"):
                rows.append(one_run(asked, Path(folder), f"{cache}", seed))
                print(rows[-1], flush=True)
    for cache in ("cold", "warm"):
        summarise(cache, [row for row in rows if row["cache"] == cache])


def one_run(asked: argparse.Namespace, folder: Path, cache: str, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bestiary", "train", str(asked.pictures), "--labels", asked.labels]
    command += ["--backbone", asked.backbone, "--seed", str(seed), "--out", str(folder / cache), "--quiet", "--json"]
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "BESTIARY_CACHE": str(folder / "cache")}
    )
    seconds = time.perf_counter() - started
    metrics = json.loads(done.stdout)["metrics"]
    f1 = {name: scores["f1"]["value"] for name, scores in metrics["per_class"].items()}
    return {
        "cache": cache,
        "seed": seed,
        "seconds": round(seconds, 1),
        "peak_rss_mb": metrics["peak_rss_mb"],
        "macro_f1": round(metrics["macro_f1"]["value"], 4),
        "without_rare": round(statistics.mean(value for name, value in f1.items() if name not in RARE), 4),
    }


def summarise(cache: str, rows: list[dict[str, Any]]) -> None:
    for name in ("seconds", "peak_rss_mb", "macro_f1", "without_rare"):
        values = [row[name] for row in rows]
        print(f"{cache:4} {name:13} median {statistics.median(values):g} (from {min(values):g} to {max(values):g})")


if __name__ == "__main__":
    main()
