"""Prediction in plain torch and timm with the same network, for comparison with bestiary.

    python benchmarks/plain/predict_torch.py CHECKPOINT FILE...        one label per line

Uses a DataLoader with a worker for each core, batches of 32, inference mode, and float32.
"""

from __future__ import annotations

import os
import sys

import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

SIZE = 260


class Files(Dataset[torch.Tensor]):
    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        self._transform = transforms.Compose(
            [
                transforms.Resize((SIZE, SIZE), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index]) as image:
            pixels: torch.Tensor = self._transform(image.convert("RGB"))
        return pixels


def main() -> None:
    checkpoint, *paths = sys.argv[1:]
    model = timm.create_model("tf_efficientnet_lite2", num_classes=10)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    model.eval()
    workers = 0 if len(paths) == 1 else len(os.sched_getaffinity(0))
    with torch.inference_mode():
        for images in DataLoader(Files(paths), batch_size=32, num_workers=workers):
            for probabilities in model(images).softmax(dim=1):
                print(int(probabilities.argmax()), float(probabilities.max()))


if __name__ == "__main__":
    main()
