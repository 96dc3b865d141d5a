"""Writes the ImageNet weights that bestiary bundles as a state dict for timm, and checks that both compute the same.

    python benchmarks/peers/torch_weights.py lite0 WEIGHTS.pt [PICTURE…]

Run with an environment that has bestiary[torch]. The file, without the ImageNet classifier, is for
`timm.create_model("tf_efficientnet_lite0", num_classes=0)`. Prints the largest difference of the features of each
picture from those of bestiary's graph, and fails if one exceeds TOLERANCE.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
from PIL import Image

from bestiary.models.efficientnet_lite import BACKBONES, build_backbone_graph
from bestiary.models.timm_backbone import create_timm_lite

TOLERANCE = 1e-3  # of features from 0 to 6


def measure_differences(name: str, weights: Path, pictures: list[str]) -> list[float]:
    """Return the largest difference of the features of each picture, timm's against those of bestiary's graph."""
    network = timm.create_model(f"tf_efficientnet_{name}", num_classes=0)
    network.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    network.eval()
    size = BACKBONES[name].size
    graph = build_backbone_graph(name).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    differences = []
    for path in pictures:
        pixels = np.array(Image.open(path).convert("RGB").resize((size, size)))[None]
        maps = session.run(None, {"images": pixels})[0]
        with torch.inference_mode():
            features = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
        differences.append(float(np.abs(maps.mean(axis=(2, 3)) - features.numpy()).max()))
    return differences


def main() -> None:
    name, weights, *pictures = sys.argv[1:]
    torch.save(create_timm_lite(name).state_dict(), weights)
    differences = measure_differences(name, Path(weights), pictures)
    print(f"largest differences of features: {[f'{value:.1e}' for value in differences]}")
    if any(value > TOLERANCE for value in differences):
        raise SystemExit(f"{weights} does not compute what bestiary's graph computes.")


if __name__ == "__main__":
    main()
