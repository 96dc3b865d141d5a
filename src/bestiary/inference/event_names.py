"""Names of the events that pictures belong to, by the rules that `train --group` has, from paths, times and a table.

Without polars, as predictions need none; `data.picture_groups` has the same rules for training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from bestiary.capture_time import UNSET_CLOCKS, read_capture_time
from bestiary.errors import PictureError, UserError, did_you_mean
from bestiary.group_rules import (
    AUTO,
    COLUMN,
    FOLDER,
    NONE,
    REGEX,
    SOURCE,
    TIME,
    GroupRule,
    match_name,
    parse_group_rule,
    parse_site_rule,
    relative_name,
)
from bestiary.inference.output_formats.input_table import InputTable
from bestiary.orientation import read_exif
from bestiary.picture import open_image, read_bytes
from bestiary.text import printable

FindName = Callable[[str], str | None]
JPEG_START, HEAD_BYTES = b"\xff\xd8", 1 << 18  # EXIF data are in the first 64 KB of a JPEG, its frame header follows
FOLDER_PATH = re.compile(r"^(.*)[/\\][^/\\]*$", re.DOTALL)
FOLDER_NAME = re.compile(r"[^/\\]+$")


class Moment(NamedTuple):
    """When a picture was taken: its site, and the time, with a zone if it has one; None: unknown."""

    site: str
    time: datetime | None


def parse_event_rules(group: str, site: str | None = None) -> tuple[GroupRule, GroupRule]:
    """Return the rules of events and of cameras; raises UserError for one that cannot be read."""
    try:
        return parse_group_rule(group), parse_site_rule(site or NONE)
    except ValueError as error:
        raise UserError(f"--group or --site: {error}.") from None


def event_finder(
    group: GroupRule,
    site: GroupRule,
    paths: Sequence[Path | str],
    table: InputTable | None,
    threads: int,
    folders: Sequence[str] = (),
) -> FindName:
    """Return a function from a path to the name of its event, None for a picture without one.

    paths: of all pictures, which only a rule by time reads: their EXIF times, without decoding them. table: of the
    pictures, for rules that name a column, and with the times in a column `time`. folders: that pictures were taken
    from, which the names that a pattern is matched with are relative to.
    Raises UserError for a rule that needs a column which is not there, or that pictures alone cannot have.
    """
    if group.kind in (AUTO, NONE, SOURCE):
        raise UserError(
            f"--group {group.kind} is for training. Pictures to predict have events by folder, regex:PATTERN, time:60s,"
            " or by a column of --table."
        )
    if site.kind != NONE and group.kind != TIME:
        raise UserError("--site divides events by time. Add --group time:60s, or leave out --site.")
    if group.kind != TIME:
        return _rule_finder(group, "group", table, folders)
    find_site = _rule_finder(site, "site", table, folders) if site.kind != NONE else lambda _: None
    return _time_finder(group.gap_seconds, find_site, paths, table, threads)


def group_moments(moments: Sequence[Moment], gap_seconds: float) -> list[str | None]:
    """Return the name of each picture's burst: of one site, with no longer gap between them; None without a time.

    Where some times of a site have a zone and others do not, the clocks are compared as they are.
    """
    mixed = {moment.site for moment in moments if moment.time is not None and moment.time.tzinfo is None}

    def comparable(moment: Moment) -> datetime:
        assert moment.time is not None
        time = moment.time if moment.site in mixed or moment.time.tzinfo is None else moment.time.astimezone(UTC)
        return time.replace(tzinfo=None)

    timed = [(moment.site, comparable(moment), row) for row, moment in enumerate(moments) if moment.time is not None]
    names: list[str | None] = [None] * len(moments)
    gap, last, name = timedelta(seconds=gap_seconds), None, ""
    for site, time, row in sorted(timed):
        if last is None or last[0] != site or time - last[1] > gap:
            name = f"{site} {time.isoformat()}".strip()
        last, names[row] = (site, time), name
    return names


def _rule_finder(rule: GroupRule, role: str, table: InputTable | None, folders: Sequence[str]) -> FindName:
    if rule.kind == FOLDER:
        return _find_folder_name if role == "site" else _find_folder
    if rule.kind == REGEX:
        pattern = re.compile(rule.pattern)
        return lambda path: match_name(pattern, relative_name(path, folders))
    assert rule.kind == COLUMN
    if table is None:
        raise UserError(
            f'--{role} "{rule.pattern}" is a column, and there is no table. Add --table FILE.csv, or write --{role}'
            " folder or regex:PATTERN."
        )
    values = _read_column(table, rule.pattern, role)
    return lambda path: values.get(path)


def _find_folder(path: str) -> str:
    match = FOLDER_PATH.match(path)
    return match[1] if match else "."


def _find_folder_name(path: str) -> str:
    match = FOLDER_NAME.search(_find_folder(path))
    return match[0] if match else ""


def _read_column(table: InputTable, name: str, role: str) -> dict[str, str | None]:
    """Return the value of a column by path, None for an empty cell.

    Raises UserError for another column, and for a picture that is listed with two values.
    """
    if name not in table.columns:
        raise UserError(f'{table.path} has no column "{name}" for --{role}. {did_you_mean(name, table.columns)}')
    values: dict[str, str | None] = {}
    for picture, cell in table.iter_values(name):
        path, value = printable(str(picture)), cell or None
        if values.setdefault(path, value) != value:
            raise UserError(
                f'{table.path} lists {path} with two values of the column "{name}", "{values[path] or ""}" and'
                f' "{value or ""}"; expected one. Correct the table, or name another column with --{role}.'
            )
    return values


def find_repeated(paths: Iterable[Path | str]) -> set[str]:
    """Return the paths that occur more than once, as `text.printable` has them."""
    seen, repeated = set[int](), set[str]()
    for path in paths:
        name = printable(str(path))
        if (key := hash(name)) in seen:
            repeated.add(name)
        seen.add(key)
    return repeated


def _time_finder(
    gap_seconds: float, find_site: FindName, paths: Sequence[Path | str], table: InputTable | None, threads: int
) -> FindName:
    """Return a function from a path to its burst, from the times of the table, else of the EXIF data."""
    column = None if table is None else table.roles.names.get("time")
    times = {} if table is None or column is None else _read_column(table, column, "group")
    names = list(dict.fromkeys(printable(str(path)) for path in paths))
    files = {printable(str(path)): Path(path) for path in reversed(paths)}  # of one name, the first, which is a source
    with ThreadPoolExecutor(threads) as pool:
        read = pool.map(lambda name: times.get(name) or _read_time(files[name]), names)
        moments = [Moment(find_site(name) or "", _parse_time(text)) for name, text in zip(names, read, strict=True)]
    if not any(moment.time for moment in moments):
        raise UserError(
            "--group time cannot be used: no picture has a time in its EXIF data, or in a column time of --table. Where"
            f" a clock starts that was not set does not count, such as {UNSET_CLOCKS[1]}."
        )
    events = dict(zip(names, group_moments(moments, gap_seconds), strict=True))
    return lambda path: events.get(path)


def _read_time(path: Path) -> str | None:
    """Return the EXIF time of a picture, None without one; of a JPEG, only its beginning is read."""
    with suppress(PictureError, OSError, ValueError, SyntaxError):
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if head.startswith(JPEG_START):
            with suppress(PictureError, OSError, ValueError, SyntaxError), open_image(head) as image:
                return read_capture_time(read_exif(image))
        with open_image(read_bytes(path)) as image:
            return read_capture_time(read_exif(image))
    return None


def _parse_time(text: str | None) -> datetime | None:
    """Return a time as ISO 8601 has it, None if it cannot be read or is a date without a time."""
    with suppress(ValueError):
        if text and len(text.strip()) > len("2026-05-31") and text.strip()[:19].replace(" ", "T") not in UNSET_CLOCKS:
            return datetime.fromisoformat(text.strip())
    return None
