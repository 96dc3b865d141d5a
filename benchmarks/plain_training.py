"""How much faster the training loop is than the plainest correct PyTorch script with the same network.

    python benchmarks/plain_training.py PICTURES [--labels animals10] [--count 2000] [--epochs 3]

Both train the default network at 128 pixels with the same augmentation. The script: torchvision's
transforms on files, a DataLoader with two workers that decode in each epoch, float32, as it comes. bestiary: its loop
on its pixel cache. Pictures a second of each epoch after the first, alternately, median.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bestiary.array_types import Ints, Pixels
from bestiary.batches.pixel_cache import fill_pixel_cache, pixel_cache
from bestiary.batches.preprocess import Preprocessing
from bestiary.data.label_map import label_map
from bestiary.data.sources import list_pictures
from bestiary.files import cache_folder
from bestiary.machine import available_cores
from bestiary.models.networks import small_resnet
from bestiary.progress import SilentReporter
from bestiary.recipe import AugmentConfig
from pipeline import train  # the same measurement of the loop as in benchmarks/pipeline.py

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


def plain(paths: list[Path], labels: list[int], classes: int, epochs: int) -> list[float]:
    network = small_resnet(classes).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(Files(paths, labels), BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
    rates = []
    for _ in range(epochs):
        began, shown = time.perf_counter(), 0
        for images, targets in loader:
            loss = functional.cross_entropy(network(images), targets, label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            shown += len(targets)
        rates.append(shown / (time.perf_counter() - began))
    return rates[1:]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--count", type=int, default=2000)
    options.add_argument("--epochs", type=int, default=3)
    asked = options.parse_args()
    listing = list_pictures(asked.pictures, label_map(asked.labels)).pictures
    chosen = [listing[at] for at in np.random.default_rng(0).permutation(len(listing))[: asked.count]]
    paths = [picture.path for picture in chosen]
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    names = sorted({picture.label for picture in chosen})
    labels = np.array([names.index(picture.label) for picture in chosen], np.int64)
    slow = plain(paths, labels.tolist(), len(names), asked.epochs)  # first: the loop changes how memory is kept
    store = pixel_cache(cache_folder(), Preprocessing(SIZE))
    fill_pixel_cache(store, paths, keys, Preprocessing(SIZE), threads=available_cores(), reporter=SilentReporter())

    def read(positions: Ints) -> Pixels:
        return store.read([keys[position] for position in positions])

    fast = train(read, labels, len(names), AugmentConfig(), asked.epochs)
    for name, rates in (("plain script", slow), ("bestiary", fast)):
        print(f"{name:14} {statistics.median(rates):.0f} pictures a second ({min(rates):.0f} to {max(rates):.0f})")
    print(f"ratio {statistics.median(fast) / statistics.median(slow):.1f}")


if __name__ == "__main__":
    main()
