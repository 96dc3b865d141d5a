"""Measures augmentation on real pictures: views of the probe, corners of turned pictures, the cost of TrivialAugment.

    python benchmarks/augmentation.py PICTURES [--what views,corners,policy] [--seeds 3] [--json FILE]

PICTURES: a folder for each class; classes with fewer than 180 pictures are left out. For each seed, 100 pictures of
each class are drawn for training and 80 for validation; lite0 in float32, C chosen on validation.

views: heads fitted with each `probe.views`, scored on validation pictures as they are and turned by random quarters.
corners: the middle of a picture, turned with each way to fill its corners, against the middle of the turned picture,
which has the true corners: mean cosine similarity of standardised features, and heads fitted on both.
policy: processor time of TrivialAugment on one thread.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bestiary.batches.augmentation import BatchRandom, colour_jitter, random_resized_crop, trivial_augment
from bestiary.context import Context
from bestiary.models.backbones import bundled_backbone
from bestiary.models.engine import Engine
from bestiary.models.features import FeatureCache, LabelledFeatures
from bestiary.preprocess import Preprocessing
from bestiary.training.probe import VIEWS, default_c_values, fit_head
from measuring import build_parser

SIZE, TRAIN, VALIDATION = 224, 100, 80  # pixels; pictures of a class
CORNERS = ("reflection", "border", "zeros", "zoom")  # padding modes of torch's grid_sample, and a smaller crop
Array = npt.NDArray[Any]
Rows = list[tuple[Path, int]]  # pictures and the positions of their classes
Results = dict[str, list[float]]


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--what", default="views,corners,policy")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    classes = [sorted(folder.iterdir()) for folder in sorted(arguments.pictures.iterdir()) if folder.is_dir()]
    classes = [files for files in classes if len(files) >= TRAIN + VALIDATION]
    measures: dict[str, Callable[[int], Iterator[tuple[str, float]]]]
    results: Results = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        cache = FeatureCache(bundled_backbone("lite0"), Preprocessing(SIZE), "float32", Context(2, cache=Path(name)))
        engine = cache.load_engine()
        measures = {
            "views": lambda seed: measure_views(classes, engine, seed),
            "corners": lambda seed: measure_corners(classes, engine, seed),
            "policy": lambda seed: measure_policy(classes),
        }
        for what in arguments.what.split(","):
            for seed in range(1 if what == "policy" else arguments.seeds):
                for key, value in measures[what](seed):
                    results[f"{what}, {key}"].append(value)
                    print(f"seed {seed}, {what}, {key}: {value:.4f}", flush=True)
    for key, values in results.items():
        print(f"{key}: {statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f}, n = {len(values)})")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def draw_rows(classes: list[list[Path]], seed: int) -> tuple[Rows, Rows]:
    """Return training and validation pictures."""
    rng, train, validation = np.random.default_rng(seed), Rows(), Rows()
    for label, files in enumerate(classes):
        drawn = [(files[position], label) for position in rng.permutation(len(files))[: TRAIN + VALIDATION]]
        train += drawn[:TRAIN]
        validation += drawn[TRAIN:]
    return train, validation


def compute_features(engine: Engine, images: Array) -> Array:
    """Return features float32 (n, channels) of uint8 (n, size, size, 3)."""
    batches = (images[start : start + engine.batch_size] for start in range(0, len(images), engine.batch_size))
    return np.concatenate([np.array(outputs["features"], np.float32) for outputs in engine.stream(batches)])


def score_head(train: list[Array], train_labels: Array, validation: Array, labels: Array) -> float:
    """Return the macro-F1 of the head fitted on the views of the training pictures, weighted as `fit_probe` does."""
    views, pictures = len(train), len(train_labels)
    weights = np.full(views * pictures, 1 / views, np.float32)
    rows = LabelledFeatures(np.concatenate(train), np.tile(train_labels, views), weights)
    c_values = default_c_values(pictures)
    history = fit_head(
        rows, LabelledFeatures(validation, labels), int(labels.max()) + 1, c_values=c_values, balance="none"
    )[1]
    return float(next(line["val_macro_f1"] for line in history if line.get("chosen")))


# ---- Views of the probe --------------------------------------------------------------------------------------------


def measure_views(classes: list[list[Path]], engine: Engine, seed: int) -> Iterator[tuple[str, float]]:
    """Yield the macro-F1 for each `probe.views`, on validation pictures as they are and turned by random quarters."""
    preprocess = Preprocessing(SIZE)
    splits = draw_rows(classes, seed)
    (train, validation), (train_labels, labels) = (
        [np.stack([preprocess.load_pixels(path) for path, _ in rows]) for rows in splits],
        [np.array([label for _, label in rows]) for rows in splits],
    )
    quarters = np.random.default_rng(seed).integers(4, size=len(validation))
    turned = np.stack([np.rot90(pixels, number) for pixels, number in zip(validation, quarters, strict=True)])
    tested = {"as they are": compute_features(engine, validation), "turned": compute_features(engine, turned)}
    cache = FeatureCache(bundled_backbone("lite0"), preprocess, "float32", Context())
    features: dict[str, Array] = {}
    for name, views in VIEWS.items():
        for view in views:
            key = json.dumps(view)
            if key not in features:
                shown = FeatureCache(cache.backbone, preprocess, "float32", Context(), **view).view(train)
                features[key] = compute_features(engine, shown)
        for kind, rows in tested.items():
            own = [features[json.dumps(view)].copy() for view in views]
            yield f"{name}, validation {kind}, macro-F1", score_head(own, train_labels, rows, labels)


# ---- Corners of turned pictures ------------------------------------------------------------------------------------


def measure_corners(classes: list[list[Path]], engine: Engine, seed: int) -> Iterator[tuple[str, float]]:
    """Yield, for each way to fill corners, the similarity to true ones, and the macro-F1 on truly turned pictures."""
    rng, wide = np.random.default_rng(seed), Preprocessing(math.ceil(SIZE * 2**0.5), "crop")
    images: dict[tuple[str, str], list[Array]] = defaultdict(list)
    labels: dict[str, Array] = {}
    for split, rows in zip(("train", "val"), draw_rows(classes, seed), strict=True):
        labels[split] = np.array([label for _, label in rows])
        for path, _ in rows:
            pixels = torch.from_numpy(wide.load_pixels(path).copy()).permute(2, 0, 1)[None].float()
            angle = float(rng.uniform(0, 2 * math.pi))
            middle = turn(pixels, 0.0, "border", extent=2**-0.5)
            images[split, "as it is"].append(to_array(middle))
            images[split, "true"].append(to_array(turn(pixels, angle, "border", extent=2**-0.5)))
            inner = 1 / (abs(math.cos(angle)) + abs(math.sin(angle)))  # the largest square without empty corners
            for corner in CORNERS:
                padding, extent = ("border", inner) if corner == "zoom" else (corner, 1.0)
                images[split, corner].append(to_array(turn(middle, angle, padding, extent=extent)))
    features = {
        key: compute_features(engine, np.stack(parts)) for key, parts in images.items() if key != ("train", "true")
    }
    base = features["train", "as it is"]
    mean, scale = base.mean(axis=0), base.std(axis=0) + 1e-3
    true = (features["val", "true"] - mean) / scale
    for corner in ("as it is", *CORNERS):
        own = (features["val", corner] - mean) / scale
        cosines = (own * true).sum(axis=1) / np.linalg.norm(own, axis=1) / np.linalg.norm(true, axis=1)
        yield f"{corner}, cosine similarity", float(cosines.mean())
        train = [base.copy()] if corner == "as it is" else [base.copy(), features["train", corner].copy()]
        yield f"{corner}, macro-F1", score_head(train, labels["train"], features["val", "true"], labels["val"])


def turn(pixels: Tensor, angle: float, padding: str, *, extent: float) -> Tensor:
    """Return (1, 3, SIZE, SIZE): the middle of a square picture, `extent` of its side, turned by an angle."""
    centres = extent * ((torch.arange(SIZE) + 0.5) / SIZE * 2 - 1)
    x, y = centres[None, :], centres[:, None]
    points = torch.stack([math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y], dim=-1)
    return functional.grid_sample(pixels, points[None], mode="bilinear", padding_mode=padding, align_corners=False)


def to_array(pixels: Tensor) -> Array:
    """Return (1, 3, height, width) as uint8 (height, width, 3)."""
    array: Array = pixels[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return array


# ---- TrivialAugment ------------------------------------------------------------------------------------------------


def measure_policy(classes: list[list[Path]]) -> Iterator[tuple[str, float]]:
    """Yield processor milliseconds a picture on one thread: median of five batches of 64, beside the other parts."""
    torch.set_num_threads(1)
    files = [files[number] for number in range(10) for files in classes][:64]
    for size in (64, 128, 224):
        images = torch.from_numpy(np.stack([Preprocessing(size).load_pixels(path) for path in files]))
        pixels = images.permute(0, 3, 1, 2)
        for name, change in (
            ("TrivialAugment", trivial_augment),
            ("crop", lambda images, rng: random_resized_crop(images, rng, min_area=0.35)),
            (
                "crop, turned by any angle",
                lambda images, rng: random_resized_crop(images, rng, min_area=0.35, turn=True),
            ),
            ("colours", lambda images, rng: colour_jitter(images, rng, strength=0.3)),
        ):
            seconds = []
            for number in range(6):
                rng = BatchRandom(torch.Generator().manual_seed(number))
                began = time.process_time()
                change(pixels, rng)
                seconds.append(time.process_time() - began)
            yield f"{name} at {size} px, ms", 1000 * statistics.median(seconds[1:]) / len(pixels)


if __name__ == "__main__":
    main()
