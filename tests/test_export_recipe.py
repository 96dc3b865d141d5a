"""The recipe in an exported model's metadata reproduces bestiary's predictions without bestiary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from PIL import Image

from bestiary.box import Box, Crop, find_region
from bestiary.decode_rules import FIRST_VERSION
from bestiary.export.formats import FITTED, model_metadata
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.jpeg import STEADY_INPUT
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


@pytest.mark.parametrize(
    "box",
    [(10, 20, 60, 40), (2, 3, 5, 4), (0, 0, 603, 801), (560.5, 700.25, 43, 101), (599, 0, 4, 9), (123, 57, 290, 70)],
)
def test_the_recipe_of_a_model_of_boxes_cuts_them_out(box: tuple[float, float, float, float], tmp_path: Path) -> None:
    in_pixels = Box(*box, "pixels")
    run = write_run(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    bundle = replace(read_bundle(run), crop="boxes")
    bundle.write(run)
    recipe = model_metadata(run, bundle, "float32")["recipe"]
    picture = next(path for path in pictures(tmp_path / "pictures") if path.name == "turned.jpg")
    known: dict[str, Any] = {"model": run / "model.onnx", "picture": picture, "box": box}
    exec(recipe, known)
    predicted = Predictor(run).predict(Crop(picture, in_pixels))
    assert known["answer"] == pytest.approx(predicted.probabilities, abs=1e-6)
    region = find_region(in_pixels, 603, 801)
    assert (known["left"], known["top"]) == (region.left, region.top)
    assert (known["right"], known["bottom"]) == (region.left + region.width, region.top + region.height)
    assert json.loads(model_metadata(run, bundle, "float32")["preprocessing"])["crop"] == "boxes"
    large = model_metadata(run, replace(bundle, size=STEADY_INPUT), "float32")
    assert "800 pixels a side in the box with its margin" in json.loads(large["preprocessing"])["decoding"]
    assert "1600 pixels a side or more" in large["recipe"]
    assert "file.draft" not in large["recipe"]


def test_the_recipe_names_the_pictures_that_it_does_not_reproduce(tmp_path: Path) -> None:
    run = write_run(tmp_path / "model")
    bundle = read_bundle(run)
    metadata = model_metadata(run, bundle, "float32")
    assert metadata["recipe"].startswith("# The answer of `bestiary predict`, except for pictures with")
    for exception in ("ICC", "more than 8 bits", "zero everywhere", "TIFF or TGA", "more\n# than 25 million pixels"):
        assert exception in metadata["recipe"]
    decoding = json.loads(metadata["preprocessing"])["decoding"]
    assert decoding.startswith("JPEG in full; JPEG of more than 25 million pixels at a reduced scale; ")
    for rule in ("sRGB", "deep_ranges", "alpha ignored if it is zero everywhere"):
        assert rule in decoding
    first = model_metadata(run, replace(bundle, decoding=FIRST_VERSION), "float32")
    assert "divided by\n# 257" in first["recipe"]
    assert "ICC" not in first["recipe"]
    assert json.loads(first["preprocessing"])["decoding"].startswith("JPEG at the smallest of its scales")
    large = model_metadata(run, replace(bundle, size=STEADY_INPUT), "float32")
    assert json.loads(large["preprocessing"])["decoding"].startswith("JPEG at the smallest of its scales that has 800")
    assert "file.draft(None, (800, 800))" in large["recipe"]
