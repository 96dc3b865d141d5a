"""How fast `scratch` trains, and what its input pipeline costs: the loop fed from the pixel cache, and from memory.

    python benchmarks/pipeline.py PICTURES [--labels animals10] [--epochs 3] [--rounds 3]

The same `fit` runs alternately on the real reader and on one that repeats a single batch held in memory; the figures
are medians of training rates after a warm-up epoch, without validation.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
from pathlib import Path

import numpy as np

from bestiary.array_types import Ints, Pixels
from bestiary.batches.loader import Read
from bestiary.batches.pixel_cache import fill_pixel_cache, pixel_cache
from bestiary.batches.preprocess import Preprocessing
from bestiary.data.label_map import label_map
from bestiary.data.sources import list_pictures
from bestiary.files import cache_folder
from bestiary.machine import available_cores
from bestiary.models.networks import Network, small_resnet
from bestiary.progress import SilentReporter
from bestiary.recipe import AugmentConfig
from bestiary.training.loop import LoopSettings, ValidationMetrics, fit


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--count", type=int, default=3850)
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    listing = list_pictures(asked.pictures, label_map(asked.labels)).pictures
    chosen = [listing[at] for at in np.random.default_rng(0).permutation(len(listing))[: asked.count]]
    view, keys = Preprocessing(128), [hashlib.sha256(picture.path.read_bytes()).hexdigest() for picture in chosen]
    names = sorted({picture.label for picture in chosen})
    labels = np.array([names.index(picture.label) for picture in chosen], np.int64)
    store = pixel_cache(cache_folder(), view)
    fill_pixel_cache(
        store, [picture.path for picture in chosen], keys, view, threads=available_cores(), reporter=SilentReporter()
    )
    one_batch = store.read(keys[:64])

    def from_cache(positions: Ints) -> Pixels:
        return store.read([keys[position] for position in positions])

    def from_memory(positions: Ints) -> Pixels:
        return one_batch[: len(positions)]

    rates: dict[str, list[float]] = {"cache": [], "memory": [], "memory, no augmentation": []}
    for _ in range(asked.rounds):
        rates["cache"] += train(from_cache, labels, len(names), AugmentConfig(), asked.epochs)
        rates["memory"] += train(from_memory, labels, len(names), AugmentConfig(), asked.epochs)
        rates["memory, no augmentation"] += train(from_memory, labels, len(names), NO_AUGMENT, asked.epochs)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        print(f"{name:24} median {middle[name]:.0f} pictures a second ({min(found):.0f} to {max(found):.0f})")
    print(f"an epoch of {asked.count} pictures: {asked.count / middle['cache']:.1f} s")
    print(f"reading costs {1 - middle['cache'] / middle['memory']:.1%} of the rate")
    print(f"reading and augmentation cost {1 - middle['cache'] / middle['memory, no augmentation']:.1%}")


NO_AUGMENT = AugmentConfig(mirror=0.0, crop_min_area=1.0, colour_jitter=0.0, erasing=0.0)


def train(read: Read, labels: Ints, classes: int, augment: AugmentConfig, epochs: int) -> list[float]:
    """Return the training rates of each epoch after the first, in pictures a second."""
    settings = LoopSettings(
        epochs=epochs,
        batch_size=64,
        learning_rate=0.05,
        weight_decay=5e-4,
        momentum=0.9,
        label_smoothing=0.1,
        schedule="one-cycle",
        warmup_epochs=1,
        patience_epochs=epochs,
        seed=0,
        threads=available_cores(),
    )

    def unjudged(_: Network) -> ValidationMetrics:
        return ValidationMetrics(1.0, 0.5)

    with tempfile.TemporaryDirectory() as folder:
        result = fit(
            small_resnet(classes), read, labels, unjudged, settings, augment, Path(folder), reporter=SilentReporter()
        )
    return [line["images_per_second"] for line in result.history[1:]]


if __name__ == "__main__":
    main()
