"""Compares fine-tuning with the probe on a task that differs from what the backbone was pretrained for.

    python benchmarks/finetune.py PICTURES [--pictures 1600] [--seeds 0 1] [--backbone lite0]

The task is the orientation of a picture: each is rotated by 0, 90, 180 or 270 degrees at random and written to a folder
with the name of the angle, each picture once. A backbone pretrained to classify objects need not retain the
orientation. Both methods get the same split; `bestiary compare` prints the paired interval. Mirroring is off, because
it turns 90 degrees into 270.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from measuring import add_settings, build_command, build_parser, expand_settings, list_class_files, run_command

ANGLES = (0, 90, 180, 270)
SHORT_SIDE = 256  # of the pictures written


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--pictures", dest="count", type=int, default=1600)
    parser.add_argument("--backbone", default="lite0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    add_settings(parser, "for finetune")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in arguments.seeds:
            rotated = write_rotated(arguments.pictures, folder / f"rotated-{seed}", arguments.count, seed)
            runs = [folder / f"{method}-{seed}" for method in ("probe", "finetune")]
            for run in runs:
                print(run_training(arguments, rotated, run, seed), flush=True)
            comparison = run_command(build_command("compare", *runs, "--json"))
            print("seed", seed, json.dumps(json.loads(comparison.stdout), indent=1), flush=True)


def write_rotated(pictures: Path, folder: Path, count: int, seed: int) -> Path:
    """Write `count` of the pictures, each rotated by an angle, and return the folder."""
    rng = np.random.default_rng(seed)
    files = list_class_files(pictures)
    chosen = rng.permutation(len(files))[:count]
    for number, position in enumerate(chosen):
        angle = ANGLES[number % len(ANGLES)]
        with Image.open(files[position]) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
        upright.thumbnail((2 * SHORT_SIDE, 2 * SHORT_SIDE))
        side = min(upright.size)  # square, so that the shape of a picture does not reveal the angle
        square = ImageOps.fit(upright, (side, side))
        target = folder / f"{angle:03}" / f"{files[position].parent.name}-{files[position].stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        square.rotate(angle).save(target)
    return folder


def run_training(arguments: argparse.Namespace, pictures: Path, run: Path, seed: int) -> dict[str, Any]:
    method = run.name.partition("-")[0]
    command = build_command("train", pictures, "--method", method, "--seed", seed)
    command += ["--backbone", arguments.backbone, "--set", "data.suspects=false", "--out", str(run), "--quiet"]
    if method == "finetune":
        command += expand_settings(["augment.mirror=0", *arguments.settings])
    start = time.perf_counter()
    subprocess.run(command, check=True)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    scores = {name: metrics[name] for name in ("accuracy", "macro_f1")}
    return {"method": method, "seed": seed, "seconds": round(time.perf_counter() - start), **scores}


if __name__ == "__main__":
    main()
