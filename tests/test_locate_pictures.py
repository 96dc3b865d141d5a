"""The files that a table names are found by their paths, and only if nothing else matches as well."""

from pathlib import Path

import pytest

from bestiary.data.formats.locate_pictures import list_parts, locate_pictures
from bestiary.errors import SourceError


def planted(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def located(folder: Path, *names: str) -> dict[str, str]:
    paths = locate_pictures(names, folder, Path("t.csv")).paths
    return {name: Path(path).relative_to(folder).as_posix() for name, path in paths.items()}


@pytest.mark.parametrize(
    "name",
    [
        "a/b/1.jpg",
        "a\\b\\1.jpg",
        "./a/b/1.jpg",
        "a/c/../b/1.jpg",
        "C:\\Users\\me\\photos\\a\\b\\1.jpg",
        "C:/photos/a/b/1.jpg",
        "\\\\server\\share\\a\\b\\1.jpg",
        "/home/other/a/b/1.jpg",
        "gs://bucket/project/a/b/1.jpg",
        "https://example.org/a/b/1.jpg?size=large#top",
        "b/1.jpg",
        "1.jpg",
        "elsewhere/b/1.jpg",
    ],
)
def test_one_file_is_found_however_its_path_is_written(tmp_path: Path, name: str) -> None:
    planted(tmp_path, "a/b/1.jpg", "a/c/2.jpg", ".hidden/b/1.jpg")
    assert located(tmp_path, name) == {name: "a/b/1.jpg"}


def test_a_picture_that_is_elsewhere_is_the_example_of_its_message(tmp_path: Path) -> None:
    planted(tmp_path, "traps/b/1.jpg")
    found = locate_pictures(["b/1.jpg"], tmp_path, Path("t.csv"))
    assert (found.elsewhere, found.example) == (1, f'"b/1.jpg" is {Path("traps", "b", "1.jpg")}')


def test_absolute_paths_and_addresses_of_local_files_need_no_folder(tmp_path: Path) -> None:
    planted(tmp_path, "x/a b.jpg")
    (tmp_path / "empty").mkdir()
    names = [str(tmp_path / "x/a b.jpg"), f"file://{tmp_path}/x/a%20b.jpg"]
    assert set(locate_pictures(names, tmp_path / "empty", Path("t.csv")).paths.values()) == {names[0]}


def test_many_files_of_a_folder_are_looked_up_in_its_listing(tmp_path: Path) -> None:
    names = [f"a/{n}.jpg" for n in range(20)]
    planted(tmp_path, *names)
    found = locate_pictures([*names, "a/20.jpg", "a"], tmp_path, Path("t.csv"))
    assert (len(found.paths), found.missing, found.dropped) == (20, ["a/20.jpg", "a"], 0)


def test_the_longest_end_decides(tmp_path: Path) -> None:
    planted(tmp_path, "s1/cam/1.jpg", "s2/cam/1.jpg", "cam/2.jpg", "s2/cam/2.jpg")
    assert located(tmp_path, "x/s2/cam/1.jpg", "y/cam/2.jpg") == {
        "x/s2/cam/1.jpg": "s2/cam/1.jpg",
        "y/cam/2.jpg": "cam/2.jpg",
    }


def test_two_files_that_match_equally_are_refused_with_both_names(tmp_path: Path) -> None:
    planted(tmp_path, "s1/cam/1.jpg", "s2/cam/1.jpg", "s1/2.jpg", "s2/2.jpg")
    with pytest.raises(SourceError, match=r'"x/cam/1\.jpg" of t\.csv may be .*s[12]/cam/1\.jpg or .*s[12]/cam/1\.jpg'):
        located(tmp_path, "x/cam/1.jpg")
    with pytest.raises(SourceError, match=r'"2\.jpg" of t\.csv may be .*s[12]/2\.jpg or .*s[12]/2\.jpg'):
        located(tmp_path, "2.jpg")


def test_two_names_that_match_one_file_are_refused(tmp_path: Path) -> None:
    planted(tmp_path, "1.jpg")
    with pytest.raises(SourceError, match=r"“s1/1\.jpg”, “s2/1\.jpg” of t\.csv would both be .*1\.jpg"):
        located(tmp_path, "s1/1.jpg", "s2/1.jpg")
    assert located(tmp_path, "C:\\s1\\1.jpg", "D:/s1/1.jpg") == {"C:\\s1\\1.jpg": "1.jpg", "D:/s1/1.jpg": "1.jpg"}


def test_a_picture_that_is_not_there_never_gets_that_of_another_row(tmp_path: Path) -> None:
    planted(tmp_path, "s2/1.jpg", "2.jpg", "3.jpg")
    found = locate_pictures(["s1/1.jpg", "s2/1.jpg", "2.jpg", "s1/2.jpg"], tmp_path, Path("t.csv"))
    assert found.missing == ["s1/1.jpg", "s1/2.jpg"]
    assert {Path(path).name for path in found.paths.values()} == {"1.jpg", "2.jpg"}
    assert locate_pictures(["s1/1.jpg", "3.jpg"], tmp_path, Path("t.csv")).missing == ["s1/1.jpg"]


def test_names_of_uploads_are_found_without_their_prefix(tmp_path: Path) -> None:
    planted(tmp_path, "cat 1.jpg", "deep/dog.jpg", "0123abcd-own.jpg")
    names = ("/data/upload/3/12ab34cd-cat 1.jpg", "12ab34cd-dog.jpg", "upload/0123abcd-own.jpg")
    assert list(located(tmp_path, *names).values()) == ["0123abcd-own.jpg", "cat 1.jpg", "deep/dog.jpg"] or set(
        located(tmp_path, *names).values()
    ) == {"cat 1.jpg", "deep/dog.jpg", "0123abcd-own.jpg"}


def test_no_picture_at_all_is_an_error_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"None of the 2 pictures of t\.csv is in the folder .*\. The first: a\.jpg\."
    ):
        located(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(SourceError, match=r"the path 'a\\x00b' is not a valid file name"):
        located(tmp_path, "a\0b")


def test_parts_of_odd_paths() -> None:
    assert list_parts("") == list_parts("C:\\") == list_parts("https://host") == []
    assert list_parts("a//b/./c.jpg") == ["a", "b", "c.jpg"]
    assert list_parts("weird#name?.jpg") == ["weird#name?.jpg"]
