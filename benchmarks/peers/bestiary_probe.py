"""bestiary's probe, by its command line: `train` with an empty cache (audit, test scores and report included)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from peer_script import PeerScript, Row, run_peer

COMMAND = [sys.executable, "-m", "bestiary"]


def train_run(rows: list[Row], model: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [*COMMAND, "train", options.split, "--split", "keep", "--out", model / "run", "--seed", options.seed]
    subprocess.run([*map(str, command), "--backbone", options.backbone], check=True)
    bundle = json.loads((model / "run" / "bundle.json").read_text(encoding="utf-8"))
    size = bundle["size"]
    used = sum(row["split"] == "train" for row in rows)
    return {"train_pictures": used, "weights": f"ImageNet, {options.backbone}", "size": size}


def predict_labels(model: Path, paths: list[str]) -> list[str]:
    """Raise SystemExit: `predict` is answered by the command line itself, in the place of this process."""
    raise SystemExit(f"{len(paths)} pictures for {model}: call this script with predict")


def become_predict_command(model: str, paths: str, answers: str) -> None:
    """Turn this process into `bestiary predict`, which writes the columns path and label among others."""
    os.dup2(os.open(paths, os.O_RDONLY), 0)
    os.execv(sys.executable, [*COMMAND, "predict", str(Path(model) / "run"), "-", "--quiet", "--out", answers])


def export_plainly(model: Path, paths: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Read model.onnx, which every run has, as someone does who has this file only: Pillow and ONNX Runtime."""
    import numpy as np
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(model / "run" / "model.onnx", providers=["CPUExecutionProvider"])
    bundle = json.loads((model / "run" / "bundle.json").read_text(encoding="utf-8"))
    size, classes = bundle["size"], bundle["classes"]
    labels = []
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB").resize((size, size)))[None]
        labels.append(classes[int(session.run(["probabilities"], {"images": pixels})[0].argmax())])
    return labels, {"export": "model.onnx of the run, pictures read with Pillow and its default filter"}


if __name__ == "__main__":
    if sys.argv[1:2] == ["predict"]:
        become_predict_command(*sys.argv[2:])
    run_peer(PeerScript(train_run, predict_labels, export_plainly), backbone="lite2")
