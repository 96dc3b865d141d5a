"""Whether fine-tuning beats the probe where it should: a task that the backbone was not made for, from real pictures.

    python benchmarks/finetune.py PICTURES [--pictures 1600] [--seeds 0 1] [--backbone lite0]

The task: which way up is the picture? Each picture is turned by 0, 90, 180 or 270 degrees at random and written to a
folder named after the angle; no picture is there twice. A backbone that names things has learnt to pass over much of
what tells them apart. Both methods get the same split; `bestiary compare` gives the paired interval. Mirroring is off,
because it makes 90 degrees of 270.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

ANGLES = (0, 90, 180, 270)
SHORT_SIDE = 256  # of the pictures written


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--pictures", dest="count", type=int, default=1600)
    options.add_argument("--backbone", default="lite0")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--set", dest="settings", action="append", default=[], help="for finetune")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in asked.seeds:
            turned = turn(asked.pictures, folder / f"turned-{seed}", asked.count, seed)
            runs = [folder / f"{method}-{seed}" for method in ("probe", "finetune")]
            for run in runs:
                print(one_run(asked, turned, run, seed), flush=True)
            command = [sys.executable, "-m", "bestiary", "compare", *map(str, runs), "--json"]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            print("seed", seed, json.dumps(json.loads(found.stdout), indent=1), flush=True)


def turn(pictures: Path, folder: Path, count: int, seed: int) -> Path:
    """Write so many of the pictures, each turned by one of the angles."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in pictures.glob("*/*") if path.is_file())
    chosen = rng.permutation(len(files))[:count]
    for number, place in enumerate(chosen):
        angle = ANGLES[number % len(ANGLES)]
        with Image.open(files[place]) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
        upright.thumbnail((2 * SHORT_SIDE, 2 * SHORT_SIDE))
        side = min(upright.size)  # a square: the shape of a picture must not give the angle away
        square = ImageOps.fit(upright, (side, side))
        target = folder / f"{angle:03}" / f"{files[place].parent.name}-{files[place].stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        square.rotate(angle).save(target)
    return folder


def one_run(asked: argparse.Namespace, pictures: Path, run: Path, seed: int) -> dict[str, Any]:
    method = run.name.partition("-")[0]
    command = [sys.executable, "-m", "bestiary", "train", str(pictures), "--method", method, "--seed", str(seed)]
    command += ["--backbone", asked.backbone, "--set", "data.suspects=false", "--out", str(run), "--quiet"]
    if method == "finetune":
        for setting in ("augment.mirror=0", *asked.settings):
            command += ["--set", setting]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    scores = {name: metrics[name] for name in ("accuracy", "macro_f1")}
    return {"method": method, "seed": seed, "seconds": round(time.perf_counter() - began), **scores}


if __name__ == "__main__":
    main()
