"""fastai's vision_learner with fine_tune: one epoch of the head, then all layers, fastai's default augmentation."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.all import Normalize
from fastai.data.transforms import RandomSplitter, get_image_files
from fastai.learner import load_learner
from fastai.vision.all import ImageDataLoaders, Resize, accuracy, aug_transforms, set_seed, vision_learner
from numpy.typing import NDArray
from PIL import Image

from peer_script import THREADS, PeerScript, Row, run_peer

SIZE = 224


def train_learner(rows: list[Row], model: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    set_seed(options.seed)
    used = [row for row in rows if row["split"] in ("train", "val")]
    table = pd.DataFrame(
        [{"path": row["path"], "label": row["label"], "is_valid": row["split"] == "val"} for row in used]
    )
    loaders = ImageDataLoaders.from_df(
        table,
        path="/",
        valid_col="is_valid",
        item_tfms=Resize(SIZE),
        batch_tfms=aug_transforms(),
        bs=min(64, len(table) // 4),
        num_workers=THREADS,
    )
    name = f"tf_efficientnet_{options.backbone}"
    if options.weights:
        loaders.add_tfms([Normalize.from_stats([0.5] * 3, [0.5] * 3, cuda=False)], "after_batch")
        learner = vision_learner(loaders, name, pretrained=False, normalize=False, metrics=accuracy)
        learner.model[0].model.load_state_dict(torch.load(options.weights, weights_only=True))
    else:
        learner = vision_learner(loaders, name, metrics=accuracy)
    with learner.no_bar():
        learner.fine_tune(options.epochs)
    learner.export(model.resolve() / "learner.pkl")  # a relative path would be under that of from_df
    weights = f"ImageNet, {options.backbone}" if options.weights else "timm's default, downloaded"
    return {"train_pictures": len(loaders.train_ds), "weights": weights, "size": SIZE}


def predict_labels(model: Path, paths: list[str]) -> list[str]:
    torch.set_num_threads(THREADS)
    learner = load_learner(model / "learner.pkl")
    loader = learner.dls.test_dl(paths, num_workers=THREADS if len(paths) > 1 else 0)
    with learner.no_bar(), learner.no_logging():
        probabilities, _ = learner.get_preds(dl=loader)
    return [str(learner.dls.vocab[index]) for index in probabilities.argmax(dim=1)]


def export_learner(model: Path, paths: list[str]) -> tuple[list[str], dict[str, Any]]:
    import onnxruntime

    learner = load_learner(model / "learner.pkl")
    torch.onnx.export(
        learner.model.eval(), (torch.zeros(1, 3, SIZE, SIZE),), model / "model.onnx", input_names=["images"]
    )
    session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
    y = [int(session.run(None, {"images": read_plainly(path)})[0].argmax()) for path in paths]
    how = "torch.onnx.export of the learner's network, pictures read with Pillow: its default filter, the middle"
    return [str(learner.dls.vocab[index]) for index in y], {"export": how}


def read_plainly(path: str) -> NDArray[np.float32]:
    """Return a picture (1, 3, SIZE, SIZE): Pillow, its default filter, the middle, -1 to 1."""
    picture = Image.open(path).convert("RGB")
    scale = SIZE / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    left, top = (picture.width - SIZE) // 2, (picture.height - SIZE) // 2
    pixels = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    return (pixels / 127.5 - 1).transpose(2, 0, 1)[None]


def split_folder(pictures: Path) -> Iterator[tuple[str, str]]:
    files = get_image_files(pictures)
    for part, rows in zip(("train", "valid"), RandomSplitter(valid_pct=0.2, seed=0)(files), strict=True):
        yield from ((str(files[row]), part) for row in rows)


if __name__ == "__main__":
    run_peer(PeerScript(train_learner, predict_labels, export_learner, split_folder), backbone="lite0", epochs=1)
