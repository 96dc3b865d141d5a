"""Features and scikit-learn by hand: a pretrained timm network, torch's DataLoader, scaling, logistic regression.

Trains on train; val chooses the regularisation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from peer_script import THREADS, PeerScript, Row, run_peer, select_split

C_VALUES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SIZES = {"lite0": 224, "lite2": 260}


class Pictures(Dataset[torch.Tensor]):
    def __init__(self, paths: list[str], size: int) -> None:
        self.paths = paths
        steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> torch.Tensor:
        with Image.open(self.paths[position]) as picture:
            image: torch.Tensor = self.transform(picture.convert("RGB"))
        return image


def compute_features(network: torch.nn.Module, paths: list[str], size: int) -> NDArray[np.float32]:
    loader = DataLoader(Pictures(paths, size), batch_size=32, num_workers=THREADS if len(paths) > 1 else 0)
    with torch.inference_mode():
        return np.concatenate([network(images).numpy() for images in loader])


def load_network(backbone: str, weights: Path | None) -> torch.nn.Module:
    torch.set_num_threads(THREADS)
    network: torch.nn.Module = timm.create_model(f"tf_efficientnet_{backbone}", pretrained=not weights, num_classes=0)
    if weights:
        network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


def train_head(rows: list[Row], model: Path, options: argparse.Namespace) -> dict[str, Any]:
    network = load_network(options.backbone, options.weights)
    splits = {name: select_split(rows, name) for name in ("train", "val")}
    size = SIZES[options.backbone]
    features = {name: compute_features(network, paths, size) for name, (paths, _) in splits.items()}
    heads = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c_value, max_iter=500)).fit(
            features["train"], splits["train"][1]
        )
        for c_value in C_VALUES
    ]
    best = max(heads, key=lambda head: head.score(features["val"], splits["val"][1]))
    joblib.dump(best, model / "head.joblib")
    torch.save(network.state_dict(), model / "network.pt")
    (model / "backbone.txt").write_text(options.backbone, encoding="utf-8")
    return {"train_pictures": len(features["train"]), "weights": f"ImageNet, {options.backbone}", "size": size}


def predict_labels(model: Path, paths: list[str]) -> list[str]:
    backbone = (model / "backbone.txt").read_text(encoding="utf-8")
    features = compute_features(load_network(backbone, model / "network.pt"), paths, SIZES[backbone])
    labels: list[str] = joblib.load(model / "head.joblib").predict(features).tolist()
    return labels


def split_folder(pictures: Path) -> Iterator[tuple[str, str]]:
    paths = sorted(str(path) for path in pictures.glob("*/*"))
    labels = [Path(path).parent.name for path in paths]
    for part, names in zip(
        ("train", "test"), train_test_split(paths, test_size=0.2, random_state=0, stratify=labels), strict=True
    ):
        yield from ((path, part) for path in names)


if __name__ == "__main__":
    run_peer(PeerScript(train_head, predict_labels, split=split_folder), backbone="lite2")
