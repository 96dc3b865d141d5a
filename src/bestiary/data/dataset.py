"""Loads and audits a dataset: from a source to a table of measured pictures with findings, before any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Ints
from bestiary.context import Context
from bestiary.data import audit, duplicate_groups, duplicates, view_search
from bestiary.data.apply_corrections import CorrectionResult, apply_corrections
from bestiary.data.corrections import Corrections, read_corrections
from bestiary.data.deep_ranges import measure_in_collection_range
from bestiary.data.detail_check import check_content
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.formats.read_options import name_group_columns
from bestiary.data.group_proposals import Command, propose_groups, propose_sites
from bestiary.data.joined_groups import join_groups, torn_group_notices
from bestiary.data.label_map import absolute_label_map, label_map
from bestiary.data.notices import EMPTY_CLASS, SOURCE_FORMAT, SourceNotice, notice_findings
from bestiary.data.overlapping_classes import overlapping_class_warnings
from bestiary.data.picture_groups import add_picture_groups
from bestiary.data.scan import scan_pictures
from bestiary.data.shortcuts import PROPERTIES, find_shortcuts
from bestiary.data.sources import PictureList, list_sources, report_notices
from bestiary.data.split_parts import choose_split_parts, require_trainable_parts
from bestiary.errors import SourceError, did_you_mean
from bestiary.finding_counts import count_findings
from bestiary.group_rules import parse_group_rule, parse_site_rule
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.machine import trim_memory
from bestiary.picture import DecodeLimits
from bestiary.recipe import DataConfig, ResolvedRecipe
from bestiary.summary import Summary, SummaryRepr
from bestiary.text import format_names

Sources = Path | str | Sequence[Path | str]  # one source of pictures, or several that are merged


@dataclass(frozen=True)
class DataSource:
    """The source of a dataset: pictures, a label map (name or CSV file), a file of label decisions.

    label_depth: the level of folders whose names are the labels; None: that of the recipe. classes: use only these
    labels, in an evaluation; elsewhere the recipe has them. model_classes: the classes
    of the model that the pictures are for; a folder of that name is no part of a split. reading: how tables and other
    formats for labels are read; None: as they are recognised.
    """

    pictures: Sources
    labels: str | None = None
    corrections: Path | str | None = None
    label_depth: int | None = None
    classes: tuple[str, ...] = ()
    model_classes: tuple[str, ...] = ()
    reading: ReadOptions | None = None

    @property
    def paths(self) -> list[Path]:
        """The paths of the pictures' sources."""
        sources = [self.pictures] if isinstance(self.pictures, str | Path) else self.pictures
        return [Path(source) for source in sources]

    def command(self, data: DataConfig) -> Command:
        """Return the command that reads this source, with the settings of `data` that choose pictures."""
        reading = {} if self.reading is None else self.reading.facts()
        return Command([str(path) for path in self.paths], self.labels, reading, data)

    def facts(self, threads: int) -> dict[str, Any]:
        """Return what a run records of its source, and the number of its threads."""
        paths = [str(path.absolute()) for path in self.paths]
        facts: dict[str, Any] = {
            "pictures": paths[0] if len(paths) == 1 else paths,
            "labels": absolute_label_map(self.labels),
            "threads": threads,
        }
        if self.reading is not None and (reading := self.reading.facts()):
            facts["reading"] = reading
        return facts if self.corrections is None else {**facts, "corrections": {"file": str(self.corrections)}}


@dataclass(frozen=True, repr=False)
class AuditedDataset(SummaryRepr):
    """An audited dataset: its pictures, grouped but not split; the findings; and the effect of corrections.

    pictures: `table.PICTURES`, `given_split`, and `given_label` and `dropped` for the changes by corrections.
    passed_over: files that were skipped, by reason. not_looked_for: checks that were skipped, each with the reason.
    thumbnails: `table.THUMBNAILS`, to find copies of these pictures later. label_issues: how many of the suspect labels
    are expected to be wrong.
    """

    pictures: pl.DataFrame
    findings: pl.DataFrame
    passed_over: Mapping[str, int]
    corrected: CorrectionResult | None = None
    not_looked_for: Mapping[str, str] = field(default_factory=dict)
    thumbnails: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=table.THUMBNAILS))
    label_issues: LabelIssueSummary | None = None

    def summary(self) -> Summary:
        """Return the number of pictures, of classes, and of the issues of each check, the most serious first."""
        labels = self.pictures["label"].drop_nulls().unique().sort().to_list()
        counts = count_findings(self.findings, self.label_issues).checks
        issues = [count.check.format_count(count.issues) for count in counts if count.issues]
        rows = [
            ("classes", f"{len(labels):,} ({format_names(labels)})"),
            ("unreadable", f"{self.pictures['error'].count():,}"),
            ("findings", ", ".join(issues) or "none"),
        ]
        return Summary(f"Audited dataset of {self.pictures.height:,} pictures", tuple(rows))


ListingCheck = Callable[[PictureList], None]


def load_dataset(
    source: DataSource,
    recipe: ResolvedRecipe,
    context: Context,
    *,
    for_training: bool = False,
    check: ListingCheck | None = None,
) -> AuditedDataset:
    """Return the pictures with all that is known without a model: what splitting and planning need.

    for_training: raises SourceError if the source's own split cannot be trained on, before a picture is read; check: is
    called with the listed files then, and may raise UserError.
    """
    corrections = None if source.corrections is None else read_corrections(Path(source.corrections))
    data = recipe.data
    if source.label_depth is not None:
        data = data.model_copy(update={"label_depth": source.label_depth})
    listing = _list_pictures(source, data, context)
    if for_training:
        require_trainable_parts([picture.split for picture in listing.pictures], data)
    if check is not None:
        check(listing)
    return audit_listing(listing, data, recipe.limits, context, corrections, source=source)


def audit_sources(
    sources: Sequence[Path],
    labels: str | None,
    data: DataConfig,
    limits: DecodeLimits,
    context: Context,
    corrections: Corrections | None = None,
) -> AuditedDataset:
    """Return the pictures of the sources, measured and grouped by duplicates, with the findings of the audit.

    Raises SourceError if there are no pictures, or if `data.classes` names a label that does not occur.
    """
    listing = _list_pictures(DataSource(sources, labels), data, context)
    return audit_listing(listing, data, limits, context, corrections)


def _list_pictures(source: DataSource, data: DataConfig, context: Context) -> PictureList:
    """Return the pictures of a source, with the splits as `data` uses them."""
    listing = list_sources(
        source.paths,
        label_map(source.labels),
        context,
        classes=data.classes,
        model_classes=source.model_classes,
        label_depth=data.label_depth,
        reading=_reading_options(source, data),
    )
    if data.crop == "boxes":
        listing.notices.append(_describe_boxes(listing))
    return choose_split_parts(listing, data)


def _reading_options(source: DataSource, data: DataConfig) -> ReadOptions | None:
    reading = name_group_columns(source.reading, parse_group_rule(data.group), parse_site_rule(data.site))
    return reading if data.crop == "none" else replace(reading or ReadOptions(), boxes=True)


def _describe_boxes(listing: PictureList) -> SourceNotice:
    """Return how many boxes of how many pictures there are. Raises SourceError if there are none."""
    boxed = [picture.path for picture in listing.pictures if picture.box is not None]
    if not boxed:
        raise SourceError(
            "--crop boxes looks at boxes, and the pictures have none. Boxes are read from COCO, MegaDetector, Camtrap"
            " DP, CVAT, Label Studio and other files, and from tables (--columns box=left+top+width+height)."
        )
    without = len(listing.pictures) - len(boxed)
    text = f"{len(boxed):,} boxes of {len(set(boxed)):,} pictures are looked at, each with a margin."
    text += f" {without:,} pictures without a box are looked at as a whole." if without else ""
    return SourceNotice(SOURCE_FORMAT, text, is_issue=False)


def audit_listing(
    listing: PictureList,
    data: DataConfig,
    limits: DecodeLimits,
    context: Context,
    corrections: Corrections | None = None,
    *,
    source: DataSource | None = None,
) -> AuditedDataset:
    """Return the pictures of a list as `audit_sources` does; without `context.cache`, measurements are not cached.

    source: of the list; then groups and sites are proposed where pictures show them and none are given.
    """
    result, reporter = None, context.reporter
    if corrections is None:  # a correction may move a picture into the requested classes, so all must be measured
        listing = _filter_listing(listing, data.classes)
    skipped = dict(listing.skipped)
    pictures = measure_in_collection_range(scan_pictures(listing, limits, context), limits, context)
    command = None if source is None else source.command(data)
    grouping = [] if command is None else propose_sites(pictures, command)
    pictures, groupings = add_picture_groups(pictures, parse_group_rule(data.group), parse_site_rule(data.site))
    notices = [*listing.notices, *_unreadable_class_notices(pictures), *grouping, *groupings]
    report_notices(notices, reporter)
    if corrections is None:
        pictures = pictures.with_columns(given_label="label", dropped=False)
    else:
        pictures, result = apply_corrections(pictures, corrections, reporter)
        pictures = _filter_classes(pictures, data.classes, skipped)
    near_bits = data.near_duplicate_bits if data.near_duplicates else None
    # Dropped pictures still connect their group, so that dropping one moves no other between splits.
    readable = pictures.with_columns(error=pl.when("dropped").then(None).otherwise("error"))
    with reporter.progress("Searching for duplicates", view_search.STEPS) as advance:
        pairs = duplicates.find_duplicate_pairs(readable, near_bits, threads=context.threads, advance=advance)
    groups, checked = _group(pictures.with_columns(label="given_label"), pairs, limits, context)
    pictures = pictures.with_columns(group=pl.Series(groups.group))
    if corrections is not None:  # groups are those of the labels before, so that a correction moves no other picture
        pairs = _without_dropped(pictures, pairs, near_bits) if pictures["dropped"].any() else pairs
        corrected, checked = _group(pictures, pairs, limits, context)
        groups = replace(corrected, group=groups.group)
    pairs = checked
    in_two_classes = duplicates.connected_groups(pictures.height, pairs[groups.is_conflict])
    for warning in overlapping_class_warnings(pictures.with_columns(group=pl.Series(in_two_classes))):
        reporter.info(warning)
    for _, notice in groups.notices:
        reporter.info(notice)
    findings = audit.find_issues(pictures, pairs, groups, test_fraction=1.0 if data.folds else data.test_fraction)
    pictures, joined = _join_groups(pictures)
    joined += [] if command is None else propose_groups(pictures, command)
    report_notices(joined, reporter)
    findings = audit.sort_findings(pl.concat([findings, notice_findings([*notices, *joined])]))
    if data.suspects:
        with reporter.progress("Checking for shortcuts", len(PROPERTIES) + 1) as advance:
            shortcuts = find_shortcuts(pictures, seed=0, advance=advance)
        findings = audit.sort_findings(pl.concat([findings, shortcuts]))
    readable = pictures.filter(pl.col("error").is_null())
    thumbnails = readable.select(list(table.THUMBNAILS)).unique("sha256", maintain_order=True)
    pictures = _picture_table(pictures)
    trim_memory()
    return AuditedDataset(pictures, findings, skipped, result, thumbnails=thumbnails)


def _group(
    pictures: pl.DataFrame, pairs: Ints, limits: DecodeLimits, context: Context
) -> tuple[duplicate_groups.DuplicateGroups, Ints]:
    """Return the groups of duplicates by the column `label`, and the pairs, compared at a higher resolution."""
    checked = check_content(pictures, pairs, limits, context)
    return duplicate_groups.group_duplicates(pictures, checked), checked


def _join_groups(pictures: pl.DataFrame) -> tuple[pl.DataFrame, list[SourceNotice]]:
    """Return the pictures with `group` for the split and `duplicate_group`, and notices about given groups."""
    joined, notices = join_groups(pictures)
    pictures = pictures.with_columns(duplicate_group="group", group=pl.Series(joined))
    return pictures, [*notices, *torn_group_notices(pictures)]


def _without_dropped(pictures: pl.DataFrame, pairs: Ints, near_bits: int | None) -> Ints:
    """Return the pairs of the pictures that are left, searching again in the groups of dropped pictures.

    Only some pairs of a group are listed: a dropped picture may have been the only link between two others.
    """
    is_changed = pictures["group"].is_in(pictures.filter("dropped")["group"].unique().implode())
    left = (is_changed & ~pictures["dropped"]).arg_true().to_numpy()
    again = duplicates.find_duplicate_pairs(pictures[left], near_bits)
    again = np.column_stack([left[again[:, :2]].reshape(-1, 2), again[:, 2:]])
    return np.concatenate([pairs[~is_changed.to_numpy()[pairs[:, 0]]], again])


def _filter_listing(listing: PictureList, classes: tuple[str, ...]) -> PictureList:
    if not classes:
        return listing
    _check_class_names(classes, listing.labels())
    pictures = [picture for picture in listing.pictures if picture.label in classes]
    skipped = listing.skipped.copy()
    skipped["of other classes"] += len(listing.pictures) - len(pictures)
    unusable = [file for file in listing.unusable if file.label in classes]
    notices = [notice for notice in listing.notices if not notice.folder or notice.folder in classes]
    return PictureList(pictures, skipped, unusable, notices)


def _unreadable_class_notices(pictures: pl.DataFrame) -> list[SourceNotice]:
    """Return a notice for each label of which no file can be read: it is no class of the model."""
    counts = pictures.group_by("label").agg(n=pl.len(), usable=pl.col("error").is_null().sum(), error=pl.first("error"))
    return [
        SourceNotice(
            EMPTY_CLASS,
            f'The class "{label}" is not used: none of its {n:,} files can be read. The first: {error}',
            folder=label,
        )
        for label, n, _, error in counts.filter(pl.col("usable") == 0).sort("label").iter_rows()
    ]


def _filter_classes(pictures: pl.DataFrame, classes: tuple[str, ...], skipped: dict[str, int]) -> pl.DataFrame:
    """Return the pictures, dropped ones included, whose corrected label is one of these classes."""
    if not classes:
        return pictures
    _check_class_names(classes, pictures["label"].unique().to_list())
    own = pictures.filter(pl.col("label").is_in(classes)).drop("row_id").with_row_index("row_id")
    if pictures.height > own.height:
        skipped["of other classes"] = pictures.height - own.height
    return own


def _check_class_names(classes: tuple[str, ...], labels: list[str]) -> None:
    for name in classes:
        if name not in labels:
            raise SourceError(f'No picture has the label "{name}". {did_you_mean(name, labels)}')


def _picture_table(pictures: pl.DataFrame) -> pl.DataFrame:
    columns = {name: kind for name, kind in table.PICTURES.items() if name != "split"}
    more = table.MEASURES | table.DEPTH | table.GROUPING | table.CROPS
    more = table.MEASURES | table.DEPTH | table.GROUPING | table.CROPS
    pictures = pictures.with_columns(taken=pl.coalesce("time", "taken"))
    return pictures.select(
        *(pl.col(name).cast(kind) for name, kind in columns.items()),
        pl.lit(None, pl.String).alias("split"),
        *("given_split", "given_label", "dropped"),
        *(pl.col(name).cast(kind) for name, kind in more.items()),
    )
