"""How well pictures of no class are told from those of a class: scores held against each other on the same features.

    python benchmarks/familiarity.py PICTURES --labels animals10 [--seeds 3] [--strangers FOLDER ...]

Leave one class out: train on the other nine, the pictures of the tenth are unknown; over the classes of at least 100
pictures. Strangers: pictures of no class, drawn here, and those in folders named with --strangers, against a model of
all classes. AUROC against the test split, and the share of strangers that is answered where 95 % of it are (FPR).
Features come from the cache folder, or are computed first. Nothing is fitted on a stranger or on a test picture.
"""

from __future__ import annotations

import argparse
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
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.engine import Engine
from bestiary.models.features import FeatureCache, LabelledFeatures
from bestiary.models.logistic_regression import linear_logits
from bestiary.models.ood import PrincipalSubspace
from bestiary.preprocess import Preprocessing
from bestiary.training.probe import fit_head

LARGE, STRENGTH, OF_EACH = 100, 0.01, 120
Array = npt.NDArray[Any]
Scores = dict[str, Array]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--backbone", choices=sorted(BACKBONES), default="lite2")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--strangers", type=Path, nargs="*", default=[])
    asked = options.parse_args()
    disable_malloc_trim()
    pictures = flow.audit(asked.pictures, labels=asked.labels).pictures.filter(pl.col("error").is_null())
    view = Preprocessing(BACKBONES[asked.backbone].size)
    cache = FeatureCache(asked.backbone, view, "float32", Context())
    features, labels = features_of(pictures, cache), pictures["label"].to_numpy()
    engine = cache.load_engine()
    strange = {name: strangers_features(made, engine) for name, made in strangers(view, asked.strangers)}
    items = [SplitItem(*row) for row in pictures.select("sha256", "label", "group").iter_rows()]
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for seed in range(asked.seeds):
        parts = np.array(stratified_group_split(items, {"test": 0.15, "val": 0.15}, seed=seed))
        for left_out in [None, *large(labels)]:
            known = labels != left_out if left_out else np.ones(len(labels), bool)
            scores = fitted(features, labels, parts, known)
            ours = scores(features[known & (parts == "test")])
            others = {f"without {left_out}": features[~known]} if left_out else strange
            for name, rows in others.items():
                for score, values in scores(rows).items():
                    found[score, name].append(judged(ours[score], values))
        print(f"seed {seed} done", flush=True)
    summarise(found)


def large(labels: Array) -> list[str]:
    names, counts = np.unique(labels, return_counts=True)
    return [str(name) for name, count in zip(names, counts, strict=True) if count >= LARGE]


def fitted(features: Array, labels: Array, parts: Array, known: Array) -> Callable[[Array], Scores]:
    """Return a function from features to scores, each the higher the more familiar."""
    place = {name: at for at, name in enumerate(sorted(set(labels[known])))}
    train, val = (
        LabelledFeatures(features[rows].copy(), np.array([place[name] for name in labels[rows]], np.int64))
        for rows in (known & (parts == "train"), known & (parts == "val"))
    )
    space, (mean, scale) = PrincipalSubspace.fit(train.features), fit_scaler(train.features)
    head, _ = fit_head(train, val, len(place), c_values=[STRENGTH], balance="none")  # standardises train in place
    neighbours = unit(train.features[:])
    logits = linear_logits(val.features, head.weight, head.bias)
    energy, both = OutputCalibration.fit(logits, 1.0), OutputCalibration.fit(logits, 1.0, val.features, space)

    def scores(rows: Array) -> Scores:
        here = rows @ head.weight.T + head.bias
        top = np.sort(here, axis=1)
        cosine = unit((rows - mean) / scale) @ neighbours.T
        return {
            "energy": energy.familiarity(here),
            "largest probability": -np.log(np.exp(here - top[:, -1:]).sum(axis=1)),
            "ten nearest": -np.partition(-cosine, 10, axis=1)[:, :10].mean(axis=1),
            "inside the subspace": space.inside_norm(rows),
            "bestiary: both": both.familiarity(here, rows),
        }

    return scores


def unit(rows: Array) -> Array:
    lengths: Array = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)
    return lengths


def judged(ours: Array, others: Array) -> tuple[float, float]:
    truth = np.concatenate([np.ones(len(ours)), np.zeros(len(others))])
    auroc = float(roc_auc_score(truth, np.concatenate([ours, others])))
    return auroc, float(np.mean(others >= np.quantile(ours, 0.05)))


def features_of(pictures: pl.DataFrame, cache: FeatureCache) -> Array:
    rows = cache.features([Path(path) for path in pictures["path"]], pictures["sha256"].to_list())[:]
    return rows.astype(np.float32)


def strangers_features(made: list[Array], engine: Engine) -> Array:
    return np.concatenate([outputs["features"] for outputs in engine.stream(one[None] for one in made)])


def strangers(view: Preprocessing, folders: list[Path]) -> Iterator[tuple[str, list[Array]]]:
    """Yield sets of pictures uint8 (size, size, 3) that show no animal of the collection, or a drawn one."""
    rng, side = np.random.default_rng(0), view.size
    yield "noise", [noise(rng, side, kind % 5) for kind in range(OF_EACH)]
    yield "gradients", [gradient(rng, side) for _ in range(OF_EACH // 2)]
    yield "textures", [texture(rng, side, kind % 4) for kind in range(OF_EACH)]
    yield "drawn, of nothing", [seen(draw_ood_image(seed), view) for seed in range(OF_EACH)]
    kinds = list(CREATURES)
    drawn = (draw_creature(kinds[seed % len(kinds)], np.random.default_rng(seed)) for seed in range(OF_EACH))
    yield "drawn creatures", [seen(one, view) for one in drawn]
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
        step = max(1, len(files) // OF_EACH)
        yield folder.name, [view.load_pixels(path) for path in files[::step][:OF_EACH]]


def seen(image: Image.Image, view: Preprocessing) -> Array:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return view.load_pixels(stream.getvalue())


def noise(rng: np.random.Generator, side: int, kind: int) -> Array:
    """Return even, normal, soft, blocky or cloud-like (1/f) noise."""
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
    falling = np.hypot(waves[:, None], waves)
    falling[0, 0] = 1
    made = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / falling ** rng.uniform(0.7, 1.6)).real
    grey = (255 * (made - made.min()) / np.ptp(made)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def gradient(rng: np.random.Generator, side: int) -> Array:
    turn, line = rng.uniform(0, 2 * np.pi), np.linspace(0, 1, side)
    ramp = np.cos(turn) * line[:, None] + np.sin(turn) * line
    return coloured(rng, (ramp - ramp.min()) / np.ptp(ramp))


def texture(rng: np.random.Generator, side: int, kind: int) -> Array:
    """Return waves, a chequer board, stripes or cells, in two colours with a little noise."""
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
    return coloured(rng, ramp, rng.uniform(0, 15))


def coloured(rng: np.random.Generator, ramp: Array, grain: float = 0.0) -> Array:
    one, other = rng.integers(0, 256, (2, 3))
    mixed = ramp[..., None] * one + (1 - ramp[..., None]) * other + rng.normal(0, grain, (*ramp.shape, 1))
    made: Array = np.clip(mixed, 0, 255).astype(np.uint8)
    return made


def summarise(found: dict[tuple[str, str], list[tuple[float, float]]]) -> None:
    for score in dict.fromkeys(name for name, _ in found):
        print(f"\n{score:28} {'AUROC (from, to)':>24} {'answered at 95 %':>18}")
        left_out = [name for one, name in found if one == score and name.startswith("without ")]
        means = [statistics.mean(found[score, name][seed][0] for name in left_out) for seed in range(runs(found))]
        rates = [statistics.mean(found[score, name][seed][1] for name in left_out) for seed in range(runs(found))]
        print(f"{'one class left out, mean':28} {spread(means):>24} {spread(rates):>24}")
        for one, name in found:
            if one == score:
                aurocs, answered = zip(*found[one, name], strict=True)
                print(f"{name:28} {spread(list(aurocs)):>24} {spread(list(answered)):>24}")


def runs(found: dict[tuple[str, str], list[tuple[float, float]]]) -> int:
    return len(next(iter(found.values())))


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f}, {max(values):.3f})"


if __name__ == "__main__":
    main()
