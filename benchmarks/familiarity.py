"""Compares out-of-distribution scores on the same features.

    python benchmarks/familiarity.py PICTURES --labels animals10 [--seeds 3] [--ood FOLDER ...]

Leave-one-class-out: the model is trained without a class, whose pictures are then out of distribution; for each class
with 100 pictures or more. Drawn images, and pictures in the folders of --ood, are scored by a model of all classes.
Prints AUROC against the test split, and the false positive rate (FPR) at the threshold that accepts 95 % of it.
Features come from the cache folder, or are computed first. Nothing is fitted on an OOD image or on a test picture.
"""

from __future__ import annotations

import io
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image
from sklearn.metrics import roc_auc_score

from bestiary import flow
from bestiary.batches.feature_matrix import fit_scaler
from bestiary.context import Context
from bestiary.data.split import SplitItem, stratified_group_split
from bestiary.demo.creatures import CREATURES
from bestiary.demo.dataset import draw_creature, draw_ood_image
from bestiary.export.graph import OutputCalibration
from bestiary.machine import disable_malloc_trim
from bestiary.models.backbones import bundled_backbone
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.engine import Engine
from bestiary.models.features import FeatureCache, LabelledFeatures
from bestiary.models.logistic_regression import linear_logits
from bestiary.models.ood import PrincipalSubspace
from bestiary.preprocess import Preprocessing
from bestiary.training.probe import fit_head
from measuring import build_picture_parser, format_mean

MIN_PICTURES, C_VALUE, IMAGES_PER_SET = 100, 0.01, 120
Array = npt.NDArray[Any]
Scores = dict[str, Array]
Results = dict[tuple[str, str], list[tuple[float, float]]]  # by score and OOD set: AUROC and FPR of each seed


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite2", backbones=BACKBONES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ood", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    disable_malloc_trim()
    pictures = flow.audit(arguments.pictures, labels=arguments.labels).pictures.filter(pl.col("error").is_null())
    preprocess = Preprocessing(BACKBONES[arguments.backbone].size)
    cache = FeatureCache(bundled_backbone(arguments.backbone), preprocess, "float32", Context())
    features, labels = load_features(pictures, cache), pictures["label"].to_numpy()
    engine = cache.load_engine()
    ood_sets = iter_ood_sets(preprocess, arguments.ood)
    ood_features = {name: compute_features(images, engine) for name, images in ood_sets}
    items = [SplitItem(*row) for row in pictures.select("sha256", "label", "group").iter_rows()]
    results: Results = defaultdict(list)
    for seed in range(arguments.seeds):
        splits = np.array(stratified_group_split(items, {"test": 0.15, "val": 0.15}, seed=seed))
        for left_out in [None, *list_large_classes(labels)]:
            in_distribution = labels != left_out if left_out else np.ones(len(labels), bool)
            compute_scores = fit_scores(features, labels, splits, in_distribution)
            test_scores = compute_scores(features[in_distribution & (splits == "test")])
            ood = {f"without {left_out}": features[~in_distribution]} if left_out else ood_features
            for name, rows in ood.items():
                for score, values in compute_scores(rows).items():
                    results[score, name].append(compute_auroc_and_fpr(test_scores[score], values))
        print(f"seed {seed} done", flush=True)
    print_summary(results)


def list_large_classes(labels: Array) -> list[str]:
    names, counts = np.unique(labels, return_counts=True)
    return [str(name) for name, count in zip(names, counts, strict=True) if count >= MIN_PICTURES]


def fit_scores(features: Array, labels: Array, splits: Array, in_distribution: Array) -> Callable[[Array], Scores]:
    """Return a function from features to scores, which are higher for in-distribution pictures."""
    class_indices = {name: index for index, name in enumerate(sorted(set(labels[in_distribution])))}
    train, val = (
        LabelledFeatures(features[rows].copy(), np.array([class_indices[name] for name in labels[rows]], np.int64))
        for rows in (in_distribution & (splits == "train"), in_distribution & (splits == "val"))
    )
    subspace, (mean, scale) = PrincipalSubspace.fit(train.features), fit_scaler(train.features)
    # fit_head also standardises train.features
    head, _ = fit_head(train, val, len(class_indices), c_values=[C_VALUE], balance="none")
    neighbours = normalise(train.features[:])
    logits = linear_logits(val.features, head.weight, head.bias)
    energy = OutputCalibration.fit(logits, 1.0)
    energy_and_subspace = OutputCalibration.fit(logits, 1.0, val.features, subspace)

    def compute_scores(rows: Array) -> Scores:
        logits = rows @ head.weight.T + head.bias
        top = np.sort(logits, axis=1)
        cosine = normalise((rows - mean) / scale) @ neighbours.T
        return {
            "energy": energy.familiarity(logits),
            "largest probability": -np.log(np.exp(logits - top[:, -1:]).sum(axis=1)),
            "ten nearest": -np.partition(-cosine, 10, axis=1)[:, :10].mean(axis=1),
            "inside the subspace": subspace.inside_norm(rows),
            "bestiary: both": energy_and_subspace.familiarity(logits, rows),
        }

    return compute_scores


def normalise(rows: Array) -> Array:
    unit_rows: Array = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)
    return unit_rows


def compute_auroc_and_fpr(test_scores: Array, ood_scores: Array) -> tuple[float, float]:
    y_true = np.concatenate([np.ones(len(test_scores)), np.zeros(len(ood_scores))])
    auroc = float(roc_auc_score(y_true, np.concatenate([test_scores, ood_scores])))
    return auroc, float(np.mean(ood_scores >= np.quantile(test_scores, 0.05)))


def load_features(pictures: pl.DataFrame, cache: FeatureCache) -> Array:
    """Return the features of each picture, float32 (n, channels), computed first where the cache lacks them."""
    rows = cache.features([Path(path) for path in pictures["path"]], pictures["sha256"].to_list())[:]
    return rows.astype(np.float32)


def compute_features(images: list[Array], engine: Engine) -> Array:
    return np.concatenate([outputs["features"] for outputs in engine.stream(image[None] for image in images)])


def iter_ood_sets(preprocess: Preprocessing, folders: list[Path]) -> Iterator[tuple[str, list[Array]]]:
    """Yield the name and the images, uint8 (size, size, 3), of each set of out-of-distribution images."""
    rng, side = np.random.default_rng(0), preprocess.size
    yield "noise", [draw_noise(rng, side, kind % 5) for kind in range(IMAGES_PER_SET)]
    yield "gradients", [draw_gradient(rng, side) for _ in range(IMAGES_PER_SET // 2)]
    yield "textures", [draw_texture(rng, side, kind % 4) for kind in range(IMAGES_PER_SET)]
    yield "drawn, of nothing", [preprocess_image(draw_ood_image(seed), preprocess) for seed in range(IMAGES_PER_SET)]
    kinds = list(CREATURES)
    creatures = (draw_creature(kinds[seed % len(kinds)], np.random.default_rng(seed)) for seed in range(IMAGES_PER_SET))
    yield "drawn creatures", [preprocess_image(creature, preprocess) for creature in creatures]
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
        step = max(1, len(files) // IMAGES_PER_SET)
        yield folder.name, [preprocess.load_pixels(path) for path in files[::step][:IMAGES_PER_SET]]


def preprocess_image(image: Image.Image, preprocess: Preprocessing) -> Array:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return preprocess.load_pixels(stream.getvalue())


def draw_noise(rng: np.random.Generator, side: int, kind: int) -> Array:
    """Return uniform, normal, smooth, blocky or 1/f noise."""
    if kind == 0:
        return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    if kind == 1:
        return np.clip(rng.normal(128, rng.uniform(10, 60), (side, side, 3)), 0, 255).astype(np.uint8)
    if kind in (2, 3):
        cells = int(rng.integers(8, 130))
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        how = Image.Resampling.BILINEAR if kind == 2 else Image.Resampling.NEAREST
        return np.asarray(small.resize((side, side), how))
    waves = np.fft.fftfreq(side)
    frequencies = np.hypot(waves[:, None], waves)
    frequencies[0, 0] = 1
    clouds = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequencies ** rng.uniform(0.7, 1.6)).real
    grey = (255 * (clouds - clouds.min()) / np.ptp(clouds)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def draw_gradient(rng: np.random.Generator, side: int) -> Array:
    turn, line = rng.uniform(0, 2 * np.pi), np.linspace(0, 1, side)
    ramp = np.cos(turn) * line[:, None] + np.sin(turn) * line
    return colour_ramp(rng, (ramp - ramp.min()) / np.ptp(ramp))


def draw_texture(rng: np.random.Generator, side: int, kind: int) -> Array:
    """Return waves, a chequerboard, stripes or cells, in two colours with some noise."""
    y, x = np.mgrid[0:side, 0:side]
    if kind == 0:
        ramp = np.sin(x / rng.uniform(1, 15)) * np.sin(y / rng.uniform(1, 15)) / 2 + 0.5
    elif kind == 1:
        cell = int(rng.integers(2, 40))
        ramp = ((x // cell + y // cell) % 2).astype(float)
    elif kind == 2:
        turn = rng.uniform(0, np.pi)
        ramp = np.sin((x * np.cos(turn) + y * np.sin(turn)) / rng.uniform(1, 12)) / 2 + 0.5
    else:
        points = rng.uniform(0, side, (int(rng.integers(10, 200)), 2))
        ramp = np.sqrt(((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).min(axis=-1))
        ramp = ramp / ramp.max()
    return colour_ramp(rng, ramp, rng.uniform(0, 15))


def colour_ramp(rng: np.random.Generator, ramp: Array, grain: float = 0.0) -> Array:
    first, second = rng.integers(0, 256, (2, 3))
    mixed = ramp[..., None] * first + (1 - ramp[..., None]) * second + rng.normal(0, grain, (*ramp.shape, 1))
    pixels: Array = np.clip(mixed, 0, 255).astype(np.uint8)
    return pixels


def print_summary(results: Results) -> None:
    for score in dict.fromkeys(name for name, _ in results):
        print(f"\n{score:28} {'AUROC (from, to)':>24} {'FPR at 95 %':>24}")
        names = [name for key, name in results if key == score]
        left_out = [name for name in names if name.startswith("without ")]
        seeds = range(len(results[score, names[0]]))
        aurocs, rates = (
            [statistics.mean(results[score, name][seed][column] for name in left_out) for seed in seeds]
            for column in (0, 1)
        )
        print(f"{'without a class, mean':28} {format_mean(aurocs):>24} {format_mean(rates):>24}")
        for name in names:
            aurocs, rates = ([result[column] for result in results[score, name]] for column in (0, 1))
            print(f"{name:28} {format_mean(aurocs):>24} {format_mean(rates):>24}")


if __name__ == "__main__":
    main()
