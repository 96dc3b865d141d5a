"""Scores of known and new sites on a drawn collection whose truth is known, over many seeds.

    python benchmarks/field.py [--pool 200] [--per-site 300] [--sites 40] [--seeds 20] [--side 96] [--features FILE.npz]

Draws a pool of camera sites. A site has its own background, light, camera and mix of animals, and its pictures come in
bursts of one to eight frames, in which the animal moves a little. Each seed takes `--sites` sites of the pool as the
collection, measures what `train --site --group` reports (`evaluation/group_scores.py`, on features of lite0), and the
truth: the accuracy of a head fitted on the whole collection, on all pictures of the other sites. Prints for each seed
both with the interval, and at the end how often the interval contains the truth, and the bias of a random split as
estimated and in truth. Seeds share the pool, so that they are not fully independent.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from bestiary.context import Context
from bestiary.demo.backgrounds import random_background
from bestiary.demo.canvas import Canvas, Pose, random_coat
from bestiary.demo.creatures import CREATURES
from bestiary.evaluation.group_scores import FOLDS, GROUPED, NEW_SITES, RANDOM, FoldPredictor, compare_group_scores
from bestiary.models.backbones import bundled_backbone
from bestiary.models.features import FeatureCache, LabelledFeatures
from bestiary.models.logistic_regression import linear_logits
from bestiary.preprocess import Preprocessing
from bestiary.training.probe import fit_head
from measuring import build_parser, count_cores, read_processor_name

KINDS = tuple(CREATURES)
C_VALUE = 0.003
BATCH = 256


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--pool", type=int, default=200)
    parser.add_argument("--per-site", type=int, default=300)
    parser.add_argument("--sites", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--features", type=Path, help="features of the pool: read if the file exists, else written")
    arguments = parser.parse_args()
    print(f"{read_processor_name()}, {count_cores()} cores; pool of {arguments.pool} sites, {arguments.per_site} each")
    features, labels, sites, bursts = load_pool(arguments)
    inside, rows = 0, []
    for seed in range(arguments.seeds):
        chosen = np.random.default_rng(seed).permutation(arguments.pool)[: arguments.sites]
        scores, truth = measure_seed(features, labels, sites, bursts, chosen, seed)
        new = scores["ways"][NEW_SITES]["accuracy"]
        is_inside = new["low"] <= truth <= new["high"]
        inside += is_inside
        ways = {name: way["accuracy"]["value"] for name, way in scores["ways"].items()}
        rows.append((ways[RANDOM], ways[GROUPED], ways[NEW_SITES], truth))
        print(
            f"seed {seed:2}: random {ways[RANDOM]:.3f}, known sites {ways[GROUPED]:.3f}, new sites {new['value']:.3f}"
            f" ({new['low']:.3f} to {new['high']:.3f}), truth {truth:.3f}{'' if is_inside else '  OUTSIDE'}",
            flush=True,
        )
    random, grouped, estimate, truth = np.array(rows).mean(axis=0)
    print(f"the interval contains the truth in {inside} of {arguments.seeds}")
    print(f"mean: random {random:.3f}, known sites {grouped:.3f}, new sites {estimate:.3f}, truth {truth:.3f}")
    print(
        f"bias of a random split: estimated {100 * (random - estimate):.1f}, true {100 * (random - truth):.1f} points"
    )


def load_pool(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features (n, channels), labels, sites and bursts (n,) of the pool."""
    path = arguments.features
    if path is not None and path.exists():
        stored = np.load(path)
        _, first = np.unique(stored["sites"], return_index=True)
        used = np.arange(len(stored["sites"])) - first[stored["sites"]] < arguments.per_site
        return stored["features"][used], stored["labels"][used], stored["sites"][used], stored["bursts"][used]
    context = Context.create(None, None)
    preprocess = Preprocessing(arguments.side, "squash")
    engine = FeatureCache(bundled_backbone("lite0"), preprocess, "float32", context).load_engine()
    labels, sites, bursts, features = [], [], [], []
    for site in range(arguments.pool):
        images, own_labels, own_bursts = draw_site(site, arguments.per_site, arguments.side)
        size = engine.batch_size
        batches = (images[start : start + size] for start in range(0, len(images), size))
        features.append(np.concatenate([outputs["features"] for outputs in engine.stream(batches)]))
        labels.append(own_labels)
        bursts.append(own_bursts + 100_000 * site)
        sites.append(np.full(len(images), site))
        if site % 20 == 19:
            print(f"drawn: {site + 1} sites", file=sys.stderr, flush=True)
    pool = tuple(np.concatenate(part) for part in (features, labels, sites, bursts))
    if path is not None:
        np.savez(path, features=pool[0], labels=pool[1], sites=pool[2], bursts=pool[3])
    return pool  # type: ignore[return-value]


def draw_site(site: int, count: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pictures uint8 (count, side, side, 3), their labels and bursts (count,) of a site."""
    rng = np.random.default_rng([20, site])
    wide = random_background((2 * side, 2 * side), rng)
    gain, tint = rng.uniform(0.35, 1.3), rng.uniform(0.8, 1.2, 3)
    blur, noise = rng.uniform(0, 1.2), rng.uniform(2, 14)
    mixture = rng.dirichlet(np.full(len(KINDS), 0.5))
    images: list[np.ndarray] = []
    labels: list[int] = []
    bursts: list[int] = []
    number = 0
    while len(images) < count:
        number += 1
        burst_seed, kind = int(rng.integers(2**31)), int(rng.choice(len(KINDS), p=mixture))
        size = min(int(rng.integers(1, 9)), count - len(images))
        radius, light = rng.uniform(0.16, 0.34) * 2 * side, gain * rng.uniform(0.8, 1.2)
        centre, turn = rng.uniform(0.3, 0.7, 2) * 2 * side, rng.normal(0, 0.25)
        flip = rng.choice([-1.0, 1.0])
        for _ in range(size):
            turn, centre = turn + rng.normal(0, 0.05), centre + rng.normal(0, 2, 2)
            matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            animal = np.random.default_rng(burst_seed)  # the same animal in each frame
            image = wide.copy()
            pose = Pose(matrix @ np.diag([flip * radius, radius]), centre)
            CREATURES[KINDS[kind]](Canvas(image, pose, random_coat(animal), animal), animal)
            image = image.resize((side, side), Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(blur))
            pixels = np.asarray(image, np.float32) * light * tint + rng.normal(0, noise, (side, side, 1))
            images.append(pixels.clip(0, 255).astype(np.uint8))
            labels.append(kind)
            bursts.append(number)
    return np.stack(images), np.array(labels), np.array(bursts)


def measure_seed(
    features: np.ndarray, labels: np.ndarray, sites: np.ndarray, bursts: np.ndarray, chosen: np.ndarray, seed: int
) -> tuple[dict[str, Any], float]:
    """Return the scores of the collection of the chosen sites, and the accuracy of its model on all other sites."""
    own = np.isin(sites, chosen)
    own_labels, own_features = labels[own].astype(np.int64), features[own]
    predictor = FoldPredictor(own_features, own_labels, len(KINDS), C_VALUE, "none", seed)
    groupings = {RANDOM: np.arange(own.sum()), GROUPED: bursts[own], NEW_SITES: sites[own]}
    indices = {name: np.unique(groups, return_inverse=True)[1].astype(np.int64) for name, groups in groupings.items()}
    predictions = {name: predictor.predict(groups, FOLDS, lambda _: None) for name, groups in indices.items()}
    clusters = indices[NEW_SITES]
    scores = compare_group_scores(own_labels, predictions, clusters, trials=len(np.unique(bursts[own])), seed=seed)
    training = LabelledFeatures(own_features.copy(), own_labels)
    head, _ = fit_head(
        training, LabelledFeatures(own_features[:10], own_labels[:10]), len(KINDS), c_values=[C_VALUE], balance="none"
    )
    predicted = linear_logits(features[~own], head.weight, head.bias).argmax(axis=1)
    by_site = [
        np.mean(predicted[sites[~own] == site] == labels[~own][sites[~own] == site]) for site in np.unique(sites[~own])
    ]
    return scores, float(np.mean(by_site))


if __name__ == "__main__":
    main()
