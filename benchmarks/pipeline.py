"""Training rate of `scratch`, and the cost of its input pipeline: reading from the pixel cache and from memory.

    python benchmarks/pipeline.py PICTURES [--labels animals10] [--epochs 3] [--rounds 3]

The same `fit` reads alternately from the cache and from a single batch in memory. The rates are medians over all epochs
but the first, without validation.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bestiary.array_types import Ints, Pixels
from bestiary.batches.loader import Read
from bestiary.batches.pixel_cache import fill_pixel_cache, pixel_cache
from bestiary.data.label_map import label_map
from bestiary.data.sources import list_sources
from bestiary.files import cache_folder
from bestiary.machine import available_cores
from bestiary.models.networks import Network, small_resnet
from bestiary.preprocess import Preprocessing
from bestiary.progress import SilentReporter
from bestiary.recipe_sections import AugmentConfig
from bestiary.training.loop import LoopControl, LoopSettings, ValidationMetrics, fit
from measuring import build_picture_parser


def main() -> None:
    parser = build_picture_parser(__doc__)
    parser.add_argument("--count", type=int, default=3850)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sample = draw_pictures(arguments.pictures, arguments.labels, arguments.count)
    names, labels = sample.names, sample.labels
    read_from_cache = build_reader(sample.paths, Preprocessing(128))
    batch = read_from_cache(np.arange(min(64, len(labels))))

    def read_from_memory(positions: Ints) -> Pixels:
        return batch[: len(positions)]

    rates: dict[str, list[float]] = {"cache": [], "memory": [], "memory, no augmentation": []}
    for _ in range(arguments.rounds):
        rates["cache"] += train(read_from_cache, labels, len(names), AugmentConfig(), arguments.epochs)
        rates["memory"] += train(read_from_memory, labels, len(names), AugmentConfig(), arguments.epochs)
        rates["memory, no augmentation"] += train(read_from_memory, labels, len(names), NO_AUGMENT, arguments.epochs)
    medians = {name: statistics.median(series) for name, series in rates.items()}
    for name, series in rates.items():
        print(f"{name:24} median {medians[name]:.0f} pictures per second ({min(series):.0f} to {max(series):.0f})")
    print(f"an epoch of {arguments.count} pictures: {arguments.count / medians['cache']:.1f} s")
    print(f"reading costs {1 - medians['cache'] / medians['memory']:.1%} of the rate")
    print(f"reading and augmentation cost {1 - medians['cache'] / medians['memory, no augmentation']:.1%}")


@dataclass(frozen=True)
class Sample:
    """Some pictures of a collection; labels: int64 (n,), positions in `names`."""

    paths: list[Path]
    labels: Ints
    names: list[str]


def draw_pictures(pictures: Path, labels: str, count: int) -> Sample:
    """Return up to `count` pictures in random order, the same in every run."""
    listing = list_sources([pictures], label_map(labels)).pictures
    sample = [listing[position] for position in np.random.default_rng(0).permutation(len(listing))[:count]]
    names = sorted({picture.label for picture in sample})
    numbers = np.array([names.index(picture.label) for picture in sample], np.int64)
    return Sample([picture.path for picture in sample], numbers, names)


def build_reader(paths: list[Path], preprocess: Preprocessing) -> Read:
    """Fill the pixel cache; return the function that reads from it by position."""
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    store = pixel_cache(cache_folder(), preprocess)
    fill_pixel_cache(store, paths, keys, preprocess, threads=available_cores(), reporter=SilentReporter())

    def read(positions: Ints) -> Pixels:
        return store.read([keys[position] for position in positions])

    return read


NO_AUGMENT = AugmentConfig(mirror=0.0, crop_min_area=1.0, colour_jitter=0.0, erasing=0.0)


def train(read: Read, labels: Ints, classes: int, augment: AugmentConfig, epochs: int) -> list[float]:
    """Return the training rate of each epoch after the first, in pictures per second."""
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

    def skip_validation(_: Network) -> ValidationMetrics:
        return ValidationMetrics(1.0, 0.5)

    with tempfile.TemporaryDirectory() as folder:
        result = fit(
            small_resnet(classes),
            read,
            labels,
            skip_validation,
            settings,
            augment,
            Path(folder),
            LoopControl(),
        )
    return [line["images_per_second"] for line in result.history[1:]]


if __name__ == "__main__":
    main()
