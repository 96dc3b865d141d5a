"""Tables as people have them: any delimiter, encoding and column names; labels are text."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bestiary.box import Box
from bestiary.context import Context
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.formats.read_options import make_read_options
from bestiary.data.sources import PictureEntry, PictureList, list_sources
from bestiary.errors import SourceError, UserError
from bestiary.table_columns import parse_columns


def planted(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(source: Path, **options: Any) -> PictureList:
    return list_sources([source], {}, Context(cache=None), reading=make_read_options(**options))


def labels(listing: PictureList) -> dict[str, str]:
    return {picture.path.name: picture.label for picture in listing.pictures}


def messages(listing: PictureList) -> str:
    return "\n".join(notice.message for notice in listing.notices)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return planted(tmp_path, "a.jpg", "b.jpg", "c.jpg")


# ---- Delimiters and encodings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "delimiter"), [(".csv", ","), (".csv", ";"), (".tsv", "\t"), (".txt", "\t"), (".csv", "|")]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_delimiter_is_recognised(folder: Path, suffix: str, delimiter: str, end: str) -> None:
    rows = [("File", "Species", "Notes, and more"), ("a.jpg", "fox", "x"), ("b.jpg", '"red, or grey; fox"', "")]
    source = folder / f"t{suffix}"
    source.write_text(
        end.join(delimiter.join(row) for row in rows[:1] + rows[1:]).replace("Notes, and more", '"Notes, and more"'),
        newline="",
    )
    assert labels(listed(source)) == {"a.jpg": "fox", "b.jpg": "red, or grey; fox"}


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", ""),
        ("utf-16-le", ""),
        ("utf-16-be", ""),
        ("cp1252", "Windows-1252"),
    ],
)
def test_the_encoding_is_recognised(folder: Path, encoding: str, title: str) -> None:
    source = folder / "t.csv"
    source.write_bytes("File;Species\r\na.jpg;Füchsin\r\nb.jpg;Löwe\r\n".encode(encoding))
    listing = listed(source)
    assert labels(listing) == {"a.jpg": "Füchsin", "b.jpg": "Löwe"}
    assert ("is not UTF-8" in messages(listing)) == bool(title)
    assert title in messages(listing)


def test_bytes_that_windows_does_not_know_are_latin_1(folder: Path) -> None:
    (folder / "t.csv").write_bytes(b"File,Species\na.jpg,caf\xe9 \x81\n")
    listing = listed(folder / "t.csv")
    assert labels(listing) == {"a.jpg": "café \x81"}
    assert "is read as Latin-1, for example “café" in messages(listing)


def test_a_manifest_in_another_encoding_is_read_as_a_table(folder: Path) -> None:
    (folder / "t.csv").write_bytes(b"path,label\na.jpg,caf\xe9\n")
    assert labels(listed(folder / "t.csv")) == {"a.jpg": "café"}


# ---- Labels are text ------------------------------------------------------------------------------------------------

TEXTS = ["007", "NA", "None", "null", "nan", "-", "N/A", "True story", "1e3", "1,5"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_labels_are_text(tmp_path: Path, suffix: str) -> None:
    names = [f"{n}.jpg" for n in range(len(TEXTS))]
    planted(tmp_path, *names)
    frame, source = pl.DataFrame({"file": names, "species": TEXTS}), tmp_path / f"t{suffix}"
    if suffix == ".jsonl":
        frame.write_ndjson(source)
    elif suffix == ".parquet":
        frame.write_parquet(source)
    else:
        frame.write_csv(source, separator="," if suffix == ".csv" else "\t")
    assert list(labels(listed(source)).values()) == TEXTS


def test_numbers_of_json_are_labels_without_decimals(folder: Path) -> None:
    rows = [{"image": "a.jpg", "class": 1}, {"image": "b.jpg", "class": 1.0}, {"image": "c.jpg", "class": True}]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert labels(listed(folder / "t.jsonl")) == {"a.jpg": "1", "b.jpg": "1", "c.jpg": "true"}


# ---- Columns --------------------------------------------------------------------------------------------------------


def test_columns_have_roles(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "Datei,Art,Teil,Serie,Kamera,Wann,x1,y1,x2,y2\n"
        "a.jpg,fox,Training,s1,k1,2024:05:01 10:00:00,0.1,0.2,0.5,0.8\n"
        "b.jpg,owl,,,,2024-05-01,,,,\n"
    )
    columns = "path=Datei,label=Art,split=Teil,group=Serie,site=Kamera,time=Wann,corners=x1+y1+x2+y2"
    options = make_read_options(columns=columns)
    assert options is not None
    reading = ReadOptions(columns=options.columns, boxes=True)
    first, second = list_sources([folder / "t.csv"], {}, Context(cache=None), reading=reading).pictures
    box = first.box
    assert box is not None
    assert (box.left, box.top, round(box.width, 9), round(box.height, 9), box.unit) == (0.1, 0.2, 0.4, 0.6, "fraction")
    assert PictureEntry(folder / "a.jpg", "fox", "train", "s1", "k1", "2024-05-01T10:00:00", box) == first
    assert second == PictureEntry(folder / "b.jpg", "owl", time="2024-05-01")
    assert listed(folder / "t.csv", columns=columns).pictures[0].box is None


def test_group_site_and_time_are_taken_by_name(folder: Path) -> None:
    for name, head in (("m.csv", "path,label"), ("t.csv", "File,Species")):
        (folder / name).write_text(f"{head},group,site,time,habitat\na.jpg,fox,7,k1,2024-05-01T10:00+02:00,wood\n")
        listing = listed(folder / name)
        assert listing.pictures == [PictureEntry(folder / "a.jpg", "fox", None, "7", "k1", "2024-05-01T10:00:00+02:00")]
        assert "habitat" in messages(listing)


def test_times_of_several_kinds_are_read_or_named(folder: Path) -> None:
    (folder / "t.csv").write_text("File,Species,time\na.jpg,fox,5/6/19 17:21\nb.jpg,fox,2024-02-30 10:00:00\n")
    listing = listed(folder / "t.csv")
    assert [picture.time for picture in listing.pictures] == ["2019-05-06T17:21:00", None]
    assert "1 time was read with the month first: 5/6/19 17:21" in messages(listing)
    assert '1 time cannot be read, such as "2024-02-30 10:00:00"' in messages(listing)


@pytest.mark.parametrize("name", ["t.csv", "m.csv"])
def test_labels_that_are_no_species_are_left_out_only_if_asked(folder: Path, name: str) -> None:
    head = "File,Species" if name == "t.csv" else "path,label"
    (folder / name).write_text(f"{head}\na.jpg,fox\nb.jpg,Unknown\nc.jpg,no animal\n")
    assert labels(listed(folder / name)) == {"a.jpg": "fox", "b.jpg": "Unknown", "c.jpg": "no animal"}
    assert labels(listed(folder / name, leave_out="unknown")) == {"a.jpg": "fox", "c.jpg": "no animal"}
    listing = listed(folder / name, leave_out=["empty", "unknown"])
    assert labels(listing) == {"a.jpg": "fox"}
    assert dict(listing.skipped) == {"labelled as unknown": 1, "labelled as empty": 1}


def test_a_box_in_pixels_and_with_decimal_commas(folder: Path) -> None:
    (folder / "t.csv").write_text("File;Species;x;y;w;h\na.jpg;fox;10;20,5;30;40\n")
    reading = ReadOptions(columns=parse_columns("box=x+y+w+h"), boxes=True)
    [picture] = list_sources([folder / "t.csv"], {}, Context(cache=None), reading=reading).pictures
    assert picture.box == Box(10, 20.5, 30, 40, "pixels")


def test_the_corners_of_vott_need_no_name(folder: Path) -> None:
    (folder / "p-export.csv").write_text('"image","xmin","ymin","xmax","ymax","label"\n"a.jpg",10.5,20,30,60,"fox"\n')
    [picture] = list_sources([folder / "p-export.csv"], {}, reading=ReadOptions(boxes=True)).pictures
    assert (picture.label, picture.box) == ("fox", Box(10.5, 20, 19.5, 40, "pixels"))


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        ("Datei,Art", None, r'no column "path"; it has: Datei, Art\..*--columns "path=Datei,label=Art"'),
        (
            "file,Art,Ort",
            None,
            r'no column "label"; it has: file, Art, Ort\. .*species.*--columns "path=file,label=Art"',
        ),
        ("file,species,class", None, r"several columns that may be the label \(species, class\)"),
        ("file,image,species", None, r"several columns that may be the path \(file, image\)"),
        ("file,Species", "label=Specis", r'no column "Specis"\. Did you mean "Species"\? It has: file, Species'),
        ("file,Art,Art", "label=Art", r'has 2 columns "Art"\. Rename all but one'),
        ("file,", None, r'no column "label"; it has: file, ""\.'),
    ],
)
def test_columns_that_cannot_be_decided_are_listed(
    folder: Path, header: str, columns: str | None, message: str
) -> None:
    (folder / "t.csv").write_text(
        f"{header}\na.jpg,fox,x\nb.jpg,fox,y\n".replace(",x\n", "\n" if header.count(",") < 2 else ",x\n").replace(
            ",y\n", "\n" if header.count(",") < 2 else ",y\n"
        )
    )
    with pytest.raises(SourceError, match=message):
        listed(folder / "t.csv", columns=columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("File", "takes the column of each role, for example --columns path=File"),
        ("pth=File", 'there is no role "pth". Did you mean "path"'),
        ("path=a,path=b", 'the role "path" has two columns'),
        ({"lable": "x"}, 'there is no role "lable". Did you mean "label"'),
        ("path=File,label=Species,box=x+y", r"box takes four columns, box=left\+top\+width\+height"),
        ("box=a+b+c+d,corners=a+b+c+d", "Leave out one"),
    ],
)
def test_columns_that_are_written_wrongly_are_explained(folder: Path, columns: Any, message: str) -> None:
    (folder / "t.csv").write_text("File,Species\na.jpg,fox\n")
    with pytest.raises(UserError, match=message):
        listed(folder / "t.csv", columns=columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format_name": "tabel"}, 'There is no format "tabel". Did you mean "table"'),
        ({"leave_out": "humans"}, 'there is no "humans". Did you mean "human"'),
        ({"pictures": "/nowhere"}, "There is no folder /nowhere"),
    ],
)
def test_options_with_unknown_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_read_options(**options)


def test_options_that_are_left_open_are_not_recorded() -> None:
    assert make_read_options() is None
    empty = make_read_options(leave_out="none")
    assert empty is not None
    assert empty.facts() == {"leave out": []}


# ---- Nothing is lost ------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_and_named(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "File,Species\na.jpg,fox\na.jpg,fox\nb.jpg,fox\nb.jpg,owl\nc.jpg,\n,fox\n\ngone.jpg,owl\n"
    )
    listing = listed(folder / "t.csv")
    assert labels(listing) == {"a.jpg": "fox"}
    assert dict(listing.skipped) == {
        "listed twice": 1,
        "with several labels": 1,
        "without a label": 1,
        "row without a picture": 1,
        "not in the folder": 1,
    }
    said = messages(listing)
    assert "1 left out (with several labels): b.jpg (fox, owl)." in said
    assert "1 left out (not in the folder): gone.jpg." in said
    assert "1 left out (without a label): c.jpg." in said
    assert "is read as a table (--format table)" in said


def test_a_table_without_a_usable_row_is_an_error(folder: Path) -> None:
    (folder / "t.csv").write_text("File,Species\na.jpg,\nb.jpg,\n")
    with pytest.raises(
        SourceError, match=r"no row with a picture and a label \(2 without a label; path from the column"
    ):
        listed(folder / "t.csv")
    (folder / "t.csv").write_text("File,Species\na.jpg,fox\na.jpg,owl\n")
    with pytest.raises(SourceError, match=r"no picture with a label that can be used: 1 with several labels"):
        listed(folder / "t.csv")
    (folder / "t.csv").write_text("File,Species,split\na.jpg,fox,holdout\n")
    with pytest.raises(SourceError, match=r'unknown split "holdout"\. Expected one of'):
        listed(folder / "t.csv")


def test_rows_that_do_not_fit_the_header_are_explained(folder: Path) -> None:
    (folder / "t.csv").write_text("File,Species\na.jpg,fox\nb.jpg,fox, red\n")
    with pytest.raises(
        SourceError, match="a row has more fields than the first line. Put texts that have the delimiter"
    ):
        listed(folder / "t.csv")
    (folder / "t.csv").write_text("File,Species,Note\na.jpg,fox\n")
    assert labels(listed(folder / "t.csv")) == {"a.jpg": "fox"}
    (folder / "t.jsonl").write_text('{"file": "a.jpg", "label": "fox"}\n{"file": \n')
    with pytest.raises(SourceError, match=r"t\.jsonl, line 2: no JSON"):
        listed(folder / "t.jsonl")
    (folder / "t.jsonl").write_text('{"file": "a.jpg", "label": "fox"}\n["b.jpg"]\n')
    with pytest.raises(SourceError, match=r"t\.jsonl, line 2: expected an object"):
        listed(folder / "t.jsonl")


def test_boxes_that_cannot_be_used_are_named(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "File,Species,x,y,w,h\na.jpg,fox,0.1,0.1,0.2,0.2\na.jpg,owl,0.5,0.5,0.2,0.2\nb.jpg,fox,0.1,0.1,0,0.2\n"
        "c.jpg,fox,0.9,0.1,0.5,0.2\n"
    )
    reading = ReadOptions(columns=parse_columns("box=x+y+w+h"), boxes=True)
    listing = list_sources([folder / "t.csv"], {}, Context(cache=None), reading=reading)
    assert [(p.path.name, p.label) for p in listing.pictures] == [("a.jpg", "fox"), ("a.jpg", "owl")]
    assert dict(listing.skipped) == {"box without area": 1, "box outside the picture": 1}
    assert "c.jpg (0.9, 0.1, 0.5, 0.2)" in messages(listing)
    (folder / "t.csv").write_text("File,Species,x,y,w,h\na.jpg,fox,wide,0.1,0.2,0.2\n")
    with pytest.raises(
        SourceError,
        match=r'no box of four numbers in the columns x \+ y \+ w \+ h; the first is "wide", "0.1", "0.2", "0.2"\.',
    ):
        list_sources([folder / "t.csv"], {}, Context(cache=None), reading=reading)


def test_a_box_a_little_beyond_its_picture_does_not_make_pixels_of_fractions(folder: Path) -> None:
    rows = "File,Species,x,y,w,h\na.jpg,fox,0.6,0.1,0.38,0.2\nb.jpg,fox,0.6,0.1,0.415,0.2\nc.jpg,owl,0.1,0.1,0.2,0.2\n"
    (folder / "t.csv").write_text(rows)
    reading = ReadOptions(columns=parse_columns("box=x+y+w+h"), boxes=True)
    listing = list_sources([folder / "t.csv"], {}, Context(cache=None), reading=reading)
    assert [picture.box and picture.box.unit for picture in listing.pictures] == ["fraction"] * 3


@pytest.mark.parametrize(
    ("box", "others", "reason"),
    [
        ("100,50,40,40", ("0.1,0.1,0.2,0.2", "0.5,0.5,0.2,0.2"), "box in pixels where fractions are expected"),
        ("0.1,0.1,0.2,0.2", ("100,50,40,40", "20,30,40,40"), "box in fractions where pixels are expected"),
    ],
)
def test_a_box_of_another_unit_than_most_is_left_out_by_name(
    folder: Path, box: str, others: tuple[str, str], reason: str
) -> None:
    rows = [f"a.jpg,fox,{box}", f"b.jpg,fox,{others[0]}", f"c.jpg,owl,{others[1]}"]
    (folder / "t.csv").write_text("File,Species,x,y,w,h\n" + "\n".join(rows) + "\n")
    reading = ReadOptions(columns=parse_columns("box=x+y+w+h"), boxes=True)
    listing = list_sources([folder / "t.csv"], {}, Context(cache=None), reading=reading)
    assert [picture.path.name for picture in listing.pictures] == ["b.jpg", "c.jpg"]
    assert dict(listing.skipped) == {reason: 1}
    assert "a.jpg (" in messages(listing)


def test_pictures_lie_in_another_folder(tmp_path: Path) -> None:
    planted(tmp_path / "photos", "site 1/a.jpg")
    (tmp_path / "t.csv").write_text("File,Species\nC:\\data\\site 1\\a.jpg,fox\n")
    listing = listed(tmp_path / "t.csv", pictures=tmp_path / "photos")
    assert [picture.path for picture in listing.pictures] == [tmp_path / "photos" / "site 1" / "a.jpg"]
    assert "without the leading folders" in messages(listing)
    (tmp_path / "m.csv").write_text("path,label\na.jpg,fox\n")
    assert labels(listed(tmp_path / "m.csv", pictures=tmp_path / "photos")) == {"a.jpg": "fox"}


def test_columns_that_are_not_used_come_with_the_roles_that_are_free(folder: Path) -> None:
    (folder / "t.csv").write_text("File,Species,Camera,Date\na.jpg,fox,c1,2024-05-01\nb.jpg,hare,c2,2024-05-02\n")
    assert "Not used: Camera, Date." in messages(listed(folder / "t.csv"))
    assert "--columns group=COLUMN (a burst) or site=COLUMN (a camera) or time=COLUMN" in messages(
        listed(folder / "t.csv")
    )
    named = messages(listed(folder / "t.csv", columns="site=Camera"))
    assert "group=COLUMN" in named
    assert "site=COLUMN" not in named


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_lines_may_end_in_carriage_returns_alone(folder: Path, encoding: str) -> None:
    """As Excel for Mac writes "CSV (Macintosh)"."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".jpg")[:2]
    text = "\r".join(["path,label", f"{names[0]},Gämse", f"{names[1]},fox", ""])
    (folder / "mac.csv").write_bytes(text.encode(encoding))
    assert labels(listed(folder / "mac.csv")) == {names[0]: "Gämse", names[1]: "fox"}


def test_a_carriage_return_inside_a_header_is_no_bug(folder: Path) -> None:
    (folder / "odd.csv").write_bytes(b"path,la\rbel\nx.jpg,fox\n")
    with pytest.raises(SourceError, match=r"odd\.csv"):
        listed(folder / "odd.csv")


@pytest.mark.parametrize("columns", [{"path": ["a.jpg"], "label": ["fox"]}, {"file": ["a.jpg"], "species": ["fox"]}])
def test_a_parquet_over_which_polars_panics_is_damaged(
    folder: Path, columns: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pl.DataFrame(columns).write_parquet(folder / "t.parquet")

    def panic(*_arguments: object, **_options: object) -> None:
        raise pl.exceptions.PanicException("assertion failed: offset + length <= self.length")

    for name in ("read_parquet", "read_parquet_schema"):
        monkeypatch.setattr(pl, name, panic)
        with pytest.raises(SourceError, match=r"t\.parquet cannot be read: it is damaged"):
            listed(folder / "t.parquet")
