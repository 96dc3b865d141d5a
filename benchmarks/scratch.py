"""Scores, epoch time and total time of networks trained from scratch: whole processes, sequentially.

    python benchmarks/scratch.py PICTURES --labels animals10 [--classes dog,horse,...] [--seeds 0 1 2 3 4]
        [--recipe original-v2] [--set train.epochs=60] [--threads 2] [--runs FOLDER]

The seed determines the split, the initial weights and all randomness. Scores are of the test split of each run. With
`--runs` the run folders stay there, and a later call reuses those that are complete.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from measuring import add_settings, build_command, build_picture_parser, expand_settings

SEVEN = "dog,horse,elephant,butterfly,chicken,cat,spider"


def main() -> None:
    parser = build_picture_parser(__doc__)
    parser.add_argument("--classes", default=SEVEN)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--recipe")
    add_settings(parser)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = arguments.runs or Path(folder)
        rows = [
            run_training(arguments, runs / f"{arguments.recipe or 'resnet'}-{seed}", seed) for seed in arguments.seeds
        ]
    for name in ("macro_f1", "accuracy", "epoch_seconds", "total_seconds", "peak_rss_mb"):
        values = [row[name] for row in rows]
        spread = f" spread {statistics.stdev(values):.3g}" if len(values) > 1 else ""
        print(f"{name:14} mean {statistics.mean(values):.4g}{spread} ({min(values):.4g} to {max(values):.4g})")


def run_training(arguments: argparse.Namespace, run: Path, seed: int) -> dict[str, Any]:
    if not (run / "report.html").exists():
        command = build_command(
            "train", arguments.pictures, "--labels", arguments.labels, "--classes", arguments.classes
        )
        command += ["--method", "scratch", "--seed", str(seed), "--out", str(run), "--quiet"]
        command += ["--recipe", arguments.recipe] if arguments.recipe else []
        command += ["--threads", str(arguments.threads)] if arguments.threads else []
        command += expand_settings(arguments.settings)
        subprocess.run(command, check=True)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    epochs = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    row = {
        "seed": seed,
        "macro_f1": metrics["macro_f1"]["value"],
        "accuracy": metrics["accuracy"]["value"],
        "epochs": len(epochs),
        "epoch_seconds": statistics.median(epoch["seconds"] for epoch in epochs),
        "total_seconds": metrics["seconds"]["total"],
        "peak_rss_mb": metrics["peak_rss_mb"],
    }
    print({name: round(value, 4) for name, value in row.items()}, flush=True)
    return row


if __name__ == "__main__":
    main()
