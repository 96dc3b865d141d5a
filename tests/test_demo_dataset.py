import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bestiary.demo.canvas import Canvas, Pose, random_coat
from bestiary.demo.creatures import CREATURES
from bestiary.demo.dataset import (
    FAULT_CHECKS,
    ODD_FILES,
    SyntheticDataset,
    draw_creature,
    draw_ood_image,
    long_tailed_class_sizes,
    make_synthetic_dataset,
)
from bestiary.errors import SourceError


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return make_synthetic_dataset(tmp_path_factory.mktemp("faulty"), pictures=100, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB").resize((32, 32)), dtype=np.float64)


def test_same_seed_draws_the_same_bytes_and_another_seed_does_not(tmp_path: Path, faulty: SyntheticDataset) -> None:
    make_synthetic_dataset(tmp_path / "again", pictures=100, seed=3)
    make_synthetic_dataset(tmp_path / "other", pictures=100, seed=4, faults=False)
    first, other = contents(faulty.folder), contents(tmp_path / "other")
    assert first == contents(tmp_path / "again")
    assert not set(first.values()) & set(other.values())


def test_without_faults_every_picture_opens_and_lies_in_its_own_class(tmp_path: Path) -> None:
    drawn = make_synthetic_dataset(tmp_path / "clean", pictures=60, faults=False)
    assert drawn.faults == {}
    assert drawn.originals == {}
    assert set(drawn.kinds) == {path for path in drawn.folder.rglob("*") if path.is_file()}
    assert len(drawn.kinds) == 60
    for path, kind in drawn.kinds.items():
        assert path.parent == drawn.folder / kind
        with Image.open(path) as image:
            image.load()
            assert image.mode == "RGB"
            assert 120 <= min(image.size) <= max(image.size) <= 360
    assert {path.suffix for path in drawn.kinds} == {".jpg", ".png"}
    assert sorted(path.name for path in drawn.folder.iterdir()) == sorted(CREATURES)


@pytest.mark.parametrize("pictures", [40, 41, 60, 720])
def test_classes_are_imbalanced_and_add_up(pictures: int) -> None:
    sizes = long_tailed_class_sizes(pictures)
    assert list(sizes) == list(CREATURES)
    assert len(sizes) >= 8
    assert sum(sizes.values()) == pictures
    assert min(sizes.values()) >= 1
    if pictures == 720:
        assert max(sizes.values()) / min(sizes.values()) == pytest.approx(6, abs=0.5)


def test_every_fault_is_planted_and_recorded(faulty: SyntheticDataset) -> None:
    assert set(faulty.faults) == set(FAULT_CHECKS)
    paths = [path for planted in faulty.faults.values() for path in planted]
    assert len(paths) == len(set(paths))
    assert all(path.is_file() for path in paths)
    on_disk = {path for path in faulty.folder.rglob("*") if path.is_file()}
    assert on_disk == set(faulty.kinds) | set(paths)
    assert sorted(path.name for path in faulty.folder.iterdir()) == sorted(CREATURES)


def test_wrong_labels_are_the_pictures_that_lie_in_another_class(faulty: SyntheticDataset) -> None:
    strayed = {path for path, kind in faulty.kinds.items() if path.parent.name != kind}
    assert strayed == set(faulty.faults["wrong-label"]) | set(faulty.faults["label-conflict"])
    assert len(faulty.faults["wrong-label"]) == 2


def test_copies_repeat_their_originals(faulty: SyntheticDataset) -> None:
    for copy in (*faulty.faults["exact-duplicate"], *faulty.faults["label-conflict"]):
        assert copy.read_bytes() == faulty.originals[copy].read_bytes()
    for copy in faulty.faults["exact-duplicate"] + faulty.faults["near-duplicate"]:
        assert copy.parent == faulty.originals[copy].parent
    (conflict,) = faulty.faults["label-conflict"]
    assert conflict.parent != faulty.originals[conflict].parent


def test_near_duplicates_look_alike_and_are_not_the_same_file(faulty: SyntheticDataset) -> None:
    assert len(faulty.faults["near-duplicate"]) >= 4
    for copy in faulty.faults["near-duplicate"]:
        original = faulty.originals[copy]
        assert copy.read_bytes() != original.read_bytes()
        assert np.corrcoef(pixels(copy).ravel(), pixels(original).ravel())[0, 1] > 0.93


def test_truncated_picture_is_recognised_and_then_breaks_off(faulty: SyntheticDataset) -> None:
    (path,) = faulty.faults["truncated"]
    with Image.open(path) as image, pytest.raises(OSError, match="truncated"):
        image.load()


@pytest.mark.parametrize("fault", ["empty", "text"])
def test_files_that_are_no_pictures_do_not_open(faulty: SyntheticDataset, fault: str) -> None:
    (path,) = faulty.faults[fault]
    assert path.suffix == ".jpg"
    assert (path.stat().st_size == 0) == (fault == "empty")
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)


@pytest.mark.parametrize(
    ("fault", "suffix", "form", "mode"),
    [
        ("png-in-jpg", ".jpg", "PNG", "RGB"),
        ("tiny", ".png", "PNG", "RGB"),
        ("cmyk", ".jpg", "JPEG", "CMYK"),
        ("exif-rotated", ".jpg", "JPEG", "RGB"),
        ("animated", ".gif", "GIF", "P"),
        ("sixteen-bit", ".png", "PNG", "I;16"),
        ("transparent-palette", ".png", "PNG", "P"),
    ],
)
def test_odd_files_are_what_they_are_called(
    faulty: SyntheticDataset, fault: str, suffix: str, form: str, mode: str
) -> None:
    (path,) = faulty.faults[fault]
    assert path.suffix == suffix
    with Image.open(path) as image:
        assert (image.format, image.mode) == (form, mode)
        assert (image.size == (1, 1)) == (fault == "tiny")
        assert (getattr(image, "n_frames", 1) > 1) == (fault == "animated")
        assert (image.getexif().get(0x0112) == 6) == (fault == "exif-rotated")
        assert ("transparency" in image.info) == (fault == "transparent-palette")
        image.load()


def test_rotated_picture_stands_upright_once_its_exif_is_applied() -> None:
    upright = draw_creature("snail", np.random.default_rng(0))
    _, rotate = ODD_FILES["exif-rotated"]
    with Image.open(io.BytesIO(rotate(upright))) as stored:
        assert stored.size == upright.size[::-1]
        upright_pixels = np.asarray(ImageOps.exif_transpose(stored), dtype=np.float64)
    assert np.abs(upright_pixels - np.asarray(upright)).mean() < 12


def test_sixteen_bit_picture_uses_its_range(faulty: SyntheticDataset) -> None:
    with Image.open(faulty.faults["sixteen-bit"][0]) as image:
        assert np.asarray(image).max() > 255 * 100


def test_hidden_files_are_planted_and_are_not_pictures(faulty: SyntheticDataset) -> None:
    assert {path.name for path in faulty.faults["hidden"]} == {".DS_Store", "Thumbs.db"}
    assert not set(faulty.faults["hidden"]) & set(faulty.kinds)


def test_refuses_a_folder_that_holds_anything(tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(SourceError, match=r"not an empty folder.*Name a new folder"):
        make_synthetic_dataset(tmp_path)
    with pytest.raises(SourceError, match="not an empty folder"):
        make_synthetic_dataset(tmp_path / "mine.jpg")
    assert contents(tmp_path) == {"mine.jpg": b"precious"}


def test_refuses_too_few_pictures(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="at least 40"):
        make_synthetic_dataset(tmp_path / "new", pictures=39)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", CREATURES)
def test_a_creature_fills_its_place_and_stays_near_it(kind: str) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        image = Image.new("RGB", (400, 400), (255, 0, 255))
        CREATURES[kind](Canvas(image, Pose(np.eye(2) * 100, np.array([200.0, 200.0])), random_coat(rng), rng), rng)
        painted = np.any(np.asarray(image) != (255, 0, 255), axis=2)
        assert 0.02 < painted.mean() < 0.25, (kind, seed)
        assert not painted[:40].any(), (kind, seed)
        assert not painted[:, :40].any(), (kind, seed)


def colour_accuracy(tints: dict[str, float]) -> float:
    """Return the balanced accuracy of the nearest class mean in colour, on pictures held back."""
    per_kind = 24
    colours = np.array(
        [
            [
                np.asarray(draw_creature(kind, np.random.default_rng([9, row, index])).resize((1, 1)))[0, 0] + tint
                for index in range(per_kind)
            ]
            for row, (kind, tint) in enumerate(tints.items())
        ],
        dtype=np.float64,
    )
    means = colours[:, : per_kind // 2].mean(axis=1)
    distances = np.linalg.norm(colours[:, per_kind // 2 :, None] - means, axis=3)
    return float((distances.argmin(axis=2) == np.arange(len(tints))[:, None]).mean())


def test_colour_does_not_give_the_class_away() -> None:
    assert colour_accuracy(dict.fromkeys(CREATURES, 0.0)) < 2 / len(CREATURES)


def test_the_colour_check_would_notice_a_class_of_its_own_colour() -> None:
    assert colour_accuracy({"fish": 0.0, "snail": 150.0}) > 0.9


def test_strangers_are_varied_pictures_that_a_seed_repeats() -> None:
    drawn = [draw_ood_image(seed) for seed in range(12)]
    assert len({image.tobytes() for image in drawn}) == 12
    assert draw_ood_image(5).tobytes() == drawn[5].tobytes()
    for image in drawn:
        assert image.mode == "RGB"
        assert 120 <= min(image.size) <= max(image.size) <= 360
