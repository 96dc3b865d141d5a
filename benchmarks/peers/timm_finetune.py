"""A plain fine-tuning script with timm: its own transforms, AdamW, one cycle of the learning rate, the best epoch."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.data import DataLoader, Dataset

from peer_script import THREADS, PeerScript, Row, list_classes, read_classes, run_peer, select_split, write_classes

BATCH, LEARNING_RATE = 32, 1e-3


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, paths: list[str], y: list[int], transform: Any) -> None:
        self.paths, self.y, self.transform = paths, y, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[position]) as picture:
            return self.transform(picture.convert("RGB")), self.y[position]


def create_network(backbone: str, classes: int) -> nn.Module:
    network: nn.Module = timm.create_model(f"tf_efficientnet_{backbone}", num_classes=classes)
    return network


def train_network(rows: list[Row], model: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    torch.manual_seed(options.seed)
    classes = list_classes(rows)
    if options.weights:
        network = create_network(options.backbone, len(classes))
        network.load_state_dict(torch.load(options.weights, weights_only=True), strict=False)  # but for the classifier
    else:
        network = timm.create_model(f"tf_efficientnet_{options.backbone}", pretrained=True, num_classes=len(classes))
    config = resolve_data_config({}, model=network)
    paths, labels = select_split(rows, "train")
    y = [classes.index(label) for label in labels]
    training = Pictures(paths, y, create_transform(**config, is_training=True, auto_augment=None))
    loader = DataLoader(training, BATCH, shuffle=True, num_workers=THREADS, drop_last=len(paths) % BATCH == 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, epochs=options.epochs, steps_per_epoch=len(loader)
    )
    val_paths, val_labels = select_split(rows, "val")
    best, best_score = network.state_dict(), -1.0
    for epoch in range(options.epochs):
        network.train()
        for images, targets in loader:
            loss = nn.functional.cross_entropy(network(images), targets, label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        y_val = compute_logits(network, val_paths).argmax(axis=1)
        score = float(np.mean([classes[index] == label for index, label in zip(y_val, val_labels, strict=True)]))
        print(f"epoch {epoch}: accuracy {score:.4f}", flush=True)
        if score > best_score:
            best, best_score = copy.deepcopy(network.state_dict()), score
    torch.save(best, model / "network.pt")
    write_classes(model, classes)
    (model / "backbone.txt").write_text(options.backbone, encoding="utf-8")
    weights = f"ImageNet, {options.backbone}" if options.weights else "timm's default, downloaded"
    return {"train_pictures": len(y), "weights": weights, "size": config["input_size"][-1]}


def compute_logits(network: nn.Module, paths: list[str]) -> NDArray[np.float32]:
    transform = create_transform(**resolve_data_config({}, model=network))
    loader = DataLoader(Pictures(paths, [0] * len(paths), transform), BATCH, num_workers=THREADS * (len(paths) > 1))
    network.eval()
    with torch.inference_mode():
        return np.concatenate([network(images).numpy() for images, _ in loader])


def load_network(model: Path) -> nn.Module:
    torch.set_num_threads(THREADS)
    network = create_network((model / "backbone.txt").read_text(encoding="utf-8"), len(read_classes(model)))
    network.load_state_dict(torch.load(model / "network.pt", weights_only=True))
    return network.eval()


def predict_labels(model: Path, paths: list[str]) -> list[str]:
    classes = read_classes(model)
    return [classes[index] for index in compute_logits(load_network(model), paths).argmax(axis=1)]


def export_network(model: Path, paths: list[str]) -> tuple[list[str], dict[str, Any]]:
    import onnxruntime

    network, classes = load_network(model), read_classes(model)
    config = resolve_data_config({}, model=network)
    size = config["input_size"][-1]
    torch.onnx.export(network, (torch.zeros(1, 3, size, size),), model / "model.onnx", input_names=["images"])
    session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
    y = [int(session.run(None, {"images": read_plainly(path, size, config["crop_pct"])})[0].argmax()) for path in paths]
    how = "torch.onnx.export, pictures read with Pillow: its default filter, the middle as timm's settings name it"
    return [classes[index] for index in y], {"export": how}


def read_plainly(path: str, size: int, fraction: float) -> NDArray[np.float32]:
    """Return a picture (1, 3, size, size): Pillow, its default filter, the middle, -1 to 1."""
    picture = Image.open(path).convert("RGB")
    scale = int(size / fraction) / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)), np.float32)
    return (pixels / 127.5 - 1).transpose(2, 0, 1)[None]


if __name__ == "__main__":
    run_peer(PeerScript(train_network, predict_labels, export_network), backbone="lite0", epochs=3)
