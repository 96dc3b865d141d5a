"""Compares the training rate with that of the simplest correct PyTorch script with the same network.

    python benchmarks/plain_training.py PICTURES [--labels animals10] [--count 2000] [--epochs 3]

Both train the default network at 128 pixels with the same augmentation. The script uses torchvision's transforms on
files and a DataLoader with two workers, which decode in every epoch, in float32 with PyTorch's defaults. bestiary uses
its training loop and pixel cache. Prints the median of pictures per second over all epochs but the first.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bestiary.models.networks import small_resnet
from bestiary.preprocess import Preprocessing
from bestiary.recipe_sections import AugmentConfig
from measuring import build_picture_parser
from pipeline import build_reader, draw_pictures, train

SIZE, BATCH, WORKERS = 128, 64, 2


class Files(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, paths: list[Path], labels: list[int]) -> None:
        self.paths, self.labels = paths, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIZE, scale=(0.5, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.2, 0.2, 0.2),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[position]) as image:
            return self.transform(image.convert("RGB")) * 255, self.labels[position]


def train_plainly(paths: list[Path], labels: list[int], classes: int, epochs: int) -> list[float]:
    network = small_resnet(classes).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(Files(paths, labels), BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
    rates = []
    for _ in range(epochs):
        start, count = time.perf_counter(), 0
        for images, targets in loader:
            loss = functional.cross_entropy(network(images), targets, label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            count += len(targets)
        rates.append(count / (time.perf_counter() - start))
    return rates[1:]


def main() -> None:
    parser = build_picture_parser(__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    sample = draw_pictures(arguments.pictures, arguments.labels, arguments.count)
    labels, classes = sample.labels, len(sample.names)
    # the script first, because the loop changes how the process frees memory
    script = train_plainly(sample.paths, labels.tolist(), classes, arguments.epochs)
    # the same measurement of the loop as in benchmarks/pipeline.py
    reader = build_reader(sample.paths, Preprocessing(SIZE))
    ours = train(reader, labels, classes, AugmentConfig(), arguments.epochs)
    for name, rates in (("plain script", script), ("bestiary", ours)):
        print(f"{name:14} {statistics.median(rates):.0f} pictures per second ({min(rates):.0f} to {max(rates):.0f})")
    print(f"ratio {statistics.median(ours) / statistics.median(script):.1f}")


if __name__ == "__main__":
    main()
