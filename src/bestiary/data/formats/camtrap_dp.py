"""Camtrap DP 1.0 and 0.1: a folder with datapackage.json and tables of deployments, media and observations.

An observation is of a picture, or of an event. In 1.0 an event has no key to its pictures: they are those of its
deployment between its start and its end. In 0.1 a picture names its sequence.
Format: https://camtrap-dp.tdwg.org.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.data.formats.camtrap_events import EVENT_IN_PICTURES, EVENT_WITHOUT_PICTURES, match_events
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_frame import BOX_COLUMNS, check_unique, choose_columns, split_rows
from bestiary.data.formats.text_columns import read_text_columns
from bestiary.errors import SourceError
from bestiary.text import format_count, format_names

PACKAGE = "datapackage.json"
RESOURCES = ("deployments", "media", "observations")
_VERSION = re.compile(r"camtrap-dp/v?(\d+\.\d+[\w.-]*)/")
SET_UP, NEITHER_LEVEL = "camera set-up", "observation of neither a picture nor an event"
PICTURE_MISSING, WITHOUT_OBSERVATION, NOT_A_PICTURE = (
    "observation of a missing picture",
    "picture without an observation",
    "not a picture",
)
_TYPES = {"human": "human", "vehicle": "vehicle", "blank": "empty", "unknown": "unknown", "unclassified": "unknown"}
_MEDIA = ("mediaID", "deploymentID", "timestamp", "filePath")
_BOX = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")


@dataclass(frozen=True)
class _Version:
    """The columns of observations in a version of the format: those that it must have, and their names in 1.0."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    renamed: dict[str, str]
    has_sequences: bool


_NEW = _Version(
    ("observationID", "deploymentID", "observationType", "eventStart", "eventEnd", "observationLevel"),
    ("mediaID", "eventID", "cameraSetupType", "scientificName", *_BOX),
    {},
    has_sequences=False,
)
_OLD = _Version(
    ("observationID", "deploymentID", "observationType", "timestamp", "sequenceID"),
    ("mediaID", "cameraSetup", "scientificName"),
    {"sequenceID": "eventID"},
    has_sequences=True,
)


def is_camtrap_dp(path: Path) -> bool:
    """Return whether a folder has a datapackage.json of Camtrap DP, or a file is one."""
    package = _package_path(path)
    try:
        return package.name == PACKAGE and "camtrap-dp" in package.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False


def read_camtrap_dp(path: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each observation of a picture, and for each picture of an event that only stands as a whole.

    Left out by name: camera set-up, media that are no pictures, pictures without an observation, events that also stand
    as pictures, and events without pictures. Raises SourceError for other versions, missing tables and columns, ids
    that repeat, and times that cannot be compared.
    """
    choose_columns("camtrap-dp", options, {}, source=path)
    package_path = _package_path(path)
    package = _read_package(package_path)
    version = _find_version(package_path, package)
    tables = _resource_paths(package_path, package)
    deployments = _read_deployments(tables["deployments"])
    media = _read_media(tables["media"], version)
    observations = _read_observations(tables["observations"], version)
    rows = _join_media(observations, media, tables, version)
    rows = _label_rows(rows).join(deployments, on="deploymentID", how="left", maintain_order="left")
    return split_rows(tables["observations"], rows, options, _describe_rows(rows))


FORMAT = LabelFormat("camtrap-dp", "Camtrap DP", is_camtrap_dp, read_camtrap_dp)


def _join_media(
    observations: pl.DataFrame, media: pl.DataFrame, tables: Mapping[str, Path], version: _Version
) -> pl.DataFrame:
    """Return observations with their pictures, those without, and pictures without: each with a reason or null."""
    of_pictures = observations.filter(pl.col("level") == "media").join(
        media.drop("deploymentID", "sequenceID"), on="mediaID", how="left", maintain_order="left"
    )
    events = observations.filter(pl.col("level") == "event")
    of_events, unmatched = match_events(events, media, of_pictures, tables, is_keyed=version.has_sequences)
    neither = observations.filter(pl.col("level") == "neither").with_columns(reason=pl.lit(NEITHER_LEVEL))
    observed = pl.concat([of_pictures.select("mediaID"), of_events.select("mediaID")])
    silent = media.join(observed, on="mediaID", how="anti", maintain_order="left")
    is_missing = pl.col("file").is_null()
    parts = [
        of_pictures.with_columns(reason=pl.when(is_missing).then(pl.lit(PICTURE_MISSING))),
        of_events.with_columns(reason=pl.lit(None, pl.String)),
        unmatched,
        neither,
        silent.with_columns(reason=pl.lit(WITHOUT_OBSERVATION)),
    ]
    return pl.concat(parts, how="diagonal")


def _label_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with label, group and box, and with the reasons that come from single columns."""
    type_label = pl.col("observationType").replace_strict(_TYPES, default="unknown", return_dtype=pl.String)
    is_animal = pl.col("observationType") == "animal"
    has_media = pl.col("reason").is_null() | (pl.col("reason") != PICTURE_MISSING)
    return rows.with_columns(
        label=pl.when(is_animal).then(pl.col("scientificName").fill_null("unknown")).otherwise(type_label),
        group=pl.concat_str("deploymentID", pl.coalesce("eventID", "sequenceID"), separator="/"),
        reason=pl.coalesce(
            pl.when(pl.col("is_set_up") & has_media).then(pl.lit(SET_UP)),
            pl.when(~pl.col("is_picture")).then(pl.lit(NOT_A_PICTURE)),
            "reason",
        ),
        **_boxes(),
    )


def _boxes() -> dict[str, pl.Expr]:
    """Return the box of each row as numbers, null in a row without one, not-a-number where a part is missing."""
    has_box = pl.any_horizontal(pl.col(name).is_not_null() for name in _BOX)
    numbers = {
        name: pl.col(part).cast(pl.Float64, strict=False).fill_null(float("nan"))
        for name, part in zip(BOX_COLUMNS, _BOX, strict=True)
    }
    return {name: pl.when(has_box).then(number) for name, number in numbers.items()}


def _package_path(path: Path) -> Path:
    return path / PACKAGE if path.is_dir() else path


def _read_package(path: Path) -> dict[str, Any]:
    try:
        package = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read: {error}. Expected the JSON of a Camtrap DP.") from None
    if not isinstance(package, dict):
        raise SourceError(f"{path} is no object in braces. Expected the JSON of a Camtrap DP.")
    return package


def _find_version(path: Path, package: dict[str, Any]) -> _Version:
    match = _VERSION.search(str(package.get("profile")))
    version = match[1] if match else ""
    if version.startswith("1.0"):
        return _NEW
    if version.startswith("0.1."):
        return _OLD
    raise SourceError(
        f"{path} is a Camtrap DP of version {version or 'unknown'} (profile {package.get('profile')!s:.120})."
        " Expected 1.0 or 0.1: convert it with the tool that wrote it, or update bestiary if it is newer."
    )


def _resource_paths(path: Path, package: dict[str, Any]) -> dict[str, Path]:
    resources = package.get("resources")
    if not isinstance(resources, list) or not all(isinstance(resource, dict) for resource in resources):
        raise SourceError(f"{path}: resources is {resources!r:.60}. Expected a list of tables.")
    named = {str(resource.get("name")): resource.get("path") for resource in resources}
    if missing := [name for name in RESOURCES if name not in named]:
        raise SourceError(f"{path} has no table {format_names(missing)}; it has: {format_names(sorted(named))}.")
    tables = {}
    for name in RESOURCES:
        relative = named[name][0] if isinstance(named[name], list) and named[name] else named[name]
        if not isinstance(relative, str) or "://" in relative or Path(relative).is_absolute() or ".." in relative:
            raise SourceError(f"{path}: the table {name} lies at {relative!r:.80}. Expected a path in the same folder.")
        tables[name] = path.parent / relative
        if not os.path.isfile(tables[name]):  # noqa: PTH113 - Path.is_file raises for names that are too long
            raise SourceError(f"{path}: the table {name} lies at {relative!r:.80}, where there is no file.")
    return tables


def _read_deployments(path: Path) -> pl.DataFrame:
    """Return deploymentID and site: the locationID, else the location's name, else its coordinates."""
    optional = ("locationID", "locationName", "latitude", "longitude")
    deployments = read_text_columns(path, ("deploymentID",), optional)
    check_unique(path, "deploymentID", deployments["deploymentID"])
    coordinates = pl.col("latitude") + "," + pl.col("longitude")
    return deployments.select("deploymentID", site=pl.coalesce("locationID", "locationName", coordinates))


def _read_media(path: Path, version: _Version) -> pl.DataFrame:
    required = (*_MEDIA, "sequenceID") if version.has_sequences else _MEDIA
    media = read_text_columns(
        path, required, ("fileName", "fileMediatype", "sequenceID")[: 2 + (not version.has_sequences)]
    )
    check_unique(path, "mediaID", media["mediaID"])
    is_address = pl.col("filePath").str.contains(r"^\w+://")
    # An address may end in the same word for all pictures; a copy has the name, at best in a folder of its deployment.
    name = pl.col("deploymentID") + "/" + pl.col("fileName")
    file = pl.when(is_address).then(pl.coalesce(name, "filePath")).otherwise("filePath")
    is_picture = pl.col("fileMediatype").str.starts_with("image/").fill_null(True)
    return media.select(
        "mediaID", "deploymentID", "sequenceID", time=pl.col("timestamp"), file=file, is_picture=is_picture
    )


def _read_observations(path: Path, version: _Version) -> pl.DataFrame:
    """Return the observations with the columns of 1.0, their level (media, event, neither) and whether of a set-up."""
    observations = read_text_columns(path, version.required, version.optional).rename(version.renamed)
    check_unique(path, "observationID", observations["observationID"])
    for name in ("eventStart", "eventEnd", "observationLevel", *_BOX):
        if name not in observations.columns:
            observations = observations.with_columns(pl.lit(None, pl.String).alias(name))
    has_media = pl.col("mediaID").is_not_null()
    is_event = pl.lit(True) if version.has_sequences else pl.col("observationLevel").fill_null("event") == "event"
    if version.has_sequences:
        is_set_up = pl.col("cameraSetup").str.to_lowercase().is_in(["true", "1"]).fill_null(False)
    else:
        is_set_up = pl.col("cameraSetupType").is_not_null()
    level = pl.when(has_media).then(pl.lit("media")).when(is_event).then(pl.lit("event")).otherwise(pl.lit("neither"))
    return observations.with_columns(level=level, is_set_up=is_set_up)


def _describe_rows(rows: pl.DataFrame) -> list[str]:
    notes = []
    twice = rows.filter(pl.col("reason") == EVENT_IN_PICTURES).height
    if twice:
        notes.append(f"{twice:,} observations of events were left out: the pictures of the event have their own.")
    without = rows.filter(pl.col("reason") == EVENT_WITHOUT_PICTURES).height
    if without:
        notes.append(f"{format_count(without, 'observation is', 'observations are')} of events without pictures.")
    spread = rows.filter(pl.col("reason").is_null() & (pl.col("level") == "event")).height
    if spread:
        notes.append(
            f"{format_count(spread, 'label is', 'labels are')} of a whole event: single pictures of it may be empty."
        )
    return notes
