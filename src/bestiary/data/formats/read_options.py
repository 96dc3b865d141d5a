"""Options of reading labelled collections, from the command line or from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bestiary.data.formats.label_table import SPECIAL_FAMILIES, ReadOptions
from bestiary.data.formats.registry import find_format
from bestiary.errors import UserError, did_you_mean
from bestiary.group_rules import COLUMN, GroupRule
from bestiary.table_columns import parse_columns

NOTHING = "none"


def make_read_options(
    format_name: str | None = None,
    columns: str | Mapping[str, str] | None = None,
    pictures: Path | str | None = None,
    leave_out: str | Sequence[str] | None = None,
    boxes: Path | str | None = None,
) -> ReadOptions | None:
    """Return the options of reading, or None if none is chosen.

    format_name: of `registry.FORMATS`; columns: `path=File,label=Species`, or a mapping; pictures: the folder of the
    pictures; leave_out: families of labels that are no species, separated by commas, or "none"; boxes: a file of
    boxes of the pictures. Raises UserError for an unknown name, and for a folder or file that does not exist.
    """
    if format_name is columns is pictures is leave_out is boxes is None:
        return None
    if format_name is not None:
        find_format(format_name)
    roles = parse_columns(columns) if isinstance(columns, str) else dict(columns or {})
    folder = None if pictures is None else Path(pictures)
    if folder is not None and not folder.is_dir():
        raise UserError(f"There is no folder {folder}. --pictures takes the folder that the pictures lie in.")
    box_file = None if boxes is None else Path(boxes)
    if box_file is not None and not box_file.exists():
        raise UserError(f"There is nothing at {box_file}. --boxes takes a file of boxes, such as MegaDetector results.")
    options = ReadOptions(format_name, roles, folder, box_file=box_file)
    return options if leave_out is None else replace(options, left_out=_families(leave_out), has_chosen_families=True)


def name_group_columns(reading: ReadOptions | None, group: GroupRule, site: GroupRule) -> ReadOptions | None:
    """Return the options with the columns that the rules of groups and sites name.

    Raises UserError if the options name another column for the same role.
    """
    named = {role: rule.pattern for role, rule in (("group", group), ("site", site)) if rule.kind == COLUMN}
    if not named:
        return reading
    options = reading or ReadOptions()
    for role, column in named.items():
        if options.columns.get(role, column) != column:
            raise UserError(
                f'--{role} names the column "{column}", and --columns the column "{options.columns[role]}". Name one.'
            )
    return replace(options, columns={**options.columns, **named})


def _families(names: str | Sequence[str]) -> tuple[str, ...]:
    families = [name.strip() for name in (names.split(",") if isinstance(names, str) else names) if name.strip()]
    if families == [NOTHING]:
        return ()
    for name in families:
        if name not in SPECIAL_FAMILIES:
            raise UserError(f'--leave-out: there is no "{name}". {did_you_mean(name, (*SPECIAL_FAMILIES, NOTHING))}')
    return tuple(name for name in SPECIAL_FAMILIES if name in families)
