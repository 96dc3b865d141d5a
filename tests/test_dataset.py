import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from PIL import Image

from bestiary import table
from bestiary.checks import FAILS_STRICT
from bestiary.context import Context
from bestiary.data import scan as measuring
from bestiary.data.assign_splits import assign_splits, why_not_trainable
from bestiary.data.dataset import AuditedDataset, audit_sources
from bestiary.data.measure import ImageMeasurements, measure_file
from bestiary.data.sources import list_sources
from bestiary.decode_rules import DecodeRules
from bestiary.demo.dataset import FAULT_CHECKS, SyntheticDataset, draw_creature
from bestiary.errors import SourceError
from bestiary.picture import LIMITS, DecodeLimits
from bestiary.preprocess import VerifiedFile
from bestiary.recipe_sections import DataConfig

NEEDS_TRAINING = {"suspect-label"}  # checks that want a model, and are made after one was trained


def audit(
    source: Path, cache: Path, *, labels: str | None = None, limits: DecodeLimits = LIMITS, **data: Any
) -> AuditedDataset:
    return audit_sources([source], labels, DataConfig(**data), limits, Context(threads=1, cache=cache))


def draw(folder: Path, **sizes: int) -> Path:
    """Different pictures of a creature, so many for each class."""
    for label, size in sizes.items():
        (folder / label).mkdir(parents=True)
        for number in range(size):
            image = draw_creature("crab", np.random.default_rng([len(label), number, ord(label[0])]))
            image.resize((60, 60)).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def found(faulty: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> AuditedDataset:
    return audit(faulty.folder, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cats and twelve dogs."""
    return draw(tmp_path_factory.mktemp("drawn") / "plain", cat=12, dog=12)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are measured from now on."""
    names: list[str] = []

    def noting(path: Path, limits: DecodeLimits, rules: DecodeRules) -> ImageMeasurements:
        names.append(path.name)
        return measure_file(path, limits, rules)

    monkeypatch.setattr(measuring, "measure_file", noting)
    return names


# --------------------------------------------------------------------------------------------- the planted faults


def test_every_planted_fault_is_named(faulty: SyntheticDataset, found: AuditedDataset) -> None:
    findings = set(found.findings.select("check", "path").iter_rows())
    for fault, check in FAULT_CHECKS.items():
        if check is not None and check not in NEEDS_TRAINING:
            for path in faulty.faults[fault]:
                copies = {path, faulty.originals.get(path, path)}  # of two copies, the later one carries the finding
                assert findings & {(check, str(copy)) for copy in copies}, (fault, path)


def test_what_is_unusual_but_sound_is_used_and_not_called_broken(
    faulty: SyntheticDataset, found: AuditedDataset
) -> None:
    usable = set(found.pictures.filter(pl.col("error").is_null())["path"])
    broken = {str(path) for fault in ("truncated", "empty", "text") for path in faulty.faults[fault]}
    sound = {str(path) for fault, check in FAULT_CHECKS.items() if check is None for path in faulty.faults[fault]}
    hidden = {str(path) for path in faulty.faults["hidden"]}
    assert sound - hidden <= usable
    assert usable & (broken | hidden) == set()
    assert set(found.pictures["path"]) - usable == broken
    assert found.findings.filter(pl.col("path").is_in(sound) & pl.col("check").is_in(FAILS_STRICT)).height == 0
    assert dict(found.passed_over) == {"hidden": 1, "not meant as pictures": 1}


def test_findings_keep_to_the_contract(found: AuditedDataset) -> None:
    assert found.findings.schema == pl.Schema(table.FINDINGS)
    assert set(found.findings["check"]) <= set(table.CHECKS)
    assert found.findings["score"].is_between(0, 1).all()
    assert set(found.findings.filter(~pl.col("is_issue"))["check"]) == {"rotated"}
    named = found.findings.drop_nulls("row_id").join(found.pictures, on="row_id", suffix="_of_picture")
    assert (named["path"] == named["path_of_picture"]).all()


def test_the_table_of_pictures_keeps_to_the_contract(faulty: SyntheticDataset, found: AuditedDataset) -> None:
    added = {"given_split": pl.String, "given_label": pl.String, "dropped": pl.Boolean}
    more = table.MEASURES | table.DEPTH | table.GROUPING | table.CROPS
    assert dict(found.pictures.schema) == table.PICTURES | added | more
    assert found.pictures["row_id"].to_list() == list(range(found.pictures.height))
    assert found.pictures["path"].is_sorted()
    labels = dict(found.pictures.select("path", "label").iter_rows())
    assert all(labels[str(path)] == path.parent.name for path in faulty.kinds)


def test_copies_are_grouped_with_their_originals_and_others_are_not(
    faulty: SyntheticDataset, found: AuditedDataset
) -> None:
    groups = dict(found.pictures.select("path", "group").iter_rows())
    assert all(groups[str(copy)] == groups[str(original)] for copy, original in faulty.originals.items())
    sizes = Counter(groups[str(path)] for path in faulty.kinds)
    assert max(sizes.values()) <= 3
    assert sum(size - 1 for size in sizes.values()) <= len(faulty.originals) + 2


def test_duplicates_never_straddle_and_what_is_left_out_says_why(
    faulty: SyntheticDataset, found: AuditedDataset
) -> None:
    shown, digest = assign_splits(found, DataConfig(min_per_class=3), seed=0)
    assert shown.schema == pl.Schema(table.PICTURES | table.MEASURES | table.DEPTH | table.GROUPING | table.CROPS)
    assert shown["row_id"].to_list() == found.pictures["row_id"].to_list()
    assert (shown["split"].is_null() == shown["error"].is_not_null()).all()
    used = shown.drop_nulls("split")
    assert used.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert used.group_by("label").agg(pl.col("split").n_unique())["split"].min() == 3
    share = used.filter(pl.col("split") == "test").height / used.height
    assert share == pytest.approx(0.15, abs=0.03)
    again, same = assign_splits(found, DataConfig(min_per_class=3), seed=0)
    assert (again.equals(shown), same) == (True, digest)
    assert assign_splits(found, DataConfig(min_per_class=3), seed=1)[1] != digest


def test_the_split_follows_the_content_not_the_place(plain: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    for path in plain.rglob("*.png"):
        (moved / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, moved / path.parent.name / f"{99 - int(path.stem)} renamed.png")
    one, other = (assign_splits(audit(folder, tmp_path / "cache"), DataConfig(), seed=3) for folder in (plain, moved))
    assert one[1] == other[1]
    by_content = [dict(shown.select("sha256", "split").iter_rows()) for shown, _ in (one, other)]
    assert by_content[0] == by_content[1]


def test_who_looks_is_told_what_training_would_refuse(plain: Path, tmp_path: Path) -> None:
    looked = audit(plain, tmp_path)
    assert why_not_trainable(looked, DataConfig(), seed=0) is None
    assert "at least 13 are needed" in str(why_not_trainable(looked, DataConfig(min_per_class=13), seed=0))


def test_near_duplicates_can_be_let_apart_and_equal_files_never(faulty: SyntheticDataset, tmp_path: Path) -> None:
    loose = audit(faulty.folder, tmp_path, near_duplicates=False)
    groups = dict(loose.pictures.select("path", "group").iter_rows())
    for fault, together in (("exact-duplicate", True), ("near-duplicate", False)):
        for copy in faulty.faults[fault]:
            assert (groups[str(copy)] == groups[str(faulty.originals[copy])]) == together
    assert "near-duplicate" not in set(loose.findings["check"])


def test_a_file_listed_twice_under_two_labels_is_a_conflict(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        f"path,label\n{plain}/cat/0.png,cat\n{plain}/cat/0.png,dog\n{plain}/dog/1.png,dog\n"
    )
    found = audit(tmp_path / "t.csv", tmp_path / "cache")
    assert found.pictures["group"].to_list() == [0, 0, 2]
    assert found.findings.filter(pl.col("check") == "label-conflict").height == 1


def test_workers_give_the_same_table_as_one_process(
    faulty: SyntheticDataset, found: AuditedDataset, tmp_path: Path
) -> None:
    together = audit_sources([faulty.folder], None, DataConfig(), LIMITS, Context(threads=2, cache=tmp_path))
    assert together.pictures.equals(found.pictures)
    assert together.findings.equals(found.findings)


# -------------------------------------------------------------------------------------------- measured only once


def test_measurements_are_remembered_and_a_changed_file_is_noticed(
    plain: Path, tmp_path: Path, read: list[str]
) -> None:
    folder, cache = shutil.copytree(plain, tmp_path / "pictures"), tmp_path / "cache"
    first = audit(folder, cache)
    assert len(read) == 24
    read.clear()
    assert audit(folder, cache).pictures.equals(first.pictures)
    assert read == []

    Image.new("RGB", (50, 40), "red").save(folder / "cat" / "3.png")
    (folder / "dog" / "5.png").unlink()
    Image.new("RGB", (50, 40), "blue").save(folder / "dog" / "new.png")
    os.utime(folder / "dog" / "7.png", ns=(1, 1))
    changed = audit(folder, cache).pictures
    assert sorted(read) == ["3.png", "7.png", "new.png"]
    assert changed.filter(pl.col("path").str.ends_with("cat/3.png"))["width"].item() == 50
    assert changed.height == 24


def test_files_that_could_not_be_used_are_tried_again(plain: Path, tmp_path: Path, read: list[str]) -> None:
    folder, cache = shutil.copytree(plain, tmp_path / "pictures"), tmp_path / "cache"
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "0.png").write_bytes(whole[:-500])
    assert audit(folder, cache).pictures["error"].drop_nulls().len() == 1
    read.clear()
    (folder / "cat" / "0.png").write_bytes(whole)
    assert audit(folder, cache).pictures["error"].drop_nulls().len() == 0
    assert read == ["0.png"]


def test_a_passing_trouble_is_not_remembered(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, limits: DecodeLimits, rules: DecodeRules) -> ImageMeasurements:
        return replace(
            measure_file(path, limits, rules), check="unreadable", error=f"{path} cannot be read: Input/output error."
        )

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "measure_file", failing)
        assert audit(plain, tmp_path).pictures["error"].null_count() == 0
    assert audit(plain, tmp_path).pictures["error"].null_count() == 24


def test_other_limits_are_another_memory(plain: Path, tmp_path: Path) -> None:
    assert audit(plain, tmp_path).pictures["error"].null_count() == 24
    strict = audit(plain, tmp_path, limits=replace(LIMITS, max_pixels=100))
    assert strict.pictures["error"].null_count() == 0
    assert audit(plain, tmp_path).pictures["error"].null_count() == 24


def test_a_part_of_a_collection_does_not_cost_the_memory_of_the_rest(
    plain: Path, tmp_path: Path, read: list[str]
) -> None:
    folder, cache = shutil.copytree(plain, tmp_path / "pictures"), tmp_path / "cache"
    audit(folder, cache)
    read.clear()
    Image.new("RGB", (50, 40), "red").save(folder / "dog" / "3.png")
    audit(folder, cache, classes=("dog",))
    audit(folder, cache)
    assert read == ["3.png"]


@pytest.mark.parametrize("damage", [b"", b"PAR1 not a table PAR1", None, 0.3, 0.6])
def test_a_damaged_memory_is_built_again(plain: Path, tmp_path: Path, read: list[str], damage: Any) -> None:
    first = audit(plain, tmp_path)
    (memory,) = (tmp_path / "inspections").iterdir()
    if damage is None:
        measuring._save_cached(measuring._load_cached(memory).drop("luma"), memory)
    elif isinstance(damage, float):  # parquet alone does not notice every byte that is changed
        content = bytearray(memory.read_bytes())
        content[int(len(content) * damage)] ^= 0xFF
        memory.write_bytes(content)
    else:
        memory.write_bytes(damage)
    read.clear()
    assert audit(plain, tmp_path).pictures.equals(first.pictures)
    assert len(read) == 24
    read.clear()
    audit(plain, tmp_path)
    assert read == []


@pytest.mark.parametrize("how", ["swapped", "copied over", "hard link"])
def test_a_file_in_place_of_another_is_measured_even_if_size_and_time_are_equal(tmp_path: Path, how: str) -> None:
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    for label, value in (("cat", 40), ("dog", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40), (value, 10 * number, 0)).save(folder / label / f"{number}.bmp")
            os.utime(folder / label / f"{number}.bmp", (1_600_000_000, 1_600_000_000))
    audit(folder, cache)
    first, second = folder / "cat" / "0.bmp", folder / "dog" / "2.bmp"
    if how == "swapped":
        first.rename(tmp_path / "aside")
        second.rename(first)
        (tmp_path / "aside").rename(second)
    elif how == "copied over":
        shutil.copy2(second, first)
    else:
        first.unlink()
        os.link(second, first)
    remembered, fresh = audit(folder, cache), audit(folder, tmp_path / "other")
    assert remembered.pictures.equals(fresh.pictures)
    assert remembered.findings.equals(fresh.findings)


def test_a_measurement_that_proved_wrong_is_forgotten(
    plain: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file system says: a file whose content is not the one measured is measured again."""
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path))
    dataset = audit(plain, tmp_path)
    path = Path(dataset.pictures["path"][0])
    with pytest.raises(SourceError, match="measured again"):
        VerifiedFile(path, "0" * 64).content(LIMITS)
    read.clear()
    audit(plain, tmp_path)
    assert read == [path.name]
    read.clear()
    audit(plain, tmp_path)
    assert read == []


def test_measurements_stay_valid_until_their_version_changes() -> None:
    """The key is the SHA-256 of "6 Limits(max_bytes=100000000, max_pixels=80000000) /pictures"."""
    assert measuring._memory_key(pl.DataFrame({"path": ["/pictures/cat/1.jpg"]}), LIMITS) == "296d7457007846d056ed"


def test_without_a_cache_nothing_is_remembered(plain: Path, read: list[str]) -> None:
    listing = list_sources([plain], {})
    for _ in range(2):
        measured = measuring.scan_pictures(listing, LIMITS, Context(threads=1, cache=None))
    assert len(read) == 48
    assert measured.columns[:4] == ["row_id", "path", "box", "label"]


def test_the_worker_processes_end_with_the_scan(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count_workers() -> int:
        commands = list[str]()
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended
                commands.append(" ".join(child.cmdline()))
        return sum("popen_loky" in command for command in commands)

    monkeypatch.setattr(measuring, "FILES_AT_ONCE", 4)
    files = pl.DataFrame({"path": [str(path) for path in sorted(plain.glob("*/*"))]}).with_columns(box=pl.lit(""))
    counts: list[int] = []
    measure_all = measuring._measure_all

    def watched(*arguments: Any) -> Iterator[Any]:
        for measurements in measure_all(*arguments):
            counts.append(count_workers() if not counts else counts[0])
            yield measurements

    monkeypatch.setattr(measuring, "_measure_all", watched)
    measured = measuring.measure_files(files, None, LIMITS, Context(threads=2, cache=None))
    assert measured.height == files.height
    assert counts[0] == 2
    ends_at = time.monotonic() + 30
    while count_workers() and time.monotonic() < ends_at:
        time.sleep(0.1)
    assert count_workers() == 0


# ----------------------------------------------------------------------------------------- a split that is given


def split_folders(plain: Path, folder: Path, **counts: int) -> Path:
    """Deal the pictures of each class out to parts, so many to each."""
    for label in ("cat", "dog"):
        files = sorted((plain / label).iterdir())
        for part, count in counts.items():
            (folder / part / label).mkdir(parents=True)
            for path in [files.pop() for _ in range(count)]:
                shutil.copy(path, folder / part / label)
    return folder


def test_a_given_split_is_kept(plain: Path, tmp_path: Path) -> None:
    folder = split_folders(plain, tmp_path / "pictures", train=6, valid=3, test=3)
    shown, _ = assign_splits(audit(folder, tmp_path / "cache"), DataConfig(), seed=0)
    parts = {"train": "train", "valid": "val", "test": "test"}
    assert [parts[Path(path).parts[-3]] for path in shown["path"]] == shown["split"].to_list()


def test_a_missing_validation_part_is_taken_from_training(plain: Path, tmp_path: Path) -> None:
    folder = split_folders(plain, tmp_path / "pictures", train=9, test=3)
    shown, _ = assign_splits(audit(folder, tmp_path / "cache"), DataConfig(val_fraction=0.2), seed=0)
    places = Counter(zip((Path(path).parts[-3] for path in shown["path"]), shown["split"], strict=True))
    assert places == {("train", "train"): 14, ("train", "val"): 4, ("test", "test"): 6}


def test_a_leak_in_a_given_split_is_found(plain: Path, tmp_path: Path) -> None:
    folder = split_folders(plain, tmp_path / "pictures", train=9, test=3)
    leaked = min((folder / "train" / "cat").iterdir())
    shutil.copy(leaked, folder / "test" / "cat" / "leaked.png")
    found = audit(folder, tmp_path / "cache").findings.filter(pl.col("check") == "split-leak")
    assert found.height == 1
    assert "the same file as test/cat/leaked.png, which is in test" in found["message"].item()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("train,train,test,,", r"2 of 24 pictures have no split\. Give all pictures a split, or none\."),
        ("test,val", r"The given split has no train split, only test and val\."),
    ],
)
def test_half_a_split_is_refused(plain: Path, tmp_path: Path, parts: str, message: str) -> None:
    names = parts.split(",")
    paths = sorted(plain.rglob("*.png"))
    given = [names[place] if place < len(names) else names[0] for place in range(24)]
    lines = [f"{path},{path.parent.name},{part}" for path, part in zip(paths, given, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *lines]))
    with pytest.raises(SourceError, match=message):
        assign_splits(audit(tmp_path / "t.csv", tmp_path / "cache"), DataConfig(), seed=0)


def test_a_class_that_is_never_trained_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = split_folders(plain, tmp_path / "pictures", train=6, val=3, test=3)
    draw(folder / "test", horse=10)
    with pytest.raises(SourceError, match=r'Class "horse" has no training picture .*--classes'):
        assign_splits(audit(folder, tmp_path / "cache"), DataConfig(), seed=0)


# ------------------------------------------------------------------------------------------- too little to divide


def test_too_few_classes_or_pictures_are_told_with_what_to_do(plain: Path, tmp_path: Path) -> None:
    def refused(message: str, folder: Path, **data: Any) -> None:
        with pytest.raises(SourceError, match=message):
            assign_splits(audit(folder, tmp_path / "cache", **data), DataConfig(**data), seed=0)

    refused(r'There is only one class, "dog"\. A classifier needs two or more', plain, classes=("dog",))
    refused(r'Class "cat" has 12 readable pictures; at least 13 are needed\.', plain, min_per_class=13)
    small = shutil.copytree(plain, tmp_path / "small")
    draw(small, otter=4)
    (small / "otter" / "broken.png").write_bytes(b"")
    refused(
        r'Class "otter" has 4 readable pictures; at least 10 .* --classes, or lower --set data\.min_per_class', small
    )
    refused(r"Also too small: (cat|dog), (cat|dog)\.", small, min_per_class=100)
    shown, _ = assign_splits(audit(small, tmp_path / "cache"), DataConfig(min_per_class=4), seed=0)
    assert set(shown.filter(pl.col("label") == "otter")["split"]) == {"train", "val", "test", None}
    for path in (tmp_path / "none" / "cat" / "a.jpg", tmp_path / "none" / "dog" / "b.jpg"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    refused(r"There is no readable picture\.", tmp_path / "none")


def test_classes_are_chosen_by_label_and_the_rest_is_counted(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "pictures")
    (folder / "cat").rename(folder / "gatto")
    draw(folder, horse=2)
    names = audit(folder, tmp_path / "cache", labels="animals10", classes=("cat", "dog"))
    assert Counter(names.pictures["label"]) == {"cat": 12, "dog": 12}
    assert dict(names.passed_over) == {"of other classes": 2}
    with pytest.raises(SourceError, match=r'No picture has the label "hrose"\. Did you mean "horse"\? Known: cat, dog'):
        audit(folder, tmp_path / "cache", labels="animals10", classes=("cat", "hrose"))
