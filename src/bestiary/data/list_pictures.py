"""Lists the pictures of a source with the rules of a recipe: its splits, groups, sites and boxes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from bestiary.context import Context
from bestiary.data.box_file import add_boxes
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.formats.read_options import name_group_columns
from bestiary.data.label_map import label_map
from bestiary.data.notices import GROUPS, SOURCE_FORMAT, SourceNotice
from bestiary.data.sources import PictureList, list_sources
from bestiary.data.split_parts import choose_split_parts
from bestiary.errors import SourceError, UserError
from bestiary.group_rules import AUTO, COLUMN, NONE, SOURCE, parse_group_rule, parse_site_rule
from bestiary.recipe_sections import DataConfig
from bestiary.text import format_count

if TYPE_CHECKING:
    from bestiary.data.dataset import DataSource


def list_pictures(source: DataSource, data: DataConfig, context: Context) -> PictureList:
    """Return the pictures of a source, with the splits as `data` uses them."""
    reading = _reading_options(source, data)
    listing = list_sources(
        source.paths,
        label_map(source.labels),
        context,
        classes=data.classes,
        model_classes=source.model_classes,
        label_depth=data.label_depth,
        reading=reading,
    )
    if reading is not None and reading.box_file is not None:
        listing = add_boxes(listing, reading.box_file, reading)
    if data.crop == "boxes":
        listing.notices.append(_describe_boxes(listing))
    return choose_split_parts(listing, data)


def _reading_options(source: DataSource, data: DataConfig) -> ReadOptions | None:
    reading = name_group_columns(source.reading, parse_group_rule(data.group), parse_site_rule(data.site))
    if data.crop == "none" and reading is not None and reading.box_file is not None:
        raise UserError(
            "--boxes names a file of boxes, which --crop boxes looks at. Add --crop boxes, or leave it out."
        )
    return reading if data.crop == "none" else replace(reading or ReadOptions(), boxes=True)


def _describe_boxes(listing: PictureList) -> SourceNotice:
    """Return how many boxes of how many pictures there are. Raises SourceError if there are none."""
    boxed = [picture.path for picture in listing.pictures if picture.box is not None]
    if not boxed:
        raise SourceError(
            "--crop boxes looks at boxes, and the pictures have none. Boxes are read from COCO, MegaDetector, Camtrap"
            " DP, CVAT, Label Studio and other files, and from tables (--columns box=left+top+width+height). Where the"
            " boxes are in another file than the labels, name it: --boxes detections.json."
        )
    without = len(listing.pictures) - len(boxed)
    boxes = format_count(len(boxed), "box", "boxes")
    are = "is" if len(boxed) == 1 else "are"
    text = f"{boxes} of {format_count(len(set(boxed)), 'picture')} {are} looked at, each with a margin."
    whole = format_count(without, "picture without a box is", "pictures without a box are")
    text += f" {whole} looked at as a whole." if without else ""
    text += f" Each of these {len(listing.pictures):,} counts as a picture from here on."
    return SourceNotice(SOURCE_FORMAT, text, is_issue=False)


def list_with_fitting_rules(source: DataSource, data: DataConfig, context: Context) -> tuple[PictureList, DataConfig]:
    """Return the pictures of a source, and `data` without rules of groups and sites by columns that it lacks.

    A column that the source's own options name comes before that of the rule. Raises UserError as without such rules.
    """
    columns = source.reading.columns if source.reading else {}
    data = data.model_copy(update={role: SOURCE for role in ("group", "site") if role in columns})
    rules = {"group": parse_group_rule(data.group), "site": parse_site_rule(data.site)}
    by_column = {role: rule.pattern for role, rule in rules.items() if rule.kind == COLUMN}
    choices = [dict(chosen) for n in range(len(by_column) + 1) for chosen in combinations(by_column.items(), n)]
    for unused in choices:
        fitting = data.model_copy(update={role: {"group": AUTO, "site": NONE}[role] for role in unused})
        try:
            listing = list_pictures(source, fitting, context)
        except UserError:
            if unused == choices[-1]:
                raise
            continue
        listing.notices += [
            SourceNotice(GROUPS, f'There is no column "{column}": the {role}s of the run are not used.', is_issue=False)
            for role, column in unused.items()
        ]
        return listing, fitting
    raise AssertionError("the last choice returns or raises")
