"""Drawn scenes: creatures of several kinds side by side, with a box around each, as COCO writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bestiary.demo.creatures import CREATURES
from bestiary.demo.dataset import draw_creature

CELL, GAP = 200, 24
KINDS = tuple(list(CREATURES)[:3])


def draw_scene(kinds: list[str], rng: np.random.Generator) -> tuple[Image.Image, list[list[int]]]:
    """Return a picture of a creature of each kind, and the boxes [left, top, width, height] in pixels."""
    width, height = GAP + (CELL + GAP) * len(kinds), CELL + 2 * GAP
    scene = Image.fromarray(rng.integers(90, 140, (height, width, 3), np.uint8))
    boxes = []
    for number, kind in enumerate(kinds):
        creature = draw_creature(kind, rng)
        creature.thumbnail((CELL, CELL))
        left, top = GAP + number * (CELL + GAP), GAP + int(rng.integers(0, CELL - creature.height + 1))
        scene.paste(creature, (left, top))
        boxes.append([left, top, creature.width, creature.height])
    return scene, boxes


def write_coco(
    folder: Path, pictures: int, *, seed: int = 0, kinds: tuple[str, ...] = KINDS, per_picture: int = 3
) -> Path:
    """Write scenes and their annotations into a folder; return the COCO file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": number, "name": kind} for number, kind in enumerate(kinds)]
    for number in range(pictures):
        chosen = [kinds[(number + step) % len(kinds)] for step in range(per_picture)]
        scene, boxes = draw_scene(chosen, rng)
        name = f"scene-{number:03d}.jpg"
        scene.save(folder / name, quality=95)
        coco["images"].append({"id": number, "file_name": name, "width": scene.width, "height": scene.height})
        for kind, box in zip(chosen, boxes, strict=True):
            annotation = {"id": len(coco["annotations"]), "image_id": number, "category_id": kinds.index(kind)}
            coco["annotations"].append(annotation | {"bbox": box})
    path = folder / "annotations.json"
    path.write_text(json.dumps(coco), encoding="utf-8")
    return path
