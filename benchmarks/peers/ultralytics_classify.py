"""Ultralytics' classify task, the nano model: from scratch without --weights FILE.pt, since its own come from a hub.

It reads folders, so the split is copied to MODEL/pictures first: Ultralytics may rewrite damaged JPEGs in place.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

import torch
from ultralytics import YOLO
from ultralytics.data.split import split_classify_dataset

from peer_script import THREADS, PeerScript, Row, run_peer

SIZE, ARCHITECTURE = 224, "yolo26n-cls.yaml"


def train_network(rows: list[Row], model: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    folder = copy_split(rows, model / "pictures")
    network = YOLO(options.weights or ARCHITECTURE)
    network.train(
        data=str(folder),
        epochs=options.epochs,
        imgsz=SIZE,
        batch=32,
        device="cpu",
        workers=THREADS,
        seed=options.seed,
        plots=False,
        verbose=False,
        project=str(model.resolve()),
        name="training",
        exist_ok=True,
    )
    shutil.copy(model / "training" / "weights" / "best.pt", model / "best.pt")
    weights = Path(options.weights).name if options.weights else "none: no pretrained weights at hand offline"
    return {"train_pictures": sum(row["split"] == "train" for row in rows), "weights": weights, "size": SIZE}


def copy_split(rows: list[Row], folder: Path) -> Path:
    """Copy train and val as folders of classes; a number before each name distinguishes equal names."""
    for number, row in enumerate(rows):
        if row["split"] in ("train", "val"):
            target = folder / row["split"] / row["label"] / f"{number}-{Path(row['path']).name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(row["path"], target)
    return folder


def predict_labels(model: Path, paths: list[str]) -> list[str]:
    torch.set_num_threads(THREADS)
    return predict_with(YOLO(model / "best.pt"), paths)


def predict_with(network: YOLO, paths: Sequence[str], batch: int = 32) -> list[str]:
    labels = []
    for start in range(0, len(paths), batch):
        part = list(paths[start : start + batch])
        results = network.predict(part, imgsz=SIZE, device="cpu", verbose=False, batch=batch)
        labels += [result.names[result.probs.top1] for result in results]
    return labels


def export_network(model: Path, paths: list[str]) -> tuple[list[str], dict[str, Any]]:
    file = YOLO(model / "best.pt").export(format="onnx", imgsz=SIZE, device="cpu")
    exported = YOLO(file, task="classify")
    return predict_with(exported, paths, batch=1), {"export": "export(format='onnx'), read by its own predict"}


def split_folder(pictures: Path) -> Iterator[tuple[str, str]]:
    target = split_classify_dataset(pictures)
    for path in sorted(target.glob("*/*/*")):
        yield str(pictures / path.relative_to(target / path.relative_to(target).parts[0])), path.parts[-3]
    shutil.rmtree(target)


if __name__ == "__main__":
    run_peer(PeerScript(train_network, predict_labels, export_network, split_folder), epochs=8)
