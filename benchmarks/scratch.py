"""How good a network from scratch is, how long an epoch takes and the whole job: whole processes, one after another.

    python benchmarks/scratch.py PICTURES --labels animals10 [--classes dog,horse,...] [--seeds 0 1 2 3 4]
        [--recipe original-v2] [--set train.epochs=60] [--threads 2] [--runs FOLDER]

Seed s decides the split, the first weights and all chance. Scores come from the run's own test split, scored once. With
`--runs` the run folders are kept there; runs that are finished already are read, not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SEVEN = "dog,horse,elephant,butterfly,chicken,cat,spider"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--classes", default=SEVEN)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--recipe")
    options.add_argument("--set", dest="settings", action="append", default=[])
    options.add_argument("--threads", type=int)
    options.add_argument("--runs", type=Path)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = asked.runs or Path(folder)
        rows = [one_run(asked, place / f"{asked.recipe or 'resnet'}-{seed}", seed) for seed in asked.seeds]
    for name in ("macro_f1", "accuracy", "epoch_seconds", "total_seconds", "peak_rss_mb"):
        values = [row[name] for row in rows]
        spread = f" spread {statistics.stdev(values):.3g}" if len(values) > 1 else ""
        print(f"{name:14} mean {statistics.mean(values):.4g}{spread} ({min(values):.4g} to {max(values):.4g})")


def one_run(asked: argparse.Namespace, run: Path, seed: int) -> dict[str, Any]:
    if not (run / "report.html").exists():
        command = [sys.executable, "-m", "bestiary", "train", str(asked.pictures), "--labels", asked.labels]
        command += [
            "--classes",
            asked.classes,
            "--method",
            "scratch",
            "--seed",
            str(seed),
            "--out",
            str(run),
            "--quiet",
        ]
        command += ["--recipe", asked.recipe] if asked.recipe else []
        command += ["--threads", str(asked.threads)] if asked.threads else []
        for setting in asked.settings:
            command += ["--set", setting]
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
