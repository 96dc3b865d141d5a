import os
import re
import sys
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest

from bestiary.context import Context
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.label_map import ANIMALS10, label_map
from bestiary.data.sources import PictureList, list_sources
from bestiary.errors import SourceError
from bestiary.locks import output_lock
from listening import Listening


def planted(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    return folder


def listed(source: Path, labels: Mapping[str, str] | None = None) -> PictureList:
    return list_sources([source], labels or {})


def messages(listing: PictureList) -> list[str]:
    return [notice.message for notice in listing.notices]


def rows(listing: PictureList, folder: Path) -> list[tuple[str, str, str | None]]:
    return [(p.path.relative_to(folder).as_posix(), p.label, p.split) for p in listing.pictures]


# --------------------------------------------------------------------------------------------- a folder per class


def test_a_folder_per_class_is_listed_by_path_whatever_lies_deeper(tmp_path: Path) -> None:
    planted(tmp_path, "dog/b.jpg", "dog/a.JPG", "cat/1/2/c.png", "cat/d", "dog/.e.jpg")
    listing = listed(tmp_path)
    assert rows(listing, tmp_path) == [
        ("cat/1/2/c.png", "cat", None),
        ("cat/d", "cat", None),
        ("dog/a.JPG", "dog", None),
        ("dog/b.jpg", "dog", None),
    ]
    assert listing.labels() == ["cat", "dog"]
    assert dict(listing.skipped) == {"hidden": 1}


def test_what_is_not_meant_as_a_picture_is_counted(tmp_path: Path) -> None:
    planted(tmp_path, "cat/a.jpg", "cat/Thumbs.db", "cat/notes.TXT", "cat/a.jpg.xmp", "cat/README", "cat/.DS_Store")
    planted(tmp_path, "labels.csv", "stray.jpg", "__MACOSX/cat/._a.jpg", ".git/x.jpg", "cat/__MACOSX/b.jpg")
    listing = listed(tmp_path)
    assert [row[0] for row in rows(listing, tmp_path)] == ["cat/a.jpg"]
    assert dict(listing.skipped) == {
        "not meant as pictures": 4,
        "hidden": 1,
        "beside the class folders": 2,
        "hidden folder": 3,
    }


def test_the_locks_of_outputs_are_no_files_of_the_source(tmp_path: Path) -> None:
    planted(tmp_path, "cat/a.jpg", "dog/b.jpg", "cat/.own.lock", ".own.lock")
    before = listed(tmp_path)
    assert dict(before.skipped) == {"hidden": 1, "beside the class folders": 1}
    with output_lock(tmp_path / "audit", tmp_path / "cat" / "audit", tmp_path / "new" / "deep" / "audit"):
        assert list((tmp_path / "new" / "deep").iterdir())
        assert listed(tmp_path) == before


def test_labels_are_mapped_and_unmapped_folders_keep_their_name(tmp_path: Path) -> None:
    planted(tmp_path, "cane/a.jpg", "volpe/b.jpg")
    assert [p.label for p in listed(tmp_path, ANIMALS10).pictures] == ["dog", "volpe"]


def test_odd_names_are_only_names(tmp_path: Path) -> None:
    names = ["gatto con l'ümlaut/猫 1.jpg", 'a,b"c/line\nbreak.png', "x.jpg/y.jpg", "cat/🐈.webp", "cat/-rf.jpg"]
    names += [f"cat/{'n' * 251}.jpg", "cat/A.jpg", "cat/a.jpg"]  # 255 bytes; two that differ in case only
    planted(tmp_path, *names)
    (tmp_path / "cat" / "folder.jpg").mkdir()
    listing = listed(tmp_path)
    assert sorted(row[0] for row in rows(listing, tmp_path)) == sorted(names)
    assert listing.labels() == ['a,b"c', "cat", "gatto con l'ümlaut", "x.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
def test_a_name_that_is_no_text_is_counted_and_not_listed(tmp_path: Path) -> None:
    planted(tmp_path, "cat/a.jpg", os.fsdecode(b"cat/caf\xe9.jpg"), os.fsdecode(b"chien\xe9/b.jpg"))
    listing = listed(tmp_path)
    assert [row[0] for row in rows(listing, tmp_path)] == ["cat/a.jpg"]
    assert dict(listing.skipped) == {"name is not valid Unicode": 2}


def test_links_to_files_are_pictures_and_links_to_folders_are_counted_not_followed(tmp_path: Path) -> None:
    planted(tmp_path / "elsewhere", "real.jpg", "more/m.jpg")
    root = planted(tmp_path / "root", "cat/a.jpg")
    (root / "cat" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "real.jpg")
    (root / "cat" / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "cat" / "self.jpg").symlink_to(root / "cat" / "self.jpg")
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "dog").symlink_to(tmp_path / "elsewhere" / "more", target_is_directory=True)
    (root / "lost").symlink_to(tmp_path / "nowhere")
    listing = listed(root)
    assert [row[0] for row in rows(listing, root)] == [
        "cat/a.jpg",
        "cat/dangling.jpg",  # listed, so that the audit can name it
        "cat/link.jpg",
        "cat/self.jpg",
        "dog/m.jpg",
    ]
    assert dict(listing.skipped) == {"linked folder": 1, "beside the class folders": 1}
    assert messages(listing) == [
        "The folder lost is not used: it is a broken symbolic link.",
        "1 linked folder in cat is not followed: their pictures are included already, or the link is circular.",
    ]


def test_a_class_folder_without_pictures_is_no_class_and_is_named(tmp_path: Path) -> None:
    planted(tmp_path, "cat/a.jpg", "dog/notes.txt").joinpath("empty").mkdir()
    listing = listed(tmp_path)
    assert listing.labels() == ["cat"]
    assert messages(listing) == [
        "The folder dog is not used: it contains no pictures (skipped: 1 not meant as pictures).",
        "The folder empty is not used: it is empty.",
    ]


# ------------------------------------------------------------------------------------------- folders already split


@pytest.mark.parametrize("training", ["train", "Training"])
@pytest.mark.parametrize("validation", ["val", "valid", "VALIDATION"])
def test_folders_already_split_are_recognised_in_any_spelling(tmp_path: Path, training: str, validation: str) -> None:
    names = [f"{training}/cat/a.jpg", f"{validation}/cat/b.jpg", "test/dog/c.jpg", "test/stray.jpg", ".cache/x"]
    listing = listed(planted(tmp_path, *names))
    found = {row[2]: row[:2] for row in rows(listing, tmp_path)}
    assert found == {"train": (names[0], "cat"), "val": (names[1], "cat"), "test": (names[2], "dog")}
    assert dict(listing.skipped) == {"beside the class folders": 1, "hidden folder": 1}


def test_parts_of_a_split_are_parts_whatever_lies_beside_them(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path, "train/cat/a.jpg", "test/cat/b.jpg", "unsorted/c.jpg"))
    assert rows(listing, tmp_path) == [("test/cat/b.jpg", "cat", "test"), ("train/cat/a.jpg", "cat", "train")]
    (notice,) = listing.notices
    assert (notice.check, notice.is_issue) == ("split-folders", True)
    assert notice.message.startswith(
        "The folders train, test are used as splits; the folder unsorted (1 picture without class folders) is skipped."
    )


# --------------------------------------------------------------------------------------------------------- tables


def test_a_csv_names_pictures_beside_it_and_anywhere(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f'label,path,split,note\ncat,a/1.jpg,Train,x\n dog ,"b, 2.jpg",valid,\ncat,{tmp_path}/c.jpg,,y\n')
    assert rows(listed(table, {"cat": "gatto"}), tmp_path) == [
        ("a/1.jpg", "gatto", "train"),
        ("b, 2.jpg", "dog", "val"),
        ("c.jpg", "gatto", None),
    ]


def test_a_csv_with_numbers_as_labels_keeps_them_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n1,007\n2,7\n")
    assert [p.label for p in listed(tmp_path / "t.csv").pictures] == ["007", "7"]


def test_a_csv_of_a_spreadsheet_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path,label\r\nä.jpg,кот\r\n".encode("utf-8-sig"))
    assert rows(listed(tmp_path / "t.csv"), tmp_path) == [("ä.jpg", "кот", None)]


def test_a_parquet_table_is_read_with_labels_of_any_kind(tmp_path: Path) -> None:
    frame = pl.DataFrame({"path": ["a.jpg", "b.jpg"], "label": [1, 2]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert [p.label for p in listed(tmp_path / "t.parquet").pictures] == ["1", "2"]
    frame.with_columns(pl.col("label").cast(pl.String).cast(pl.Categorical), split=pl.lit(0)).write_parquet(
        tmp_path / "u.parquet"
    )
    with pytest.raises(SourceError, match='unknown split "0"'):
        listed(tmp_path / "u.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels\na.jpg,cat\n", r'has no column "label"; it has: path, labels\.'),
        (
            "path:label\na.jpg:cat\n",
            r'has no column "path"; it has: path:label\. The columns must be',
        ),
        ("path,label\na.jpg,cat\nb.jpg,\n", r"row 2: path and label must not be empty"),
        ("path,label\na.jpg,cat\nb.jpg,   \n", r"row 2: path and label must not be empty"),
        ("path,label\n,cat\n", r"row 1: path and label must not be empty"),
        (
            "path,label,split\na.jpg,cat,train\nb.jpg,cat,holdout\n",
            r'row 2: unknown split "holdout"\. Expected one of: dev, test, testing, train, .*val',
        ),
        ("path,label\n", r"There are no labelled pictures in .*t\.csv\."),
        ("", r"The table .*t\.csv cannot be read"),
        ("path,label\na,b,c,d\n", r"The table .*t\.csv cannot be read"),
    ],
)
def test_a_csv_that_does_not_fit_is_told_with_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        listed(tmp_path / "t.csv")


def test_a_damaged_parquet_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SourceError, match=r"The table .*t\.parquet cannot be read"):
        listed(tmp_path / "t.parquet")


# --------------------------------------------------------------------------------------------- nothing to be found


def test_sources_without_pictures_are_told_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"There is nothing at .*missing\. Pass a folder with one folder of pictures"):
        listed(tmp_path / "missing")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SourceError, match=r'nothing at .*picturs\. Did you mean ".*/pictures"\? Pass a folder'):
        listed(tmp_path / "picturs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no labelled pictures in .*empty\. Expected one folder"):
        listed(tmp_path / "empty")
    with pytest.raises(SourceError, match=r"in .*flat \(skipped: 2 beside the class folders\)\. Expected"):
        listed(planted(tmp_path / "flat", "a.jpg", "b.jpg"))
    with pytest.raises(SourceError, match=r"p\.jpg is one picture\. Expected a folder, or a table \(\.csv, \.jsonl, "):
        listed(planted(tmp_path, "p.jpg") / "p.jpg")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(tmp_path, "cat/a.jpg", "cat/locked/b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"The folder .*cat/locked cannot be listed: Permission denied"):
        listed(tmp_path)


# ----------------------------------------------------------------------------------------------------- label maps


def test_the_built_in_map_knows_all_ten_animals() -> None:
    assert label_map("animals10")["scoiattolo"] == "squirrel"
    assert len(set(label_map("animals10").values())) == 10
    assert label_map(None) == {}


@pytest.mark.real
def test_the_built_in_map_fits_the_real_folders(animals10: Path) -> None:
    assert listed(animals10, label_map("animals10")).labels() == sorted(ANIMALS10.values())


@pytest.mark.parametrize("header", ["folder,label\n", ""])
def test_an_own_map_is_a_csv_with_or_without_header(tmp_path: Path, header: str) -> None:
    path = tmp_path / "map.csv"
    path.write_bytes(f'{header} n02 , cat \n\n"n,03",dög\n'.encode("utf-8-sig"))
    assert label_map(str(path)) == {" n02 ": "cat", "n,03": "dög"}
    root = folders(tmp_path / "pictures", "n02", "n,03")
    assert listed(root, label_map(str(path))).labels() == ["cat", "dög"]


def test_a_map_that_is_unknown_or_bad_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'no label map "animals-10"\. Did you mean "animals10"\? .* path of a CSV'):
        label_map("animals-10")
    path = tmp_path / "map.csv"
    path.write_text("folder,label\nn02,cat\nn03\n")
    with pytest.raises(SourceError, match=r"map\.csv, row 2: expected folder,label; got 'n03'"):
        label_map(str(path))
    path.write_bytes(b"n02,ch\xeft\n")
    with pytest.raises(SourceError, match=r"map\.csv cannot be read"):
        label_map(str(path))


# ---- Label maps and several sources ----------------------------------------------------------------------------------


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(b"x")
    return root


def test_a_label_map_that_matches_no_folder_is_refused_with_the_nearest_names(tmp_path: Path) -> None:
    root = folders(tmp_path / "pictures", "Cane", "gato", "zebra")
    says = (
        r"matches no folder\. It names cane, gatto; the folders are Cane, gato, zebra\."
        r' Similar names: "cane" is close to "Cane", "gatto" is close to "gato"'
    )
    with pytest.raises(SourceError, match=says):
        listed(root, {"cane": "dog", "gatto": "cat"})
    with pytest.raises(SourceError, match="Omit --labels if the folder names are the labels"):
        listed(root, {"xx": "dog"})


def test_labels_that_differ_only_in_capitals_are_told(tmp_path: Path) -> None:
    root, listening = folders(tmp_path / "pictures", "Dog", "cane", "zebra"), Listening()
    assert list_sources([root], {"cane": "dog"}, Context(reporter=listening)).labels() == ["Dog", "dog", "zebra"]
    (said,) = listening.said
    assert said.startswith("Dog and dog differ only in case")


def test_a_label_map_that_matches_some_folders_says_which_are_not_here(tmp_path: Path) -> None:
    root, listening = folders(tmp_path / "pictures", "cane", "zebra"), Listening()
    listing = list_sources([root], {"cane": "dog", "gatto": "cat", "mucca": "cow"}, Context(reporter=listening))
    assert listing.labels() == ["dog", "zebra"]
    assert listening.said == ["2 of 3 folders of the label map are missing: gatto, mucca."]


def test_a_label_map_is_held_against_all_sources_together(tmp_path: Path) -> None:
    sources, listening = [folders(tmp_path / "a", "cane"), folders(tmp_path / "b", "gatto")], Listening()
    listing = list_sources(sources, {"cane": "dog", "gatto": "cat"}, Context(reporter=listening))
    assert listing.labels() == ["cat", "dog"]
    assert listening.said == []


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("training_set", "test_set"), ("train", "dev", "test"), ("Train", "Valid")]
)
def test_the_parts_of_a_split_go_by_many_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        for label in ("cat", "dog"):
            (tmp_path / name / label).mkdir(parents=True)
            (tmp_path / name / label / "a.jpg").touch()
    found = list_sources([tmp_path], {})
    assert found.labels() == ["cat", "dog"]
    assert {picture.split for picture in found.pictures} <= {"train", "val", "test"}
    assert len({picture.split for picture in found.pictures}) == len(names)


def test_a_part_of_a_split_that_is_packed_twice_is_looked_through(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / part / part / label).mkdir(parents=True)
            (tmp_path / part / part / label / "a.jpg").touch()
    found = list_sources([tmp_path], {})
    assert sorted((picture.label, picture.split) for picture in found.pictures) == [
        ("cat", "test"),
        ("cat", "train"),
        ("dog", "test"),
        ("dog", "train"),
    ]


def test_folders_that_all_hold_the_same_folders_are_named(tmp_path: Path) -> None:
    listing = listed(planted(tmp_path, "A/cat/1.jpg", "A/dog/1.jpg", "B/cat/1.jpg", "B/dog/1.jpg"))
    assert listing.labels() == ["A", "B"]
    assert "although each contains the same folders: cat, dog" in messages(listing)[0]


def test_a_csv_may_have_empty_lines_and_paths_of_windows(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").touch()
    (tmp_path / "t.csv").write_text("path,label\n\ncat\\a.jpg,cat\n\n")
    [found] = list_sources([tmp_path / "t.csv"], {}).pictures
    assert found.path == tmp_path / "cat" / "a.jpg"


def test_a_number_that_is_none_is_no_label(tmp_path: Path) -> None:
    pl.DataFrame({"path": ["a.jpg", "b.jpg"], "label": [1.0, float("nan")]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="row 2: path and label must not be empty"):
        list_sources([tmp_path / "t.parquet"], {})


# ---- Labels of any type -------------------------------------------------------------------------------------------


NUMBERS = ["1", "2", "10"]


@pytest.mark.parametrize(
    "labels",
    [
        pl.Series([1, 2, 10], dtype=pl.Int8),
        pl.Series([1, 2, 10], dtype=pl.UInt64),
        pl.Series([1.0, 2.0, 10.0]),
        pl.Series([1.0, 2.0, 10.0], dtype=pl.Float32),
        pl.Series(["1.00", "2.00", "10.00"]).cast(pl.Decimal(10, 2)),
        pl.Series(NUMBERS),
        pl.Series(NUMBERS, dtype=pl.Categorical),
        pl.Series(NUMBERS, dtype=pl.Enum(NUMBERS)),
        pl.Series(["1.0", "2.0", "10.0"]),
    ],
)
def test_a_number_is_one_label_whatever_its_column_is(tmp_path: Path, labels: pl.Series) -> None:
    frame = pl.DataFrame({"path": ["a.jpg", "b.jpg", "c.jpg"], "label": labels})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    for name in ("t.parquet", "t.csv"):
        assert [p.label for p in listed(tmp_path / name).pictures] == NUMBERS
    merged = list_sources([tmp_path / "t.parquet", tmp_path / "t.csv"], {})
    assert merged.labels() == sorted(NUMBERS)


@pytest.mark.parametrize("texts", [["True", "False"], ["TRUE", "FALSE"], ["true", "false"], [" True", "FALSE"]])
def test_truth_values_are_one_label_however_they_are_written(tmp_path: Path, texts: list[str]) -> None:
    pl.DataFrame({"path": ["a.jpg", "b.jpg"], "label": texts}).write_csv(tmp_path / "t.csv")
    pl.DataFrame({"path": ["c.jpg", "d.jpg"], "label": [True, False]}).write_parquet(tmp_path / "t.parquet")
    assert list_sources([tmp_path / "t.csv", tmp_path / "t.parquet"], {}).labels() == ["false", "true"]


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (pl.Series(["True", "False", "Maybe"][1:]), ["False", "Maybe"]),
        (pl.Series([0.5, 1.0]), ["0.5", "1"]),
        (pl.Series([0.1, -0.0], dtype=pl.Float32), ["0.1", "0"]),
        (pl.Series([1e300, 2.0**60]), ["1e+300", "1.152921504606847e+18"]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series(["1.0", "cat"]), ["1.0", "cat"]),
        (pl.Series(["1.0", "2.10"]), ["1", "2.10"]),
        (pl.Series(["007", "7"]), ["007", "7"]),
        (pl.Series([date(2024, 1, 31), date(2024, 2, 1)]), ["2024-01-31", "2024-02-01"]),
        (pl.Series([datetime(2024, 1, 31), datetime(2024, 2, 1)]), ["2024-01-31", "2024-02-01"]),
    ],
)
def test_labels_of_other_types_are_written_as_they_are(tmp_path: Path, labels: pl.Series, texts: list[str]) -> None:
    pl.DataFrame({"path": ["a.jpg", "b.jpg"], "label": labels}).write_parquet(tmp_path / "t.parquet")
    assert [p.label for p in listed(tmp_path / "t.parquet").pictures] == texts


@pytest.mark.parametrize("label", [pl.Series([1.0, None]), pl.Series([1, None]), pl.Series(["1", None])])
def test_a_gap_among_the_labels_is_named(tmp_path: Path, label: pl.Series) -> None:
    pl.DataFrame({"path": ["a.jpg", "b.jpg"], "label": label}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="row 2: path and label must not be empty"):
        listed(tmp_path / "t.parquet")


# ---- Label maps: folders named twice, spaces at the ends ------------------------------------------------------------


@pytest.mark.parametrize(
    "rows_of_map",
    ["ant,insect\nbee,insect\nant,spider\n", "café,a\ncafe\u0301,b\n", "folder,label\n ant,x\n ant,y\n"],
)
def test_a_folder_with_two_labels_is_refused(tmp_path: Path, rows_of_map: str) -> None:
    (tmp_path / "map.csv").write_text(rows_of_map, encoding="utf-8")
    with pytest.raises(SourceError, match=r'row \d: the folder ".*" has a second label, ".*"; an earlier row gives it'):
        label_map(str(tmp_path / "map.csv"))


def test_a_folder_that_is_named_twice_with_one_label_has_it(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("ant,insect\nant, insect\n")
    assert label_map(str(tmp_path / "map.csv")) == {"ant": "insect"}


def test_folders_whose_names_end_in_spaces_are_mapped(tmp_path: Path) -> None:
    root, listening = folders(tmp_path / "p", "cat", "cat ", " dog"), Listening()
    (tmp_path / "map.csv").write_text('folder,label\n"cat ",lynx\ncat,cat\ndog ,dog\n')
    mapped = list_sources([root], label_map(str(tmp_path / "map.csv")), Context(reporter=listening))
    assert sorted((p.path.parent.name, p.label) for p in mapped.pictures) == [
        (" dog", " dog"),
        ("cat", "cat"),
        ("cat ", "lynx"),
    ]
    assert listening.said == ["1 of 3 folders of the label map are missing: dog ."]
    (tmp_path / "map.csv").write_text("ant ,x\nant  ,y\n")
    with pytest.raises(SourceError, match=r'The label map: the folder "ant" has a second label, "y"'):
        listed(folders(tmp_path / "q", "ant"), label_map(str(tmp_path / "map.csv")))


def test_a_folder_without_class_folders_names_the_file_of_labels_in_it(tmp_path: Path) -> None:
    export = tmp_path / "export.json"
    export.write_text('{"images": [{"id": "1", "file_name": "a.jpg"}], "annotations": [], "categories": []}')
    expected = re.escape(f"pass it in place of its folder: {export} (COCO and COCO Camera Traps)")
    with pytest.raises(SourceError, match=f"There are no labelled pictures .*{expected}"):
        list_sources([tmp_path], {})
    with pytest.raises(SourceError, match=f"is a folder; COCO .* is a file.*{expected}"):
        list_sources([tmp_path], {}, reading=ReadOptions("coco"))
    with pytest.raises(SourceError, match=r"is a folder; MegaDetector results \(megadetector\) is a file\. It has no"):
        list_sources([tmp_path], {}, reading=ReadOptions("megadetector"))


def test_options_of_a_table_are_refused_for_a_folder_of_class_folders(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--columns and --pictures cannot be used: .* is a folder of class folders"):
        list_sources(
            [planted(tmp_path, "cat/1.jpg")], {}, reading=ReadOptions(columns={"path": "File"}, pictures=tmp_path)
        )
