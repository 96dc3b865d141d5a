"""Near-duplicates with different labels: wrong labels, or classes that differ in colour, detail or orientation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw, ImageOps

from bestiary.context import Context
from bestiary.data import detail_check
from bestiary.data.assign_splits import why_not_trainable
from bestiary.data.corrections import read_corrections
from bestiary.data.dataset import AuditedDataset, audit_sources
from bestiary.demo.dataset import draw_creature
from bestiary.picture import LIMITS
from bestiary.recipe import Recipe

DATA = Recipe().data.model_copy(update={"suspects": False})
Draw = Callable[[int], Image.Image]


def audit(folder: Path) -> AuditedDataset:
    return audit_sources([folder], None, DATA, LIMITS, Context(threads=1, cache=None))


def count(dataset: AuditedDataset, check: str) -> int:
    return dataset.findings.filter(pl.col("check") == check).height


def groups(dataset: AuditedDataset) -> dict[str, int]:
    return dict(dataset.pictures.group_by("label").agg(pl.col("group").n_unique()).iter_rows())


def save(folder: Path, classes: dict[str, Draw], pictures: Iterable[int], quality: int = 92) -> Path:
    for label, draw in classes.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in pictures:
            draw(number).save(folder / label / f"{number:03d}.jpg", quality=quality)
    return folder


def scene(seed: int, side: int = 160) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def noisy(image: Image.Image, seed: int, level: float = 5) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(seed).normal(0, level, (*image.size[::-1], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def with_mark(image: Image.Image, seed: int, colour: tuple[int, int, int] | None, radius: int = 5) -> Image.Image:
    """Return the picture with a spot somewhere, none for None."""
    image = image.copy()
    x, y = (int(v) for v in np.random.default_rng(seed).integers(30, image.width - 30, 2))
    if colour is not None:
        ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return image


def shirt(seed: int, colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (160, 160), (235, 235, 235))
    corners = [(int(x), int(y)) for x, y in np.random.default_rng(seed).integers(15, 145, (7, 2))]
    draw = ImageDraw.Draw(image)
    draw.polygon(corners, fill=colour)
    draw.ellipse([40, 30, 90, 80], fill=(90, 90, 90))
    return noisy(image, seed, 3)


def arrow(seed: int) -> Image.Image:
    image, y = scene(seed), 50 + seed % 50
    ImageDraw.Draw(image).polygon([(30, y), (80, y - 30), (80, y - 9), (130, y - 9), (130, y + 9), (80, y + 9)], fill=0)
    return image


def camera(label: int) -> Draw:
    """Return what two fixed cameras see: nothing, a light spot, or a dark one, small before the same background."""
    colour = (None, (230, 220, 120), (15, 15, 15))[label]
    return lambda number: noisy(
        with_mark(scene(number % 2, 240), 100 * number + label, colour, radius=7), 1000 * label + number
    )


def before_after(is_after: bool) -> Draw:
    return lambda number: with_mark(scene(number, 240), number, (250, 250, 250) if is_after else None, radius=4)


@dataclass(frozen=True)
class Kind:
    """Classes that differ in what a near-duplicate search ignores; and the check that says so."""

    classes: dict[str, Draw]
    check: str
    pictures: int = 20


KINDS = {
    "colour": Kind(
        {"red": lambda n: shirt(n, (200, 30, 30)), "blue": lambda n: shirt(n, (40, 60, 210))}, "shared-scene"
    ),
    "a detail of each picture": Kind({"before": before_after(False), "after": before_after(True)}, "shared-scene"),
    "fixed cameras": Kind({name: camera(n) for n, name in enumerate(("empty", "fox", "boar"))}, "shared-scene"),
    "left and right": Kind({"left": arrow, "right": lambda n: ImageOps.mirror(arrow(n))}, "orientation"),
    "turned": Kind(
        {"0": arrow, "90": lambda n: arrow(n).rotate(90), "180": lambda n: arrow(n).rotate(180)}, "orientation"
    ),
    "inverted": Kind({"positive": arrow, "negative": lambda n: ImageOps.invert(arrow(n))}, "orientation"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_what_the_classes_are_about_is_no_label_conflict(tmp_path: Path, kind: Kind) -> None:
    dataset = audit(save(tmp_path, kind.classes, range(kind.pictures)))
    assert count(dataset, "label-conflict") == 0
    assert count(dataset, kind.check) >= 1
    assert why_not_trainable(dataset, DATA, seed=0) is None
    messages = dataset.findings.filter(pl.col("check") == kind.check)["message"].to_list()
    assert all(any(label in message for message in messages) for label in kind.classes)


def test_mirror_augmentation_is_questioned_where_classes_are_mirrored(tmp_path: Path) -> None:
    dataset = audit(save(tmp_path, KINDS["left and right"].classes, range(12)))
    (message,) = dataset.findings.filter(pl.col("check") == "orientation")["message"]
    assert "--set augment.mirror=0" in message
    assert (dataset.findings.filter(pl.col("check") == "near-duplicate")["message"].str.contains("mirrored")).all()


def creature(seed: int) -> Image.Image:
    kind = ("crab", "bird", "fish", "rabbit", "spider", "butterfly")[seed % 6]
    return draw_creature(kind, np.random.default_rng(seed)).convert("RGB").resize((240, 200))


COPIES: dict[str, Draw] = {
    "stored anew": creature,
    "smaller": lambda n: creature(n).resize((120, 100)),
    "brighter": lambda n: creature(n).point(lambda value: value + 35),
    "without colour": lambda n: creature(n).convert("L").convert("RGB"),
    "mirrored": lambda n: ImageOps.mirror(creature(n)),
    "cropped": lambda n: creature(n).crop((12, 6, 236, 194)),
    "turned": lambda n: creature(n).rotate(90, expand=True),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_under_another_label_is_a_label_conflict(tmp_path: Path, copy: str) -> None:
    save(tmp_path, {"fish": creature, "bird": lambda n: creature(n + 1000)}, range(30))
    for number in range(3):
        COPIES[copy](number).save(tmp_path / "bird" / f"copy{number}.jpg", quality=75)
    dataset = audit(tmp_path)
    assert count(dataset, "label-conflict") == 3
    assert count(dataset, "shared-scene") == count(dataset, "orientation") == 0


def test_a_class_that_was_copied_whole_is_all_conflicts(tmp_path: Path) -> None:
    """One to one, and nothing differs: the same pictures under two labels, not a scene."""
    save(tmp_path, {"cat": lambda n: scene(n, 200)}, range(12))
    save(tmp_path, {"kitten": lambda n: scene(n, 200).resize((150, 150))}, range(12), quality=80)
    assert count(audit(tmp_path), "label-conflict") == 12


def test_equal_files_under_two_labels_are_a_conflict_even_in_one_scene(tmp_path: Path) -> None:
    save(tmp_path, KINDS["fixed cameras"].classes, range(20))
    (tmp_path / "fox" / "again.jpg").write_bytes((tmp_path / "empty" / "003.jpg").read_bytes())
    dataset = audit(tmp_path)
    assert count(dataset, "label-conflict") == 1


def test_groups_are_kept_where_they_swallow_no_class(tmp_path: Path) -> None:
    kind = KINDS["colour"]
    dataset = audit(save(tmp_path, kind.classes, range(20)))
    assert dataset.pictures["group"].n_unique() <= 24  # each pose is one group, in both colours


def test_a_class_of_one_scene_is_not_one_group_and_is_named(tmp_path: Path) -> None:
    save(tmp_path, {"varied": scene, "others": lambda n: scene(n + 500)}, range(15))
    save(tmp_path, {"still": lambda n: noisy(scene(99), n)}, range(15))
    dataset = audit(tmp_path)
    assert groups(dataset)["still"] >= 3
    (message,) = dataset.findings.filter(pl.col("check") == "shared-scene")["message"]
    assert "15 of 15 of still" in message
    assert "data.near_duplicates" in message


def test_duplicates_are_named_as_the_cause_of_a_refusal(tmp_path: Path) -> None:
    save(tmp_path, {"varied": scene}, range(12))
    save(tmp_path, {"twins": lambda n: scene(n % 2 + 700)}, range(12))
    reason = why_not_trainable(audit(tmp_path), DATA, seed=0)
    assert reason is not None
    assert 'Class "twins" has 12 pictures, but many are duplicates of each other: 2 groups' in reason
    assert "data.near_duplicates=false" in reason


def test_the_largest_of_near_duplicates_is_the_original(tmp_path: Path) -> None:
    save(tmp_path, {"bird": lambda n: scene(n + 50)}, range(8))
    for name, side in (("a", 100), ("b", 300), ("c", 80), ("d", 200)):
        (tmp_path / "fish").mkdir(exist_ok=True)
        scene(7, 300).resize((side, side)).save(tmp_path / "fish" / f"{name}.jpg", quality=90)
    findings = audit(tmp_path).findings.filter(pl.col("check") == "near-duplicate")
    assert {Path(path).stem for path in findings["path"]} == {"a", "c", "d"}
    assert findings["message"].str.contains("fish/b.jpg").any()


def test_near_duplicates_of_a_scene_are_said_once(tmp_path: Path) -> None:
    dataset = audit(save(tmp_path, KINDS["fixed cameras"].classes, range(20)))
    assert count(dataset, "near-duplicate") <= 3
    assert 1 <= count(dataset, "shared-scene") <= 2


def test_pairs_that_were_not_compared_are_judged_by_those_that_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail_check, "MAX_PAIRS_OF_CLASSES", 6)
    faint = {"good": before_after(False), "bad": lambda n: with_mark(scene(n, 240), n, (250, 250, 250), radius=2)}
    assert count(audit(save(tmp_path / "faint", faint, range(24))), "label-conflict") == 0
    same = {"cat": lambda n: scene(n, 240), "kitten": lambda n: scene(n, 240).resize((200, 200))}
    assert count(audit(save(tmp_path / "same", same, range(24))), "label-conflict") == 24


def test_a_correction_forms_no_other_groups(tmp_path: Path) -> None:
    save(tmp_path / "p", {"a": lambda n: noisy(scene(5), n), "c": lambda n: noisy(scene(5), 100 + n)}, range(12))
    before = audit(tmp_path / "p")
    rows = before.pictures.filter(pl.col("label") == "c")["sha256"].head(6).to_list()
    file = tmp_path / "corrections.csv"
    file.write_text("sha256,action,label,note\n" + "".join(f"{sha256},relabel,d,\n" for sha256 in rows))
    context = Context(threads=1, cache=None)
    after = audit_sources([tmp_path / "p"], None, DATA, LIMITS, context, read_corrections(file))
    assert after.pictures["group"].to_list() == before.pictures["group"].to_list()
