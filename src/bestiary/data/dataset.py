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
from bestiary.data.class_filter import filter_classes, filter_listing
from bestiary.data.corrections import Corrections, read_corrections
from bestiary.data.deep_ranges import measure_in_collection_range
from bestiary.data.detail_check import check_content
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.group_proposals import Command, propose_groups, propose_sites
from bestiary.data.joined_groups import join_groups, torn_group_notices
from bestiary.data.label_map import absolute_label_map
from bestiary.data.list_pictures import list_pictures, list_with_fitting_rules
from bestiary.data.notices import EMPTY_CLASS, SourceNotice, notice_findings
from bestiary.data.overlapping_classes import overlapping_class_warnings
from bestiary.data.picture_groups import add_picture_groups
from bestiary.data.scan import scan_pictures
from bestiary.data.shortcuts import PROPERTIES, find_shortcuts
from bestiary.data.sources import PictureList, report_notices
from bestiary.data.split_parts import require_trainable_parts
from bestiary.finding_counts import count_findings
from bestiary.group_rules import parse_group_rule, parse_site_rule
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.machine import trim_memory
from bestiary.picture import DecodeLimits
from bestiary.recipe import ResolvedRecipe
from bestiary.recipe_sections import DataConfig
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
    for_split: bool = True,
    check: ListingCheck | None = None,
) -> AuditedDataset:
    """Return the pictures with all that is known without a model: what splitting and planning need.

    for_training: raises SourceError if the source's own split cannot be trained on, before a picture is read.
    for_split: whether rules of groups and sites must fit the source, see `add_picture_groups`. check: is called with
    the listed files, and may raise UserError.
    """
    corrections = None if source.corrections is None else read_corrections(Path(source.corrections))
    data = recipe.data
    if source.label_depth is not None:
        data = data.model_copy(update={"label_depth": source.label_depth})
    if for_split:
        listing = list_pictures(source, data, context)
    else:
        listing, data = list_with_fitting_rules(source, data, context)
    if for_training:
        require_trainable_parts([picture.split for picture in listing.pictures], data)
    if check is not None:
        check(listing)
    proposed, held = source if for_split else None, [listing]
    del listing  # the list takes half as much memory as the measurements: `audit_listing` holds the only reference
    return audit_listing(held.pop(), data, recipe.limits, context, corrections, source=proposed, for_split=for_split)


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
    listing = list_pictures(DataSource(sources, labels), data, context)
    return audit_listing(listing, data, limits, context, corrections)


def audit_listing(
    listing: PictureList,
    data: DataConfig,
    limits: DecodeLimits,
    context: Context,
    corrections: Corrections | None = None,
    *,
    source: DataSource | None = None,
    for_split: bool = True,
) -> AuditedDataset:
    """Return the pictures of a list as `audit_sources` does; without `context.cache`, measurements are not cached.

    source: of the list; then groups and sites are proposed where pictures show them and none are given.
    """
    result, reporter = None, context.reporter
    if corrections is None:  # a correction may move a picture into the requested classes, so all must be measured
        listing = filter_listing(listing, data.classes)
    skipped = dict(listing.skipped)
    pictures = measure_in_collection_range(scan_pictures(listing, limits, context), limits, context)
    command = None if source is None else source.command(data)
    grouping = [] if command is None else propose_sites(pictures, command)
    rules = parse_group_rule(data.group), parse_site_rule(data.site)
    pictures, groupings = add_picture_groups(pictures, *rules, folders=listing.folders, for_split=for_split)
    notices = [*listing.notices, *_unreadable_class_notices(pictures), *grouping, *groupings]
    del listing
    report_notices(notices, reporter)
    if corrections is None:
        pictures = pictures.with_columns(given_label="label", dropped=False)
    else:
        pictures, result = apply_corrections(pictures, corrections, reporter)
        pictures = filter_classes(pictures, data.classes, skipped)
    near_bits = data.near_duplicate_bits if data.near_duplicates else None
    # Dropped pictures still connect their group, so that dropping one moves no other between splits.
    readable = pictures.with_columns(error=pl.when("dropped").then(None).otherwise("error"))
    with reporter.progress("Searching for duplicates", view_search.STEPS) as advance:
        pairs = duplicates.remembered_duplicate_pairs(readable, near_bits, context, advance=advance)
    trim_memory()
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
    pictures, joined = _join_groups(pictures, for_split=for_split)
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


def _join_groups(pictures: pl.DataFrame, *, for_split: bool) -> tuple[pl.DataFrame, list[SourceNotice]]:
    """Return the pictures with `group` for the split and `duplicate_group`, and notices about given groups."""
    joined, notices = join_groups(pictures)
    pictures = pictures.with_columns(duplicate_group="group", group=pl.Series(joined))
    return pictures, [*notices, *torn_group_notices(pictures)] if for_split else []


def _without_dropped(pictures: pl.DataFrame, pairs: Ints, near_bits: int | None) -> Ints:
    """Return the pairs of the pictures that are left, searching again in the groups of dropped pictures.

    Only some pairs of a group are listed: a dropped picture may have been the only link between two others.
    """
    is_changed = pictures["group"].is_in(pictures.filter("dropped")["group"].unique().implode())
    left = (is_changed & ~pictures["dropped"]).arg_true().to_numpy()
    again = duplicates.find_duplicate_pairs(pictures[left], near_bits)
    again = np.column_stack([left[again[:, :2]].reshape(-1, 2), again[:, 2:]])
    return np.concatenate([pairs[~is_changed.to_numpy()[pairs[:, 0]]], again])


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


def _picture_table(pictures: pl.DataFrame) -> pl.DataFrame:
    columns = {name: kind for name, kind in table.PICTURES.items() if name != "split"}
    more = table.MEASURES | table.DEPTH | table.GROUPING | table.CROPS
    pictures = pictures.with_columns(taken=pl.coalesce("time", "taken"))
    return pictures.select(
        *(pl.col(name).cast(kind) for name, kind in columns.items()),
        pl.lit(None, pl.String).alias("split"),
        *("given_split", "given_label", "dropped"),
        *(pl.col(name).cast(kind) for name, kind in more.items()),
    )
