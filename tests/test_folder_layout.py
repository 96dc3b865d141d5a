"""What the folders of a source are taken for: classes, parts of a split, levels of folders, archives."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from bestiary.context import Context
from bestiary.data.notices import notice_findings
from bestiary.data.part_names import parse_part
from bestiary.data.sources import PictureList, list_sources
from bestiary.errors import SourceError

SPLIT = {("cat", "train"), ("dog", "train"), ("cat", "test"), ("dog", "test")}


def planted(root: Path, *names: str) -> Path:
    """A folder with these files; a name that ends in a slash is an empty folder."""
    root.mkdir(exist_ok=True)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(parents=True) if name.endswith("/") else path.write_bytes(os.fsencode(name))
    return root


def class_folders(*parts: str, labels: tuple[str, ...] = ("cat", "dog")) -> list[str]:
    return [f"{part}/{label}/1.jpg" for part in parts for label in labels]


def listed(root: Path, *classes: str, depth: int = 1, labels: dict[str, str] | None = None) -> PictureList:
    context = Context(threads=1, cache=root.parent / "cache")
    return list_sources([root], labels or {}, context, classes=classes, label_depth=depth)


def labels_and_splits(listing: PictureList) -> set[tuple[str, str | None]]:
    return {(picture.label, picture.split) for picture in listing.pictures}


def checks(listing: PictureList) -> list[tuple[str, bool]]:
    return [(notice.check, notice.is_issue) for notice in listing.notices]


# ---- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            (name, "train")
            for name in ("train", "Training", "TRAIN", "train_set", "trainset", "seg_train", "train2017")
        ),
        *((name, "train") for name in ("training images", "trainData", "train_224x224", "train-70", "images_train")),
        *((name, "val") for name in ("val", "Valid", "validation_set", "dev", "valset", "val images")),
        *((name, "test") for name in ("test", "test1", "test_images", "images to test", "TestSet", "testing data")),
        *((name, "eval") for name in ("eval", "Evaluation")),
        *((name, "holdout") for name in ("holdout", "hold-out", "held_out", "Hold Out")),
        *((name, "unlabelled") for name in ("unlabeled", "Unlabelled images", "un-labelled", "no label")),
        *((name, "predict") for name in ("seg_pred", "images to predict")),
    ],
)
def test_a_name_means_a_part_of_a_split_in_many_spellings(name: str, kind: str) -> None:
    part = parse_part(name)
    assert part is not None
    assert part.kind == kind


@pytest.mark.parametrize(
    "name",
    [
        *("trains", "trainspotting", "test tube", "steam train", "invalid", "latest", "devil", "images", "1", ""),
        *("cat", "train test", "контроль", "évaluer", "protest", "valley"),
    ],
)
def test_other_names_mean_no_part(name: str) -> None:
    assert parse_part(name) is None


# ---- Parts of a split -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "skipped"),
    [
        (["labels/notes.txt"], "labels (no pictures)"),
        (["labels/"], "labels (no pictures)"),
        (["images to test/1.jpg", "images to test/2.jpg"], "images to test (2 pictures without class folders)"),
        (["unlabeled/1.jpg"], "unlabeled (1 picture without class folders)"),
        (["extra/cat/1.jpg"], "extra (1 picture)"),
        (["predictions/1.jpg"], "predictions (1 picture without class folders)"),
    ],
)
def test_what_lies_beside_the_parts_of_a_split_is_skipped_and_named(
    tmp_path: Path, names: list[str], skipped: str
) -> None:
    listing = listed(planted(tmp_path / "s", *class_folders("train", "test"), *names))
    assert labels_and_splits(listing) == SPLIT
    assert checks(listing) == [("split-folders", True)]
    assert f"the folder {skipped} is skipped" in listing.notices[0].message


@pytest.mark.parametrize(
    ("parts", "splits"),
    [
        (["train", "holdout"], {"train", "test"}),
        (["train", "eval"], {"train", "test"}),
        (["train", "eval", "test"], {"train", "val", "test"}),
        (["training", "validation", "evaluation"], {"train", "val", "test"}),
        (["train_images", "test_images"], {"train", "test"}),
        (["seg_train/seg_train", "seg_test/seg_test"], {"train", "test"}),
        (["train2017", "val2017"], {"train", "val"}),
        (["Train", "Valid", "Test"], {"train", "val", "test"}),
        (["training_set", "test_set"], {"train", "test"}),
        (["test", "val"], {"test", "val"}),
    ],
)
def test_parts_of_a_split_by_many_names(tmp_path: Path, parts: list[str], splits: set[str]) -> None:
    listing = listed(planted(tmp_path / "s", *class_folders(*parts)))
    assert listing.labels() == ["cat", "dog"]
    assert {picture.split for picture in listing.pictures} == splits
    assert not listing.notices


def test_a_training_part_beside_loose_test_pictures_is_split_again(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path / "s", *class_folders("train"), "test1/1.jpg", "test1/2.jpg"))
    assert labels_and_splits(listing) == {("cat", None), ("dog", None)}
    assert "the folder test1 (2 pictures without class folders) is skipped" in listing.notices[0].message


def test_the_only_part_of_a_split_that_holds_pictures_holds_the_classes(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path / "s", *class_folders("train"), "labels/1.txt"))
    assert labels_and_splits(listing) == {("cat", None), ("dog", None)}
    assert checks(listing) == [("split-folders", True)]


def test_an_empty_training_part_is_no_reason_to_train_on_the_test_part(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path / "s", *class_folders("test"), "train/cat/", "train/dog/"))
    assert labels_and_splits(listing) == {("cat", "test"), ("dog", "test")}
    assert "the folder train (no pictures) is skipped" in listing.notices[0].message


def test_empty_parts_beside_classes_are_named(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path / "s", "cat/1.jpg", "dog/1.jpg", "train/", "test/"))
    assert labels_and_splits(listing) == {("cat", None), ("dog", None)}
    assert checks(listing) == [("empty-class", True)] * 2


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg"], "train,test1"),
        (["train/1.jpg", "valid/1.jpg", "test/1.jpg", "labels/x.txt"], "train,valid,test"),
        (["images/train/1.jpg", "images/val/1.jpg", "labels/train/1.txt"], "train,val"),
        (["train/train/cat.0.jpg", "train/train/dog.0.jpg", "test1/test1/1.jpg"], "train,test1"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "train/stray.jpg", "misc/1.jpg"], "misc,train"),
        (["train/1.jpg", "train/2.jpg", "train/more/3.jpg", "test/1.jpg"], "train,test"),
        (["train/1.jpg", "bus/1.jpg", "test/1.jpg"], "train,test,bus"),
        (["cat/1.jpg", "dog/1.jpg", "test/1.jpg"], "cat,dog"),
        (["train/ice/1.jpg", "train/tgv/1.jpg", "bus/1.jpg", "car/1.jpg"], "bus,car,train"),
        ([*class_folders("train", "unnamed")], "train,unnamed"),
        (["cat/1.jpg", "dog/1.jpg", *class_folders("test")], "cat,dog,test"),
    ],
)
def test_parts_whose_pictures_have_no_class_folder_are_refused_unless_named(
    tmp_path: Path, names: list[str], classes: str
) -> None:
    root = planted(tmp_path / "s", *names)
    with pytest.raises(SourceError, match=rf"--classes {classes}\."):
        listed(root)
    assert set(classes.split(",")) <= set(listed(root, *classes.split(",")).labels())


def test_a_train_is_a_vehicle_where_nothing_else_is_a_part(tmp_path: Path) -> None:
    vehicles = planted(tmp_path / "s", "train/1.jpg", "bus/1.jpg", "car/1.jpg")
    listing = listed(vehicles)
    assert labels_and_splits(listing) == {("bus", None), ("car", None), ("train", None)}
    assert checks(listing) == [("split-folders", False)]
    assert not listed(vehicles, "train", "bus", "car").notices
    assert not listed(vehicles, labels={"train": "railway"}).notices
    more = listed(planted(tmp_path / "m", "train/1.jpg", "train/2.jpg", "train/old/3.jpg", "bus/1.jpg"))
    assert more.labels() == ["bus", "train"]
    deeper = listed(planted(tmp_path / "d", "train/ice/1.jpg", "train/tgv/1.jpg", "bus/a/1.jpg", "bus/b/1.jpg"))
    assert deeper.labels() == ["bus", "train"]


def test_a_class_in_the_parts_may_have_the_name_of_a_part(tmp_path: Path) -> None:
    root = planted(tmp_path / "s", *class_folders("train", "test", labels=("train", "bus")))
    for classes in ((), ("train", "bus")):
        assert labels_and_splits(listed(root, *classes)) == {
            *(("bus", "train"), ("bus", "test"), ("train", "train"), ("train", "test"))
        }


def test_the_classes_of_a_model_are_classes(tmp_path: Path) -> None:
    root = planted(tmp_path / "s", "cat/1.jpg", "test/1.jpg")
    listing = list_sources([root], {}, Context(cache=None), model_classes=("cat", "test"))
    assert listing.labels() == ["cat", "test"]


def test_pictures_that_are_called_unlabelled_are_no_class(tmp_path: Path) -> None:
    root = planted(tmp_path / "s", "cat/1.jpg", "dog/1.jpg", "Unlabelled/1.jpg")
    listing = listed(root)
    assert (listing.labels(), checks(listing)) == (["cat", "dog"], [("split-folders", True)])
    assert listed(root, "cat", "Unlabelled").labels() == ["Unlabelled", "cat", "dog"]


def test_a_folder_of_images_beside_one_without_pictures_is_looked_into(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path / "s", *class_folders("images/train", "images/test"), "annotations/a.xml"))
    assert labels_and_splits(listing) == SPLIT
    assert listing.notices[0].message == "The folder annotations is not used: it contains no pictures."
    nested = listed(planted(tmp_path / "n", "cat/2021/1.jpg", "cat/2022/1.jpg", "dog/"))
    assert nested.labels() == ["cat"]


# ---- Class folders that vanish --------------------------------------------------------------------------------------


def test_class_folders_without_pictures_are_named_with_the_reason(tmp_path: Path) -> None:
    root = planted(
        tmp_path / "s", "cat/1.jpg", "dog/", "fox/notes.txt", "pig/pig.zip", "hen/.thumbs/1.jpg", ".elk/1.jpg"
    )
    (root / "owl").symlink_to(tmp_path / "nowhere")
    (root / "all").symlink_to(tmp_path, target_is_directory=True)
    (root / "yak").mkdir()
    (root / "yak" / "pictures").symlink_to(root / "cat", target_is_directory=True)
    listing = listed(root)
    assert listing.labels() == ["cat"]
    assert {notice.folder: notice.message.partition(": ")[2] for notice in listing.notices} == {
        "dog": "it is empty.",
        "fox": "it contains no pictures (skipped: 1 not meant as pictures).",
        "pig": "it contains no pictures (skipped: 1 archive inside a class folder).",
        "hen": "it contains no pictures (skipped: 1 hidden folder).",
        "yak": "it contains no pictures (skipped: 1 linked folder).",
        "owl": "it is a broken symbolic link.",
        "all": "it is a link to a parent folder.",
        ".elk": "its name begins with a dot, so it is hidden. It contains pictures.",
    }
    assert {notice.check for notice in listing.notices} == {"empty-class"}


def test_a_class_that_is_empty_in_a_part_is_named_with_it(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path / "s", *class_folders("train", "test"), "test/fox/", "train/fox/1.jpg"))
    assert [notice.message for notice in listing.notices] == ["The folder test/fox is not used: it is empty."]


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    pool = planted(tmp_path / "pool", "2023/1.jpg", "2023/more/2.jpg", "2024/3.jpg")
    (pool / "2023" / "up").symlink_to(pool, target_is_directory=True)
    root = planted(tmp_path / "s", "cat/1.jpg", ".store/9.jpg")
    (root / "fox").mkdir()
    (root / "fox" / "2023").symlink_to(pool / "2023", target_is_directory=True)
    (root / "fox" / "again").symlink_to(pool / "2023", target_is_directory=True)
    (root / "fox" / "self").symlink_to(root / "fox", target_is_directory=True)
    (root / "fox" / "stored").symlink_to(root / ".store", target_is_directory=True)
    listing = listed(root)
    fox = sorted(p.path.relative_to(root / "fox").as_posix() for p in listing.pictures if p.label == "fox")
    assert fox == ["2023/1.jpg", "2023/more/2.jpg", "2023/up/2024/3.jpg", "stored/9.jpg"]
    assert listing.skipped["linked folder"] == 3  # again, self, and 2023 below up
    links = "3 linked folders in fox are not followed: their pictures are included already, or the link is circular."
    assert links in [notice.message for notice in listing.notices]
    assert len({os.path.realpath(picture.path) for picture in listing.pictures}) == len(listing.pictures)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
def test_folders_whose_names_are_no_text_are_named_in_escaped_form(tmp_path: Path) -> None:
    odd = os.fsdecode(b"b\xe9te")
    root = planted(
        tmp_path / "s", *class_folders("train", "test"), f"{odd}/x.txt", "line\nbreak/x.txt", f"train/{odd}/"
    )
    listing = listed(root)
    texts = [notice.message for notice in listing.notices]
    assert "b\\udce9te (no pictures)" in texts[0]
    assert "line\\nbreak (no pictures)" in texts[0]
    assert texts[1] == "The folder train/b\\udce9te is not used: it is empty."
    notice_findings(listing.notices).write_parquet(tmp_path / "t.parquet")


# ---- Levels of folders ----------------------------------------------------------------------------------------------

KINGDOMS = ("animals/cat/1.jpg", "animals/dog/1.jpg", "plants/oak/1.jpg", "plants/elm/1.jpg")


def test_deeper_class_folders_are_named_and_a_level_is_chosen(tmp_path: Path) -> None:
    root = planted(tmp_path / "s", *KINGDOMS)
    listing = listed(root)
    assert listing.labels() == ["animals", "plants"]
    assert checks(listing) == [("nested-classes", False)]
    assert "The labels are the names of the folders at level 1: animals, plants." in listing.notices[0].message
    assert "pass --label-depth 2" in listing.notices[0].message
    deeper = listed(root, depth=2)
    assert (deeper.labels(), deeper.notices) == (["cat", "dog", "elm", "oak"], [])


@pytest.mark.parametrize(
    "names",
    [
        [f"zoo/{name}" for name in KINGDOMS],
        [f"{part}/{name}" for part in ("train", "test") for name in KINGDOMS],
        [f"set/{part}/{name}" for part in ("train", "test") for name in KINGDOMS],
    ],
)
def test_levels_are_counted_below_wrappers_and_parts(tmp_path: Path, names: list[str]) -> None:
    assert listed(planted(tmp_path / "s", *names), depth=2).labels() == ["cat", "dog", "elm", "oak"]


def test_an_only_folder_counts_as_a_level_where_the_levels_need_it(tmp_path: Path) -> None:
    assert listed(planted(tmp_path / "s", "animals/cat/1.jpg", "animals/dog/1.jpg"), depth=2).labels() == ["cat", "dog"]


def test_pictures_above_the_level_are_named(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path / "s", *KINGDOMS, "animals/9.jpg", "fungi/9.jpg", "none/"), depth=2)
    assert listing.labels() == ["cat", "dog", "elm", "oak"]
    assert [notice.folder for notice in listing.notices] == ["animals", "fungi", "none"]
    with pytest.raises(SourceError, match=r"Expected class folders 3 levels deep"):
        listed(tmp_path / "s", depth=3)


def test_folders_of_one_name_are_one_class_and_a_map_tells_them_apart(tmp_path: Path) -> None:
    root = planted(tmp_path / "s", *class_folders("A", "B"))
    listing = listed(root, depth=2)
    assert listing.labels() == ["cat", "dog"]
    assert checks(listing) == [("nested-classes", True)]
    assert "cat (A/cat, B/cat); dog (A/dog, B/dog)" in listing.notices[0].message
    mapped = listed(root, depth=2, labels={"B/cat": "wildcat", "B/dog": "dog", "A/dog": "dog"})
    assert (mapped.labels(), mapped.notices) == (["cat", "dog", "wildcat"], [])


def test_parts_inside_class_folders_are_no_classes(tmp_path: Path) -> None:
    root = planted(tmp_path / "s", *class_folders("cat", "dog", labels=("train", "test")))
    listing = listed(root)
    assert (listing.labels(), checks(listing)) == (["cat", "dog"], [("split-folders", True)])
    assert "Each of the class folders cat, dog contains test, train" in listing.notices[0].message
    with pytest.raises(SourceError, match=r"With --label-depth 2 the labels would be test, train"):
        listed(root, depth=2)


# ---- Archives -------------------------------------------------------------------------------------------------------


def packed(path: Path, *names: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name.encode())


def test_an_archive_for_each_class(tmp_path: Path) -> None:
    root = planted(tmp_path / "s", "README.txt")
    packed(root / "ant.zip", "1.jpg", "2.jpg")
    packed(root / "bee.ZIP", "bee/1.jpg", "notes.txt")
    packed(root / "guinea pig.zip", "a/b/1.jpg")
    listing = listed(root)
    assert sorted((p.label, p.path.name) for p in listing.pictures) == [
        ("ant", "1.jpg"),
        ("ant", "2.jpg"),
        ("bee", "1.jpg"),
        ("guinea pig", "1.jpg"),
    ]
    assert dict(listing.skipped) == {"beside the class folders": 1, "not meant as pictures": 1}


def test_an_archive_for_each_part_of_a_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        packed(tmp_path / "s" / f"{part}.zip", *class_folders(part))
    assert labels_and_splits(listed(tmp_path / "s")) == SPLIT
    for part in ("train", "test"):
        packed(tmp_path / "wrapped" / f"{part}.zip", *class_folders("pets"))
        packed(tmp_path / "loose" / f"{part}.zip", f"{part}/1.jpg")
    assert labels_and_splits(listed(tmp_path / "wrapped")) == SPLIT
    with pytest.raises(SourceError, match=r"are not in class folders"):
        listed(tmp_path / "loose")


def test_archives_that_are_not_unpacked_are_named(tmp_path: Path) -> None:
    root = planted(tmp_path / "s", "cat/1.jpg", "dog/1.jpg")
    packed(root / "cow.zip", "1.jpg")
    listing = listed(root)
    assert (listing.labels(), checks(listing)) == (["cat", "dog"], [("empty-class", True)])
    assert "are not used: cow.zip; they are next to folders of pictures" in listing.notices[0].message
    packed(tmp_path / "single" / "all.zip", *class_folders("x"))
    with pytest.raises(SourceError, match=r"contains one archive, all\.zip\. Pass the archive itself"):
        listed(tmp_path / "single")
    inner = tmp_path / "inner.zip"
    packed(inner, "1.jpg")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(inner, "ant.zip")
        archive.write(inner, "bee.zip")
    with pytest.raises(SourceError, match=r"archives inside the archive: ant\.zip, bee\.zip"):
        listed(tmp_path / "outer.zip")


def test_messages_about_an_archive_name_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "dogs-vs-cats.zip"
    packed(archive, "train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg")
    with pytest.raises(SourceError, match=r"The folders train, test1 in .*dogs-vs-cats\.zip are named like splits"):
        listed(archive)
    packed(tmp_path / "mixed.zip", "cat/1.jpg", "dog/1.jpg", "cow.zip")
    (notice,) = listed(tmp_path / "mixed.zip").notices
    assert notice.message.startswith(f"Archives in {tmp_path / 'mixed.zip'} are not used: cow.zip;")


def test_archives_of_one_name_are_refused(tmp_path: Path) -> None:
    packed(tmp_path / "s" / "ant.zip", "1.jpg")
    packed(tmp_path / "s" / "ant.ZIP", "1.jpg")
    with pytest.raises(SourceError, match=r"Two archives in .* have the name ant"):
        listed(tmp_path / "s")


def test_a_class_of_an_archive_without_pictures_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "pets.zip"
    packed(archive, "pets/cat/1.jpg", "pets/dog/1.jpg", "pets/fox/notes.txt", "pets/hen/", "docs/licence.txt")
    listing = listed(archive)
    assert listing.labels() == ["cat", "dog"]
    assert sorted(notice.folder for notice in listing.notices) == ["fox", "hen"]
