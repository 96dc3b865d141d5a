"""The probe: features of a frozen pretrained backbone, computed once and kept, and a linear head fitted in seconds.

No torch: the backbone is a graph, run by OpenVINO or ONNX Runtime; the head is scikit-learn's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestiary.batches.decoding import Pinned, View
from bestiary.batches.pixels import PIXELS_VERSION, pixel_batches
from bestiary.batches.store import ArrayStore
from bestiary.machine import keep_memory, one_blas_thread
from bestiary.models.engine import Precision, bulk_engine, has_openvino
from bestiary.models.head import Head
from bestiary.models.lite import BACKBONES, built_trunk
from bestiary.models.pooling import pooled_graph
from bestiary.progress import Reporter
from bestiary.training.scores import loss_and_macro_f1

MAX_ITERATIONS = 500
PROBE_BALANCES = ("none", "class-weights")

Features = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """Features float32 (n, channels) with the position of each picture's class, int64 (n,)."""

    features: Features
    labels: npt.NDArray[np.int64]


def feature_store(cache: Path, trunk: Path, view: View, precision: Precision, channels: int) -> ArrayStore:
    """Return the store of float16 (channels,) features for this trunk and this way of looking at pictures."""
    name = f"{trunk.stem}-{view.fit}-{precision}-v{PIXELS_VERSION}"
    return ArrayStore(cache / "features" / name, (channels,), np.float16)


def fill_features(
    store: ArrayStore,
    paths: Sequence[Path],
    keys: Sequence[str],
    trunk: Path,
    view: View,
    *,
    precision: Precision,
    threads: int,
    reporter: Reporter,
) -> None:
    """Compute the features that the store lacks: the mean of the trunk's maps over all places.

    keys: the SHA-256 of the files. Raises SourceError if a file cannot be read any more, or has other content.
    """
    missing = store.missing(keys)
    if not missing:
        return
    engine = bulk_engine(pooled_graph(trunk), threads=threads, precision=precision)
    wanted = [keys[at] for at in missing]
    files = [Pinned(paths[at], keys[at]) for at in missing]
    batches = pixel_batches(files, view, threads=threads, batch_size=engine.batch_size)
    with reporter.task("Computing features", len(missing)) as advance, store.writing() as segment:
        start = 0
        for outputs in engine.stream(batches):
            rows = outputs["features"]
            segment.append(wanted[start : start + len(rows)], rows.astype(np.float16))
            start += len(rows)
            advance(len(rows))


def bulk_features(
    paths: Sequence[Path],
    keys: Sequence[str],
    backbone: str,
    view: View,
    *,
    cache: Path,
    threads: int,
    reporter: Reporter,
) -> Features:
    """Return the features of pictures by a bundled backbone, float32 (n, channels); the cache is filled first.

    In bfloat16 where OpenVINO is there, as those that a probe is trained on. keys: the pictures' SHA-256.
    """
    keep_memory()
    trunk = built_trunk(backbone, cache / "trunks", view.size)
    precision: Precision = "bfloat16" if has_openvino() else "float32"
    store = feature_store(cache, trunk, view, precision, BACKBONES[backbone].channels)
    fill_features(store, paths, keys, trunk, view, precision=precision, threads=threads, reporter=reporter)
    return store.read(keys, np.float32)


def fit_head(
    train: Labelled, val: Labelled, classes: int, *, strengths: Sequence[float], balance: str
) -> tuple[Head, list[dict[str, Any]]]:
    """Return the linear head with the lowest validation loss, and one history line for each strength C tried.

    Features are standardised by the training split; the standardisation is folded into the head's weights. The path
    goes from strong regularisation (small C) to weak, each step starting from the one before. `train.features` is
    standardised in place.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = train.features.mean(axis=0), train.features.std(axis=0) + np.float32(1e-6)
    seen = train.features  # the only large array: a copy would make memory grow twice as fast with the collection
    seen -= mean
    seen /= scale
    weights = "balanced" if balance == "class-weights" else None
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True, class_weight=weights)
    heads, history = list[Head](), list[dict[str, Any]]()
    for step, strength in enumerate(sorted(strengths), start=1):
        started = time.perf_counter()
        with one_blas_thread():
            model.set_params(C=strength).fit(seen, train.labels)
        heads.append(_folded(model.coef_, model.intercept_, mean, scale, classes))
        here = _folded(model.coef_, model.intercept_, np.zeros_like(mean), np.ones_like(scale), classes)
        train_loss, _ = loss_and_macro_f1(seen @ here.weight.T + here.bias, train.labels)
        history.append(_line(step, strength, heads[-1], train_loss, val, time.perf_counter() - started))
    best = int(np.argmin([line["val_loss"] for line in history]))
    history[best]["chosen"] = True
    return heads[best], history


def _folded(coefficients: Array, intercept: Array, mean: Array, scale: Array, classes: int) -> Head:
    if classes == 2:  # scikit-learn keeps one row for two classes; the softmax of minus and plus half of it is the same
        coefficients, intercept = np.vstack([-coefficients, coefficients]) / 2, np.hstack([-intercept, intercept]) / 2
    weight = coefficients / scale
    bias = intercept - weight @ mean
    return Head(weight.astype(np.float32), bias.astype(np.float32), "average")


def _line(step: int, strength: float, head: Head, train_loss: float, val: Labelled, seconds: float) -> dict[str, Any]:
    val_loss, val_macro_f1 = loss_and_macro_f1(val.features @ head.weight.T + head.bias, val.labels)
    return {
        "epoch": step,
        "train_loss": train_loss,
        "val_loss": val_loss,
        "val_macro_f1": val_macro_f1,
        "learning_rate": None,
        "seconds": round(seconds, 3),
        "regularisation": strength,
    }
