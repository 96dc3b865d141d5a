"""Corrections: the file, and what becomes of the pictures. Nothing here changes a picture."""

from __future__ import annotations

import csv
import hashlib
import shutil
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from bestiary import files as files_module
from bestiary import flow, table
from bestiary.data.assign_splits import assign_splits
from bestiary.data.corrections import Correction, Corrections, append, make_correction, merge, read_corrections, write
from bestiary.demo.dataset import SyntheticDataset, draw_creature
from bestiary.errors import SourceError
from bestiary.recipe import Recipe
from bestiary.recipe_sections import DataConfig
from bestiary.report.audit_cards import choose_cards, findings_of_check
from listening import Listening

ONE, TWO, THREE = (digit * 64 for digit in "123")
HEADER = "sha256,action,label,note,when\n"
T1, T2 = "2026-01-31T12:00:00+00:00", "2026-02-01T12:00:00+00:00"


def file_of(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- The file --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    made = (
        make_correction(ONE, "relabel", "écureuil, roux", 'a "note"\nof two lines', T1),
        make_correction(TWO, "keep"),
        make_correction(THREE, "both", "owl", note="a map", path="/pictures/cat and owl, 1.png"),
    )
    path = tmp_path / "new" / "corrections.csv"
    assert append(path, made[:1]).rows == made[:1]
    assert append(path, made[1:]).rows == made
    assert read_corrections(path) == Corrections(made)
    assert next(csv.reader(path.read_text(encoding="utf-8").splitlines())) == [
        "sha256",
        "action",
        "label",
        "note",
        "when",
        "path",
    ]
    assert made[1].when.endswith("+00:00")


def test_a_file_made_by_hand_is_understood(tmp_path: Path) -> None:
    text = "\ufeffNote,When,Label,Action,SHA256,seen by\n\n ,,  owl ,Relabel, " + "A" * 64 + ",me\n"
    found = read_corrections(file_of(tmp_path / "c.csv", text))
    assert found.rows == (Correction("a" * 64, "relabel", "owl"),)
    short = file_of(tmp_path / "short.csv", f"action,label,sha256\nrelabel,owl,{'a' * 64}\n")
    assert read_corrections(short).rows == found.rows, "note and when may be left out"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r'no column "sha256"; the header has: nothing'),
        ("sha256,action,note,when\n", r'no column "label"; .*has: sha256, action, note, when'),
        ("sha256;action;label;note;when\n", r'no column "sha256"; .*sha256;action;label.* Expected: sha256,action,'),
        (f"{HEADER}{ONE},remove,,,\n", r'line 2: unknown action "remove"\. .*Known: both, drop, keep, relabel'),
        (f"{HEADER}{ONE},,,,\n", r'line 2: unknown action ""'),
        (f"{HEADER}{ONE},keep,,,\n{TWO},relabel, ,,\n", r"line 3: relabel needs a label"),
        (f"{HEADER}{ONE},keep,owl,,\n", r'line 2: keep takes no label; got "owl"\. Did you mean relabel'),
        (f"{HEADER}123,keep,,,\n", r'line 2: sha256 is 64 hexadecimal digits; got "123"'),
        (f"{HEADER}{'x' * 64},keep,,,\n", r"64 hexadecimal digits"),
        (f"{HEADER}{ONE},keep,,,yesterday\n", r'when is an ISO time in UTC, .*got "yesterday"'),
        (f"{HEADER}{ONE},keep\n", r"line 2: 2 cells; expected 5"),
        (f'{HEADER}{ONE},keep,,"open,\n', r"cannot be read, line"),
    ],
)
def test_what_cannot_be_understood_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = file_of(tmp_path / "c.csv", text)
    with pytest.raises(SourceError, match=says) as told:
        read_corrections(path)
    assert str(path) in str(told.value)
    with pytest.raises(SourceError):
        append(path, [make_correction(ONE, "keep")])
    assert path.read_text(encoding="utf-8") == text


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There is no corrections file at"):
        read_corrections(tmp_path / "gone.csv")
    with pytest.raises(SourceError, match="cannot be read"):
        read_corrections(tmp_path)
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="cannot be read"):
        read_corrections(tmp_path / "c.csv")


def test_of_rows_that_contradict_each_other_the_last_holds(tmp_path: Path) -> None:
    text = f"{HEADER}{ONE},drop,,,{T2}\n{ONE},relabel,owl,,{T1}\n{TWO},keep,,,\n{TWO},keep,,again,\n"
    found = read_corrections(file_of(tmp_path / "c.csv", text))
    assert found.by_content[ONE].label == "owl"
    assert [row.sha256 for row in found.superseded_rows] == [ONE]


def test_the_digest_is_that_of_the_decisions_that_hold() -> None:
    keep, drop = Correction(ONE, "keep", note="fine"), Correction(TWO, "drop")
    one = Corrections((keep, drop)).digest
    assert one == Corrections((drop, Correction(ONE, "drop"), Correction(ONE, "keep", when=T1))).digest
    assert one != Corrections((keep, Correction(TWO, "keep"))).digest
    assert one != Corrections((keep,)).digest


def test_two_reviewers_are_merged_and_what_they_disagree_about_is_reported(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine.csv", tmp_path / "theirs.csv"
    write(mine, Corrections((Correction(ONE, "drop", when=T2), Correction(TWO, "keep", when=T1))))
    write(theirs, Corrections((Correction(ONE, "keep", when=T1), Correction(THREE, "drop"), Correction(TWO, "keep"))))
    merged, conflicts = merge([mine, theirs])
    assert {sha256: row.action for sha256, row in merged.by_content.items()} == {
        ONE: "drop",
        TWO: "keep",
        THREE: "drop",
    }
    assert len(conflicts) == 1
    assert conflicts[0].decision.action == "drop"
    assert [other.action for other in conflicts[0].others] == ["keep"]
    assert set(conflicts[0].files) == {mine, theirs}
    assert merge([theirs, mine])[0].digest == merged.digest


def test_many_threads_may_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    hashes = [hashlib.sha256(bytes([number])).hexdigest() for number in range(40)]
    threads = [threading.Thread(target=append, args=(path, [make_correction(sha256, "keep")])) for sha256 in hashes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_corrections(path).by_content) == set(hashes)


# ---- What becomes of the pictures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 cats and 30 dogs, all different, but for a cat that lies among the dogs once more, and one pair of dogs."""
    root = tmp_path_factory.mktemp("drawn") / "pictures"
    for label, count in {"cat": 40, "dog": 30}.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            picture = draw_creature("crab", np.random.default_rng([number, ord(label[0])])).resize((60, 60))
            picture.save(root / label / f"{number:02d}.png")
    shutil.copy(root / "cat" / "00.png", root / "dog" / "copy.png")
    shutil.copy(root / "dog" / "05.png", root / "dog" / "twin.png")
    return root


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def audited(
    folder: Path, path: Path, *rows: Correction, classes: tuple[str, ...] = ()
) -> tuple[flow.AuditedDataset, str]:
    write(path / "c.csv", Corrections(rows))
    listening = Listening()
    recipe = Recipe.of({"data": {"classes": classes}})
    found = flow.audit(folder, corrections=path / "c.csv", recipe=recipe, threads=1, reporter=listening)
    return found, "\n".join(listening.said)


def issues(found: flow.AuditedDataset, check: str) -> list[str]:
    return found.findings.filter(pl.col("is_issue") & (pl.col("check") == check))["path"].to_list()


def parts(found: flow.AuditedDataset, seed: int = 0, **data: float) -> dict[str, str | None]:
    shown, _ = assign_splits(found, DataConfig.model_validate(data), seed=seed)
    return dict(shown.select("path", "split").iter_rows())


def test_a_dropped_picture_stays_in_the_table_with_the_reason(folder: Path, tmp_path: Path) -> None:
    path = folder / "cat" / "07.png"
    found, said = audited(folder, tmp_path, make_correction(sha(path), "drop", note="a drawing"))
    shown, _ = assign_splits(found, DataConfig(), seed=0)
    row = shown.filter(pl.col("path") == str(path)).row(0, named=True)
    assert row["split"] is None
    assert row["error"] == f"{path}: dropped by the corrections file (a drawing)."
    assert shown.columns == [*table.PICTURES, *table.MEASURES, *table.DEPTH, *table.GROUPING, *table.CROPS]
    assert str(path) not in found.findings["path"].to_list()
    assert "1 dropped" in said
    assert path.exists()


def test_a_picture_of_two_classes_is_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    path, unnamed = folder / "cat" / "07.png", folder / "cat" / "08.png"
    decisions = make_correction(sha(path), "both", "dog", path=str(path)), make_correction(sha(unnamed), "both")
    found, said = audited(folder, tmp_path, *decisions)
    errors = dict(found.pictures.select("path", "error").iter_rows())
    assert errors[str(path)] == f"{path}: shows cat and dog by the corrections file; a picture has one label."
    assert "shows cat and another class by" in str(errors[str(unnamed)])
    assert dict(found.pictures.select("path", "label").iter_rows())[str(path)] == "cat"
    assert parts(found)[str(path)] is None
    assert "2 pictures that show two classes by the corrections: left out" in said
    assert "new label" not in said
    rest = {name: part for name, part in parts(flow.audit(folder, threads=1)).items() if name not in errors}
    assert rest == {}
    moved = {name for name, part in parts(flow.audit(folder, threads=1)).items() if part != parts(found)[name]}
    assert moved == {str(path), str(unnamed)}


def test_a_relabelled_picture_settles_the_conflict(folder: Path, tmp_path: Path) -> None:
    copy = folder / "dog" / "copy.png"
    assert issues(flow.audit(folder, threads=1), "label-conflict") == [str(copy)]
    found, said = audited(folder, tmp_path, make_correction(sha(copy), "relabel", "cat"))
    assert issues(found, "label-conflict") == []
    labels = dict(found.pictures.select("path", "label").iter_rows())
    assert labels[str(copy)] == labels[str(folder / "cat" / "00.png")] == "cat"
    assert "2 relabelled" in said  # both files have this content
    assert "new label" not in said


def test_a_new_label_is_allowed_and_said(folder: Path, tmp_path: Path) -> None:
    rows = [make_correction(sha(folder / "cat" / f"{number:02d}.png"), "relabel", "catt") for number in range(20, 32)]
    found, said = audited(folder, tmp_path, *rows)
    assert 'a new label, "catt". Did you mean "cat"?' in said
    shown, _ = assign_splits(found, DataConfig(), seed=0)
    new = shown.filter(pl.col("label") == "catt")
    assert set(new["split"]) == {"train", "val", "test"}


def test_what_is_kept_is_no_issue_any_more(folder: Path, tmp_path: Path) -> None:
    copy, twin = folder / "dog" / "copy.png", folder / "dog" / "twin.png"
    before = flow.audit(folder, threads=1)
    assert str(copy) in issues(before, "exact-duplicate")
    found, _ = audited(folder, tmp_path, make_correction(sha(copy), "keep"))
    assert issues(found, "label-conflict") == []
    assert issues(found, "exact-duplicate") == [str(twin)]
    assert found.findings.height == before.findings.height  # they are still there to be seen


def test_keeping_all_others_of_a_group_settles_it(tmp_path: Path) -> None:
    from bestiary.data.apply_corrections import mark_resolved_issues

    pictures = pl.DataFrame(
        {"row_id": [0, 1, 2, 3], "sha256": [ONE, TWO, THREE, "4" * 64], "group": [0, 0, 2, 2], "error": [None] * 4},
        schema_overrides={"error": pl.String},
    )
    rows = [("near-duplicate", 1, 0), ("near-duplicate", 3, 2), ("dark", 1, None), ("suspect-label", 1, None)]
    rows.append(("label-conflict", 1, 0))
    findings = pl.DataFrame(
        [
            {
                "check": check,
                "row_id": row_id,
                "path": "",
                "score": 0.0,
                "is_issue": True,
                "message": "",
                "group": group,
            }
            for check, row_id, group in rows
        ],
        schema=table.FINDINGS,
    )
    left = mark_resolved_issues(findings, pictures, Corrections((Correction(ONE, "keep"),)))
    assert left["is_issue"].to_list() == [False, True, True, True, True]
    left = mark_resolved_issues(findings, pictures, Corrections((Correction(TWO, "keep"),)))
    assert left["is_issue"].to_list() == [False, True, True, False, True]  # of two labels, one that is right is not all
    left = mark_resolved_issues(findings, pictures, Corrections((Correction(TWO, "relabel", "owl"),)))
    assert left["is_issue"].to_list() == [True, True, True, False, True]
    one_site = pictures.with_columns(group=pl.lit(0, pl.Int64), duplicate_group="group")
    left = mark_resolved_issues(findings, one_site, Corrections((Correction(ONE, "keep"),)))
    assert left["is_issue"].to_list() == [False, True, True, True, True]  # the others of a site are no duplicates
    left = mark_resolved_issues(
        findings, pictures, Corrections((Correction(ONE, "keep"), Correction(TWO, "relabel", "owl")))
    )
    assert left["is_issue"].to_list() == [False, True, True, False, False]
    assert left.columns == findings.columns


def test_what_is_dropped_takes_no_finding_of_others_along(folder: Path, tmp_path: Path) -> None:
    """Equal hashes are chained to the first picture that has them: without it the others must still find each other."""
    root = Path(shutil.copytree(folder, tmp_path / "pictures"))
    for number, place in enumerate(("cat/11b.png", "dog/11c.png")):  # the same pixels, other bytes
        with Image.open(root / "cat" / "11.png") as picture:
            picture.save(root / place, compress_level=number)
    assert str(root / "dog" / "11c.png") in issues(flow.audit(root, threads=1), "label-conflict")
    found, _ = audited(root, tmp_path, make_correction(sha(root / "cat" / "11.png"), "drop"))
    assert str(root / "dog" / "11c.png") in issues(found, "label-conflict")
    assert str(root / "dog" / "copy.png") in issues(found, "label-conflict")
    shown = choose_cards(
        findings_of_check("label-conflict", found.findings, found.pictures), str(root), max_pictures=99
    )
    names = {card.name for exhibit in shown for card in exhibit.cards}
    assert {"cat/11b.png", "dog/11c.png"} <= names
    assert "cat/11.png" not in names


def test_dropped_pictures_move_nobody_where_validation_is_taken_from_training(folder: Path, tmp_path: Path) -> None:
    files = [path for label in ("cat", "dog") for path in sorted((folder / label).iterdir()) if path.stem != "copy"]
    rows = [f"{path},{path.parent.name},{'test' if at % 7 == 0 else 'train'}" for at, path in enumerate(files)]
    source = file_of(tmp_path / "t.csv", "\n".join(["path,label,split", *rows]))
    before = parts(flow.audit(source, threads=1), val_fraction=0.3)
    dropped = dict.fromkeys(str(files[at]) for at in (1, 2, 3, 4, 50, 51, 52))
    found, _ = audited(source, tmp_path, *(make_correction(sha(Path(path)), "drop") for path in dropped))
    assert parts(found, val_fraction=0.3) == before | dropped


def test_hashes_that_match_no_picture_are_counted_and_shown(folder: Path, tmp_path: Path) -> None:
    strange = [make_correction(digit * 64, "drop") for digit in "12345"]
    found, said = audited(folder, tmp_path, *strange, make_correction(sha(folder / "cat" / "01.png"), "keep"))
    assert "5 of 6 corrections match no picture: 111111111111…, 222222222222…, 333333333333… and 2 more." in said
    assert found.corrected is not None
    assert found.corrected.facts()["hashes without a picture"] == 5


def test_rows_that_contradict_each_other_are_said(folder: Path, tmp_path: Path) -> None:
    content = sha(folder / "cat" / "01.png")
    found, said = audited(folder, tmp_path, make_correction(content, "drop"), make_correction(content, "keep"))
    assert "1 picture has contradicting rows: the last row applies." in said
    assert not found.pictures["dropped"].any()


@pytest.mark.parametrize("seed", range(3))
def test_corrections_move_nobody_else(folder: Path, tmp_path: Path, seed: int) -> None:
    before = parts(flow.audit(folder, threads=1), seed)
    rng = np.random.default_rng(seed)
    files = [folder / "cat" / f"{number:02d}.png" for number in rng.permutation(np.arange(1, 40))[:12]]
    rows = [make_correction(sha(path), "drop") for path in files[:6]]
    rows += [make_correction(sha(path), "relabel", "dog") for path in files[6:]]
    found, _ = audited(folder, tmp_path, *rows)
    after = parts(found, seed)
    dropped = {str(path) for path in files[:6]}
    assert {path for path, part in after.items() if part is None} == dropped
    assert {path: part for path, part in after.items() if path not in dropped} == {
        path: part for path, part in before.items() if path not in dropped
    }


def test_a_class_that_loses_a_part_is_dealt_again_and_nobody_else(folder: Path, tmp_path: Path) -> None:
    before = parts(flow.audit(folder, threads=1))
    tested = [Path(path) for path, part in before.items() if part == "test" and "/dog/" in path]
    found, _ = audited(folder, tmp_path, *[make_correction(sha(path), "drop") for path in tested])
    after = parts(found)
    assert {part for path, part in after.items() if "/dog/" in path} == {"train", "val", "test", None}
    assert {path: part for path, part in after.items() if "/cat/" in path and Path(path).name != "00.png"} == {
        path: part for path, part in before.items() if "/cat/" in path and Path(path).name != "00.png"
    }


def test_a_class_that_is_dropped_below_what_is_needed_is_told(folder: Path, tmp_path: Path) -> None:
    rows = [make_correction(sha(path), "drop") for path in sorted((folder / "dog").iterdir())[:25]]
    found, _ = audited(folder, tmp_path, *rows)
    with pytest.raises(SourceError, match=r'Class "dog" has \d readable pictures'):
        assign_splits(found, DataConfig(), seed=0)


def test_corrections_and_chosen_classes(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "pictures"))
    shutil.move(root / "cat" / "03.png", root / "owl.png")
    (root / "owl").mkdir()
    shutil.move(root / "owl.png", root / "owl" / "03.png")
    out, back = sha(root / "cat" / "09.png"), sha(root / "owl" / "03.png")
    rows = (make_correction(out, "relabel", "owl"), make_correction(back, "relabel", "cat"))
    found, _ = audited(root, tmp_path, *rows, classes=("cat", "dog"))
    assert set(found.pictures["label"]) == {"cat", "dog"}
    assert back in found.pictures["sha256"].to_list()
    assert out not in found.pictures["sha256"].to_list()
    assert found.passed_over["of other classes"] == 1
    assert found.pictures["row_id"].to_list() == list(range(found.pictures.height))
    with pytest.raises(SourceError, match='No picture has the label "cow"'):
        audited(root, tmp_path, *rows, classes=("cow",))


def test_a_file_that_cannot_be_read_keeps_its_error_and_is_settled(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "pictures"))
    (root / "cat" / "text.jpg").write_text("no picture")
    found, _ = audited(root, tmp_path, make_correction(sha(root / "cat" / "text.jpg"), "drop"))
    row = found.pictures.filter(pl.col("path").str.ends_with("text.jpg")).row(0, named=True)
    assert "is not a picture" in row["error"]
    assert found.findings.filter(pl.col("check") == "unreadable")["is_issue"].to_list() == [False]


def test_a_run_records_its_corrections(faulty: SyntheticDataset, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")

    copy = faulty.faults["label-conflict"][0]
    path = tmp_path / "c.csv"
    given = append(path, [make_correction(sha(copy), "keep", note="really"), make_correction(ONE, "drop")])
    asked = {
        "data": {"classes": ["bird", "fish", "spider", "rabbit"]},
        "picture": {"size": 64},
        "model": {"backbone": "lite0"},
        "probe": {"regularisation": [0.01]},
        "evaluate": {"resamples": 100},
    }
    run = flow.train(faulty.folder, recipe=Recipe.of(asked), corrections=path, out=tmp_path / "run", threads=2).path
    recorded = files_module.read_json(run / "environment.json")["corrections"]
    assert recorded["digest"] == given.digest
    assert recorded["file"] == str(path)
    assert (recorded["drop"], recorded["relabel"], recorded["hashes without a picture"]) == (0, 0, 1)
    assert read_corrections(run / "corrections.csv") == given
