"""The audit proposes --group and --site where pictures show bursts, copies or sites, and nowhere else."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import polars as pl
from PIL import ExifTags, Image

from bestiary import cli
from bestiary.data.group_proposals import FRAME, Command, measure_torn_fraction, propose_groups, propose_sites
from bestiary.data.notices import GROUPS
from bestiary.data.picture_groups import add_picture_groups
from bestiary.demo.dataset import SyntheticDataset, draw_creature
from bestiary.flow import audit
from bestiary.group_rules import parse_group_rule, parse_site_rule
from bestiary.recipe_sections import DataConfig

HASH = "0123456789abcdef0123456789abcde"
KINDS = ("bird", "fish", "snail")
PRINTED = re.compile(r": (bestiary .+)$")


def pictures_named(
    paths: Iterable[str], *, taken: Iterable[str | None] = (), splits: Iterable[str] = (), sites: Iterable[str] = ()
) -> pl.DataFrame:
    """Pictures with these paths below `/data`, labelled by their first folder."""
    names = list(paths)
    count, text = len(names), pl.String
    columns: dict[str, Any] = {
        "path": [f"/data/{name}" for name in names],
        "label": [name.partition("/")[0] for name in names],
        "taken": pl.Series(list(taken) or [None] * count, dtype=text),
        "given_split": pl.Series(list(splits) or [None] * count, dtype=text),
        "site": pl.Series(list(sites) or [None] * count, dtype=text),
    }
    empty = dict.fromkeys(("error", "given_group", "time"), pl.lit(None, text))
    return pl.DataFrame(columns).with_columns(**empty, group=pl.Series(np.arange(count)))


def command(**data: Any) -> Command:
    return Command(["my pictures"], None, {}, DataConfig(**data))


def propose(pictures: pl.DataFrame, **data: Any) -> list[str]:
    notices = propose_groups(pictures, command(**data))
    assert all(notice.check == GROUPS and notice.is_issue for notice in notices)
    return [notice.message for notice in notices]


def proposed_rule(message: str, option: str = "--group") -> str:
    match = PRINTED.search(message)
    assert match is not None, message
    words = shlex.split(match[1])
    return words[words.index(option) + 1]


def check_grouping(pictures: pl.DataFrame, rule: str, groups: Iterable[str]) -> None:
    """Check that a rule groups the pictures as these names of groups do."""
    found, _ = add_picture_groups(pictures, parse_group_rule(rule), parse_site_rule("none"))
    pairs = pl.DataFrame({"found": found["given_group"], "expected": list(groups)}).unique()
    assert pairs["found"].null_count() == 0
    assert pairs["found"].n_unique() == pairs["expected"].n_unique() == pairs.height


# ---- What is proposed ------------------------------------------------------------------------------------------------


def bursts(name: Callable[[str, int, int], str], frames: int = 3, count: int = 40) -> tuple[list[str], list[str]]:
    """Paths of `count` bursts of each kind, and the burst of each picture."""
    numbers = [(kind, burst, frame) for kind in KINDS for burst in range(count) for frame in range(frames)]
    return [name(*number) for number in numbers], [f"{kind} {burst}" for kind, burst, _ in numbers]


@pytest.mark.parametrize(
    "name",
    [
        lambda kind, burst, frame: f"{kind}/{kind}{burst:03}_{frame}.jpg",
        lambda kind, burst, frame: f"{kind}/seq{KINDS.index(kind)}{burst:04}-frame{10 * frame:05}.jpg",
        lambda kind, burst, frame: f"{kind}/seq{burst:04}_{frame}.jpg",  # numbers begin anew in each folder
        lambda kind, burst, frame: f"{kind}/IMG_{1000 * KINDS.index(kind) + burst} {frame}.JPG",
    ],
)
def test_numbered_frames_of_a_name_are_a_burst(name: Callable[[str, int, int], str]) -> None:
    paths, groups = bursts(name)
    pictures = pictures_named(paths)
    [message] = propose(pictures)
    assert "360 of 360 pictures are numbered frames of a name" in message
    assert re.search(r"leaves 9\d % of the test pictures with such a sibling in training", message)
    check_grouping(pictures, proposed_rule(message), groups)


def test_pictures_within_seconds_are_a_burst() -> None:
    paths, groups = bursts(lambda kind, burst, frame: f"{kind}/{hash((kind, burst, frame)) & 0xFFFFFFFF:x}.jpg", 3)
    times = [
        f"2026-05-{1 + burst % 28:02}T{KINDS.index(kind) + 3 * (burst // 28):02}:10:0{2 * frame}"
        for kind in KINDS
        for burst in range(40)
        for frame in range(3)
    ]
    pictures = pictures_named(paths, taken=times)
    [message] = propose(pictures)
    assert message.startswith("360 of 360 pictures were taken within 5 s of another; without --group,")
    assert proposed_rule(message) == "time:5s"
    check_grouping(pictures, "time:5s", groups)
    slower = [f"{time[:-5]}1{frame % 3 // 2}:{30 * (frame % 3 % 2):02}" for frame, time in enumerate(times)]
    [message] = propose(pictures_named(paths, taken=slower))  # 0, 30 and 60 seconds after the first
    assert message.startswith("360 of 360 pictures were taken within 60 s of another")
    check_grouping(pictures_named(paths, taken=slower), "time:60s", groups)


def test_copies_of_roboflow_are_found_across_the_parts_of_a_split() -> None:
    paths = [
        f"{kind}/{kind}_{number}_jpg.rf.{HASH}{copy}.jpg" for kind in KINDS for number in range(20) for copy in range(3)
    ]
    pictures = pictures_named(paths)
    [message] = propose(pictures)
    assert "180 of 180 pictures are copies of another" in message
    check_grouping(pictures, proposed_rule(message), [path.partition(".rf.")[0] for path in paths])
    same = [f"{kind}/{number}_jpg.rf.{HASH}{copy}.jpg" for kind in KINDS for number in range(20) for copy in range(3)]
    [message] = propose(pictures_named(same))  # one name in several classes is not one picture
    check_grouping(pictures_named(same), proposed_rule(message), [path.partition(".rf.")[0] for path in same])


def test_a_given_split_is_the_one_that_is_measured() -> None:
    paths, _ = bursts(lambda kind, burst, frame: f"{kind}/{kind}{burst:03}_{frame}.jpg")
    together = ["test" if burst < 8 else "train" for _ in KINDS for burst in range(40) for _ in range(3)]
    assert propose(pictures_named(paths, splits=together)) == []
    apart = ["test" if frame == 0 else "train" for _ in KINDS for _ in range(40) for frame in range(3)]
    [message] = propose(pictures_named(paths, splits=apart))
    assert "the given split leaves 100 % of the test pictures" in message
    assert message.endswith("--split resplit")


def test_the_torn_fraction_is_that_of_a_random_split() -> None:
    pictures = pictures_named(f"bird/{number}.jpg" for number in range(20_000))
    pairs = pl.Series([str(number // 2) for number in range(20_000)])
    assert measure_torn_fraction(pairs, pictures, DataConfig()) == pytest.approx(0.7, abs=0.03)
    duplicates = pictures.with_columns(group=pl.Series(np.arange(20_000) // 2))  # kept together already
    assert measure_torn_fraction(pairs, duplicates, DataConfig()) == 0.0


@pytest.mark.parametrize(("is_site", "option"), [(True, "--site"), (False, "--group")])
def test_folders_below_the_classes_are_cameras_or_groups(is_site: bool, option: str) -> None:
    paths = [
        f"{kind}/{'cam' if is_site else kind}{number % 12:02}/{number * 7919 % 10007:x}.jpg"
        for kind in KINDS
        for number in range(60)
    ]
    [message] = propose(pictures_named(paths))
    assert proposed_rule(message, option) == "folder"
    assert ("12 names" in message) == is_site


def test_sites_of_the_source_that_are_not_used_are_named() -> None:
    pictures = pictures_named(
        (f"{kind}/{n}.jpg" for kind in KINDS for n in range(40)), sites=[f"s{n % 8}" for n in range(120)]
    )
    [notice] = propose_sites(pictures, command())
    assert notice.message.startswith("8 sites of the source are not used; --site source compares known with new sites:")
    assert proposed_rule(notice.message, "--site") == "source"
    assert propose_sites(pictures, command(site="source")) == []
    unique = pictures.with_columns(site="path")
    assert propose_sites(unique, command()) == []


def test_a_column_that_is_not_used_is_named(tmp_path: Path) -> None:
    rows = [f"{n}.jpg;{KINDS[n % 3]};CAM{n % 12};B{n // 4};{n}" for n in range(120)]
    path = tmp_path / "media table.csv"
    path.write_text("\n".join(["File;Species;Camera;Sequence ID;Temperature", *rows]))
    pictures = pictures_named(f"{KINDS[n % 3]}/{n}.jpg" for n in range(120))
    own = Command([str(path)], None, {"columns": {"label": "Species"}}, DataConfig())
    site, group = propose_sites(pictures, own)
    assert site.message.startswith("12 sites in the column Camera are not used; --site")
    assert proposed_rule(site.message, "--site") == "Camera"
    assert "30 groups in the column Sequence ID" in group.message
    assert proposed_rule(group.message) == "Sequence ID"
    chosen = Command([str(path)], None, {}, DataConfig(site="Camera", group="Sequence ID"))
    assert propose_sites(pictures, chosen) == []


# ---- What is not -----------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(7)
HARMLESS = {
    "numbers": [f"{kind}/{number}.jpeg" for kind in KINDS for number in range(200)],
    "hashes": [f"{kind}/OIP-{RNG.bytes(12).hex()}{n % 10}.jpeg" for kind in KINDS for n in range(200)],
    "hash and size": [f"{kind}/{RNG.bytes(20).hex()}_640.jpg" for kind in KINDS for _ in range(200)],
    "class and number": [f"{kind}/{kind}_{number:04}.png" for kind in KINDS for number in range(200)],
    "CIFAR": [f"{kind}/{kind}_{'sx'[n % 2]}_{n:06}.png" for kind in KINDS for n in range(200)],
    "ImageNet": [f"{kind}/n0144076{KINDS.index(kind)}_{37 * n}.JPEG" for kind in KINDS for n in range(200)],
    "number twice": [f"{kind}/Albatross_{n:04}_{RNG.integers(10**6)}.jpg" for kind in KINDS for n in range(200)],
    "phone": [f"{kind}/IMG_202605{n % 28 + 1:02}_{RNG.integers(10**6):06}.jpg" for kind in KINDS for n in range(200)],
    "camera": [f"{kind}/IMG_{4000 + n}.JPG" for kind in KINDS for n in range(200)],
    "folders of one": [f"{kind}/{n}/picture.jpg" for kind in KINDS for n in range(200)],
    "parts of a split": [f"{kind}/{n}.jpg" for _ in range(3) for kind in KINDS for n in range(60)],
}  # fmt: skip


@pytest.mark.parametrize("paths", HARMLESS.values(), ids=HARMLESS)
def test_other_names_are_no_burst(paths: list[str]) -> None:
    assert propose(pictures_named(paths)) == []


def test_folders_of_a_split_are_no_groups() -> None:
    paths = [f"{part}/{kind}/{n}.jpg" for part in ("train", "val", "test") for kind in KINDS for n in range(40)]
    pictures = pictures_named(paths).with_columns(label=pl.col("path").str.split("/").list.get(3))
    assert propose(pictures) == []


def test_times_far_apart_or_of_one_moment_are_no_burst() -> None:
    paths = [f"{kind}/{RNG.bytes(8).hex()}.jpg" for kind in KINDS for _ in range(60)]
    days = [f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:00" for n in range(180)]
    assert propose(pictures_named(paths, taken=days)) == []
    assert propose(pictures_named(paths, taken=["2000-01-01T00:00:00"] * 180)) == []


def test_nothing_is_proposed_where_groups_are_given_or_declined() -> None:
    paths, groups = bursts(lambda kind, burst, frame: f"{kind}/{kind}{burst:03}_{frame}.jpg")
    pictures = pictures_named(paths)
    assert propose(pictures, group="none") == []
    assert propose(pictures, group="folder") == []
    assert propose(pictures.with_columns(given_group=pl.Series(groups))) == []


def test_nothing_is_proposed_where_duplicates_or_sites_keep_siblings_together() -> None:
    paths, groups = bursts(lambda kind, burst, frame: f"{kind}/{kind}{burst:03}_{frame}.jpg")
    pictures = pictures_named(paths)
    joined = pictures.with_columns(group=pl.Series(groups).rank("dense").cast(pl.Int64))
    assert propose(joined) == []
    half = joined.with_columns(
        group=pl.when(pl.col("group") % 2 == 0).then("group").otherwise(1000 + pictures["group"])
    )
    [message] = propose(half)
    assert re.search(r"leaves 4\d % of the test", message)


def test_drawn_collections_have_no_proposal(collection: SyntheticDataset, faulty: SyntheticDataset) -> None:
    for dataset in (collection, faulty):
        findings = audit(dataset.folder, recipe={"data": {"suspects": False}}, threads=2).findings
        assert findings.filter(pl.col("check") == GROUPS)["message"].to_list() == []


@pytest.mark.real
def test_animals10_has_no_proposal(animals10: Path) -> None:
    paths = [f"{path.parent.name}/{path.name}" for path in sorted(animals10.rglob("*")) if path.is_file()]
    assert len(paths) > 1_000
    assert propose(pictures_named(paths)) == []


# ---- From the pictures to the command --------------------------------------------------------------------------------


def draw_bursts(folder: Path, *, names: Callable[[str, int, int], str], has_times: bool) -> None:
    """Draw twelve bursts of three pictures for each of three kinds, all pictures different."""
    for kind in KINDS:
        for number in range(36):
            burst, frame = divmod(number, 3)
            path = folder / names(kind, burst, frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            if has_times:
                exif[0x010F] = "camera"
                moment = f"2026:05:{1 + burst:02} {KINDS.index(kind):02}:10:0{frame}"
                exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = moment
            rng = np.random.default_rng([KINDS.index(kind), number])
            draw_creature(kind, rng).resize((64, 64)).convert("RGB").save(path, exif=exif)


CASES: dict[str, tuple[Callable[[str, int, int], str], bool, str]] = {
    "times": (lambda kind, burst, frame: f"{kind}/p{7919 * (3 * burst + frame) % 10007}.jpg", True, "time:5s"),
    "frames": (lambda kind, burst, frame: f"{kind}/{kind}{burst:03}_{frame}.jpg", False, f"regex:{FRAME}"),
    "folders": (lambda kind, burst, frame: f"{kind}/{kind}-{burst}/{7919 * frame % 10007}.jpg", False, "folder"),
    "cameras": (lambda kind, burst, frame: f"{kind}/cam{burst}/{7919 * frame % 10007}.jpg", False, "folder"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_printed_command_works_and_ends_the_proposal(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names, has_times, rule = CASES[case]
    folder = tmp_path / "my pictures"
    draw_bursts(folder, names=names, has_times=has_times)
    recipe = {"data": {"suspects": False}}
    monkeypatch.chdir(tmp_path)
    findings = audit("my pictures", recipe=recipe, threads=2).findings
    [message] = findings.filter(pl.col("check") == GROUPS)["message"].to_list()
    match = PRINTED.search(message)
    assert match is not None, message
    words = shlex.split(match[1])
    assert words[:3] == ["bestiary", "train", "my pictures"]
    option = "--site" if case == "cameras" else "--group"
    assert words[words.index(option) + 1].startswith(rule)
    # The same words as `audit`, which reads, groups and tries the split without training a model.
    monkeypatch.setattr("sys.argv", ["bestiary", "audit", *words[2:], "--set", "data.suspects=false"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = " ".join("".join(capsys.readouterr()).split())
    assert not ended.value.code, printed
    assert "would be refused" not in printed
    assert "without --group" not in printed
    assert re.search(r"(12|36) (groups|sites), by", printed)


def test_copies_of_roboflow_in_class_folders_are_groups_by_themselves(tmp_path: Path) -> None:
    names = lambda kind, burst, frame: f"{kind}/{kind}{burst}_jpg.rf.{HASH}{frame}.jpg"  # noqa: E731
    draw_bursts(tmp_path, names=names, has_times=False)
    dataset = audit(tmp_path, recipe={"data": {"suspects": False}}, threads=2)
    [message] = dataset.findings.filter(pl.col("check") == GROUPS)["message"].to_list()
    assert message.startswith("36 groups, by the column group or the sequences of the source: 108 pictures, at most 3")
    assert dataset.pictures["given_group"].n_unique() == 36


def test_rotated_copies_are_found_as_duplicates_without_a_group(tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        for number in range(4):
            image = draw_creature(kind, np.random.default_rng([KINDS.index(kind), number])).convert("RGB")
            image.save(tmp_path / kind / f"{number}.png")
    for name, angle in (("90", Image.Transpose.ROTATE_90), ("180", Image.Transpose.ROTATE_180)):
        Image.open(tmp_path / "bird" / "0.png").transpose(angle).save(tmp_path / "bird" / f"turned{name}.png")
    dataset = audit(tmp_path, recipe={"data": {"suspects": False}}, threads=2)
    groups = dict(dataset.pictures.select(pl.col("path").str.extract("([^/]+/[^/]+)$"), "group").iter_rows())
    assert groups["bird/0.png"] == groups["bird/turned90.png"] == groups["bird/turned180.png"]
    assert len(set(groups.values())) == 12
