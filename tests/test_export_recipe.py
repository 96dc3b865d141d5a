"""The recipe in an exported model's metadata reproduces bestiary's predictions without bestiary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from PIL import Image

from bestiary.export.formats import FITTED, model_metadata
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.picture import Fit
from tiny_model import write_run


def pictures(folder: Path) -> list[Path]:
    """A photograph that is large and lies on its side, one with transparency, one of odd sides, one with a palette."""
    x, y = np.meshgrid(np.linspace(0, 255, 801), np.linspace(0, 255, 603))
    noise = np.random.default_rng(1).integers(0, 60, x.shape)
    scene = Image.fromarray(np.stack([x, y, noise], axis=2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    scene.save(folder / "turned.jpg", quality=80, exif=exif)
    scene.resize((31, 17)).save(folder / "odd.png")
    scene.resize((40, 90)).convert("P").save(folder / "palette.gif")
    clear = scene.resize((50, 20)).convert("RGBA")
    clear.putalpha(scene.resize((50, 20)).convert("L"))
    clear.save(folder / "clear.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("fit", FITTED)
def test_the_recipe_gives_what_bestiary_answers(fit: Fit, tmp_path: Path) -> None:
    run = write_run(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    bundle = replace(read_bundle(run), fit=fit)
    bundle.write(run)
    predictor = Predictor(run)
    recipe = model_metadata(run, bundle, "float32")["recipe"]
    for picture in pictures(tmp_path / "pictures"):
        known: dict[str, Any] = {"model": run / "model.onnx", "picture": picture}
        exec(recipe, known)
        assert known["answer"] == pytest.approx(predictor.predict(picture).probabilities, abs=1e-6), picture.name
