"""A plain script for comparison: torch features from a DataLoader, scikit-learn's logistic regression.

    python benchmarks/plain_script.py RUN/pictures.parquet

The table (`path, label, split`) fixes the split, so that the scores can be compared with those of the run.
Prints the scores on the test pictures as a JSON object.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import polars as pl
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bestiary.models.timm_backbone import create_timm_lite
from measuring import RARE_CLASSES

C_VALUES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


class Pictures(Dataset[torch.Tensor]):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        steps = [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> torch.Tensor:
        with Image.open(self.paths[position]) as picture:
            image: torch.Tensor = self.transform(picture.convert("RGB"))
        return image


def compute_features(network: torch.nn.Module, paths: list[str]) -> np.ndarray:
    loader = DataLoader(Pictures(paths), batch_size=32, num_workers=2)
    with torch.inference_mode():
        return np.concatenate([network(images).mean(dim=(2, 3)).numpy() for images in loader])


def main() -> None:
    table = pl.read_parquet(sys.argv[1]).filter(pl.col("split").is_not_null())
    # timm's tf_efficientnet_lite0; a function of bestiary only reads the packaged weights
    network = create_timm_lite("lite0").eval()
    splits = {name: table.filter(pl.col("split") == name) for name in ("train", "val", "test")}
    features = {name: compute_features(network, split["path"].to_list()) for name, split in splits.items()}
    labels = {name: split["label"].to_numpy() for name, split in splits.items()}
    heads = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c_value, max_iter=500)).fit(
            features["train"], labels["train"]
        )
        for c_value in C_VALUES
    ]
    best = max(heads, key=lambda head: head.score(features["val"], labels["val"]))
    y_pred = best.predict(features["test"])
    classes = sorted(set(labels["test"]))
    f1 = dict(zip(classes, f1_score(labels["test"], y_pred, labels=classes, average=None), strict=True))
    without_rare = [value for name, value in f1.items() if name not in RARE_CLASSES]
    print(json.dumps({"macro_f1": float(np.mean(list(f1.values()))), "without_rare": float(np.mean(without_rare))}))


if __name__ == "__main__":
    main()
