"""AutoGluon MultiModal on pictures: timm's network from a local checkpoint, its own settings and a time limit.

The checkpoint is a folder of `config.json` and `pytorch_model.bin`, written from --weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from autogluon.multimodal import MultiModalPredictor
from autogluon.multimodal.data.utils import split_train_tuning_data

from peer_script import THREADS, PeerScript, Row, run_peer

SIZES = {"lite0": 224, "lite2": 260}


def train_predictor(rows: list[Row], model: Path, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(THREADS)
    tables = {split: to_table(rows, split) for split in ("train", "val")}
    name = f"tf_efficientnet_{options.backbone}"
    checkpoint = write_checkpoint(options.weights, options.backbone, model) if options.weights else name
    predictor = MultiModalPredictor(label="label", problem_type="multiclass", path=str(model / "predictor"))
    predictor.fit(
        train_data=tables["train"],
        tuning_data=tables["val"],
        seed=options.seed,
        time_limit=float(options.seconds),
        column_types={"image": "image_path"},
        hyperparameters={
            "model.names": ["timm_image"],
            "model.timm_image.checkpoint_name": str(checkpoint),
            "optim.max_epochs": options.epochs,
            "env.num_gpus": 0,
            "env.num_workers": THREADS,
            "env.num_workers_inference": THREADS,
        },
    )
    weights = f"ImageNet, {options.backbone}" if options.weights else "timm's default, downloaded"
    return {"train_pictures": len(tables["train"]), "weights": weights, "size": SIZES[options.backbone]}


def to_table(rows: list[Row], split: str) -> pd.DataFrame:
    return pd.DataFrame([{"image": row["path"], "label": row["label"]} for row in rows if row["split"] == split])


def write_checkpoint(weights: Path, backbone: str, model: Path) -> Path:
    folder = (model / "checkpoint").resolve()
    folder.mkdir(exist_ok=True)
    shutil.copy(weights, folder / "pytorch_model.bin")
    size = SIZES[backbone]
    own = {"input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"architecture": f"tf_efficientnet_{backbone}", "num_features": 1280, "pretrained_cfg": own}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def predict_labels(model: Path, paths: list[str]) -> list[str]:
    torch.set_num_threads(THREADS)
    return predict_with(MultiModalPredictor.load(str(model / "predictor")), paths)


def predict_with(predictor: MultiModalPredictor, paths: list[str]) -> list[str]:
    return [str(label) for label in predictor.predict(pd.DataFrame({"image": paths}), as_pandas=False)]


def export_predictor(model: Path, paths: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Exports with export_onnx; AutoGluon's own preprocessing makes the inputs, so the graph alone is compared."""
    predictor = MultiModalPredictor.load(str(model / "predictor"))
    table = pd.DataFrame({"image": paths})
    module = predictor.optimize_for_inference(providers=["CPUExecutionProvider"])
    return predict_with(predictor, table["image"].tolist()), {
        "export": f"optimize_for_inference ({type(module).__name__}), pictures read by AutoGluon"
    }


def split_folder(pictures: Path) -> Iterator[tuple[str, str]]:
    paths = sorted(str(path) for path in pictures.glob("*/*"))
    table = pd.DataFrame({"image": paths, "label": [Path(path).parent.name for path in paths]})
    for part, chosen in zip(
        ("train", "tuning"),
        split_train_tuning_data(table, problem_type="multiclass", label_column="label", random_state=0),
        strict=True,
    ):
        yield from ((path, part) for path in chosen["image"])


if __name__ == "__main__":
    script = PeerScript(train_predictor, predict_labels, export_predictor, split_folder)
    run_peer(script, backbone="lite0", epochs=20, seconds="600")
