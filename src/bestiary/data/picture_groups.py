"""Groups of pictures that stay in one split: a column of the table, folders, parts of names, bursts in time, sites.

A group is text. How groups, sites and duplicates are joined into the groups of the split is in `joined_groups`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from bestiary.capture_time import UNSET_CLOCKS
from bestiary.data.formats.times import parse_times
from bestiary.data.notices import GROUPS, SourceNotice
from bestiary.errors import SourceError
from bestiary.group_rules import (
    AUTO,
    COLUMN,
    FOLDER,
    NONE,
    REGEX,
    SITE_SYNTAX,
    SOURCE,
    SYNTAX,
    TIME,
    GroupRule,
    match_name,
    relative_name,
)
from bestiary.text import format_count

_NAME = r"[^/\\]+$"
_SYNTAX = {"group": SYNTAX, "site": SITE_SYNTAX}
LARGE_FRACTION = 0.5  # a group with more of the pictures leaves too little for the other splits


def add_picture_groups(
    pictures: pl.DataFrame, group: GroupRule, site: GroupRule, *, folders: Sequence[str] = (), for_split: bool = True
) -> tuple[pl.DataFrame, list[SourceNotice]]:
    """Return the pictures with `given_group` and `site` by these rules, text or null, and notices about them.

    pictures: `path, label, error`, what the source has of `given_group`, `site`, `time`, and `taken` of the files.
    folders: of the sources, which the names that a pattern is matched with are relative to.
    Raises SourceError if a rule fits no picture, or puts all pictures into one group; without `for_split`, where groups
    only count for intervals, that is a notice.
    """
    notices: list[SourceNotice] = []
    usable = pl.col("error").is_null()
    sites = _apply_rule(pictures, site, "site", notices, folders=folders, for_split=for_split)
    pictures = pictures.with_columns(site=pl.when(usable).then(sites))
    groups = _apply_rule(pictures, group, "given_group", notices, folders=folders, for_split=for_split)
    pictures = pictures.with_columns(given_group=pl.when(usable).then(groups))
    used = pictures.filter(usable)
    for column, name, rule in (("site", "site", site), ("given_group", "group", group)):
        if rule.kind != NONE and used[column].count():
            notices.append(_describe_values(used[column], name, rule, for_split=for_split))
    if for_split and site.kind != NONE:
        notices += _describe_wide_groups(used)
    return pictures, notices


def _apply_rule(
    pictures: pl.DataFrame,
    rule: GroupRule,
    column: str,
    notices: list[SourceNotice],
    *,
    folders: Sequence[str],
    for_split: bool,
) -> pl.Series:
    name = "site" if column == "site" else "group"
    listed, missing = pictures[column], pl.Series(column, [None] * pictures.height, pl.String)
    if rule.kind == NONE or (rule.kind == AUTO and not listed.count()):
        return missing
    if rule.kind in (AUTO, SOURCE, COLUMN):
        values = listed
    elif rule.kind == FOLDER:
        values = _folders(pictures["path"], names_only=column == "site")
    elif rule.kind == REGEX:
        values = _match_names(pictures["path"], folders, rule.pattern)
    else:
        values = group_by_time(pictures, rule.gap_seconds, notices)
    usable = pictures.select(value=values, error="error").filter(pl.col("error").is_null())["value"]
    if for_split:
        _check_values(usable, name, rule, _example_name(pictures["path"], folders))
    elif len(usable) and usable.n_unique() == 1:
        notices.append(SourceNotice(GROUPS, _describe_single_value(usable, name, rule), is_issue=False))
        return missing
    return values.alias(column)


def _describe_single_value(values: pl.Series, name: str, rule: GroupRule) -> str:
    if values.count():
        reason = f'all {len(values):,} pictures are of one {name}, "{values[0]}"'
    else:
        reason = f"none of these pictures has a {name} by the run's rule, data.{name} = {rule.kind}{rule.pattern}"
    return f"{reason[0].upper()}{reason[1:]}: intervals are over pictures, duplicates counted once."


def _example_name(paths: pl.Series, folders: Sequence[str]) -> str:
    return relative_name(paths[0], folders) if len(paths) else ""


def _check_values(values: pl.Series, name: str, rule: GroupRule, example: str) -> None:
    """Raise SourceError if there is no value, or the same for all pictures. example: the name of a picture."""
    option, count = f"--{name}", len(values)
    unreadable = (
        "no picture has a time that can be read, neither in the source nor in its EXIF data. If a table has them, name"
        " their column: --columns time=COLUMN; expected are times such as 2026-05-31 08:25:38. Where a"
        f" clock starts that was not set does not count, such as {UNSET_CLOCKS[1]}"
    )
    if not count:
        return
    if not values.count():
        cause = {
            COLUMN: f'the source has no column "{rule.pattern}", or it is empty. Name a column with values, or choose'
            f" one of {_SYNTAX[name]}",
            SOURCE: f"the source has no {name} for any of its pictures. Name the column: {option} COLUMN",
            REGEX: f'"{rule.pattern}" matches no name of a picture, such as {example}. Patterns are matched with the'
            " path from the folder of the source on",
            TIME: unreadable,
        }.get(rule.kind, f"there is no {name}")
        raise SourceError(f"{option} cannot be used: {cause}.")
    if values.n_unique() == 1 and count > 1:
        origin = f"The {name} column or the sequences of the source put" if rule.kind == AUTO else f"{option} puts"
        raise SourceError(
            f'{origin} all {count:,} pictures into one {name}, "{values[0]}", and a {name} is never divided:'
            f" there would be no test split.{_next_step(name, rule)}"
        )


def _next_step(name: str, rule: GroupRule) -> str:
    if rule.kind == TIME:
        return " Choose a shorter time, or name the cameras with --site."
    if rule.kind == FOLDER:
        return " The folder of a picture is its class here: use regex:PATTERN or a column."
    if rule.kind == REGEX:
        return f" Write a pattern whose parentheses differ between {name}s."
    if rule.kind == AUTO:
        return f" Add pictures of other {name}s, name another column with --{name}, or pass --{name} none."
    return f" Name another column, or leave out --{name}."


def _describe_values(values: pl.Series, name: str, rule: GroupRule, *, for_split: bool) -> SourceNotice:
    """Return what the groups are: how many, how large, and how many pictures have none."""
    sizes = values.drop_nulls().value_counts()["count"]
    source = {
        SOURCE: "the source",
        COLUMN: f'the column "{rule.pattern}"',
        AUTO: "the column group or the sequences of the source",
    }.get(rule.kind, "")
    by = source or f"--{name} {rule.kind}{rule.pattern}{f'{rule.gap_seconds:g}s' if rule.kind == TIME else ''}"
    text = (
        f"{format_count(len(sizes), name)}, by {by}: {format_count(int(sizes.sum()), 'picture')}, at most"
        f" {sizes.to_numpy().max():,} of a {name}."
        f" {'Each stays in one split.' if for_split else 'Intervals count each once.'}"
    )
    if missing := values.null_count():
        have, counted = ("has", "is split") if missing == 1 else ("have", "are split")
        counted = counted if for_split else "counts" if missing == 1 else "count"
        text += f" {format_count(missing, 'picture')} {have} no {name}, and {counted} one by one."
    if not for_split:
        return SourceNotice(GROUPS, text, is_issue=False)
    values_of = values.drop_nulls().unique().sort()
    alike = values_of.filter(values_of.str.to_lowercase().is_duplicated())
    if alike.len():
        pair = " and ".join(f'"{value}"' for value in alike.filter(alike.str.to_lowercase() == alike[0].lower())[:2])
        text += f" {alike.len():,} names of {name}s differ only in case, such as {pair}: they are different {name}s."
    is_unique = len(sizes) == sizes.sum() and len(sizes) > 1
    if is_unique:
        text += f" Each picture has its own {name}, so that nothing is kept together."
    largest = int(sizes.to_numpy().max())
    if largest > LARGE_FRACTION * len(values):
        text += (
            f" One {name} has {100 * largest / len(values):.0f} % of all pictures, which leaves little for the other"
            f" splits.{_next_step(name, rule)}"
        )
        return SourceNotice(GROUPS, text)
    return SourceNotice(GROUPS, text, is_issue=is_unique or alike.len() > 0)


def _describe_wide_groups(used: pl.DataFrame) -> list[SourceNotice]:
    """Return a notice if groups have pictures of several sites, which are then joined."""
    sites = used.drop_nulls(["given_group", "site"]).group_by("given_group").agg(n=pl.col("site").n_unique())
    wide = sites.filter(pl.col("n") > 1).sort("given_group")
    if not wide.height:
        return []
    text = (
        f"{wide.height:,} of {sites.height:,} groups have pictures of several sites, which stay in one split together,"
        f' such as "{wide["given_group"][0]}". If a group is a burst, --group and --site may be interchanged.'
    )
    return [SourceNotice(GROUPS, text)]


def _folders(paths: pl.Series, *, names_only: bool) -> pl.Series:
    """Return the folder of each path; names_only: the last part of it, since a camera occurs under every class."""
    folders = paths.str.replace(r"[/\\][^/\\]*$", "")
    return folders.str.extract(f"({_NAME})") if names_only else folders


def _match_names(paths: pl.Series, folders: Sequence[str], pattern: str) -> pl.Series:
    """Return what a pattern matches in the name of each picture in its collection; null: no match."""
    compiled = re.compile(pattern)
    values = [match_name(compiled, relative_name(path, folders)) for path in paths]
    return pl.Series(paths.name, values, pl.String)


# ---- Time --------------------------------------------------------------------------------------------------------


def group_by_time(pictures: pl.DataFrame, gap_seconds: float, notices: list[SourceNotice]) -> pl.Series:
    """Return the burst of each picture: pictures of one site (of all, without sites) with no longer gap between them.

    Times are those of the table, else those of the EXIF data. Where some times of a site have a zone and others do
    not, the clocks are compared as they are.
    """
    times = pl.select(pl.coalesce(pictures["time"], pictures["taken"])).to_series()
    times = _leave_out_unset(times, notices)
    frame = pictures.select("site", "error").hstack(parse_times(times))
    frame = frame.with_row_index("row").with_columns(text=times)
    usable = frame.filter(pl.col("error").is_null())
    _warn_times(usable, notices)
    has_zone, is_timed = pl.col("offset").is_not_null(), pl.col("local").is_not_null()
    timed = usable.filter(is_timed)
    in_zone = has_zone.all().over(pl.col("site").fill_null(""))
    instant = pl.col("local") - pl.duration(minutes=pl.col("offset"))
    timed = timed.with_columns(moment=pl.when(in_zone).then(instant).otherwise("local")).sort("site", "moment", "row")
    is_new = (pl.col("moment").diff() > pl.duration(microseconds=round(gap_seconds * 1e6))) | (
        pl.col("site").fill_null("") != pl.col("site").fill_null("").shift()
    )
    timed = timed.with_columns(burst=is_new.fill_null(value=True).cum_sum())
    names = pl.concat_str(
        [pl.col("site").fill_null(""), pl.col("moment").first().over("burst").cast(pl.String)], separator=" "
    )
    timed = timed.select("row", value=names.str.strip_chars_start())
    joined = frame.select("row").join(timed, on="row", how="left", maintain_order="left")
    return joined["value"]


def _leave_out_unset(times: pl.Series, notices: list[SourceNotice]) -> pl.Series:
    """Return the times without those at which clocks start that nobody set: such pictures are no burst."""
    is_unset = times.str.slice(0, 19).str.replace(" ", "T", literal=True).is_in(UNSET_CLOCKS)
    if not (count := int(is_unset.sum())):
        return times
    first = times.filter(is_unset)[0]
    text = f"{count:,} times are where a clock starts that was not set, such as {first}: they count as missing."
    notices.append(SourceNotice(GROUPS, text))
    return pl.select(pl.when(~is_unset.fill_null(value=False)).then(times)).to_series()


def _warn_times(usable: pl.DataFrame, notices: list[SourceNotice]) -> None:
    unreadable = usable.filter(pl.col("text").is_not_null() & pl.col("local").is_null())
    if unreadable.height:
        notices.append(
            SourceNotice(
                GROUPS,
                f'{unreadable.height:,} times cannot be read, such as "{unreadable["text"][0]}". Expected ISO 8601:'
                " 2026-05-31T08:25:38 or 2026-05-31T08:25:38+02:00.",
            )
        )
    timed = usable.filter(pl.col("local").is_not_null())
    with_zone = timed["offset"].count()
    if 0 < with_zone < timed.height:
        notices.append(
            SourceNotice(
                GROUPS,
                f"{with_zone:,} of {timed.height:,} times have a time zone, and the others have none. They are compared"
                " as local time. If the clocks differ, give all times a zone, or none.",
            )
        )


def require_divisible_sites(sites: Sequence[str | None], labels: Sequence[str]) -> None:
    """Raise SourceError for a class all of whose pictures are of fewer than three sites."""
    frame = pl.DataFrame({"site": sites, "label": labels}, schema={"site": pl.String, "label": pl.String})
    counts = frame.group_by("label").agg(
        sites=pl.col("site").n_unique(), n=pl.len(), missing=pl.col("site").null_count()
    )
    few = counts.filter((pl.col("sites") < 3) & (pl.col("missing") == 0)).sort("sites", "label")
    if few.height:
        label, sites_of, n, _ = few.row(0)
        also = f" The same is true of: {', '.join(few['label'][1:].to_list())}." if few.height > 1 else ""
        raise SourceError(
            f'All {n:,} pictures of the class "{label}" are of {sites_of} site{"s" * (sites_of != 1)}; training,'
            f" validation and test need one each, since no site is divided.{also} Add pictures of other sites, leave"
            " the class out with --classes, or train without --site: the score is then that of known sites only."
        )
