"""Bad input of groups, sites, tables and formats: one message that says what to do, or a named finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bestiary.capture_time import UNSET_CLOCKS
from bestiary.context import Context
from bestiary.data.formats.read_options import make_read_options
from bestiary.data.notices import SourceNotice
from bestiary.data.picture_groups import add_picture_groups
from bestiary.data.sources import PictureList, list_sources
from bestiary.errors import RecipeError, SourceError
from bestiary.group_rules import parse_group_rule, parse_site_rule
from bestiary.inference.event_names import event_finder
from bestiary.recipe import Recipe

FILES = ("cam1/a.jpg", "cam1/b.jpg", "cam2/a.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def listed(source: Path, **options: Any) -> PictureList:
    return list_sources([source], {}, Context(cache=None), reading=make_read_options(**options))


def messages(listing: PictureList) -> str:
    return "\n".join(notice.message for notice in listing.notices)


def grouped(
    group: str, site_rule: str = "none", *, folders: tuple[str, ...] = (), **columns: list[str | None]
) -> tuple[list[str | None], list[SourceNotice]]:
    """Return the groups of pictures with these columns, and the notices."""
    count = len(next(iter(columns.values())))
    values = {
        name: columns.get(name, [None] * count)
        for name in ("path", "label", "error", "given_group", "site", "time", "taken")
    }
    pictures = pl.DataFrame(values, schema=dict.fromkeys(values, pl.String))
    result, notices = add_picture_groups(pictures, parse_group_rule(group), parse_site_rule(site_rule), folders=folders)
    return result["given_group"].to_list(), notices


# ---- Patterns are matched with names in the collection ---------------------------------------------------------------


def test_groups_by_a_pattern_do_not_depend_on_where_the_collection_lies(folder: Path) -> None:
    moved = folder / "seq9_survey" / "pictures"
    groups = []
    for base in (folder, moved):
        for number in (1, 2):
            for kind in ("fox", "owl"):
                (base / "data" / kind).mkdir(parents=True, exist_ok=True)
                (base / "data" / kind / f"seq{number}_{kind}.jpg").touch()
        listing = listed(base / "data")
        paths: list[str | None] = [str(picture.path) for picture in listing.pictures]
        groups.append(grouped("regex:(seq[0-9]+)_", folders=tuple(listing.folders), path=paths)[0])
        find = event_finder(
            parse_group_rule("regex:(seq[0-9]+)_"), parse_site_rule("none"), [], None, 1, [str(base / "data")]
        )
        assert [find(str(path)) for path in paths] == groups[-1]
    assert groups[0] == groups[1] == ["seq1", "seq2", "seq1", "seq2"]


def test_a_pattern_that_fits_nothing_or_everything_is_refused_with_an_example() -> None:
    paths: list[str | None] = ["/data/fox/a.jpg", "/data/owl/b.jpg"]
    with pytest.raises(SourceError, match=r'"data" matches no name of a picture, such as fox/a\.jpg'):
        grouped("regex:data", folders=("/data",), path=paths)
    with pytest.raises(SourceError, match="Write a pattern whose parentheses differ between groups"):
        grouped("regex:(jp)g", folders=("/data",), path=paths)
    with pytest.raises(SourceError, match="matches no name"):
        grouped("regex:(x)?", folders=("/data",), path=paths)


# ---- Groups, sites, times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["time:0s", "time:-5s", "time:1y", "time:60", "time:999999999999d", "time:0.01ms"])
def test_a_time_that_is_none_is_an_error_of_the_recipe(text: str) -> None:
    with pytest.raises(RecipeError, match="expected a time between pictures, from 1ms to 366d"):
        Recipe.of({"data": {"group": text}})


def test_groups_that_differ_in_case_are_named() -> None:
    _, notices = grouped("source", path=["a", "b", "c"], given_group=["B1", "b1", "c"])
    [notice] = notices
    assert notice.is_issue
    assert '2 names of groups differ only in case, such as "B1" and "b1"' in notice.message


def test_a_group_of_several_sites_is_named() -> None:
    paths: list[str | None] = ["a", "b", "c"]
    _, notices = grouped("source", "source", path=paths, given_group=["g", "g", "h"], site=["s1", "s2", "s3"])
    assert any("1 of 2 groups have pictures of several sites" in notice.message for notice in notices)
    _, notices = grouped("source", "source", path=paths, given_group=["g", "h", "h"], site=["s1", "s2", "s2"])
    assert not any("of several sites" in notice.message for notice in notices)


@pytest.mark.parametrize("clock", UNSET_CLOCKS)
def test_times_of_a_clock_that_was_not_set_make_no_burst(clock: str) -> None:
    times: list[str | None] = [clock, f"{clock}.00+02:00", "2026-05-14T08:00:00", "2026-05-14T08:00:05", None]
    groups, notices = grouped("time:60s", path=["a", "b", "c", "d", "e"], taken=times)
    assert groups[:2] == [None, None]
    assert groups[2] == groups[3] is not None
    assert any(f"2 times are where a clock starts that was not set, such as {clock}" in n.message for n in notices)
    with pytest.raises(SourceError, match="no picture has a time that can be read"):
        grouped("time:60s", path=["a", "b"], taken=[clock, clock])


def test_a_column_without_values_is_named(folder: Path) -> None:
    (folder / "t.csv").write_text("file,species,group\ncam1/a.jpg,fox,\ncam1/b.jpg,owl,\n")
    assert 'The column "group" of the table' in messages(listed(folder / "t.csv"))
    (folder / "t.csv").write_text("path,label,site\ncam1/a.jpg,fox,\ncam1/b.jpg,owl,\n")
    assert 'The column "site" of the table' in messages(listed(folder / "t.csv"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"site": "species"}, 'no column for the label beside "species", which is named as site'),
        ({"group": "file"}, 'no column for the path beside "file", which is named as group'),
    ],
)
def test_a_column_is_not_label_and_site(folder: Path, columns: dict[str, str], message: str) -> None:
    (folder / "t.csv").write_text("file,species\ncam1/a.jpg,fox\n")
    with pytest.raises(SourceError, match=message):
        listed(folder / "t.csv", columns=columns)


# ---- Tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["file,species,species", "path,label,label", "path,label,group,group"])
def test_a_column_that_is_used_and_there_twice_is_refused(folder: Path, header: str) -> None:
    (folder / "t.csv").write_text(f"{header}\ncam1/a.jpg,fox,owl,x\n".replace(",x\n", "\n" * (header.count(",") < 3)))
    with pytest.raises(SourceError, match=r'has 2 columns "\w+"\. Rename all but one of them'):
        listed(folder / "t.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("names", ["path,label", "file\tspecies"])
def test_tables_of_excel_in_utf_16_are_read(folder: Path, encoding: str, names: str) -> None:
    text = f"{names}\ncam1/a.jpg,fox\ncam2/a.jpg,Bär\n"
    (folder / "t.csv").write_text(text.replace(",", "\t") if "\t" in names else text, encoding=encoding)
    assert [picture.label for picture in listed(folder / "t.csv").pictures] == ["fox", "Bär"]


def test_rows_of_videos_are_left_out_by_name(folder: Path) -> None:
    (folder / "clip.MP4").touch()
    (folder / "t.csv").write_text("file,species\ncam1/a.jpg,fox\nclip.MP4,owl\ngone.avi,owl\n")
    listing = listed(folder / "t.csv")
    assert dict(listing.skipped) == {"video": 2}
    assert "2 left out (video): clip.MP4, gone.avi" in messages(listing)


def test_boxes_that_are_not_four_numbers_are_left_out_by_name(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "file,species,x,y,w,h\ncam1/a.jpg,fox,1,2,3,4\ncam1/b.jpg,fox,1,2,3,\ncam2/a.jpg,owl,1,wide,3,4\n"
    )
    listing = listed(folder / "t.csv", columns="box=x+y+w+h")
    assert len(listing.pictures) == 3  # the label is of the whole picture all the same
    options = make_read_options(columns="box=x+y+w+h")
    assert options is not None
    object.__setattr__(options, "boxes", True)
    listing = list_sources([folder / "t.csv"], {}, Context(cache=None), reading=options)
    assert [(picture.path.parent.name, picture.path.name) for picture in listing.pictures] == [("cam1", "a.jpg")]
    assert dict(listing.skipped) == {"box is not four numbers": 2}


# ---- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "It is empty: export it again"),
        ('{"images": []}'.encode("utf-16"), "It is UTF-16 or no text: save it as UTF-8"),
        (b"<html>log in</html>", "It is no JSON, it begins with '<html>log in</html>'"),
        (b'{"file": "a.jpg"}\n{"file": "b.jpg"}\n', r"JSON lines, one object a line: rename it to t\.jsonl"),
        (b'[{"file": "a.jpg", "label": "fox"}]', "It is a list"),
    ],
)
def test_a_json_file_of_no_format_is_described(folder: Path, content: bytes, message: str) -> None:
    (folder / "t.json").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        listed(folder / "t.json")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.0", "convert the file"),
        ("1.7", r"export version 1\.6, or update bestiary"),
        ("2.0", "update bestiary"),
        (None, "has no info.format_version"),
        ([1], "convert the file"),
    ],
)
def test_megadetector_results_of_another_version_are_refused(folder: Path, version: object, message: str) -> None:
    images = [{"file": "cam1/a.jpg", "detections": []}]
    results = {"info": {"format_version": version}, "detection_categories": {"1": "animal"}, "images": images}
    (folder / "t.json").write_text(json.dumps(results))
    with pytest.raises(SourceError, match=message):
        listed(folder / "t.json")
