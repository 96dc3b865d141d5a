"""Picture inputs of a command: files, folders, patterns and lists."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bestiary.errors import SourceError
from bestiary.inference.inputs import LIST, find_pictures, read_path_list
from bestiary.text import describe_skipped

NOTHING = io.BytesIO()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.png", "notes.txt", "inner/c.JPEG", "inner/deep/d.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(found: Iterator[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


def test_a_folder_means_the_pictures_in_it_at_any_depth(folder: Path) -> None:
    assert names(find_pictures([folder], NOTHING), folder) == ["a.png", "b.jpg", "inner/c.JPEG", "inner/deep/d.webp"]


def test_what_is_named_comes_in_the_order_given_and_is_not_looked_for(folder: Path) -> None:
    asked = [folder / "notes.txt", folder / "gone.jpg", folder / f"{300 * 'x'}.png", folder / "a.png"]
    assert list(find_pictures(asked, NOTHING)) == asked


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", ["b.jpg"]),
        ("*", ["a.png", "b.jpg"]),
        ("**/*.[jw]*", ["b.jpg", "inner/deep/d.webp"]),
        ("inner/?.JPEG", ["inner/c.JPEG"]),
    ],
)
def test_a_pattern_that_the_shell_left_is_expanded(folder: Path, pattern: str, found: list[str]) -> None:
    assert names(find_pictures([folder / pattern], NOTHING), folder) == found


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    odd = folder / "b[1].jpg"
    odd.write_bytes(b"x")
    assert list(find_pictures([odd], NOTHING)) == [odd]


@pytest.mark.parametrize(("asked", "says"), [("empty", "no pictures in"), ("*.tif", "No picture matches")])
def test_nothing_found_is_told(folder: Path, asked: str, says: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(SourceError, match=says):
        list(find_pictures([folder / asked], NOTHING))


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (b"", []),
        (b"a.jpg\nb c.png\n", ["a.jpg", "b c.png"]),
        (b"a.jpg\r\n\r\nb.png", ["a.jpg", "b.png"]),
        (b"one\nline.jpg\0b.png\0", ["one\nline.jpg", "b.png"]),
        (b"alone.jpg", ["alone.jpg"]),
        (b"caf\xe9.jpg\n", ["caf\udce9.jpg"]),
    ],
)
def test_a_list_ends_its_names_with_lines_or_with_nul(listed: bytes, found: list[str]) -> None:
    assert [str(path) for path in read_path_list(io.BytesIO(listed))] == found
    assert [str(path) for path in find_pictures([Path("first.jpg"), LIST], io.BytesIO(listed))] == ["first.jpg", *found]


def test_a_list_without_end_is_read_as_it_is_needed() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int | None = -1) -> bytes:
            self.given += 1
            return b"%d.jpg\n" % self.given

    source = Endless()
    found = read_path_list(source)  # type: ignore[arg-type]
    assert [str(next(found)) for _ in range(1000)][-1] == "1000.jpg"
    assert source.given <= 1001


def test_what_is_passed_over_in_a_folder_is_counted_and_what_phones_make_is_not(folder: Path) -> None:
    for name in (".DS_Store", "._b.jpg", "__MACOSX/._b.jpg", ".thumbs/x.jpg", "phone.HEIC"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.jpg").symlink_to("nowhere")
    passed_over = Counter[str]()
    found = names(find_pictures([folder], NOTHING, passed_over), folder)
    assert found == ["a.png", "b.jpg", "gone.jpg", "inner/c.JPEG", "inner/deep/d.webp", "phone.HEIC"]
    assert describe_skipped(passed_over) == "Skipped: 4 hidden, 1 linked folder, 1 not named like a picture."
