"""Proposals of `--group` and `--site` where pictures show bursts, copies, cameras or films, and no group is given.

Evidence: names of Roboflow's copies of one picture, times within seconds of each other, frame numbers after a name that
has a number itself, folders below the class folders, columns of a table and sites of a format that are not used.
Consecutive numbers alone are none.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary.array_types import Bools, Floats, Ints
from bestiary.data.formats.table_file import open_table
from bestiary.data.formats.tables import FORMAT as TABLE_FORMAT
from bestiary.data.notices import GROUPS, SourceNotice
from bestiary.data.picture_groups import LARGE_FRACTION, group_by_time
from bestiary.errors import UserError
from bestiary.group_rules import AUTO, NONE
from bestiary.recipe_sections import DataConfig
from bestiary.table_columns import choose_columns

MIN_PICTURES, MIN_FRACTION = 10, 0.1  # with siblings, for a proposal
MIN_TORN = 0.01  # of the test pictures; duplicates and sites may keep siblings together already
COPY_FRACTION = 0.01  # of Roboflow's names, which are no chance
RANDOM_SPLITS = 20  # whose mean is named
GROUPS_PER_CLASS = 3  # one for each split
GAPS = (5, 60)  # seconds
MUCH_MORE = 1.5  # times as many pictures within the longer gap, for it to be proposed
BURSTS_PER_CLASS, BURST_FRACTION = (
    3,
    0.1,
)  # fewer or larger groups are no bursts: names begin with a class, a photographer
REGULAR = 0.8  # fraction of the steps between frame numbers that are the usual one
MAX_SITES = 0.5  # of the pictures, different values of a column; more are no sites
ROBOFLOW_STEM = r"([^/]+)\.rf\.[0-9A-Za-z]{16,40}(?:\.|$)"
ROBOFLOW_FOLDER = r"((?:[^/]+/)?[^/]+)\.rf\.[0-9A-Za-z]{16,40}(?:\.|$)"
FRAME = r"([^/]*[0-9][^/]*)[_. -][a-zA-Z]*[0-9]+\.[^./]+$"
FRAME_FOLDER = FRAME.replace("(", "((?:[^/]*/)?", 1)  # none for a picture in the folder of the source itself
_FRAME_NUMBER = r"([0-9]+)\.[^./]+$"
SITE_NAMES = (
    *("camera", "cameraid", "cameraname", "cam", "site", "siteid", "sitename", "station", "stationid"),
    *("deployment", "deploymentid", "location", "locationid", "locationname", "plot", "trap", "trapid", "relativepath"),
)
GROUP_NAMES = (
    *("sequence", "sequenceid", "seq", "seqid", "burst", "burstid", "event", "eventid", "episode", "video"),
    *("videoid", "individual", "individualid", "animalid", "patient", "patientid", "subject", "subjectid"),
)


@dataclass(frozen=True)
class Proposal:
    """A rule that keeps pictures together, what was seen (a clause), and the group of each picture."""

    rule: str
    words: str
    groups: pl.Series


@dataclass(frozen=True)
class Command:
    """The command that reads the same pictures.

    sources, labels: as the user wrote them; reading: of `ReadOptions.facts`; data: of the recipe.
    """

    sources: Sequence[str]
    labels: str | None
    reading: Mapping[str, Any]
    data: DataConfig

    def format(self, option: str, rule: str, *, is_trainable: bool = True) -> str:
        """Return the command with a rule for `option`, as a shell takes it."""
        reading = self.reading
        columns = ",".join(f"{role}={name}" for role, name in reading.get("columns", {}).items())
        left_out = None if "leave out" not in reading else ",".join(reading["leave out"]) or "none"
        options = {
            "--labels": self.labels,
            "--classes": ",".join(self.data.classes),
            "--label-depth": str(self.data.label_depth) if self.data.label_depth > 1 else "",
            "--format": reading.get("format"),
            "--columns": columns,
            "--pictures": reading.get("pictures"),
            "--leave-out": left_out,
            "--boxes": reading.get("boxes"),
            "--crop": "" if self.data.crop == NONE else self.data.crop,
            "--group": "" if self.data.group == AUTO else self.data.group,
            "--site": "" if self.data.site == NONE else self.data.site,
            option: rule,
        }
        chosen = [part for name, value in options.items() if value for part in (name, str(value))]
        return shlex.join(["bestiary", "train" if is_trainable else "audit", *self.sources, *chosen])


def propose_groups(pictures: pl.DataFrame, command: Command) -> list[SourceNotice]:
    """Return notices that propose a rule of `--group`, or `--site folder`; none if groups are given or were declined.

    pictures: `path, label, error, given_split`, `group` of the split, `given_group`, `site`, `time`, `taken`.
    """
    usable = pictures.filter(pl.col("error").is_null())
    if command.data.group != AUTO or usable["given_group"].count() or usable.height < MIN_PICTURES:
        return []
    notices = []
    finders = (_find_copies, _find_bursts_by_time, _find_numbered_bursts)
    proposal = next((first for find in finders if (first := find(usable)) is not None), None)
    if proposal is not None:
        notices += _describe_proposal(proposal, usable, command)
    return notices if usable["site"].count() else notices + _propose_folders(usable, command)


def propose_sites(listed: pl.DataFrame, command: Command) -> list[SourceNotice]:
    """Return notices about sites of the source, and about columns of its tables, that are not used.

    listed: pictures as listed: `error`, and `given_group` and `site` of the source.
    """
    usable = listed.filter(pl.col("error").is_null())
    notices = []
    values = usable["site"].drop_nulls()
    if command.data.site == NONE and (count := _count_sites(values, usable.height)):
        text = f"{count:,} sites of the source are not used; --site source compares known with new sites:"
        notices.append(SourceNotice(GROUPS, f"{text} {_site_command(command, 'source', values, usable)}"))
    has = {"--group": command.data.group != AUTO or usable["given_group"].count() > 0}
    has["--site"] = command.data.site != NONE or len(values) > 0
    return notices + list(_iter_unused_columns(command, has, usable.height))


# ---- Evidence ----------------------------------------------------------------------------------------------------


def _find_copies(usable: pl.DataFrame) -> Proposal | None:
    """Return the proposal for Roboflow's names: the copies of one source picture have its name before `.rf.`."""
    names = _slash_paths(usable)
    stems = names.str.extract(ROBOFLOW_STEM)
    if not stems.count():
        return None
    labels = pl.DataFrame({"stem": stems, "label": usable["label"]}).drop_nulls()
    is_shared = labels.group_by("stem", maintain_order=True).agg(pl.col("label").n_unique())["label"].max() != 1
    pattern = ROBOFLOW_FOLDER if is_shared else ROBOFLOW_STEM
    groups = names.str.extract(pattern)
    count = _count_siblings(groups)
    if count < max(2, COPY_FRACTION * usable.height):
        return None
    words = f"{count:,} of {usable.height:,} pictures are copies of another with the same name before .rf. (Roboflow)"
    return Proposal(f"regex:{pattern}", words, groups)


def _find_bursts_by_time(usable: pl.DataFrame) -> Proposal | None:
    """Return the proposal for pictures within seconds of another, of one site if there are sites."""
    if usable.select(pl.coalesce("time", "taken").count()).item() < MIN_PICTURES:
        return None
    groups = {gap: group_by_time(usable, gap, []) for gap in GAPS}
    counts = {gap: _count_siblings(values) for gap, values in groups.items()}
    short, long = GAPS
    allowed = [gap for gap in GAPS if _is_enough(counts[gap], usable.height) and not _is_large(groups[gap])]
    if not allowed:
        return None
    gap = long if long in allowed and counts[long] > MUCH_MORE * counts[short] else allowed[0]
    words = f"{counts[gap]:,} of {usable.height:,} pictures were taken within {gap} s of another"
    return Proposal(f"time:{gap}s", words, groups[gap])


def _find_numbered_bursts(usable: pl.DataFrame) -> Proposal | None:
    """Return the proposal for frame numbers after a name that has a number itself, such as seq0012_3.jpg.

    The frames of a name are counted in equal steps, there are several names in a class, and none has many pictures.
    """
    names = _slash_paths(usable)
    prefixes = names.str.extract(FRAME)
    if not _is_enough(_count_siblings(prefixes), usable.height):
        return None
    frame = pl.DataFrame(
        {
            "label": usable["label"],
            "folder": names.str.replace(r"/[^/]*$", ""),
            "prefix": prefixes,
            "number": names.str.extract(_FRAME_NUMBER).str.slice(0, 18).cast(pl.Int64, strict=False),
        }
    ).drop_nulls()
    frame = frame.sort("label", "folder", "prefix", "number")
    key = ("label", "folder", "prefix")
    sizes = frame.group_by(key, maintain_order=True).agg(n=pl.len())
    several = sizes.filter(pl.col("n") > 1)
    per_class = several.height / max(frame["label"].n_unique(), 1)
    if per_class < BURSTS_PER_CLASS or several["n"].to_numpy().max() > BURST_FRACTION * usable.height:
        return None
    steps = frame.select(pl.col("number").diff().over(key)).to_series().drop_nulls()
    usual = int(steps.mode().sort()[0])
    if usual <= 0 or (steps == usual).sum() < REGULAR * len(steps):
        return None
    by_folder = (
        frame.group_by("prefix", maintain_order=True).agg(pl.col("label").n_unique())["label"].to_numpy().max() > 1
    )
    pattern = FRAME_FOLDER if by_folder else FRAME
    groups = names.str.extract(pattern)
    count, example = _count_siblings(groups), several.sort("prefix")["prefix"][0]
    words = f'{count:,} of {usable.height:,} pictures are numbered frames of a name, such as "{example}"'
    return Proposal(f"regex:{pattern}", words, groups)


def _propose_folders(usable: pl.DataFrame, command: Command) -> list[SourceNotice]:
    """Return the notice for folders below those of the classes: cameras if their names recur, else groups."""
    folders = _slash_paths(usable).str.replace(r"/[^/]*$", "")
    frame = pl.DataFrame({"label": usable["label"], "folder": folders, "name": folders.str.extract("([^/]+)$")})
    per_label = frame.group_by("label", maintain_order=True).agg(pl.col("name").n_unique())["name"]
    if per_label.median() is None or float(np.median(per_label.to_numpy())) < 2 or frame["name"].n_unique() < 3:
        return []
    if not _is_enough(_count_siblings(folders), usable.height):
        return []
    recurring = frame.filter(pl.col("label").n_unique().over("name") > 1).height
    if recurring >= usable.height / 2:
        count = frame["name"].n_unique()
        words = f"{usable.height:,} pictures lie in folders of {count:,} names, such as"
        is_trainable = _is_trainable(frame["name"], usable, command.data.min_per_class)
        printed = command.format("--site", "folder", is_trainable=is_trainable)
        text = (
            f'{words} "{frame["name"].sort()[0]}", under several classes. If these are cameras or sites, --site folder'
        )
        return [SourceNotice(GROUPS, f"{text} compares known with new ones: {printed}")]
    if _is_large(folders):
        return []
    words = f"{_count_siblings(folders):,} of {usable.height:,} pictures share one of {folders.n_unique():,} folders"
    return _describe_proposal(Proposal("folder", f"{words} below those of the classes", folders), usable, command)


def _iter_unused_columns(command: Command, has: Mapping[str, bool], count: int) -> Iterator[SourceNotice]:
    """Yield a notice for each unused column of a table that is named like a site or a group."""
    requested = command.reading.get("columns", {})
    for source in command.sources:
        for option, name, values in _read_unused_columns(source, requested, has):
            if not (n := _count_sites(values, max(count, len(values)))):
                continue
            if option == "--site":
                text = f"{n:,} sites in the column {name} are not used; --site compares known with new sites:"
            else:
                text = f"{n:,} groups in the column {name} are not used; --group keeps each in one split:"
            yield SourceNotice(GROUPS, f"{text} {command.format(option, name)}")


def _read_unused_columns(
    source: str, requested: Mapping[str, str], has: Mapping[str, bool]
) -> Iterator[tuple[str, str, pl.Series]]:
    """Yield option, name and values of the columns of a table that are not used, sites first."""
    path = Path(source)
    if not path.is_file() or not TABLE_FORMAT.is_format(path):
        return
    try:
        table = open_table(path)
        used = choose_columns(table, requested).list_names()
        for option, usual in (("--site", SITE_NAMES), ("--group", GROUP_NAMES)):
            names = [name for name in table.columns if name not in used and _simplify(name) in usual]
            for name in () if has[option] else names[:1]:
                values = table.read([name])[name].str.strip_chars()
                yield option, name, values.filter(values != "")
    except UserError:  # a file of another format, which its own reader has read
        return


# ---- What they have in common --------------------------------------------------------------------------------------


def _describe_proposal(proposal: Proposal, usable: pl.DataFrame, command: Command) -> list[SourceNotice]:
    """Return the notice: what was seen, what a split that ignores it tears apart, if anything, and the command."""
    torn = measure_torn_fraction(proposal.groups, usable, command.data)
    if torn < MIN_TORN:
        return []
    has_split = usable["given_split"].count() > 0
    split = "the given split" if has_split else "a split that ignores it"
    resplit = " --split resplit" if has_split else ""
    is_trainable = _is_trainable(proposal.groups, usable, command.data.min_per_class)
    text = (
        f"{proposal.words}; without --group, {split} leaves {100 * torn:.0f} % of the test pictures with such a sibling"
        f" in training, and the score is too high. To keep them together:"
        f" {command.format('--group', proposal.rule, is_trainable=is_trainable)}{resplit}"
    )
    return [SourceNotice(GROUPS, text)]


def measure_torn_fraction(groups: pl.Series, usable: pl.DataFrame, data: DataConfig) -> float:
    """Return the fraction of test pictures that have a sibling in training, in a split that ignores the groups.

    The split is the given one, else the mean of random ones of the fractions of `data` that keep each `group` together:
    duplicates and sites.
    """
    codes = pl.DataFrame({"group": groups}).select(pl.col("group").rank("dense").fill_null(0)).to_series().to_numpy()
    if usable["given_split"].count():
        split = usable["given_split"].fill_null("")
        return _torn_fraction(codes, (split == "train").to_numpy(), (split == "test").to_numpy())
    duplicates = usable["group"].rank("dense").to_numpy() - 1
    rng, torn = np.random.default_rng(0), []
    for _ in range(RANDOM_SPLITS):
        draws: Floats = rng.random(int(duplicates.max()) + 1)[duplicates]
        torn.append(_torn_fraction(codes, draws >= data.test_fraction + data.val_fraction, draws < data.test_fraction))
    return float(np.mean(torn))


def _torn_fraction(codes: Ints, is_train: Bools, is_test: Bools) -> float:
    """Return the fraction of test pictures whose group, a code from 1 (0: none), has a training picture."""
    trained = np.bincount(codes[is_train], minlength=int(codes.max()) + 1) > 0
    torn = trained[codes] & (codes > 0)
    return float(torn[is_test].mean()) if is_test.any() else 0.0


def _is_trainable(groups: pl.Series, usable: pl.DataFrame, least: int) -> bool:
    """Return whether each class has the three groups that a split needs; pictures without a group are their own."""
    frame = pl.DataFrame({"label": usable["label"], "group": groups})
    frame = frame.with_row_index("row").with_columns(group=pl.coalesce("group", pl.format("\0{}", "row")))
    counts = frame.group_by("label", maintain_order=True).agg(pl.len(), pl.col("group").n_unique())
    return counts.height > 1 and bool(((counts["group"] >= GROUPS_PER_CLASS) & (counts["len"] >= least)).all())


def _site_command(command: Command, rule: str, values: pl.Series, usable: pl.DataFrame) -> str:
    is_trainable = len(values) == usable.height and _is_trainable(values, usable, command.data.min_per_class)
    return command.format("--site", rule, is_trainable=is_trainable)


def _count_siblings(groups: pl.Series) -> int:
    """Return how many pictures share their group with another."""
    sizes = groups.drop_nulls().value_counts(name="n")["n"]
    return int(sizes.filter(sizes > 1).sum())


def _is_enough(count: int, total: int) -> bool:
    return count >= max(MIN_PICTURES, MIN_FRACTION * total)


def _is_large(groups: pl.Series) -> bool:
    """Return whether one group has most of the pictures, so that no split could be drawn."""
    sizes = groups.drop_nulls().value_counts(name="n")["n"].to_numpy()
    return bool(len(sizes) and sizes.max() > LARGE_FRACTION * len(groups))


def _count_sites(values: pl.Series, total: int) -> int:
    """Return the number of different values if they can be sites or groups, else 0."""
    n = values.n_unique() if len(values) else 0
    return n if 3 <= n <= MAX_SITES * total and len(values) >= total / 2 else 0


def _slash_paths(usable: pl.DataFrame) -> pl.Series:
    return usable["path"].str.replace_all("\\", "/", literal=True)


def _simplify(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()
