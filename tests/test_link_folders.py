"""Links sorted by label: the pictures stay where they are, and nothing is overwritten."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from bestiary.errors import MachineError, UserError
from bestiary.inference.link_folders import label_folder_names, link_by_label, require_empty_folder
from bestiary.inference.predictor import Prediction


def answer(path: Path, label: str | None, *, unknown: bool = False) -> Prediction:
    return Prediction(str(path), label, 0.9, unknown, 0.5, {})


def tree(folder: Path) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path.readlink() for path in sorted(folder.rglob("*")) if path.is_symlink()
    }


def test_each_answer_becomes_a_link_in_the_folder_of_its_label(tmp_path: Path) -> None:
    cat, odd, bad = (tmp_path / name for name in ("cat.jpg", "odd.jpg", "bad.jpg"))
    for path in (cat, odd, bad):
        path.write_bytes(b"mine")
    given = [answer(cat, "cat"), answer(odd, "dog", unknown=True), answer(bad, None)]
    assert list(link_by_label(given, tmp_path / "by")) == given
    assert tree(tmp_path / "by") == {"cat/cat.jpg": cat, "unknown/odd.jpg": odd, "unreadable/bad.jpg": bad}
    assert (tmp_path / "by" / "cat" / "cat.jpg").read_bytes() == b"mine"


def test_pictures_of_one_name_are_numbered_and_known_ones_kept(tmp_path: Path) -> None:
    given = [answer(tmp_path / folder / "a.b.jpg", "cat") for folder in ("x", "y", "z")]
    list(link_by_label(given, tmp_path / "by"))
    before = tree(tmp_path / "by")
    assert before == {
        "cat/a.b-2.jpg": tmp_path / "y" / "a.b.jpg",
        "cat/a.b-3.jpg": tmp_path / "z" / "a.b.jpg",
        "cat/a.b.jpg": tmp_path / "x" / "a.b.jpg",
    }
    list(link_by_label(given, tmp_path / "by"))
    assert tree(tmp_path / "by") == before


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "by" / "cat").mkdir(parents=True)
    (tmp_path / "by" / "cat" / "a.jpg").write_text("mine")
    list(link_by_label([answer(tmp_path / "a.jpg", "cat")], tmp_path / "by"))
    assert (tmp_path / "by" / "cat" / "a.jpg").read_text() == "mine"
    assert tree(tmp_path / "by") == {"cat/a-2.jpg": tmp_path / "a.jpg"}


@pytest.mark.parametrize(
    ("label", "shelf"), [("a/b", "a_b"), ("..", ".._"), ("unknown", "unknown_"), ("unreadable", "unreadable_")]
)
def test_a_label_cannot_lead_elsewhere(tmp_path: Path, label: str, shelf: str) -> None:
    list(link_by_label([answer(tmp_path / "a.jpg", label)], tmp_path / "by"))
    assert list(tree(tmp_path / "by")) == [f"{shelf}/a.jpg"]


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    require_empty_folder(tmp_path / "new")
    (tmp_path / "old").mkdir()
    require_empty_folder(tmp_path / "old")
    (tmp_path / "old" / "x").write_text("mine")
    for taken in (tmp_path / "old", tmp_path / "old" / "x"):
        with pytest.raises(UserError, match="not empty"):
            require_empty_folder(taken)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "by").write_text("in the way")
    with pytest.raises(MachineError, match="cannot be made"):
        list(link_by_label([answer(tmp_path / "a.jpg", "cat")], tmp_path / "by"))


SHARED = [
    ["a:b", "a_b", "a/b", "a|b", "a_b-2"],
    ["Cat", "cat", "CAT", "cat-2"],
    ["café", "cafe\u0301", "CAFÉ", "straße", "strasse"],
    ["con", "CON", "con_", "nul.txt", "Lpt1", "com"],
    ["dot", "dot.", "dot ", "dot_", "dot..", ".", "..", "", "_", " "],
    ["unknown", "Unknown", "unknown_", "unreadable", "UNREADABLE"],
    ["x" * 300, "x" * 301, "x" * 240, "é" * 200],
    ["caf\udce9", "caf_", "new\nline", "new_line", "new\tline"],
]


@pytest.mark.parametrize("labels", SHARED, ids=lambda labels: ascii(labels[0])[:12])
def test_no_two_labels_share_a_folder_on_any_file_system(tmp_path: Path, labels: list[str]) -> None:
    names = label_folder_names(labels)
    assert sorted(names) == sorted(labels)
    folders = {unicodedata.normalize("NFC", name).casefold().rstrip(". ") for name in names.values()}
    assert len(folders) == len(labels)
    assert not folders & {"unknown", "unreadable", "con", "nul", "lpt1", "nul.txt", ""}
    assert not [name for name in names.values() if len(name.encode()) > 255 or name[-1] in ". "]
    assert not [name for name in names.values() if set(name) & set('/\\:*?"<>|\n\t')]
    predictions = [answer(tmp_path / f"{number}.jpg", label) for number, label in enumerate(labels)]
    list(link_by_label(predictions, tmp_path / "by", labels))
    assert sorted(tree(tmp_path / "by")) == sorted(f"{names[label]}/{n}.jpg" for n, label in enumerate(labels))
    list(link_by_label(predictions[::-1], tmp_path / "again", labels))  # the order of the pictures does not matter
    assert tree(tmp_path / "again") == tree(tmp_path / "by")


def test_pictures_with_long_names_are_numbered_too(tmp_path: Path) -> None:
    name = "n" * 251 + ".jpg"
    list(link_by_label([answer(tmp_path / folder / name, "cat") for folder in "xy"], tmp_path / "by"))
    assert sorted(tree(tmp_path / "by").values()) == [tmp_path / "x" / name, tmp_path / "y" / name]
