"""The Keras pipelines of the project that bestiary grew from (see recipes original-v1 and original-v2).

v1: the middle 150 x 150 pixels of each picture, a plain network, four epochs. v2: the whole picture, resized by
Keras's default, small classes filled up with mirrored copies, dropout, four epochs. No pretrained weights.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from peer_script import (
    THREADS,
    PeerScript,
    Row,
    list_classes,
    read_classes,
    run_peer,
    select_split,
    write_classes,
)

SIZE, BATCH = 150, 32
Pixels = NDArray[np.uint8]


def train_network(rows: list[Row], model: Path, options: argparse.Namespace) -> dict[str, Any]:
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    keras.utils.set_random_seed(options.seed)
    classes = list_classes(rows)
    images, y = read_split(rows, "train", classes, options.variant)
    validation = read_split(rows, "val", classes, options.variant)
    if options.variant == "v2":
        images, y = mirror_small_classes(images, y)
    network = build_network(len(classes), dropout=0.5 if options.variant == "v2" else 0.0)
    network.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(images, y, batch_size=BATCH, epochs=options.epochs, validation_data=validation, verbose=2)
    network.save(model / "model.keras")
    write_classes(model, classes)
    (model / "variant.txt").write_text(options.variant, encoding="utf-8")
    return {"train_pictures": len(y), "weights": "none: trained from scratch", "size": SIZE}


def build_network(classes: int, dropout: float) -> keras.Model:
    layers = [keras.layers.Input((SIZE, SIZE, 3)), keras.layers.Rescaling(1 / 255)]
    for filters in (32, 64, 128):
        layers += [keras.layers.Conv2D(filters, 3, activation="relu"), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu")]
    if dropout:
        layers.append(keras.layers.Dropout(dropout))
    return keras.Sequential([*layers, keras.layers.Dense(classes, activation="softmax")])


def mirror_small_classes(images: Pixels, y: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.int64]]:
    """Add a mirrored copy of pictures of each class smaller than the largest, up to its size."""
    largest = max(Counter(y.tolist()).values())
    rows = np.concatenate([np.flatnonzero(y == label)[: largest - int((y == label).sum())] for label in np.unique(y)])
    return np.concatenate([images, images[rows, :, ::-1]]), np.concatenate([y, y[rows]])


# ---- Pictures ------------------------------------------------------------------------------------------------------


def read_split(rows: Iterable[Row], split: str, classes: list[str], variant: str) -> tuple[Pixels, NDArray[np.int64]]:
    paths, labels = select_split(rows, split)
    return read_pictures(paths, variant), np.array([classes.index(label) for label in labels])


def read_pictures(paths: Sequence[str], variant: str) -> Pixels:
    images = np.empty((len(paths), SIZE, SIZE, 3), np.uint8)
    for number, path in enumerate(paths):
        picture = crop_middle(path) if variant == "v1" else keras.utils.load_img(path, target_size=(SIZE, SIZE))
        images[number] = np.asarray(picture)
    return images


def crop_middle(path: str) -> Image.Image:
    picture: Image.Image = keras.utils.load_img(path)
    left, top = (picture.width - SIZE) // 2, (picture.height - SIZE) // 2
    return picture.crop((left, top, left + SIZE, top + SIZE))


def read_plainly(path: str, variant: str) -> NDArray[np.float32]:
    """Return a picture as someone reads it who has the exported file only: Pillow, its default filter."""
    picture = Image.open(path).convert("RGB")
    picture = crop_middle(path) if variant == "v1" else picture.resize((SIZE, SIZE))
    return np.asarray(picture, np.float32)


# ---- After training ------------------------------------------------------------------------------------------------


def predict_labels(model: Path, paths: list[str]) -> list[str]:
    network = keras.models.load_model(model / "model.keras")
    variant = (model / "variant.txt").read_text(encoding="utf-8")
    y = network.predict(read_pictures(paths, variant), batch_size=BATCH, verbose=0).argmax(axis=1)
    classes = read_classes(model)
    return [classes[index] for index in y]


def export_network(model: Path, paths: list[str]) -> tuple[list[str], dict[str, Any]]:
    keras.models.load_model(model / "model.keras").export(model / "exported", verbose=False)
    served = tf.saved_model.load(str(model / "exported"))
    variant, classes = (model / "variant.txt").read_text(encoding="utf-8"), read_classes(model)
    y = [int(np.argmax(served.serve(read_plainly(path, variant)[None]))) for path in paths]
    how = "model.export (SavedModel), pictures read with Pillow" + (
        "" if variant == "v1" else " and its default filter"
    )
    return [classes[index] for index in y], {"export": how}


def split_folder(pictures: Path) -> Iterator[tuple[str, str]]:
    parts = keras.utils.image_dataset_from_directory(pictures, validation_split=0.2, subset="both", seed=0)
    for part, dataset in zip(("train", "val"), parts, strict=True):
        for path in dataset.file_paths:
            yield path, part


if __name__ == "__main__":
    run_peer(PeerScript(train_network, predict_labels, export_network, split_folder), epochs=4, variant="v2")
